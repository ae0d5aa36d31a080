"""Streamed images: each layout, the order, resume, files that can't be read, and decoding on the device."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from sslzoo.errors import InputError
from sslzoo.images.sources.table import ParquetReader
from sslzoo.spec import Preprocess
from training import data, engine
from training.data import jpeg, memory, rows

SIZE = 24


def picture(i, size=(60, 44)):
    """A smooth coloured drawing, different for each number."""
    x = Image.new("RGB", size, (40 + 7 * i % 200, 90, 200 - 5 * i % 150))
    ImageDraw.Draw(x).ellipse((i % 20, 5, 30 + i % 20, 40), fill=(250, 30 + 11 * i % 200, 80))
    return x


def encoded(i):
    buffer = io.BytesIO()
    picture(i).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def contents(n, bad=()):
    return [b"no image" if i in bad else encoded(i) for i in range(n)]


def as_folder(path, files):
    for i, content in enumerate(files):
        (path / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        (path / f"class{i % 2}" / f"{i:03}.jpg").write_bytes(content)


def as_shards(path, files):
    path.mkdir()
    for shard in range(2):
        with tarfile.open(path / f"{shard:03}.tar", "w") as tar:
            for i in range(shard, len(files), 2):
                for suffix, content in (("cls", str(i % 2).encode()), ("jpg", files[i])):
                    member = tarfile.TarInfo(f"{i:03}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def as_tables(path, files):
    path.mkdir()
    half = len(files) // 2
    for shard, part in enumerate((files[:half], files[half:])):
        table = pa.table(
            {"image": [{"bytes": c, "path": None} for c in part], "label": [i % 2 for i in range(len(part))]}
        )
        pq.write_table(table, path / f"train-{shard:05}.parquet", row_group_size=3)


LAYOUTS = {"folder": as_folder, "webdataset": as_shards, "parquet": as_tables}


@pytest.fixture
def source(tmp_path):
    """Writes files in a layout and gives what `load` takes."""

    def make(layout, files):
        LAYOUTS[layout](tmp_path / layout, files)
        return sorted((tmp_path / layout).glob("*.tar")) if layout == "webdataset" else tmp_path / layout

    return make


def both(path, **options):
    return [data.load(path, SIZE, storage=storage, quiet=True, **options) for storage in ("memory", "stream")]


def batches(images, numbers):
    return list(images.batches(iter(numbers), "cpu"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bad", [(), (2, 9)])
def test_a_stream_gives_the_batches_of_memory(source, layout, bad):
    resident, stream = both(source(layout, contents(22, bad)))
    assert isinstance(resident, data.ImageSet) and isinstance(stream, data.Stream)
    assert len(resident) == len(stream) == 22 - len(bad)
    assert resident.labels == stream.labels
    assert stream.names_hash == (resident.names_hash if isinstance(stream.rows, rows.Items) else "")
    assert len(resident.names_hash) == 64
    assert resident.failures == stream.failures and len(stream.failures) == len(bad)
    order = [images.order(torch.Generator().manual_seed(3)) for images in (resident, stream)]
    assert torch.equal(*order)
    parts = order[0][:18].split(6)
    for ours, theirs in zip(batches(stream, parts), batches(resident, parts), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(stream.sample(5)[0], resident.sample(5)[0])
    assert stream.sample(5)[1] == resident.sample(5)[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("tiny_net")
def test_a_run_on_a_stream_that_stops_in_an_epoch_equals_a_whole_one_in_memory(source, layout, tiny, tmp_path):
    resident, stream = both(source(layout, contents(22, bad=(7,))))
    recipe = tiny(store_size=SIZE, batch_size=6)
    whole = engine.build(recipe)
    list(engine.train(whole, resident, recipe))
    asked = iter(range(4))  # of three steps an epoch
    list(engine.train(engine.build(recipe), stream, recipe, out=tmp_path / "r", stop=lambda: next(asked, None) is None))
    again = data.load(stream_source(tmp_path, layout), SIZE, storage="stream", known=data.summary(stream), quiet=True)
    resumed = engine.build(recipe)
    assert list(engine.train(resumed, again, recipe, out=tmp_path / "r", resume=True))[-1].done
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def stream_source(tmp_path, layout):
    return sorted((tmp_path / layout).glob("*.tar")) if layout == "webdataset" else tmp_path / layout


def test_each_process_opens_its_own_rows_only(source, tiny, monkeypatch):
    """Two ranks' numbers are disjoint and together one process's, and a row is opened only where it is needed."""
    stream = both(source("folder", contents(24)))[1]
    recipe = tiny(store_size=SIZE, batch_size=6)
    alone = [part.tolist() for part in engine.rows_from(0, 8, stream, recipe)]
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(engine.distributed, "world", lambda: 2)
        monkeypatch.setattr(engine.distributed, "rank", lambda rank=rank: rank)
        ranks.append([part.tolist() for part in engine.rows_from(0, 8, stream, recipe)])
    assert [a + b for a, b in zip(*ranks, strict=True)] == alone
    opened, item = [], stream.rows.item
    monkeypatch.setattr(stream.rows, "item", lambda row: (opened.append(row), item(row))[1])
    batches(stream, [torch.tensor(part) for part in ranks[1]])
    assert sorted(opened) == sorted(row for part in ranks[1] for row in part)


def test_the_numbers_go_on_at_any_step(source, tiny):
    stream, recipe = both(source("parquet", contents(22)))[1], tiny(store_size=SIZE, batch_size=6)
    whole = list(engine.rows_from(0, 6, stream, recipe))
    for step in range(7):
        rest = list(engine.rows_from(step, 6, stream, recipe))
        assert len(rest) == 6 - step
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[step:], strict=True))


def test_an_epoch_of_tables_is_a_permutation_that_stays_within_windows(source):
    path = source("parquet", contents(40))
    tables = rows.Tables([ParquetReader(file) for file in sorted(path.glob("*.parquet"))], window=8)
    stream = data.Stream(tables, torch.arange(40), SIZE, [])
    first, second = (stream.order(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert sorted(first.tolist()) == list(range(40)) and not torch.equal(first, second)
    groups = torch.searchsorted(tables.ends, first, right=True)
    for begin in range(0, 40, 10):  # ten images lie in few of the fourteen row groups, and are not in the file's order
        assert len(groups[begin : begin + 10].unique()) <= 7
    assert first.diff().lt(0).any()
    again = batches(stream, first.split(10))  # the cache drops groups on the way
    resident = data.load(path, SIZE, storage="memory", quiet=True)
    assert torch.equal(torch.cat(again), resident.images[first])
    assert tables.sizes[list(tables.cache)].sum() <= tables.held < len(tables)


def test_one_short_row_group_does_not_let_all_others_be_kept(tmp_path):
    files = pa.table({"image": [{"bytes": encoded(i), "path": f"{i}.jpg"} for i in range(41)]})
    pq.write_table(files, tmp_path / "x.parquet", row_group_size=4)  # the last has one row
    tables = rows.Tables([ParquetReader(tmp_path / "x.parquet")], window=8)
    for row in range(41):
        assert tables.item(row).id
    assert tables.sizes[list(tables.cache)].sum() <= tables.held == 24


def test_known_failures_are_not_looked_for_again(source, monkeypatch):
    path = source("folder", contents(12, bad=(3,)))
    summary = json.loads(json.dumps(data.summary(both(path)[1])))
    monkeypatch.setattr("training.data.stream._undecodable", lambda *_, **__: pytest.fail("decoded again"))
    again = data.load(path, SIZE, storage="stream", known=summary, quiet=True)
    assert len(again) == 11 and data.summary(again) == summary


def test_changed_files_are_looked_at_again(source):
    path = source("folder", contents(12, bad=(3,)))
    summary = data.summary(both(path)[1])
    (path / "class1" / "003.jpg").write_bytes(encoded(3))
    assert len(data.load(path, SIZE, storage="stream", known=summary, quiet=True)) == 12


@pytest.mark.parametrize("decode", ["cpu", "device"])
def test_a_file_that_vanishes_is_listed_and_the_rest_goes_on(source, decode):
    path = source("folder", contents(12))
    stream = data.load(path, SIZE, storage="stream", decode=decode, quiet=True)
    before = torch.cat(batches(stream, torch.arange(12).split(4)))
    assert "lost" not in data.summary(stream)
    gone = [stream.name(row) for row in range(12)].index("class1/003.jpg")
    (path / "class1" / "003.jpg").unlink()
    after = torch.cat(batches(stream, torch.arange(12).split(4)))
    assert [row for row in range(12) if not torch.equal(before[row], after[row])] == [gone]
    batch = range(gone // 4 * 4, gone // 4 * 4 + 4)
    assert any(torch.equal(after[gone], before[row]) for row in batch if row != gone)  # the batch keeps its size
    summary = data.summary(stream)
    assert summary["lost"] == [{"row": gone, "path": "class1/003.jpg", "reason": stream.lost[gone][1]}]
    assert "No such file" in stream.lost[gone][1] and (summary["images"], summary["failures"]) == (12, [])


def test_a_batch_of_which_nothing_is_left_ends_the_run(source):
    path = source("folder", contents(12))
    stream = data.load(path, SIZE, storage="stream", quiet=True)
    for file in path.rglob("*.jpg"):
        file.unlink()
    with pytest.raises(InputError, match=r"none of 4 files .* the first: class0/000\.jpg, .*No such file.*--resume"):
        batches(stream, torch.arange(12).split(4))


SHOWN = Preprocess(resize=20, size=16)


@pytest.mark.parametrize("decode", ["cpu", "device"])
def test_whole_pictures_keep_their_size_and_large_ones_shrink(source, decode):
    path = source("folder", [])
    path.mkdir()
    sizes = {"a": (60, 44), "b": (30, 50), "c": (60, 44), "d": (200, 100)}
    for i, (name, size) in enumerate(sizes.items()):
        picture(i, size).save(path / f"{name}.jpg", quality=95)
    (path / "e.jpg").write_text("no image")
    stream = data.load(path, 50, decode=decode, whole=SHOWN, quiet=True)
    assert [name for name, _ in stream.failures] == ["e.jpg"]
    (images,) = batches(stream, [torch.arange(4)])
    assert [tuple(image.shape) for image in images] == [(3, 44, 60), (3, 50, 30), (3, 44, 60), (3, 50, 100)]
    tolerance = 0 if decode == "cpu" else 8  # another decoder
    for image, name in zip(images[:3], "abc", strict=True):
        with Image.open(path / f"{name}.jpg") as file:
            assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(file)).max() <= tolerance
    squares, _ = stream.sample(4)
    test_set = data.load(path, 50, limit=4, whole=SHOWN, quiet=True)
    assert torch.equal(squares, test_set.images) and squares.shape == (4, 3, 16, 16)
    with pytest.raises(InputError, match="--set square=true"):
        data.load(path, 50, storage="memory", whole=SHOWN, quiet=True)


def test_what_does_not_fit_is_streamed(source, monkeypatch):
    path = source("folder", contents(12))
    need = 12 * 3 * SIZE**2
    for free, kind in ((2 * need, data.ImageSet), (2 * need - 1, data.Stream)):
        monkeypatch.setattr("training.data.available_memory", lambda free=free: free)
        assert isinstance(data.load(path, SIZE, quiet=True), kind)


def test_free_memory_heeds_a_containers_limit(tmp_path, monkeypatch):
    plain = memory.available_memory()
    assert 2**20 < plain < 2**50
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_memory() == 3_000_000
    (tmp_path / "memory.stat").write_text(
        "anon 100000\ninactive_file 1500000\n"
    )  # read from disk, and given up when asked for
    assert memory.available_memory() == 4_500_000


def test_a_compressed_tar_can_only_be_held(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        for i in range(3):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(encoded(i))
            tar.addfile(member, io.BytesIO(encoded(i)))
    with pytest.raises(InputError, match=r"uncompressed \.tar shards"):
        data.load(tmp_path / "x.tar.gz", SIZE, storage="stream", quiet=True)
    assert len(data.load(tmp_path / "x.tar.gz", SIZE, quiet=True)) == 3


def test_nothing_that_can_be_read(source):
    with pytest.raises(InputError, match=r"no readable image among 4; the first: class0/000\.jpg, not an image"):
        data.load(source("folder", [b"x"] * 4), SIZE, storage="stream", quiet=True)


def test_jpeg_decoded_on_the_device_is_near_the_policys():
    """Also a grey, a turned, a four-colour and a PNG picture, for which the policy does more than a JPEG decoder."""
    files = [encoded(i) for i in range(4)]
    for image, options in (
        (picture(5).convert("L"), {"format": "JPEG"}),
        (picture(6).convert("CMYK"), {"format": "JPEG"}),
        (picture(7), {"format": "PNG"}),
        (picture(8), {"format": "JPEG", "exif": turned()}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        files.append(buffer.getvalue())
    ours = torch.stack(jpeg.decode(files, SIZE, "cpu")).float()
    assert ours.shape == (8, 3, SIZE, SIZE)
    for file, image in zip(files, ours, strict=True):
        policy = jpeg.resize_crop(jpeg.policy.decode(file).image, jpeg.Preprocess(resize=SIZE, size=SIZE))
        difference = np.abs(image.permute(1, 2, 0).numpy() - policy)
        assert difference.mean() < 1 and difference.max() <= 8


def turned():
    exif = Image.Exif()
    exif[jpeg.ORIENTATION] = 6
    return exif


def test_a_stream_decoded_on_the_device(source):
    path = source("folder", contents(12))
    resident = data.load(path, SIZE, quiet=True)
    stream = data.load(path, SIZE, storage="stream", decode="device", quiet=True)
    x = torch.cat(batches(stream, torch.arange(12).split(4))).float()
    assert (x - resident.images).abs().mean() < 1.5
