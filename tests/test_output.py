"""An embeddings folder that is there: replaced only by what is whole, never mixed, and put right after a crash."""

import json
import multiprocessing
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sslzoo
from sslzoo.errors import InputError, Interrupted, SslzooError
from sslzoo.images.decode import Policy
from sslzoo.pipeline import run
from sslzoo.pipeline.writer import Writer, merge
from tests.conftest import need

BLACK = Policy(background=(0, 0, 0))  # these pictures are half transparent, so that it makes other vectors


@pytest.fixture
def source(tmp_path):
    """16 pictures of one colour each, in two folders."""
    root = tmp_path / "in"
    for i in range(16):
        path = root / "ab"[i // 8] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(path, i)
    return root


@pytest.fixture
def out(tmp_path):
    return tmp_path / "x.emb"


def paint(path, i):
    Image.new("RGBA", (40, 32), (16 * i, 255 - 8 * i, 5, 128)).save(path)


def embed(source, out=None, **options):
    return sslzoo.embed(source, "pixels-32", out, **{"part_size": 4, "workers": 1} | options)


def after(parts):
    """Stops when so many parts are done."""
    asked = iter([False] * parts)
    return lambda: next(asked, True)


def interrupt(*arguments, parts=2, **options):
    with pytest.raises(Interrupted):
        embed(*arguments, stop=after(parts), **options)


def check(source, out, **options):
    """The folder holds what a run into memory gives, and nothing lies beside it."""
    ours, fresh = sslzoo.open_embeddings(out), embed(source, **options)
    assert ours.ids == fresh.ids
    np.testing.assert_array_equal(ours.vectors, fresh.vectors)
    assert len(ours) == len(fresh.ids)
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def snapshot(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    "wrong",
    [{"model": "nonsense"}, {"model": "random-r18", "precision": "int9"}, {"backend": "nonsense"}, {"source": "bad"}],
)
def test_overwrite_keeps_what_is_there_until_the_new_is_whole(source, out, tmp_path, wrong):
    embed(source, out)
    before = snapshot(out)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("text")
    given = {"source": tmp_path / "bad", "model": "pixels-32"} if "source" in wrong else {"source": source} | wrong
    with pytest.raises(SslzooError):
        sslzoo.embed(out=out, overwrite=True, **{"model": "pixels-32"} | given)
    assert snapshot(out) == before
    interrupt(source, out, policy=BLACK, overwrite=True)
    assert snapshot(out) == before
    check_resumed = embed(source, out, policy=BLACK, overwrite=True, resume=True)
    assert check_resumed.space == embed(source, policy=BLACK).space
    check(source, out, policy=BLACK)


@pytest.mark.parametrize("again", [{"resume": True}, {"overwrite": True}, {"overwrite": True, "resume": True}])
def test_an_interrupted_overwrite_goes_on_or_starts_anew(source, out, again):
    embed(source, out)
    (out / "notes.txt").write_text("mine")
    (out / "index").mkdir()
    interrupt(source, out, overwrite=True, batch_size=2)
    assert embed(source, out, **again).manifest["batch_size"] == (2 if "resume" in again else 16)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "index").exists()  # it was of the other vectors
    check(source, out)


def test_an_interrupted_update_never_mixes_models(source, out):
    embed(source, out)
    os.utime(source / "a" / "00.png")
    interrupt(source, out, update=True)
    embed(source, out, overwrite=True, policy=BLACK)
    embed(source, out, update=True, policy=BLACK)
    check(source, out, policy=BLACK)
    interrupt(source, out, overwrite=True)  # and what an interrupted --overwrite left is not of this folder
    embed(source, out, update=True, policy=BLACK)
    check(source, out, policy=BLACK)


@pytest.mark.parametrize("change", ["new", "other", "fewer"])
@pytest.mark.parametrize("option", ["update", "resume"])
def test_what_changes_while_a_run_is_interrupted_is_embedded_again(source, out, change, option):
    if option == "update":
        embed(source, out)
        os.utime(source / "a" / "00.png")
    interrupt(source, out, parts=3, update=option == "update")
    if change == "new":
        paint(source / "a" / "00b.png", 3)
    elif change == "other":
        paint(source / "a" / "01.png", 9)
        os.utime(source / "a" / "01.png", (1, 1))
    else:
        for path in sorted(source.rglob("*.png"))[4:]:
            path.unlink()
    embed(source, out, **{option: True})
    check(source, out)


def test_a_list_that_changed_is_made_again_where_it_did(source, out, tmp_path):
    paths = sorted(source.rglob("*.png"))
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    interrupt(tmp_path / "list.txt", out)
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths[1:])))
    embed(tmp_path / "list.txt", out, resume=True)
    check(tmp_path / "list.txt", out)


def test_an_archive_that_changed_is_refused(source, out, tmp_path):
    paths = sorted(source.rglob("*.png"))
    url = f"file://{tmp_path}/images.tar"  # of a URL neither size nor time is known
    for first in (0, 1):
        with tarfile.open(tmp_path / "images.tar", "w") as tar:
            for path in paths[first:]:
                tar.add(path, path.name)
        if first == 0:
            interrupt(url, out)
    with pytest.raises(InputError, match=r"changed since part 0 .*--overwrite"):
        embed(url, out, resume=True)


@pytest.mark.parametrize("kind", ["zip", "parquet"])
def test_an_archive_that_was_written_anew_under_the_same_names_is_refused(source, out, tmp_path, kind):
    archive, moved = tmp_path / f"x.{kind}", tmp_path / "moved" / f"x.{kind}"
    paths = sorted(source.rglob("*.png"))

    def write(time):
        if kind == "parquet":
            pq.write_table(pa.table({"image": [path.read_bytes() for path in paths]}), archive)
        else:
            with zipfile.ZipFile(archive, "w") as file:
                for path in paths:
                    file.write(path, path.name)
        os.utime(archive, (time, time))

    write(1)
    interrupt([archive], out)
    moved.parent.mkdir()
    embed([shutil.move(archive, moved)], out, resume=True)
    check([moved], out)
    write(1)
    interrupt([archive], out, overwrite=True)
    for i, path in enumerate(paths):
        paint(path, 15 - i)
    write(2)
    with pytest.raises(InputError, match=r"with the same source in another state .*by size and time.*--overwrite"):
        embed([archive], out, overwrite=True, resume=True)


def test_parts_without_a_manifest_are_not_trusted(source, out):
    interrupt(source, out)
    (out / "manifest.json").unlink()
    embed(source, out, resume=True, policy=BLACK)
    check(source, out, policy=BLACK)


@pytest.mark.parametrize("size", [0, 500])
def test_a_damaged_part_is_made_again(source, out, size):
    interrupt(source, out)
    os.truncate(out / "part-00001.parquet", size)
    embed(source, out, resume=True)
    check(source, out)


def test_shards_keep_the_settings_of_the_first(source, out):
    run.embed_shard(source, "pixels-32", out, shard=0, shards=2, part_size=4, batch_size=3)
    run.embed_shard(source, "pixels-32", out, shard=1, shards=2, part_size=8, batch_size=2, dtype="float16")
    assert merge(out).manifest["batch_size"] == 3
    assert {str(pq.read_schema(path).field("embedding").type.value_type) for path in out.glob("part-*")} == {"float"}
    check(source, out)


def test_shards_that_began_at_once_with_other_settings_are_not_merged(source, out):
    run.embed_shard(source, "pixels-32", out, shard=0, shards=2, part_size=4)
    (out / "manifest.json").unlink()  # as if the other hadn't seen it
    run.embed_shard(source, "pixels-32", out, shard=1, shards=2, part_size=4, dtype="float16")
    with pytest.raises(InputError, match=r"part-00000.parquet was made with .* other settings .*--shard"):
        merge(out)
    run.embed_shard(source, "pixels-32", out, shard=0, shards=2)
    merge(out)


def test_shards_of_a_source_that_changed_are_not_merged(source, out):
    run.embed_shard(source, "pixels-32", out, shard=0, shards=2, part_size=4)
    paint(source / "a" / "00b.png", 3)
    run.embed_shard(source, "pixels-32", out, shard=1, shards=2, part_size=4)
    with pytest.raises(InputError, match=r"changed since shard 0/2 .*--shard 0/2"):
        merge(out)
    run.embed_shard(source, "pixels-32", out, shard=0, shards=2, part_size=4)
    merge(out)
    check(source, out)


def test_a_shard_of_a_merged_folder_changes_nothing(source, out):
    first = run.embed_shard(source, "pixels-32", out, shard=0, shards=1)
    assert (first["rows"], first["failed"], first["parts"]) == (16, 0, 1)
    merge(out)
    before = snapshot(out)
    assert run.embed_shard(source, "pixels-32", out, shard=0, shards=1)["complete"]
    assert snapshot(out) == before


def _begin(out, barrier, queue):
    writer = Writer(Path(out), {"columns": {}, "much": "x" * 3000}, started=False)
    barrier.wait()
    try:
        writer.start()
        queue.put("")
    except SslzooError as error:
        queue.put(str(error))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks, to be quick")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_shards_may_begin_at_the_same_moment(out):
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        barrier, queue = context.Barrier(4), context.SimpleQueue()
        processes = [context.Process(target=_begin, args=(out, barrier, queue)) for _ in range(4)]
        for process in processes:
            process.start()
        assert [queue.get() for _ in processes] == [""] * 4
        for process in processes:
            process.join()
        assert [path.name for path in out.iterdir()] == ["manifest.json"]
        shutil.rmtree(out)


@pytest.mark.parametrize("rename", [1, 2, 3, 4])
def test_a_crash_while_folders_are_exchanged_loses_nothing(source, out, monkeypatch, rename):
    embed(source, out)
    for name in ("a.txt", "notes.txt"):
        (out / name).write_text("mine")
    (out / "index").mkdir()
    os.utime(source / "a" / "00.png")
    real, left = Path.rename, iter(range(rename - 1))

    def rename_and_die(self, target):
        if next(left, None) is None:
            raise SystemExit
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_and_die)
        with pytest.raises(SystemExit):
            embed(source, out, update=True)
    embed(source, out, update=True)
    check(source, out)
    assert [(out / name).read_text() for name in ("a.txt", "notes.txt")] == ["mine"] * 2
    assert (out / "index").is_dir()


@pytest.mark.parametrize("option", ["update", "overwrite"])
def test_an_output_that_is_a_link_stays_one(source, out, tmp_path, option):
    (tmp_path / "disk").mkdir()
    out.symlink_to(tmp_path / "disk")
    embed(source, out)
    os.utime(source / "a" / "00.png")
    embed(source, out, **{option: True})
    assert out.is_symlink()
    check(source, out)
    assert json.loads((tmp_path / "disk" / "manifest.json").read_text())["complete"]


def test_a_mount_point_is_not_replaced(source, out, monkeypatch):
    embed(source, out)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    with pytest.raises(InputError, match=r"mount point.*-o .*x\.emb/vectors"):
        embed(source, out, overwrite=True)


def test_a_resumed_run_keeps_the_back_end(source, out, model_folder, monkeypatch):
    model = f"local-dir:{model_folder}"
    options = {"device": "cpu", "precision": "fp32", "backend": "torch", "part_size": 8}
    with pytest.raises(Interrupted):
        sslzoo.embed(source, model, out, stop=after(1), **options)
    asked = []
    monkeypatch.setattr(
        run, "open_backend", lambda *a, _open=run.open_backend, **choices: asked.append(choices) or _open(*a, **choices)
    )
    made = sslzoo.embed(source, model, out, resume=True, device="cpu", precision="bf16", backend="openvino")
    assert (asked[0]["backend"], asked[0]["precision"]) == ("torch", "fp32")
    assert (made.manifest["backend"], made.manifest["precision"]) == ("torch", "fp32")


def test_another_model_is_told_before_its_back_end_is_tried(source, out, model_folder):
    need("openvino")
    options = {"device": "cpu", "precision": "fp32", "backend": "openvino", "part_size": 8}
    with pytest.raises(Interrupted):
        sslzoo.embed(source, f"local-dir:{model_folder}", out, stop=after(1), **options)
    with pytest.raises(InputError, match="begun with another model"):
        sslzoo.embed(source, "random-r34", out, resume=True, device="cpu")
