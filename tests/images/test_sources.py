"""Every kind of input gives the same images under the right names."""

import datetime
import functools
import glob
import http.server
import io
import os
import pickle
import shutil
import sys
import tarfile
import threading
import warnings
import zipfile
import zoneinfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import sslzoo
from sslzoo.errors import ImageError, InputError
from sslzoo.images.decode import decode
from sslzoo.images.discover import Summary, discover, expand, open_source
from sslzoo.images.read import opened, read
from sslzoo.images.sources import location
from sslzoo.images.sources.item import OWN_COLUMNS


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


def test_a_pattern_enters_each_folder_once(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    patterns = ["folder/**/*.png", "./fol*/**/*.png", f"{folder}/**/[13].png", "**/folder/**/*.png", "**/a/**", "**"]
    expected = [[path for path in sorted(glob.glob(p, recursive=True)) if os.path.isfile(path)] for p in patterns]
    for i in range(3):  # as glob walks them, 3 to the power of 40
        (folder / f"loop{i}").symlink_to(folder)
    assert [[item.id for item in discover(pattern)] for pattern in patterns] == expected


def test_folders_that_a_pattern_names_are_walked(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "b" / "of_a").symlink_to(folder / "a")
    expected = [(f"folder/{id_}", label, red) for id_, label, red in EXPECTED]
    for pattern in ("folder/*", "folder/{a,b}", "folder/[ab]"):
        assert reds(discover(pattern)) == expected
        assert open_source(pattern).count() == 3
    shutil.copy(folder / "a" / "1.png", folder / "top.png")
    assert reds(discover("folder/*")) == [("folder/top.png", None, 1), *expected]
    assert reds(discover("**/a")) == expected[:2]


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


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (pa.array([1.5]), pa.array([1]), "double"),
        (pa.array([1]), pa.array([1.5], pa.float32()), "double"),
        (pa.array(["x"]), pa.nulls(1), "string"),
        (pa.nulls(1), pa.array([7], pa.int16()), "int16"),
    ],
)
def test_a_column_that_differs_from_shard_to_shard_holds_the_values_of_all(tmp_path, one, other, kind):
    for name, values in (("a", one), ("b", other), ("c", pa.nulls(1))):
        pq.write_table(pa.table({"image": [png(1)], "note": values}), tmp_path / f"{name}.parquet")
    sslzoo.embed(tmp_path, "pixels-32", tmp_path / "e")
    column = pq.read_table(tmp_path / "e" / "part-00000.parquet")["note"]
    assert column.to_pylist() == [*one.to_pylist(), *other.to_pylist(), None]
    assert str(column.type) == kind


def test_a_column_of_types_that_no_type_holds_is_named(tmp_path):
    for name, values in (("a", pa.nulls(1)), ("b", pa.array([7])), ("c", pa.array(["x"]))):
        pq.write_table(pa.table({"image": [png(1)], "note": values}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"column note is int64 in .*/b\.parquet and string in .*/c\.parquet"):
        sslzoo.embed(tmp_path, "pixels-32", tmp_path / "e")


def test_further_columns_of_every_kind(tmp_path):
    noon = datetime.datetime(2024, 6, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    columns = {
        "image": [{"bytes": png(i), "path": None} for i in range(2)],
        "path": ["x", "y"],
        "width": [7, 8],
        "width_": [9, 10],
        "category": pa.array(["u", None]).dictionary_encode(),
        "taken": pa.array([noon, None], pa.timestamp("ns", "Europe/Berlin")),
        "nanoseconds": pa.array([1_000_001, None], pa.timestamp("ns")),
        "tags": [["x"], []],
        "price": pa.array([1, 2], pa.decimal128(5, 2)),
    }
    for shard in range(2):
        pq.write_table(pa.table(columns), tmp_path / f"{shard}.parquet")
    result = sslzoo.embed(tmp_path, "pixels-32", tmp_path / "e")
    assert result.manifest["left_out"] == {
        "column tags (list<element: string>)": 1,
        "column price (decimal128(5, 2))": 1,
    }
    table = pq.read_table(tmp_path / "e" / "part-00000.parquet")
    assert set(table.column_names) - {"path_", "width__", "width_", "category", "taken", "nanoseconds"} == OWN_COLUMNS
    rows = table.to_pylist()[:2]
    assert [row["path_"] for row in rows] == ["x", "y"]
    assert [(row["width"], row["width__"], row["width_"]) for row in rows] == [(8, 7, 9), (8, 8, 10)]
    assert [row["category"] for row in rows] == ["u", None]
    assert [row["taken"] for row in rows] == [datetime.datetime(2024, 6, 1, 10), None]
    assert [row["nanoseconds"] for row in rows] == [datetime.datetime(1970, 1, 1, 0, 0, 0, 1000), None]


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


def test_why_a_url_cannot_be_opened_is_told():
    pytest.importorskip("aiohttp")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/1.png"
    failure = opened(next(discover([url])))
    assert isinstance(failure, ImageError)
    assert "Connect" in failure.reason and failure.reason != f"can't be opened: {url}"


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
    tall = np.full((9, 7, 3), (5, 6, 7), np.uint8)
    for value in (
        torch.from_numpy(tall),
        torch.from_numpy(tall).permute(2, 0, 1),
        tall[:, ::-1],
        np.dstack([tall, tall[..., :1] * 51]),
    ):
        [item] = discover([value])
        assert item.open().size == (7, 9)
        assert decode(item.open()).image.getpixel((3, 3)) == (5, 6, 7)
    [item] = discover([tall[..., 0]])
    assert decode(item.open()).image.getpixel((3, 3)) == (5, 5, 5)
    with pytest.raises(InputError, match=r"input 0 has shape \(9, 7, 3\) and type float64"):
        list(discover([tall / 255]))
    assert sslzoo.embed(mix, "pixels-32").ids[1] == "input 1"
    with pytest.raises(InputError, match="input 0 is a int"):
        list(discover([5]))


def test_hugging_face_datasets(folder):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["x", "y"])
    features = datasets.Features(
        {"image": datasets.Image(), "label": names, "n": datasets.Value("int8"), "tags": [datasets.Value("string")]}
    )
    cells = [{"bytes": png(5), "path": None}, {"bytes": png(6), "path": None}]
    rows = {"image": cells, "label": [1, 0], "n": [7, 8], "tags": [["x"], []]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    summary = Summary()
    items = list(discover(dataset, summary))
    assert list(summary.left_out) == ["column tags (list<item: string>)"]
    assert reds(items) == [("0", "y", 5), ("1", "x", 6)]
    assert items[0].columns == {"n": 7}
    assert open_source(dataset).columns == {"n": "int8"}


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


def failures(items):
    """The ids that can't be opened, with the reasons."""
    preprocess = sslzoo.Preprocess(8, 8)
    return {item.id: result.reason for item, result in read(items, preprocess) if isinstance(result, ImageError)}


def test_a_shard_that_breaks_off_is_a_failure_and_the_others_go_on(tmp_path):
    names = {f"{i}.png": png(i) for i in range(6)}
    for shard in range(3):
        make_tar(tmp_path / f"s-{shard}.tar", names)
    whole = (tmp_path / "s-0.tar").read_bytes()
    (tmp_path / "s-1.tar").write_bytes(whole[: 2 * 1024 + 540])  # two members, and half of the third
    items = list(discover(str(tmp_path / "s-{0..2}.tar")))
    assert [item.id for item in items if item.id.startswith("s-2")] == [f"s-2.tar/{name}" for name in names]
    assert failures(items).keys() == {"s-1.tar", "s-1.tar/2.png"}
    (tmp_path / "s-1.tar").write_bytes(b"garbage" * 100)
    items = list(discover(str(tmp_path / "s-{0..2}.tar")))
    assert len(items) == 13
    assert "can't be read" in failures(items)["s-1.tar"]
    (tmp_path / "s-1.tar").unlink()
    with pytest.raises(InputError, match=r"s-1\.tar does not exist, one of 3"):
        discover(str(tmp_path / "s-{0..2}.tar"))


@pytest.mark.parametrize(("name", "mode", "count"), [("x.tar", "w", 2), ("x.tar.gz", "w:gz", None)])
def test_links_inside_a_tar_are_read_or_counted(tmp_path, name, mode, count):
    with tarfile.open(tmp_path / name, mode) as tar:
        for i, (kind, target) in enumerate(
            (
                (tarfile.REGTYPE, ""),
                (tarfile.LNKTYPE, "0.png"),
                (tarfile.SYMTYPE, "0.png"),
                (tarfile.LNKTYPE, "none.png"),
            )
        ):
            info = tarfile.TarInfo(f"{i}.png")
            info.type, info.linkname = kind, target
            info.size = len(png(1)) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(png(1)))
    summary = Summary()
    assert [(i, red) for i, _, red in reds(discover(tmp_path / name, summary))] == [("0.png", 1), ("1.png", 1)]
    assert summary.left_out == {"link inside an archive": 2}
    assert open_source(tmp_path / name).count() == count


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.xz"])
def test_hard_links_as_tar_itself_writes_them(tmp_path, name):
    """Of pictures and labels, in names that are long or no UTF-8."""
    root = tmp_path / "in"
    (root / ("long" * 30)).mkdir(parents=True)
    for i in range(40):
        (root / f"{i:02d}.png").write_bytes(png(i + 1) + os.urandom(2000))
    (root / "00.cls").write_text("cat")
    links = {"40.png": "07.png", "40.cls": "00.cls", "\udcff.png": "08.png", f"{'long' * 30}/x.png": "09.png"}
    for link, target in links.items():
        (root / link).hardlink_to(root / target)
    with tarfile.open(tmp_path / name, "w" if name == "x.tar" else f"w:{'gz' if name == 'x.tgz' else 'xz'}") as tar:
        for path in [*sorted(root.glob("[0-4]*")), *(root / link for link in list(links)[2:])]:
            tar.add(path, path.relative_to(root))
        assert sum(member.islnk() for member in tar.getmembers()) == 4
    found = {i: (label, red) for i, label, red in reds(discover(tmp_path / name))}
    assert len(found) == 43
    assert found["40.png"] == ("cat", 8)
    assert found["\udcff.png"] == (None, 9) and found[f"{'long' * 30}/x.png"] == (None, 10)


def test_archives_of_one_name_are_told_apart(tmp_path):
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        make_tar(tmp_path / folder / "s.tar", {"1.png": png(1)})
        (tmp_path / folder / "1.png").write_bytes(png(2))
        pq.write_table(pa.table({"path": ["1.png"]}), tmp_path / folder / "t.parquet")
        pq.write_table(pa.table({"image": [{"bytes": png(3), "path": None}]}), tmp_path / folder / "u.parquet")
    for name, id_ in (("s.tar", "s.tar/1.png"), ("t.parquet", "1.png"), ("u.parquet", "u.parquet/0")):
        paths = [tmp_path / folder / name for folder in "pq"]
        assert [item.id for item in discover(paths)] == [f"p/{id_}", f"q/{id_}"]
        assert [item.id for item in discover(paths[:1])] == [id_]
    assert pickle.loads(pickle.dumps(open_source(paths))).readers[1].name == "q/u.parquet"


def test_what_zstd_compressed_is_named(tmp_path):
    (tmp_path / "x.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    for source in (tmp_path / "x.tar.zst", [tmp_path / "x.tar.zst"], "memory://x.tzst"):
        with pytest.raises(InputError, match=r"zstd, which is not read here; unpack it: zstd -d .*x\.t"):
            open_source(source)


def test_a_zip_of_a_version_to_come_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.png", png(1))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.rfind(b"PK\1\2") + 6] = 99  # APPNOTE 4.4.3: the version needed to extract, times ten
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.zip can't be read as a zip file \(zip file version 9\.9"):
        list(discover(tmp_path / "x.zip"))
    make_tar(tmp_path / "y.tar", {"1.png": png(1)})
    both = open_source([tmp_path / "x.zip", tmp_path / "y.tar"])
    assert failures(both.items(Summary())).keys() == {"x.zip"}
    assert both.count() == 2


def test_members_of_a_zip_that_cannot_be_read_are_failures(tmp_path):
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        warnings.simplefilter("ignore")  # about the second of one name
        for name, value in (("a.png", 1), ("a.png", 2), ("encrypted.png", 3), ("damaged.png", 4)):
            archive.writestr(name, png(value))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    for header in (data.find(b"encrypted.png") - 30 + 6, data.rfind(b"encrypted.png") - 46 + 8):
        data[header] |= 1  # APPNOTE 4.4.4: bit 0 says that the member is encrypted
    data[data.find(b"damaged.png") + 40] ^= 255
    (tmp_path / "x.zip").write_bytes(data)
    items = list(discover(tmp_path / "x.zip"))
    reasons = failures(items)
    assert reasons.keys() == {"encrypted.png", "damaged.png"}
    assert "password" in reasons["encrypted.png"]
    assert [red for _, _, red in reds(items[:2])] == [1, 2]  # each has its own pixels


def test_what_is_too_large_to_be_an_image_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(3 << 30)
    monkeypatch.setattr(location, "FILE_LIMIT", 10_000)
    files = {"zeros.png": bytes(20_000), "z.png": png(1)}
    make_tar(tmp_path / "x.tar", files)
    make_tar(tmp_path / "x.tar.gz", files, "w:gz")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("zeros.png", files["zeros.png"])
    for name in ("sparse.jpg", "x.tar", "x.tar.gz", "x.zip"):
        [reason] = failures(discover(tmp_path / name)).values()
        assert "bytes are more than an image has" in reason


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices are POSIX's")
def test_pipes_and_devices_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "broken.png").symlink_to("nowhere")
    summary = Summary()
    assert [item.id for item in discover(tmp_path, summary)] == ["broken.png"]
    assert summary.left_out == {"not a regular file": 2}
    (tmp_path / "folder.png").mkdir()
    named = [tmp_path / "pipe.png", tmp_path / "zero.png", tmp_path / "folder.png"]
    assert list(failures(discover(named)).values()) == ["not a regular file", "not a regular file", "a folder"]


def test_lists_from_anywhere(folder, tmp_path):
    lines = [folder / "a" / "1.png", tmp_path / "caf\udce9.png"]
    shutil.copy(lines[0], lines[1])
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + b"".join(os.fsencode(line) + b"\r\n" for line in lines))
    assert [red for _, _, red in reds(discover(tmp_path / "list.txt"))] == [1, 1]


def test_a_damaged_table_is_read_up_to_the_damage(tmp_path):
    noise = np.random.default_rng(0)
    cells = [{"bytes": png(i) + noise.bytes(500), "path": None} for i in range(200)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "t.parquet", row_group_size=20, compression="snappy")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    (tmp_path / "t.parquet").write_bytes(data)
    items = list(discover(tmp_path / "t.parquet"))
    assert 40 < len(items) < 120
    [(name, reason)] = failures(items).items()
    assert name == f"t.parquet/{len(items) - 1}"
    assert "from here on" in reason


def test_damaged_text_in_a_table_is_a_failure(tmp_path):
    cells = [{"bytes": png(i), "path": None} for i in range(3)]
    pq.write_table(pa.table({"image": cells, "title": ["title"] * 3}), tmp_path / "t.parquet", use_dictionary=False)
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(
        data.replace(b"title", b"\xff\xff\xff\xff\xff", 1).replace(b"\5\0\0\0title", b"\5\0\0\7title")
    )
    [(name, reason)] = failures(discover(tmp_path / "t.parquet")).items()
    assert (name, "from here on" in reason) == ("t.parquet/0", True)


def test_a_folder_of_images_may_hold_a_table_of_something_else(folder):
    pq.write_table(pa.table({"x": [1]}), folder / "notes.parquet")
    assert reds(discover(folder)) == EXPECTED
    notes = pa.table({"file_name": pa.array(["a/1.png"], pa.large_string()), "hash": [b"x"]})
    pq.write_table(notes, folder / "notes.parquet")
    summary = Summary()
    assert reds(discover(folder, summary)) == EXPECTED
    assert summary.left_out["not an image's extension"] == 2  # the table and a text
    (folder / "notes.parquet").write_bytes(b"damaged")
    assert reds(discover(folder)) == EXPECTED


def test_a_folder_of_tables_may_hold_an_image_beside_them(folder):
    pq.write_table(pa.table({"image": [{"bytes": png(7), "path": None}]}), folder / "t.parquet")
    summary = Summary()
    assert reds(discover(folder, summary)) == [("t.parquet/0", None, 7)]
    assert summary.left_out == {"image file beside tables": 3}


def test_a_folder_of_tables_alone_may_name_its_images(folder, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    pq.write_table(pa.table({"path": [str(folder / "a" / "1.png")]}), alone / "t.parquet")
    assert [red for _, _, red in reds(discover(alone))] == [1]
    (alone / "t.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match="not a Parquet file that can be read"):
        discover(alone)


def test_links_to_themselves_are_failures(tmp_path):
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "z.png").write_bytes(png(2))
    assert failures(discover(tmp_path)).keys() == {"self.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
def test_more_tables_than_files_may_be_open(tmp_path):
    import resource

    for i in range(80):
        pq.write_table(pa.table({"image": [{"bytes": png(i), "path": None}]}), tmp_path / f"{i:03d}.parquet")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, before[1]))
    try:
        reader = open_source(tmp_path)
        assert reader.count() == 80
        assert sum(1 for _ in reader.items(Summary())) == 80
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
