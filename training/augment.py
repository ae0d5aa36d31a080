"""Batched augmentation on the device of the data: the random views of SimCLR, MoCo, BYOL, SimSiam and SwAV.

Statistically equal to torchvision's PIL transforms (crop rule, antialiased resize, jitter in random order per image,
grey and blur with the same kernels), but computed for a whole batch at once: crop, antialiased resize and flip are two
batched matrix products, and so is the blur. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sslzoo.errors import InputError

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma as torchvision rounds it
ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # [24, 4]


@dataclass(frozen=True)
class View:
    """How one kind of view is made; the fields are torchvision's parameters of the same transforms.

    `count` views are made of each image, `size` px wide. `jitter` is (brightness, contrast, saturation, hue);
    `blur_kernel` is the kernel's share of the side: a tenth with SimCLR, and with BYOL, whose 23 px at 224 are as many; 0 is
    PIL's blur, which no kernel cuts off (the authors' code of MoCo, SimSiam and SwAV).
    """

    count: int = 2
    size: int = 32
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: float = 0.1
    solarize_p: float = 0.0

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise InputError(f"interpolation is {self.interpolation!r}; use bilinear or bicubic")
        if self.size < 1 or self.count < 1:
            raise InputError(f"views have a size of {self.size} px and a count of {self.count}; give 1 or more of each")
        for name, example in (("scale", "[0.2, 1.0]"), ("ratio", "[0.75, 1.33]"), ("blur_sigma", "[0.1, 2.0]")):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
                raise InputError(
                    f"{name} of a view is {pair}; give the smallest and the largest, for example {example}"
                )
        if len(self.jitter) != 4:
            raise InputError(
                f"jitter of a view is {self.jitter}; give brightness, contrast, saturation and hue, as [0.4, 0.4, 0.4, 0.1]"
            )


def make_view(images: Tensor | Sequence[Tensor], view: View, size: int, generator: torch.Generator) -> Tensor:
    """One random view of each image: uint8 `[n, 3, h, w]`, or n of any size, to float32 `[n, 3, size, size]` in [0, 1]."""
    x, n = crop(images, view, size, generator), len(images)
    if view.jitter_p and any(view.jitter):
        x = color_jitter(x, view.jitter, view.jitter_p, generator)
    if view.grey_p:
        x = torch.where(_chance(n, view.grey_p, generator)[:, None, None, None], grey(x), x)
    if view.blur_p:
        sigma = _uniform(n, *view.blur_sigma, generator)
        blurred = gaussian_blur(x, sigma, blur_radius(view, size))
        x = torch.where(_chance(n, view.blur_p, generator)[:, None, None, None], blurred, x)
    if view.solarize_p:
        solarize = _chance(n, view.solarize_p, generator)[:, None, None, None] & (x >= 0.5)
        x = torch.where(solarize, 1 - x, x)
    return x


def crop(images: Tensor | Sequence[Tensor], view: View, size: int, generator: torch.Generator) -> Tensor:
    """A random part of each image, resized and flipped by chance: float32 `[n, 3, size, size]` in [0, 1].

    Of images `[3, h, w]` that differ in size, those that don't are taken together.
    """
    if not isinstance(images, Tensor):
        alike: dict[torch.Size, list[int]] = {}
        for i, image in enumerate(images):
            alike.setdefault(image.shape, []).append(i)
        parts: dict[int, Tensor] = {}
        for rows in alike.values():
            cropped = crop(torch.stack([images[i] for i in rows]), view, size, generator)
            parts |= dict(zip(rows, cropped, strict=True))
        return torch.stack([parts[i] for i in range(len(images))])
    n, _, height, width = images.shape
    top, left, crop_h, crop_w = random_crop_boxes(n, height, width, view.scale, view.ratio, generator)
    flip = _chance(n, view.flip, generator)
    bicubic = view.interpolation == "bicubic"
    down = resize_matrix(top, crop_h, size, height, bicubic=bicubic)
    across = resize_matrix(left, crop_w, size, width, bicubic=bicubic)
    across = torch.where(flip[:, None, None], across.flip(1), across)
    x = crop_resize(images, down, across)
    return x.clamp_(0, 1) if bicubic else x  # the cubic overshoots at edges


def normalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std per channel, in the memory format that convolutions like best."""
    return ((x - _channels(mean, x.device)) / _channels(std, x.device)).contiguous(memory_format=torch.channels_last)


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers per channel, sent to the device once: a step must not wait for it."""
    return torch.tensor(values, device=device)[:, None, None]


def random_crop_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width `[n]` of torchvision's RandomResizedCrop: the first of ten tries that fits.

    A try draws an area share in `scale` and a log-uniform aspect ratio in `ratio`; where none fits, the whole image
    cropped to the nearest allowed ratio about its centre.
    """
    tries = 10
    area = height * width * _uniform((n, tries), *scale, generator)
    aspect = torch.exp(_uniform((n, tries), math.log(ratio[0]), math.log(ratio[1]), generator))
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    top = (_uniform(n, 0, 1, generator) * (height - h + 1)).floor()
    left = (_uniform(n, 0, 1, generator) * (width - w + 1)).floor()

    whole = width / height
    fallback_w = width if whole <= ratio[1] else round(height * ratio[1])
    fallback_h = height if whole >= ratio[0] else round(width / ratio[0])
    failed = ~fits.any(1)
    w, h = w.masked_fill(failed, fallback_w), h.masked_fill(failed, fallback_h)
    top = top.masked_fill(failed, (height - fallback_h) // 2)
    left = left.masked_fill(failed, (width - fallback_w) // 2)
    return top, left, h, w


def resize_matrix(start: Tensor, length: Tensor, size: int, pixels: int, *, bicubic: bool = False) -> Tensor:
    """The linear map `[n, size, pixels]` that resamples pixels start … start+length to `size` with PIL's triangle filter.

    Or with PIL's cubic one, which is Keys's with a = -0.5.

    Each output pixel is a weighted mean over its footprint in the crop; the footprint widens with the reduction
    (antialiasing) and is cut off at the crop's border, as when PIL resizes an image that was cropped before.
    """
    scale = (length / size)[:, None, None]
    support = scale.clamp_min(1.0)
    outputs = torch.arange(size, device=start.device)[None, :, None] + 0.5
    inputs = torch.arange(pixels, device=start.device)[None, None, :] + 0.5
    distance = inputs - (start[:, None, None] + outputs * scale)
    inside = (inputs > start[:, None, None]) & (inputs < (start + length)[:, None, None])
    x = distance.abs() / support
    if bicubic:
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0)) * inside
    else:
        weights = (1 - x).clamp_min(0) * inside
    return weights / weights.sum(2, keepdim=True)


def crop_resize(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Applies the row maps `[n, s, h]` and column maps `[n, s, w]` to uint8 `[n, 3, h, w]`: float32 `[n, 3, s, s]` in [0, 1]."""
    n, channels, height, width = images.shape
    x = images.reshape(n, channels * height, width).float()
    x = torch.bmm(x, columns.mT / 255)  # [n, 3h, s]
    x = x.view(n, channels, height, -1)
    return rows[:, None] @ x  # [n, 3, s, s]


def color_jitter(x: Tensor, strength: tuple[float, ...], p: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue by random factors, in an order of its own for each image, with chance p.

    Factors are drawn as torchvision draws them. The 24 orders are dealt out evenly over the batch, shuffled, so that
    each image's order is uniform and the images that get an operation at one position are known without looking.
    """
    n = len(x)
    jitter = _chance(n, p, generator)
    brightness, contrast, saturation = (
        torch.where(jitter, _uniform(n, max(0.0, 1 - s), 1 + s, generator), 1.0)[:, None, None, None]
        for s in strength[:3]
    )
    hue = torch.where(jitter, _uniform(n, -strength[3], strength[3], generator), 0.0)[:, None, None]
    shuffle = torch.randperm(n, generator=generator, device=generator.device)

    for position in range(4):
        for operation, slots in enumerate(_slots(n, position, shuffle.device)):
            rows = shuffle[slots]
            part = x[rows]
            if operation == 0:
                part = part * brightness[rows]
            elif operation == 1:
                part = _blend(part, grey(part).mean((1, 2, 3), keepdim=True), contrast[rows])
            elif operation == 2:
                part = _blend(part, grey(part), saturation[rows])
            elif strength[3]:
                part = rotate_hue(part, hue[rows])
            x[rows] = part.clamp_(0, 1)
    return x


@lru_cache
def _slots(n: int, position: int, device: torch.device) -> list[Tensor]:
    """For each of the four operations, which of n slots apply it at `position`, slot i following order i mod 24."""
    operation = ORDERS[torch.arange(n) % len(ORDERS), position]
    return [torch.nonzero(operation == k)[:, 0].to(device) for k in range(4)]


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return other + (x - other) * factor


def grey(x: Tensor) -> Tensor:
    """Luma `[n, 1, h, w]` of `[n, 3, h, w]`."""
    return GREY[0] * x[:, :1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:3]


def rotate_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue of `[n, 3, h, w]` in [0, 1] by `turn` `[n, 1, 1]` of a full circle, at the same HSV saturation and value."""
    red, green, blue = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sector = sector + 6 * turn
    # HSV back to RGB in closed form: channel n of (5, 3, 1) is V - C·clamp(min(k, 4-k), 0, 1), k = (n + 6H) mod 6.
    channels = []
    for offset in (5, 3, 1):
        k = (sector + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def blur_radius(view: View, side: int) -> int:
    """How many px the blur's kernel reaches to each side of its centre: by the view's share, or four sigma at most."""
    if view.blur_kernel:
        return max(1, int(view.blur_kernel * side) // 2)
    return min(side - 1, math.ceil(4 * view.blur_sigma[1]))  # mirrored borders give no more


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blurs each image by its own `sigma` `[n]`, with a kernel of `radius` px to each side and mirrored borders."""
    side = x.shape[-1]
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)  # [n, 2r+1]
    source = torch.arange(side, device=x.device)[:, None] + offsets
    source = source.abs()
    source = torch.where(source >= side, 2 * (side - 1) - source, source)  # [side, 2r+1]
    matrix = torch.zeros(len(x), side, side, device=x.device)
    matrix.scatter_add_(2, source.expand(len(x), -1, -1), weights[:, None].expand(-1, side, -1))
    return matrix[:, None] @ x @ matrix.mT[:, None]


def _uniform(shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else shape
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _chance(n: int, p: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device) < p
