"""Every kind of input gives the same images under the right names."""

import functools
import http.server
import io
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sslzoo
from sslzoo.errors import InputError
from sslzoo.images.decode import decode
from sslzoo.images.discover import Summary, discover, expand, open_source


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"a/1.png": png(1), "a/2.PNG": png(2), "b/3.png": png(3), "b/notes.txt": b"text", "b/.4.png": png(4)}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "folder"
    for name, data in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def reds(items):
    """(id, label, red value) of each item."""
    return [(item.id, item.label, decode(item.open()).image.getpixel((0, 0))[0]) for item in items]


EXPECTED = [("a/1.png", "a", 1), ("a/2.PNG", "a", 2), ("b/3.png", "b", 3)]


def make_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")]
)
def test_tar(tmp_path, suffix, mode):
    make_tar(tmp_path / f"x{suffix}", FILES, mode)
    summary = Summary()
    assert reds(discover(tmp_path / f"x{suffix}", summary)) == [(i, None, red) for i, _, red in EXPECTED]
    assert summary.left_out == {"not an image's extension": 1, "hidden": 1}


def test_webdataset_shards_carry_their_labels(tmp_path):
    for shard in range(3):
        files = {}
        for i in range(2):
            files |= {
                f"{shard}{i}.png": png(10 * shard + i),
                f"{shard}{i}.cls": str(i).encode(),
                f"{shard}{i}.json": b"{}",
            }
        make_tar(tmp_path / f"s-{shard:03d}.tar", files)
    expected = [(f"s-{s:03d}.tar/{s}{i}.png", str(i), 10 * s + i) for s in range(3) for i in range(2)]
    assert reds(discover(str(tmp_path / "s-{000..002}.tar"))) == expected
    assert reds(discover(str(tmp_path / "s-*.tar"))) == expected


def test_zip_is_read_by_threads_to_its_end(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    items = list(discover(tmp_path / "x.zip"))  # opened only after the stream has ended
    assert reds(items) == EXPECTED
    assert open_source(tmp_path / "x.zip").count() == 3


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_a_broken_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"garbage" * 100)
    with pytest.raises(InputError, match=rf"{name} can't be read as a (tar|zip) file"):
        list(discover(tmp_path / name))


def test_patterns_and_lists(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [item.id for item in discover("folder/**/*.png")] == ["folder/a/1.png", "folder/b/3.png"]
    (tmp_path / "list.txt").write_text("folder/b/3.png\n\nfolder/a/1.png\n")
    assert [(i, r) for i, _, r in reds(discover("list.txt"))] == [("folder/b/3.png", 3), ("folder/a/1.png", 1)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("folder/a/2.PNG\n"))
    assert [(i, r) for i, _, r in reds(discover("-"))] == [("folder/a/2.PNG", 2)]
    with pytest.raises(InputError, match="does not exist"):
        discover("folder/**/*.tif")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="empty"):
        discover("empty.txt")


def test_braces():
    assert expand("s-{008..011}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert expand("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert expand("plain") == ["plain"]


def test_parquet_of_paths_with_further_columns(folder):
    table = pa.table({"path": ["a/1.png", "b/3.png"], "stars": pa.array([4, 5], pa.int16()), "nested": [[1], [2]]})
    pq.write_table(table, folder / "photos.parquet")
    reader = open_source(folder / "photos.parquet")
    assert reader.columns == {"stars": "int16"}
    items = list(reader.items(Summary()))
    assert reds(items) == [("a/1.png", None, 1), ("b/3.png", None, 3)]
    assert [dict(item.columns) for item in items] == [{"stars": 4}, {"stars": 5}]


def test_further_columns_reach_the_embeddings(tmp_path):
    cells = [{"bytes": png(10 * i), "path": None} for i in range(3)]
    pq.write_table(pa.table({"image": cells, "caption": ["x", None, "z"], "n": [1, 2, 3]}), tmp_path / "t.parquet")
    sslzoo.embed(tmp_path / "t.parquet", "pixels-32", tmp_path / "e")
    table = pq.read_table(tmp_path / "e" / "part-00000.parquet")
    assert table["caption"].to_pylist() == ["x", None, "z"]
    assert table["n"].to_pylist() == [1, 2, 3]
    assert table["n"].type == pa.int64()


def test_memory_file_system(folder):
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    for name, data in FILES.items():
        fs.pipe(f"/photos/{name}", data)
    assert reds(discover("memory://photos")) == EXPECTED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/1.png", png(1))
    fs.pipe("/x.zip", buffer.getvalue())
    assert reds(discover("memory://x.zip")) == [("a/1.png", "a", 1)]
    assert reds(discover("memory://photos/b/3.png")) == [("3.png", None, 3)]
    with pytest.raises(InputError, match="nonsense"):
        discover("nonsense://x")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_http(server, folder):
    pytest.importorskip("aiohttp")
    assert reds(discover(f"{server}/b/3.png")) == [("3.png", None, 3)]


def test_a_mix_in_memory(folder):
    array = np.full((8, 8, 3), 9, np.uint8)
    path = folder / "a" / "1.png"
    mix = [path, png(2), Image.new("RGB", (8, 8), (3, 0, 0)), array]
    assert [(i, r) for i, _, r in reds(discover(mix))] == [
        (str(path), 1),
        ("input 1", 2),
        ("input 2", 3),
        ("input 3", 9),
    ]
    assert sslzoo.embed(mix, "pixels-32").ids[1] == "input 1"
    with pytest.raises(InputError, match="input 0 is a int"):
        list(discover([5]))


def test_hugging_face_datasets(folder):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["x", "y"])
    features = datasets.Features({"image": datasets.Image(), "label": names, "n": datasets.Value("int64")})
    rows = {"image": [{"bytes": png(5), "path": None}, {"bytes": png(6), "path": None}], "label": [1, 0], "n": [7, 8]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    items = list(discover(dataset))
    assert reds(items) == [("0", "y", 5), ("1", "x", 6)]
    assert items[0].columns == {"n": 7}
    assert open_source(dataset).columns == {"n": "int64"}


def test_large_tables_are_not_held_in_memory(tmp_path):
    """Items of a Parquet file are made as the stream is read, not before."""
    cells = [{"bytes": png(i % 250), "path": None} for i in range(500)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "t.parquet", row_group_size=50)
    stream = discover(tmp_path / "t.parquet")
    first = next(stream)
    assert first.id == "t.parquet/0"
    assert sum(1 for _ in stream) == 499


def test_a_tar_of_the_current_folder(tmp_path):
    """`tar -C folder .` writes every name with ./ in front."""
    make_tar(tmp_path / "dot.tar", {f"./{name}": data for name, data in FILES.items()})
    make_tar(tmp_path / "plain.tar", FILES)
    dotted, plain = ([i.id for i in discover(tmp_path / name, Summary())] for name in ("dot.tar", "plain.tar"))
    assert len(dotted) == len(plain) > 0
