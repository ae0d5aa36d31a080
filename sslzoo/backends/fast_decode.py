"""JPEG decoding and scaling by torch, meant for a GPU: of plain JPEG files only, everything else stays Pillow's.

nvJPEG's pixels and torch's resampling differ from Pillow's by rounding. It doesn't tell a damaged file, so that one which
doesn't end as a JPEG should goes to Pillow, and so does what is CMYK, of several frames, or oddly coloured.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sslzoo.images.decode import Policy, Seen, is_heif, orientation
from sslzoo.images.preprocess import scaled_size
from sslzoo.spec import Preprocess


def pixels(
    data: object, preprocess: Preprocess, policy: Policy, *, device: torch.device
) -> tuple[NDArray[np.uint8], Seen] | None:
    """The crop of a JPEG file, uint8 `[size, size, 3]`, decoded on `device`; None for what Pillow has to decode."""
    if not isinstance(data, bytes) or not data.endswith(b"\xff\xd9") or is_heif(data):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:  # reads the header alone
            if image.format != "JPEG" or image.mode not in ("L", "RGB") or image.info.get("adobe_transform", 1) != 1:
                return None
            if image.size[0] * image.size[1] > policy.pixel_limit:
                return None
            turn = orientation(image)
    except Exception:
        return None  # Pillow will say what is wrong with it
    try:
        picture = upright(jpeg_decoder(device)(data), turn)
    except RuntimeError:  # what both raise for a file that they can't decode, or have no memory for
        return None
    height, width = picture.shape[1:]
    crop = resize_crop(picture, preprocess)
    return crop.permute(1, 2, 0).contiguous().cpu().numpy(), Seen(width, height)


def jpeg_decoder(device: torch.device) -> Callable[[bytes], Tensor]:
    """A function from a JPEG's bytes to RGB, uint8 `[3, h, w]` on the device: torchcodec's, else torchvision's."""
    with contextlib.suppress(ImportError):
        from torchcodec.decoders import decode_jpeg

        return lambda data: decode_jpeg(without_exif(data), mode="RGB", device=device)
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_jpeg as older

    decode = partial(older, mode=ImageReadMode.RGB, device=device)
    return lambda data: decode(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def without_exif(data: bytes) -> bytes:
    """A JPEG file without its EXIF and XMP (segments APP1, ITU T.81 B.1.1.4), by which torchcodec would turn the picture."""
    kept, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:  # to the start of the first scan
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != 0xE1:
            kept.append(data[at:end])
        at = end
    if data[at : at + 2] != b"\xff\xda":
        raise RuntimeError("segments that don't follow one another")  # for Pillow, which is patient with them
    return b"".join((*kept, data[at:]))


def upright(picture: Tensor, turn: int) -> Tensor:
    """A picture `[c, h, w]` that was stored with an EXIF orientation, as it is meant to be seen."""
    if turn >= 5:
        picture = picture.transpose(1, 2)
    sides = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}
    return picture.flip(sides[turn]) if turn in sides else picture


def resize_crop(picture: Tensor, preprocess: Preprocess) -> Tensor:
    """Resize and CenterCrop of a picture uint8 `[3, h, w]`, as `images.preprocess` does it; uint8 `[3, size, size]`."""
    height, width = picture.shape[1:]
    wide, high = scaled_size(width, height, preprocess.resize)
    size = preprocess.size
    scaled = functional.interpolate(
        picture[None].float(), (high, wide), mode=preprocess.interpolation, antialias=True, align_corners=False
    )[0]
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return scaled[:, top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)
