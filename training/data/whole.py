"""A decoded picture with all that it shows, for crops that may lie anywhere in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sslzoo.images.preprocess import scaled_size


def whole(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The pixels uint8 `[h, w, 3]`, scaled down where the short side is longer than `size` px."""
    if min(image.size) > size:
        image = image.resize(scaled_size(*image.size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)
