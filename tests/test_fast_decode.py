"""Decoding by torch gives Pillow's pixels to within rounding, and leaves to Pillow what isn't a plain, whole JPEG."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import sslzoo
from sslzoo.backends import fast_decode
from sslzoo.errors import InputError
from sslzoo.images.decode import DEFAULT, Policy, decode
from sslzoo.images.preprocess import resize_crop
from sslzoo.spec import Preprocess
from tests.conftest import draw

# torchvision says this of its own decoder, which stands in where torchcodec isn't installed
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

CPU = torch.device("cpu")
SMALL = Preprocess(resize=72, size=64)


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def smooth(size):
    return draw("circles", 1, (12, 9)).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equals_pillow(orientation, interpolation):
    preprocess = Preprocess(resize=72, size=64, interpolation=interpolation)
    exif = Image.Exif()
    exif[274] = orientation
    data = jpeg(smooth((200, 131)), exif=exif)
    ours, seen = fast_decode.pixels(data, preprocess, DEFAULT, device=CPU)
    theirs = decode(data)
    difference = np.abs(ours.astype(int) - resize_crop(theirs.image, preprocess))
    assert difference.mean() < 0.6  # of 255
    assert difference.max() <= 4
    assert seen == theirs.seen


def test_without_exif_the_pixels_are_the_stored_ones():
    exif = Image.Exif()
    exif[274] = 6
    data = jpeg(smooth((90, 100)), exif=exif)
    bare = fast_decode.without_exif(data)
    with Image.open(io.BytesIO(bare)) as image:
        assert 274 not in image.getexif()
        assert image.tobytes() == Image.open(io.BytesIO(data)).tobytes()
    assert fast_decode.without_exif(bare) == bare
    with pytest.raises(RuntimeError, match="follow"):
        fast_decode.without_exif(data[:2] + b"junk" + data[2:])


def test_grey_and_progressive_too():
    for data in (jpeg(smooth((90, 100)).convert("L")), jpeg(smooth((90, 100)), progressive=True)):
        ours, _ = fast_decode.pixels(data, SMALL, DEFAULT, device=CPU)
        assert np.abs(ours.astype(int) - resize_crop(decode(data).image, SMALL)).mean() < 0.6


def test_the_rest_is_left_to_pillow():
    data = jpeg(smooth((90, 100)))
    png = io.BytesIO()
    smooth((90, 100)).save(png, "PNG")
    others = {
        "cmyk": jpeg(smooth((90, 100)).convert("CMYK")),
        "png": png.getvalue(),
        "truncated": data[: len(data) // 2],
        "text": b"text\xff\xd9",
        "an image in memory": smooth((90, 100)),
    }
    for name, source in others.items():
        assert fast_decode.pixels(source, SMALL, DEFAULT, device=CPU) is None, name
    assert fast_decode.pixels(data, SMALL, Policy(pixel_limit=100), device=CPU) is None


def test_a_run_with_it_gives_the_same_vectors_and_failures(photos, model_folder, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for i, path in enumerate(sorted(photos.rglob("*.*g"))):
        (root / f"{i:02d}{path.suffix}").write_bytes(path.read_bytes())
    (root / "bad.jpg").write_bytes((root / "00.jpg").read_bytes()[:900])
    options = {"device": "cpu", "backend": "torch", "precision": "fp32"}
    plain = sslzoo.embed(root, f"local-dir:{model_folder}", tmp_path / "a", **options)
    fast = sslzoo.embed(root, f"local-dir:{model_folder}", tmp_path / "b", decoder="torch", **options)
    assert fast.ids == plain.ids
    assert fast.manifest["failed"] == plain.manifest["failed"] == 1
    assert fast.manifest["decoder"] == "torch"
    assert (fast.normalized * plain.normalized).sum(1).min() > 0.9999
    with pytest.raises(InputError, match="--decoder torch goes with --backend torch"):
        sslzoo.embed(root, "pixels-32", decoder="torch")
    with pytest.raises(InputError, match="use pillow, or torch"):
        sslzoo.embed(root, decoder="gpu")
