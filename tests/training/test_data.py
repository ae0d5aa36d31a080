import io
import os
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslzoo.errors import InputError
from training import data
from training.data import rows


def write(path, images, labels):
    cells = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"image": cells, "label": labels}), path)


def test_parquet_keeps_pixels_of_the_right_size(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    write(tmp_path / "train.parquet", images, [0, 1, 2, 1, 0])
    loaded = data.load(tmp_path, 32, quiet=True)
    np.testing.assert_array_equal(loaded.images.permute(0, 2, 3, 1).numpy(), images)
    assert loaded.labels == [0, 1, 2, 1, 0]
    assert len(data.load(tmp_path, 32, limit=2, quiet=True)) == 2


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_parquet_goes_on_as_it_was_held(tmp_path, monkeypatch, storage):
    """Whatever is free now: a stream has another order."""
    write(tmp_path / "train.parquet", np.zeros((5, 32, 32, 3), np.uint8), [0] * 5)
    known = data.summary(data.load(tmp_path, 32, storage=storage, quiet=True))
    for free in (0, 2**40):
        monkeypatch.setattr("training.data.available_memory", lambda free=free: free)
        assert data.summary(data.load(tmp_path, 32, known=known, quiet=True))["storage"] == storage


def test_a_folder_of_any_sizes_with_a_bad_file(photos, tmp_path):
    for i, path in enumerate(sorted(photos.rglob("*.*g"))):
        (tmp_path / f"{i}{path.suffix}").write_bytes(path.read_bytes())
    (tmp_path / "bad.jpg").write_text("text")
    loaded = data.load(tmp_path, 48, quiet=True)
    assert tuple(loaded.images.shape) == (12, 3, 48, 48)
    assert [name for name, _ in loaded.failures] == ["bad.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_name_that_is_not_utf8(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "p")
    (tmp_path / "p" / "bars" / "2.jpg").rename(tmp_path / "p" / "bars" / os.fsdecode(b"bad\xff\xfe.jpg"))
    assert len(data.load(tmp_path / "p", 32, quiet=True)) == 12
    assert len(rows.rows_of(tmp_path / "p").fingerprint) == 64


def test_nothing_to_read(tmp_path):
    (tmp_path / "bad.jpg").write_text("text")
    with pytest.raises(InputError, match="no readable image"):
        data.load(tmp_path, 48, quiet=True)
