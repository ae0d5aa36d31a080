import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from sslzoo.images.preprocess import resize_crop
from sslzoo.spec import Preprocess


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 200), (201, 333), (64, 64), (50, 700), (1000, 31), (96, 130)])
@pytest.mark.parametrize(("resize", "crop"), [(96, 96), (110, 96), (64, 48)])
def test_equals_torchvision(interpolation, size, resize, crop):
    rng = np.random.default_rng(0)
    low = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    image = low.resize(size, Image.Resampling.BICUBIC)
    mode = v2.InterpolationMode(interpolation)
    theirs = np.asarray(v2.CenterCrop(crop)(v2.Resize(resize, interpolation=mode)(image)))
    ours = resize_crop(image, Preprocess(resize=resize, size=crop, interpolation=interpolation))
    assert ours.shape == (crop, crop, 3)
    assert ours.dtype == np.uint8
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 2, difference.max()
    assert difference.mean() < 0.2  # of 255; the box's borders are rounded to float32 by Pillow


def test_an_image_of_the_right_size_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (resize_crop(Image.fromarray(pixels), Preprocess(resize=64, size=64)) == pixels).all()
