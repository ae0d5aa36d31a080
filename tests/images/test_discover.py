import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslzoo.errors import ImageError, InputError
from sslzoo.images import discover
from sslzoo.images.discover import Summary


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def ids(source, summary=None):
    return [item.id for item in discover.discover(source, summary)]


def test_a_folder_in_order_with_what_was_left_out(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "z/2.webp", "z/10.gif", "c/d/e.tiff", ".hidden.jpg", "notes.txt", ".git/x.png")
    summary = Summary()
    assert ids(tmp_path, summary) == ["a.png", "b.JPG", "c/d/e.tiff", "z/10.gif", "z/2.webp"]
    assert summary.left_out == {"hidden": 2, "not an image's extension": 1}


def test_labels_are_the_first_folders(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/deep/2.jpg", "3.jpg")
    assert {item.id: item.label for item in discover.discover(tmp_path)} == {
        "3.jpg": None,
        "cat/1.jpg": "cat",
        "dog/deep/2.jpg": "dog",
    }


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "outside").mkdir()
    touch(tmp_path / "outside", "2.jpg")
    root = tmp_path / "a"
    os.symlink(root, root / "loop")
    os.symlink(tmp_path / "outside", root / "other")
    os.symlink(tmp_path / "outside", root / "other2")
    os.symlink("nowhere.jpg", root / "broken.jpg")
    summary = Summary()
    assert ids(root, summary) == ["1.jpg", "broken.jpg", "other/2.jpg"]
    assert summary.left_out == {"link to a folder that was seen": 2}
    with pytest.raises(OSError, match="No such file"):
        next(item for item in discover.discover(root) if item.id == "broken.jpg").open()


def test_an_image_is_no_list_of_paths(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "image.png").read_bytes())))
    with pytest.raises(InputError, match="this is an image; name its file"):
        discover.open_source("-")


@pytest.mark.parametrize("url", ["https://example.invalid/a.jpg", "s3://bucket/a.jpg"])
def test_a_missing_file_system_says_what_to_install(url, monkeypatch):
    def lacking(_):
        raise ImportError("needs a package")

    monkeypatch.setattr("fsspec.core.url_to_fs", lacking)
    extra = "http" if url.startswith("http") else "s3"
    with pytest.raises(InputError, match=rf"needs a package: pip install 'fsspec\[{extra}\]'$"):
        discover.open_source(url)


def test_one_image(tmp_path):
    touch(tmp_path, "x.jpg")
    assert ids(tmp_path / "x.jpg") == ["x.jpg"]


def test_what_is_missing_is_said_at_once(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        discover.discover(tmp_path / "nothing")


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, rows, *, names=None):
    image = pa.array(
        [{"bytes": b, "path": None} for b, _ in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": image, "label": [label for _, label in rows]})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)


def test_parquet_in_the_hugging_face_layout(tmp_path):
    write_parquet(
        tmp_path / "train-00000-of-00002.parquet", [(png("red"), 0), (png("blue"), 1), (None, 1)], names=["cat", "dog"]
    )
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [(png("green"), 0)], names=["cat", "dog"])
    items = list(discover.discover(tmp_path))
    assert [item.label for item in items] == ["cat", "dog", "dog", "cat"]
    assert items[0].id == "train-00000-of-00002.parquet/0"
    assert items[3].id == "train-00001-of-00002.parquet/0"
    assert items[1].open() == png("blue")
    with pytest.raises(ImageError, match="holds no image"):
        items[2].open()
    assert discover.open_source(tmp_path).count() == 4
    assert [p.name for p in discover.split(tmp_path, "train")] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert discover.split(tmp_path, "val", "test") == []


def test_parquet_without_images_names_its_columns(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"no column of images \(it has text\)"):
        list(discover.discover(tmp_path / "x.parquet"))
    (tmp_path / "x.parquet").write_bytes(b"garbage")
    with pytest.raises(InputError, match="not a Parquet file"):
        list(discover.discover(tmp_path / "x.parquet"))


def test_counting_equals_discovering(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.png", "d.txt")
    assert discover.open_source(tmp_path).count() == len(ids(tmp_path)) == 2


def test_the_state_of_a_source_changes_with_its_images(tmp_path):
    touch(tmp_path / "in", "cat/1.jpg", "dog/2.jpg", "notes.txt")
    before = discover.state(tmp_path / "in")
    assert discover.state(str(tmp_path / "in")) == before
    touch(tmp_path / "in", "more.txt")
    assert discover.state(tmp_path / "in") == before  # no image
    os.utime(tmp_path / "in" / "cat" / "1.jpg", ns=(1, 1))
    changed = discover.state(tmp_path / "in")
    (tmp_path / "in" / "cat" / "1.jpg").rename(tmp_path / "in" / "dog" / "1.jpg")
    assert len({before, changed, discover.state(tmp_path / "in")}) == 3
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), tmp_path / "t.parquet")
    table = discover.state(tmp_path / "t.parquet")
    pq.write_table(pa.table({"image": [b"x"], "label": [10]}), tmp_path / "t.parquet")
    os.utime(tmp_path / "t.parquet", ns=(1, 1))
    assert discover.state(tmp_path / "t.parquet") != table
