"""Scaling and cropping of a decoded image, equal to torchvision's Resize and CenterCrop on PIL images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sslzoo.spec import Preprocess

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_crop(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The centre square of the scaled image, uint8 `[size, size, 3]`, resampled in one call straight from its box.

    Resampling only the box gives the pixels of Resize then CenterCrop to within rounding, without computing the rest.
    """
    width, height = image.size
    resize, size = preprocess.resize, preprocess.size
    scaled_w, scaled_h = scaled_size(width, height, resize)
    left, top = round((scaled_w - size) / 2), round((scaled_h - size) / 2)
    if (width, height) == (scaled_w, scaled_h):
        image = image.crop((left, top, left + size, top + size))
    else:
        x, y = width / scaled_w, height / scaled_h
        box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
        image = image.resize((size, size), FILTERS[preprocess.interpolation], box=box)
    return np.asarray(image)


def scaled_size(width: int, height: int, resize: int) -> tuple[int, int]:
    """Width and height after the short side was scaled to `resize`.

    torchvision truncates the long side (functional._compute_resized_output_size) and rounds the crop's offset.
    """
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize
