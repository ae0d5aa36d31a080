"""The embeddings folder: rows keep their files, parts survive, resumed equals unbroken, refusals lose nothing."""

import dataclasses
import io
import json
import shutil
import sys
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import sslzoo
from sslzoo import backends, registry
from sslzoo.errors import InputError, Interrupted, OutputExists, SpaceMismatch
from sslzoo.images import read
from sslzoo.pipeline import formats, plan, run
from sslzoo.pipeline.writer import merge


@pytest.fixture(scope="module")
def encoder():
    return sslzoo.load("random-r18", device="cpu")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """fp32 unless a test asks otherwise, so that vectors can be compared closely on any processor."""
    monkeypatch.setattr(
        backends, "_trusted", lambda make, precision: make("fp32" if precision == "auto" else precision)
    )


@pytest.fixture
def mixed(photos, tmp_path):
    """The photos with three bad files among them, one of them first and one last."""
    root = tmp_path / "mixed"
    for path in photos.rglob("*.*g"):
        target = root / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (root / "a.jpg").write_bytes(b"")
    (root / "bars" / "2b.jpg").write_text("text")
    (root / "z.jpg").write_bytes((photos / "bars" / "0.jpg").read_bytes()[:700])
    (root / "readme.txt").write_text("text")
    return root


def die_after(parts, patch):
    """The run is interrupted in the part after so many."""
    embed_part, done = run.Job.embed_part, iter(range(parts))

    def dies(*arguments):
        if next(done, None) is None:
            raise KeyboardInterrupt
        return embed_part(*arguments)

    patch.setattr(run.Job, "embed_part", dies)


def snapshot(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_vectors_are_those_of_encode_under_the_right_names(mixed, encoder, tmp_path):
    result = sslzoo.embed(mixed, encoder, tmp_path / "e", batch_size=4, part_size=5)
    assert len(result) == 12
    assert result.ids == [f"bars/{i}.jpg" for i in range(6)] + [f"circles/{i}.png" for i in range(6)]
    assert result.labels == ["bars"] * 6 + ["circles"] * 6
    expected = encoder.encode([mixed / id_ for id_ in result.ids])
    np.testing.assert_allclose(result.vectors, expected, rtol=1e-4, atol=1e-5)
    failures = pq.read_table(tmp_path / "e" / "failures.parquet").to_pylist()
    assert [f["path"] for f in failures] == ["a.jpg", "bars/2b.jpg", "z.jpg"]
    assert all(f["reason"] for f in failures)
    assert result.manifest["failed"] == 3
    assert result.manifest["left_out"] == {"not an image's extension": 1}
    table = pq.read_table(tmp_path / "e" / "part-00000.parquet")
    assert table.column_names == ["path", "embedding", "width", "height", "flags", "label", "bytes", "mtime_ns"]
    assert table["width"].to_pylist() == [120] * table.num_rows


def test_in_memory_equals_on_disk(mixed, encoder, tmp_path):
    memory = sslzoo.embed(mixed, encoder)
    disk = sslzoo.open_embeddings(sslzoo.embed(mixed, encoder, tmp_path / "e").folder)
    np.testing.assert_array_equal(memory.vectors, disk.vectors)
    assert (memory.ids, memory.labels, memory.space, memory.model) == (disk.ids, disk.labels, disk.space, disk.model)
    assert len(memory.manifest["failures"]) == disk.manifest["failed"]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_resumed_run_equals_an_unbroken_one(mixed, encoder, tmp_path, monkeypatch, parts):
    whole = sslzoo.embed(mixed, encoder, tmp_path / "whole", batch_size=3, part_size=4)

    with monkeypatch.context() as patch:
        die_after(parts, patch)
        with pytest.raises(KeyboardInterrupt):
            sslzoo.embed(mixed, encoder, tmp_path / "broken", batch_size=3, part_size=4)
    with pytest.raises(InputError, match="--resume"):
        sslzoo.open_embeddings(tmp_path / "broken")
    # other sizes are asked for now; the manifest's own are kept, so that the batches are the same
    resumed = sslzoo.embed(mixed, encoder, tmp_path / "broken", batch_size=8, part_size=9, resume=True)
    np.testing.assert_array_equal(resumed.vectors, whole.vectors)
    assert resumed.ids == whole.ids
    ours, theirs = snapshot(tmp_path / "broken"), snapshot(tmp_path / "whole")
    assert ours == theirs


def test_resume_on_nothing_starts_and_on_a_finished_run_does_nothing(photos, encoder, tmp_path):
    sslzoo.embed(photos, encoder, tmp_path / "e", resume=True)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "e").iterdir()}
    sslzoo.embed(photos, encoder, tmp_path / "e", resume=True)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "e").iterdir()} == before
    (tmp_path / "empty").mkdir()
    assert len(sslzoo.embed(photos, encoder, tmp_path / "empty", resume=True)) == 12


def test_resuming_with_another_model_or_source_is_refused(mixed, encoder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        die_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            sslzoo.embed(mixed, encoder, tmp_path / "e", part_size=4)
    with pytest.raises(InputError, match=r"another model \(random-r18, now random-r34\)"):
        sslzoo.embed(mixed, "random-r34", tmp_path / "e", resume=True, device="cpu")
    spec = registry.resolve("random-r18")
    smaller = dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, resize=64, size=64))
    with pytest.raises(InputError, match="the same model in another state"):
        sslzoo.embed(mixed, smaller, tmp_path / "e", resume=True, device="cpu")
    with pytest.raises(InputError, match="another source"):
        sslzoo.embed(mixed / "bars", encoder, tmp_path / "e", resume=True)


def test_a_manifest_among_images_makes_no_vectors_of_them(photos, tmp_path):
    shutil.copytree(photos / "bars", tmp_path / "site")
    (tmp_path / "site" / "manifest.json").write_text("{}")  # as a web page's folder has
    assert len(sslzoo.embed(tmp_path / "site", "pixels-32")) == 6


def test_an_output_that_exists_is_kept(photos, encoder, tmp_path):
    sslzoo.embed(photos, encoder, tmp_path / "e")
    before = snapshot(tmp_path / "e")
    with pytest.raises(OutputExists, match="add --update to embed what is new"):
        sslzoo.embed(photos, encoder, tmp_path / "e")
    with pytest.raises(InputError, match="e is an embeddings folder, not one of images; search it: sslzoo search"):
        sslzoo.embed(tmp_path / "e", encoder)
    assert snapshot(tmp_path / "e") == before
    assert len(sslzoo.embed(photos / "bars", encoder, tmp_path / "e", overwrite=True)) == 6


def test_a_folder_that_is_not_ours_is_never_cleared(photos, encoder, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("text")
    with pytest.raises(OutputExists, match="not an embeddings folder"):
        sslzoo.embed(photos, encoder, tmp_path / "precious", overwrite=True)
    with pytest.raises(OutputExists, match="is a file"):
        sslzoo.embed(photos, encoder, tmp_path / "precious" / "thesis.txt", overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "text"


def test_nothing_readable_writes_nothing(encoder, tmp_path):
    (tmp_path / "bad").mkdir()
    for i in range(7):
        (tmp_path / "bad" / f"{i}.jpg").write_text("text")
    with pytest.raises(InputError, match=r"no image can be read \(7 failed\).*0\.jpg: not an image"):
        sslzoo.embed(tmp_path / "bad", encoder, tmp_path / "out", part_size=3)
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no image in .*it is empty"):
        sslzoo.embed(tmp_path / "empty", encoder, tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        sslzoo.embed(tmp_path / "missing", encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_parts_before_the_first_good_image_are_kept(photos, encoder, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for i in range(5):
        (root / f"a{i}.jpg").write_text("text")
    (root / "b.jpg").write_bytes((photos / "bars" / "0.jpg").read_bytes())
    result = sslzoo.embed(root, encoder, tmp_path / "e", part_size=2)
    assert result.ids == ["b.jpg"]
    assert result.manifest["failed"] == 5
    assert len(list((tmp_path / "e").glob("part-*.parquet"))) == 3


def test_vectors_of_another_space_are_refused(photos, encoder):
    ours, other = sslzoo.embed(photos, encoder), sslzoo.embed(photos, "pixels-32")
    with pytest.raises(SpaceMismatch, match=r"pixels-32.*random-r18"):
        sslzoo.build_index(other).search(ours)


def test_names_that_are_not_utf8_end_as_rows(photos, encoder, tmp_path):
    name = b"caf\xe9.jpg"
    try:
        (tmp_path / "in").mkdir()
        with open(bytes(tmp_path / "in") + b"/" + name, "wb") as file:
            file.write((photos / "bars" / "0.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = sslzoo.embed(tmp_path / "in", encoder, tmp_path / "e")
    assert sslzoo.open_embeddings(tmp_path / "e").ids == ["caf\\udce9.jpg"]
    assert len(result) == 1
    (tmp_path / "in").rename(tmp_path / "caf\udce9")
    assert len(sslzoo.embed(tmp_path / "caf\udce9", encoder, tmp_path / "f")) == 1
    assert len(sslzoo.embed(tmp_path / "caf\udce9", encoder, tmp_path / "f", resume=True)) == 1
    with pytest.raises(InputError, match="not a name in UTF-8"):
        sslzoo.embed(tmp_path / "caf\udce9", encoder, tmp_path / "caf\udce9.emb")


def test_folders_that_are_no_embeddings(tmp_path):
    with pytest.raises(InputError, match="sslzoo embed"):
        sslzoo.open_embeddings(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        sslzoo.open_embeddings(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="upgrade"):
        sslzoo.open_embeddings(tmp_path)


def test_stopping_between_parts_keeps_what_is_finished(mixed, encoder, tmp_path):
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match=r"after 2 parts.*--resume"):
        sslzoo.embed(mixed, encoder, tmp_path / "e", part_size=4, stop=lambda: next(asked))
    assert len(list((tmp_path / "e").glob("part-*.parquet"))) == 2
    resumed = sslzoo.embed(mixed, encoder, tmp_path / "e", resume=True)
    np.testing.assert_allclose(resumed.vectors, sslzoo.embed(mixed, encoder).vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "float16"])
def test_a_part_that_was_stopped_after_any_batch_goes_on_there(mixed, encoder, tmp_path, monkeypatch, kind):
    source, options = mixed, {"batch_size": 3, "part_size": 8} | ({"dtype": "float16"} if kind == "float16" else {})
    if kind == "tar.gz":  # members have neither size nor time, and a label beside them
        source = tmp_path / "x.tar.gz"
        (mixed / "bars" / "1.cls").write_text("7")
        with tarfile.open(source, "w:gz") as tar:
            tar.add(mixed, ".")
    sslzoo.embed(source, encoder, tmp_path / "whole", **options)
    opened = []
    pixels = read.pixels
    monkeypatch.setattr(read, "pixels", lambda item, *rest: opened.append(item.id) or pixels(item, *rest))
    for asks in range(1, 8) if kind == "folder" else (2, 4):
        asked = iter([False] * asks)
        out = tmp_path / f"e{asks}"
        try:
            sslzoo.embed(source, encoder, out, stop=lambda asked=asked: next(asked, True), **options)
        except Interrupted:
            rows = sum(pq.read_metadata(path).num_rows for path in (*out.glob("part-*"), *out.glob(".part-*")))
            opened.clear()
            sslzoo.embed(source, encoder, out, resume=True)
            assert len(opened) <= 12 + 3 - rows  # of the three that can't be read, those in a part that wasn't whole
        else:
            assert asks > 5
        assert snapshot(out) == snapshot(tmp_path / "whole")


def test_a_stopped_part_whose_files_changed_is_not_trusted(mixed, encoder, tmp_path):
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="0 parts and 8 images of the next"):
        sslzoo.embed(mixed, encoder, tmp_path / "e", batch_size=3, stop=lambda: next(asked))
    (mixed / "bars" / "1.jpg").write_bytes((mixed / "circles" / "0.png").read_bytes())
    resumed = sslzoo.embed(mixed, encoder, tmp_path / "e", resume=True)
    fresh = sslzoo.embed(mixed, encoder)
    assert resumed.ids == fresh.ids
    np.testing.assert_allclose(resumed.vectors, fresh.vectors, rtol=1e-4, atol=1e-5)


def test_update_embeds_what_changed_and_drops_what_is_gone(mixed, encoder, tmp_path, monkeypatch):
    sslzoo.embed(mixed, encoder, tmp_path / "e", part_size=4)
    (mixed / "bars" / "1.jpg").unlink()
    (mixed / "bars" / "3.jpg").write_bytes((mixed / "circles" / "0.png").read_bytes())
    (mixed / "bars" / "9.jpg").write_bytes((mixed / "bars" / "0.jpg").read_bytes())
    (mixed / "new").mkdir()
    (mixed / "new" / "x.png").write_bytes((mixed / "circles" / "5.png").read_bytes())
    opened = []
    pixels = read.pixels
    monkeypatch.setattr(read, "pixels", lambda item, *rest: opened.append(item.id) or pixels(item, *rest))
    updated = sslzoo.embed(mixed, encoder, tmp_path / "e", update=True)
    # the changed, the new, and the three that failed before
    assert sorted(opened) == ["a.jpg", "bars/2b.jpg", "bars/3.jpg", "bars/9.jpg", "new/x.png", "z.jpg"]
    assert updated.manifest["update"] == {"kept": 10, "changed": 1, "added": 2, "dropped": 1}
    fresh = sslzoo.embed(mixed, encoder)
    assert updated.ids == fresh.ids
    assert updated.labels == fresh.labels
    np.testing.assert_allclose(updated.vectors, fresh.vectors, rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    opened.clear()
    again = sslzoo.embed(mixed, encoder, tmp_path / "e", update=True)
    assert sorted(opened) == ["a.jpg", "bars/2b.jpg", "z.jpg"]
    assert again.manifest["update"] == {"kept": 13, "changed": 0, "added": 0, "dropped": 0}
    assert "update" not in sslzoo.open_embeddings(tmp_path / "e").manifest
    np.testing.assert_array_equal(again.vectors, updated.vectors)


def test_update_starts_where_there_is_nothing_and_refuses_what_it_cannot_do(mixed, encoder, tmp_path):
    assert len(sslzoo.embed(mixed, encoder, tmp_path / "e", update=True)) == 12
    with pytest.raises(InputError, match="another model"):
        sslzoo.embed(mixed, "pixels-32", tmp_path / "e", update=True)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(mixed / "bars" / "0.jpg", "0.jpg")
    sslzoo.embed(tmp_path / "x.tar", encoder, tmp_path / "l")
    with pytest.raises(InputError, match="have a size and a time to be updated by"):
        sslzoo.embed(tmp_path / "x.tar", encoder, tmp_path / "l", update=True)


def test_update_takes_whatever_names_files(mixed, tmp_path, monkeypatch):
    (mixed / "broken.jpg").symlink_to("nowhere.jpg")
    paths = [mixed / "bars" / "0.jpg", mixed / "bars" / "none.jpg", *sorted((mixed / "circles").iterdir())]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    sources = [mixed, mixed / "bars" / "0.jpg", f"{mixed}/**/*.*g", f"{mixed}/*", paths, tmp_path / "list.txt"]
    for i, source in enumerate(sources):
        sslzoo.embed(source, "pixels-32", tmp_path / f"{i}.emb")
    (mixed / "bars" / "0.jpg").write_bytes((mixed / "circles" / "0.png").read_bytes())
    opened = []
    pixels = read.pixels
    monkeypatch.setattr(read, "pixels", lambda item, *rest: opened.append(item.id) or pixels(item, *rest))
    for i, source in enumerate(sources):
        opened.clear()
        updated = sslzoo.embed(source, "pixels-32", tmp_path / f"{i}.emb", update=True)
        assert sum(id_.endswith("bars/0.jpg") or id_ == "0.jpg" for id_ in opened) == 1
        assert i == 3 or len(opened) <= 5  # beside it the files that failed before
        fresh = sslzoo.embed(source, "pixels-32")
        assert updated.ids == fresh.ids
        np.testing.assert_array_equal(updated.vectors, fresh.vectors)


def test_update_finds_rows_again_in_any_order(mixed, tmp_path, monkeypatch):
    names = [str(mixed / name) for name in ("circles/4.png", "bars/3.jpg", "bars/1.jpg", "circles/0.png", "bars/5.jpg")]
    other, folder = str(mixed / "bars" / "0.jpg"), str(mixed / "circles")
    opened = []
    pixels = read.pixels
    monkeypatch.setattr(read, "pixels", lambda item, *rest: opened.append(item.id) or pixels(item, *rest))
    for before, after, made, counts in (
        (names, names, [], {"kept": 5, "changed": 0, "added": 0, "dropped": 0}),
        (names, [names[4], other, *names[:3]], [other], {"kept": 4, "changed": 0, "added": 1, "dropped": 1}),
        ([folder, names[1]], [folder, names[1]], [], {"kept": 7, "changed": 0, "added": 0, "dropped": 0}),
    ):
        sslzoo.embed(before, "pixels-32", tmp_path / "e", part_size=2, overwrite=True)
        opened.clear()
        updated = sslzoo.embed(after, "pixels-32", tmp_path / "e", update=True)
        assert (opened, updated.manifest["update"]) == (made, counts)
        fresh = sslzoo.embed(after, "pixels-32")
        assert updated.ids == fresh.ids
        np.testing.assert_array_equal(updated.vectors, fresh.vectors)


def test_shards_in_any_order_give_the_whole(mixed, encoder, tmp_path):
    whole = sslzoo.embed(mixed, encoder, tmp_path / "whole", part_size=3)
    with pytest.raises(InputError, match="not an embeddings folder"):
        merge(tmp_path / "e")
    for shard in (2, 0):
        done = run.embed_shard(mixed, encoder, tmp_path / "e", shard=shard, shards=3, part_size=3)
        assert done["parts"] == 5
        with pytest.raises(InputError, match="lacks shard"):
            merge(tmp_path / "e")
    run.embed_shard(mixed, encoder, tmp_path / "e", shard=1, shards=3, part_size=3)
    merged = merge(tmp_path / "e")
    assert snapshot(tmp_path / "e") == snapshot(tmp_path / "whole")
    np.testing.assert_array_equal(merged.vectors, whole.vectors)
    with pytest.raises(InputError, match="0/3 to 2/3"):
        run.embed_shard(mixed, encoder, tmp_path / "f", shard=3, shards=3)


def test_deterministic_vectors_do_not_depend_on_their_company(photos, encoder):
    paths = sorted(photos.rglob("*.*g"))
    whole = sslzoo.embed(paths, encoder, deterministic=True, batch_size=5, workers=3)
    for i in (0, 7):
        alone = sslzoo.embed([paths[i]], encoder, deterministic=True, workers=1)
        np.testing.assert_array_equal(alone.vectors[0], whole.vectors[i])
    backwards = sslzoo.embed(paths[::-1], encoder, deterministic=True)
    np.testing.assert_array_equal(backwards.vectors[::-1], whole.vectors)


def test_plan_counts_and_estimates(photos, encoder):
    planned = plan.plan(photos, encoder)
    assert planned.images == 12
    assert planned.bytes_out == 12 * 512 * 4
    assert planned.seconds == pytest.approx(12 / planned.images_per_second)


def test_plan_estimates_from_a_single_image_and_after_unreadable_ones(mixed, encoder, tmp_path, monkeypatch):
    batches = []
    embed_part = plan.Job.embed_part

    def noted(self, items, *rest):
        part = embed_part(self, items, *rest)
        batches.append((len(part.inputs), len(part.paths)))
        return part

    monkeypatch.setattr(plan.Job, "embed_part", noted)
    for source, images, parts in (
        (mixed / "bars" / "0.jpg", 1, [(1, 1), (1, 1)]),
        (mixed, 15, [(1, 0), (1, 1), (13, 11)]),
        (mixed / "a.jpg", 1, [(1, 0), (1, 0)]),
    ):
        batches.clear()
        planned = plan.plan(source, encoder)
        assert planned.images == images
        assert planned.seconds == pytest.approx(images / planned.images_per_second)
        assert batches == parts


def test_numpy_and_csv(mixed, encoder, tmp_path):
    result = sslzoo.embed(mixed, encoder, tmp_path / "e", part_size=5)
    out = formats.convert(tmp_path / "e", "npy")
    arrays = [np.load(path, mmap_mode="r") for path in sorted((out / "img_emb").iterdir())]
    np.testing.assert_array_equal(np.concatenate(arrays), result.vectors)
    names = [
        row["image_path"] for path in sorted((out / "metadata").iterdir()) for row in pq.read_table(path).to_pylist()
    ]
    assert names == list(result.ids)
    table = np.genfromtxt(formats.convert(tmp_path / "e", "csv") / "vectors.csv", delimiter=",", skip_header=1)
    np.testing.assert_array_equal(table[:, 2:].astype(np.float32), result.vectors)
    (out / "img_emb" / "img_emb_00000.npy").write_bytes(b"old")
    formats.convert(tmp_path / "e", "npy")
    assert len(np.load(out / "img_emb" / "img_emb_00000.npy")) == len(arrays[0])
    sslzoo.embed(mixed / "bars", encoder, tmp_path / "e", overwrite=True)
    assert not out.exists()  # it was of other vectors


def test_other_tools_read_the_parts(mixed, encoder, tmp_path):
    result = sslzoo.embed(mixed, encoder, tmp_path / "e", part_size=5)
    pattern = str(tmp_path / "e" / "part-*.parquet")
    pl = pytest.importorskip("polars")
    np.testing.assert_array_equal(pl.read_parquet(pattern)["embedding"].to_numpy(), result.vectors)
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(f"select path, width from '{pattern}' order by path").fetchall()
    assert rows == [(id_, 120) for id_ in sorted(result.ids)]
    pd = pytest.importorskip("pandas")
    frame = pd.read_parquet(tmp_path / "e" / "part-00000.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), result.vectors[: len(frame)])
    datasets = pytest.importorskip("datasets")
    loaded = datasets.Dataset.from_parquet(pattern, cache_dir=str(tmp_path / "cache"))
    assert loaded["path"][:] == list(result.ids)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_vectors_depend_on_company_only_within_rounding(photos, model_folder, backend):
    """Batch size, worker count and position change a vector by no more than 1e-4 of its largest number."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    paths = sorted(photos.rglob("*.*g"))
    model = f"local-dir:{model_folder}"
    options = {"device": "cpu", "backend": backend, "precision": "fp32"}
    base = sslzoo.embed(paths, model, **options).vectors
    for batch_size, workers in ((1, 1), (5, 4), (7, 2)):
        made = sslzoo.embed(paths[::-1], model, batch_size=batch_size, workers=workers, **options).vectors[::-1]
        np.testing.assert_allclose(made, base, rtol=0, atol=1e-4 * np.abs(base).max())


def test_names_of_every_kind_end_as_rows(photos, tmp_path):
    names = ["é ü.jpg", "日本語.jpg", "📷.jpg", "#1 [a], $b.jpg", "-v.jpg", "a" * 200 + ".jpg", "it's & more; 100%.jpg"]
    names += ["new\nline.jpg", 'quote".jpg', "back\\slash.jpg"]
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes((photos / "bars" / "0.jpg").read_bytes())
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    sslzoo.embed(tmp_path / "in", "pixels-32", tmp_path / "e")
    assert sslzoo.open_embeddings(tmp_path / "e").ids == sorted(names)


def test_a_list_on_standard_input_is_read_once(photos, encoder, tmp_path, monkeypatch):
    text = "".join(f"{path}\n" for path in sorted(photos.rglob("*.*g")))
    for options in ({}, {"resume": True}):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert len(sslzoo.embed("-", encoder, tmp_path / "e", **options)) == 12


def test_a_list_with_nuls_as_find_writes_it(photos, encoder, tmp_path, monkeypatch):
    shutil.copy(photos / "bars" / "0.jpg", tmp_path / "new\nline.jpg")
    names = [str(tmp_path / "new\nline.jpg"), str(photos / "bars" / "1.jpg")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{name}\0" for name in names)))
    assert list(sslzoo.embed("-", encoder).ids) == names


def test_half_precision_on_disk(mixed, encoder, tmp_path):
    full = sslzoo.embed(mixed, encoder)
    half = sslzoo.embed(mixed, encoder, tmp_path / "e", part_size=5, dtype="float16")
    assert str(pq.read_schema(tmp_path / "e" / "part-00000.parquet").field("embedding").type.value_type) == "halffloat"
    assert half.vectors.dtype == np.float32
    np.testing.assert_array_equal(half.vectors, full.vectors.astype(np.float16))
    assert half.space == full.space
    assert sslzoo.build_index(half).search(full, k=1).ids[3][0] == full.ids[3]
    (mixed / "bars" / "1.jpg").unlink()
    updated = sslzoo.embed(mixed, encoder, tmp_path / "e", update=True)
    np.testing.assert_array_equal(updated.vectors, np.delete(half.vectors, 1, axis=0))
    assert updated.manifest["dtype"] == "float16"
    for kind in formats.FORMATS:
        formats.convert(tmp_path / "e", kind)
    with pytest.raises(InputError, match="use float32 or float16"):
        sslzoo.embed(mixed, encoder, dtype="int4")


def test_what_half_precision_does_not_hold_is_said(mixed, tmp_path, monkeypatch):
    loud = lambda self, batch: np.full((len(batch), 3072), 7e4, np.float32)  # noqa: E731
    monkeypatch.setattr(backends.PixelsBackend, "__call__", loud)
    with pytest.raises(InputError, match=r"vector of bars/0\.jpg has 70000, more than float16 holds"):
        sslzoo.embed(mixed, "pixels-32", tmp_path / "e", dtype="float16")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_that_are_not_finite_are_never_written(mixed, tmp_path, dtype):
    large = sslzoo.load("random-r18", device="cpu")
    with torch.no_grad():
        large.backbone.conv1.weight.mul_(1e38)  # beyond float32 a layer later, as a large network's numbers are in fp16
    for out in (None, tmp_path / "e"):
        with pytest.raises(InputError, match=r"vector of bars/0\.jpg has .* not finite.*--overwrite --precision fp32"):
            sslzoo.embed(mixed, large, out, dtype=dtype)
    assert not (tmp_path / "e").exists()
