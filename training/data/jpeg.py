"""Decoding and scaling a batch of JPEG files on the device that trains (nvJPEG on an NVIDIA GPU, libjpeg on a CPU)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from sslzoo.images import decode as policy
from sslzoo.images.preprocess import resize_crop
from sslzoo.images.sources.item import Opened
from sslzoo.spec import Preprocess
from training.data.whole import whole

ORIENTATION = 0x0112  # EXIF's tag


def decode(files: Sequence[Opened], size: int, device: str, *, square: bool = True) -> list[Tensor]:
    """Images `[3, size, size]`, uint8 on the device: short side scaled to `size`, cropped to the centre square.

    Without `square` they are whole, `[3, h, w]`, and scaled only where the short side is longer than `size`.
    A file goes through `sslzoo.images.decode` on the CPU where that does more than a JPEG decoder: another format, four
    colour channels, or a rotation in its EXIF data. The others differ from it by the decoder's rounding and by the scaling
    (one antialiased step from the full picture, where Pillow may begin from a half, a quarter or an eighth of it).
    """
    plain = [i for i, file in enumerate(files) if _is_plain(file)]
    images: dict[int, Tensor] = {}
    if plain:
        encoded = [torch.frombuffer(bytearray(files[i]), dtype=torch.uint8) for i in plain]  # type: ignore[arg-type]
        for i, image in zip(plain, _decoder()(encoded, device), strict=True):
            images[i] = _scale(image.to(device), size, square=square)
    for i, file in enumerate(files):
        if i not in images:
            picture = policy.decode(file, target=size).image
            pixels = resize_crop(picture, Preprocess(resize=size, size=size)) if square else whole(picture, size)
            images[i] = torch.from_numpy(pixels.copy()).permute(2, 0, 1).to(device)
    return [images[i] for i in range(len(files))]


def _is_plain(file: Opened) -> bool:
    if not isinstance(file, bytes) or file[:2] != b"\xff\xd8":
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(file)) as header:  # reads no pixels
            return header.mode in ("RGB", "L") and header.getexif().get(ORIENTATION, 1) == 1


def _scale(image: Tensor, size: int, *, square: bool) -> Tensor:
    height, width = image.shape[1:]
    if not square and min(height, width) <= size:
        return image
    scaled = (int(size * height / width), size) if width <= height else (size, int(size * width / height))
    if (height, width) != scaled:
        x = interpolate(image[None].float(), scaled, mode="bilinear", antialias=True)[0]
        image = x.round().clamp(0, 255).to(torch.uint8)
    if not square:
        return image
    top, left = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return image[:, top : top + size, left : left + size]


def _decoder() -> Callable[[list[Tensor], str], list[Tensor]]:
    """torchcodec's where it is installed, else torchvision's, which is deprecated in its favour; both take a batch."""
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, RuntimeError):
        from torchvision.io import ImageReadMode
        from torchvision.io import decode_jpeg as decode_with_torchvision

        def through_torchvision(files: list[Tensor], device: str) -> list[Tensor]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                images: list[Tensor] = decode_with_torchvision(files, mode=ImageReadMode.RGB, device=device)
            return images

        return through_torchvision

    def through_torchcodec(files: list[Tensor], device: str) -> list[Tensor]:
        images: list[Tensor] = decode_jpeg(files, mode="RGB", device=device)
        return images

    return through_torchcodec
