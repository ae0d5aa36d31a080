import gc
import threading
import time

import numpy as np
import pytest
from PIL import Image

from sslzoo.errors import ImageError
from sslzoo.images import discover
from sslzoo.images.read import ordered, read
from sslzoo.spec import Preprocess


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_results_keep_the_order_of_their_inputs(workers):
    def slow_square(x):
        time.sleep(0.002 * (x % 3))
        return x * x

    assert list(ordered(slow_square, range(40), workers=workers, ahead=5)) == [(x, x * x) for x in range(40)]


def test_inputs_are_taken_only_a_little_ahead():
    taken = []

    def inputs():
        for i in range(100):
            taken.append(i)
            yield i

    stream = ordered(lambda x: x, inputs(), workers=2, ahead=4)
    for _ in range(3):
        next(stream)
    assert len(taken) <= 3 + 4 + 1
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_a_bad_file_has_its_own_place_and_its_reason(photos, tmp_path):
    for i, path in enumerate(sorted(photos.rglob("*.png"))[:4]):
        (tmp_path / f"{i}.png").write_bytes(path.read_bytes() if i != 2 else b"no image")
    items = list(discover.discover(tmp_path))
    (tmp_path / "3.png").unlink()  # removed while the run is on
    results = list(read(items, Preprocess(32, 32), workers=3))
    assert [item.id for item, _ in results] == ["0.png", "1.png", "2.png", "3.png"]
    bad = {item.id: result.reason for item, result in results if isinstance(result, ImageError)}
    assert bad["2.png"].startswith("not an image but text")
    assert bad["3.png"].startswith("can't be opened: No such file")
    assert len(bad) == 2


def test_the_full_picture_is_not_kept(tmp_path):
    for i in range(3):
        Image.new("L", (3000, 2000), i).save(tmp_path / f"{i}.png")
    results = list(read(discover.discover(tmp_path), Preprocess(32, 32)))
    assert [seen.width for _, (_, seen) in results] == [3000] * 3
    assert not [o for o in gc.get_objects() if issubclass(type(o), Image.Image) and o.size == (3000, 2000)]


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_an_image_that_is_given_several_times_is_the_same_each_time(tmp_path, format):
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x", format)
    lazy = [Image.open(tmp_path / "x")] * 6  # whose pixels are read when they are first asked for
    results = [result for _, result in read(discover.discover(lazy), Preprocess(32, 32), workers=6)]
    with Image.open(tmp_path / "x") as image:
        [(_, (expected, _))] = read(discover.discover([image]), Preprocess(32, 32))
    for pixels, _ in results:
        np.testing.assert_array_equal(pixels, expected)
