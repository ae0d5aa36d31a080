"""An index in its folder: what was saved comes back, parts are added, removals last, and nothing stale is searched."""

import json
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError, SpaceMismatch
from sslzoo.index import KINDS, approximate, collection, folder
from sslzoo.index.exact import ExactIndex
from sslzoo.pipeline.writer import Facts, Part, Writer
from tests.index.vectors import clustered

pytest.importorskip("faiss")
MANIFEST = {"format": 1, "model": "m", "model_source": "", "dim": 32, "space": "s", "precision": "fp32"}
MANIFEST |= {"source": "", "columns": {}}


def write(path, vectors, *, first_part=0, size=1000):
    """An embeddings folder of these vectors, in parts of `size`."""
    start = first_part * size
    writer = Writer(path, dict(MANIFEST), started=path.exists())
    for number, at in enumerate(range(0, len(vectors), size), first_part):
        some = vectors[at : at + size]
        ids = [f"{'ab'[i % 2]}/{start + at + i}.jpg" for i in range(len(some))]
        part = Part(vectors.shape[1])
        part.inputs = ids
        rows = [
            part.add(id_, Facts(10, 10, ("first-frame",) if i == 0 else (), "ab"[i % 2])) for i, id_ in enumerate(ids)
        ]
        part.put(rows, some)
        writer.add(number, part)
    return writer.finish({})


@pytest.fixture
def vectors():
    return clustered(5000).vectors


@pytest.mark.parametrize("kind", KINDS)
def test_saved_opened_grown_and_shrunk(tmp_path, vectors, kind):
    bank = write(tmp_path / "e", vectors[:4000])
    plain = ExactIndex(Embeddings(vectors, [str(i) for i in range(5000)], space="s"))
    made = folder.write_index(tmp_path / "e", kind)
    assert made.kind == kind
    opened = folder.open_index(tmp_path / "e")
    queries = clustered(20, seed=5).vectors
    a, b = made.search(queries, 10), opened.search(queries, 10)
    assert a.ids == b.ids
    assert a.ids[0][0] == bank.ids[a.rows[0][0]]

    write(tmp_path / "e", vectors[4000:], first_part=4)
    old = folder.open_index(tmp_path / "e")
    assert (len(old), old.unindexed) == (4000, 1000)
    assert old.search(queries, 10).ids == a.ids
    grown = folder.write_index(tmp_path / "e", kind)
    assert len(grown) == 5000
    found = grown.search(vectors[4990:], 1)
    new = [i for i in range(10) if found.rows[i][0] == 4990 + i]
    assert len(new) >= (8 if kind in approximate.KINDS else 10)
    assert [found.scores[i] for i in new] == [plain.search(vectors[4990 + i :][:1], 1).scores[0] for i in new]

    gone = bank.ids[7]
    shrunk = folder.remove(tmp_path / "e", [gone])
    assert gone not in shrunk.search(vectors[7:8], 10).ids[0]
    assert len(shrunk) == 4999
    many = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(1500)]  # 30 %: built anew without them
    shrunk = folder.remove(tmp_path / "e", many)
    assert len(shrunk) == 3500
    if kind not in ("exact", "flat"):
        assert len(shrunk.members) == 3500
    found = shrunk.search(vectors[1490:1510], 5)
    assert all((rows >= 1500).all() and len(rows) == 5 for rows in found.rows)
    assert all(
        ids[0] == ("ab"[row[0] % 2] + f"/{row[0]}.jpg")
        for ids, row in zip(found.ids, found.rows, strict=True)
        if row[0] < 4000
    )
    again = folder.write_index(tmp_path / "e", kind, rebuild=True)
    assert len(again) == 3500


def test_a_folder_without_an_index_is_searched_in_its_parts(tmp_path, vectors, monkeypatch):
    write(tmp_path / "e", vectors)
    plain = ExactIndex(Embeddings(vectors, [str(i) for i in range(5000)], space="s")).search(vectors[:5], 5)
    for limit in (1 << 30, 0):  # read once, and streamed from the parts
        monkeypatch.setattr(collection, "IN_MEMORY", limit)
        monkeypatch.setattr(collection, "CHUNK_BYTES", 200_000)
        index = folder.open_index(tmp_path / "e")
        found = index.search(vectors[:5], 5)
        assert np.array_equal(found.rows, plain.rows)
        assert np.array_equal(found.scores, plain.scores)
        np.testing.assert_array_equal(
            index.collection.vectors_at(np.array([4999, 0])), ExactIndex(Embeddings.open(tmp_path / "e")).collection
            .embeddings.normalized[[4999, 0]]
        )  # fmt: skip


def test_searching_a_folder_without_an_index_holds_the_vectors_once_and_no_list_of_ids(tmp_path):
    many = np.random.default_rng(0).normal(size=(60_000, 32)).astype(np.float32)
    write(tmp_path / "e", many)
    folder.open_index(tmp_path / "e").search(many[:1], 5)  # what is imported on first use doesn't count
    tracemalloc.start()
    index = folder.open_index(tmp_path / "e")
    assert index.search(many[7:8], 1).rows[0].tolist() == [7]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * many.nbytes


def test_parts_that_are_not_those_of_the_manifest(tmp_path, vectors):
    write(tmp_path / "e", vectors)
    manifest = tmp_path / "e" / "manifest.json"
    for rows, dim in ((4999, 32), (5001, 32), (5000, 31)):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"rows": rows, "dim": dim}))
        with pytest.raises(InputError, match="manifest"):
            _ = Embeddings.open(tmp_path / "e").vectors


def test_the_removed_stay_out_when_the_folder_is_made_anew(tmp_path, vectors):
    e = tmp_path / "e"
    write(e, vectors[:2000])
    gone = folder.remove(e, ["b/1001.jpg", "a/4.jpg"])
    assert len(gone) == 1998
    for part in e.glob("part-*"):
        part.unlink()
    write(e, vectors[1000:2000], first_part=1)  # a/4.jpg is gone for good, b/1001.jpg is now row 1
    again = folder.write_index(e, "exact")
    assert again.collection.removed.tolist() == [1]
    assert again.search(vectors[1001:1002], 3).rows[0].tolist().count(1) == 0


def test_an_index_that_is_replaced_while_it_is_opened_or_open_is_searched(tmp_path, vectors, monkeypatch):
    e = tmp_path / "e"
    write(e, vectors[:2500])
    old = folder.write_index(e, "pq")
    other = folder.write_index(e, "pq", rebuild=True)  # no file of the first is left
    assert old.search(vectors[7:8], 3).ids == other.search(vectors[7:8], 3).ids
    whole, replaced = folder._open, []

    def slow(path, facts, **options):
        if not replaced:
            replaced.append(True)
            folder.write_index(e, "exact", rebuild=True)
        return whole(path, facts, **options)

    monkeypatch.setattr(folder, "_open", slow)
    assert folder.open_index(e).search(vectors[7:8], 3).ids == other.search(vectors[7:8], 3).ids
    for path in (e / "index").glob("vectors-*"):
        path.unlink()
    with pytest.raises(InputError, match="cut off"):  # nobody replaces it
        folder.open_index(e)


def test_every_row_of_an_id_is_removed(tmp_path, vectors):
    write(tmp_path / "e", vectors[:1000])
    part = tmp_path / "e" / "part-00000.parquet"
    table = pq.read_table(part)
    ids = table["path"].to_pylist()
    ids[500] = ids[7]
    pq.write_table(table.set_column(0, "path", pa.array(ids)), part)
    index = folder.remove(tmp_path / "e", [ids[7], ids[7]])
    assert index.collection.removed.tolist() == [7, 500]
    assert len(index) == 998


@pytest.mark.parametrize("old_parts", [False, True])
def test_other_vectors_under_the_same_names_are_not_searched_with_the_old_ones(tmp_path, vectors, old_parts):
    def rewrite(some):
        for part in e.glob("part-*"):
            part.unlink()
        write(e, some)
        for part in e.glob("part-*") if old_parts else ():  # as they were before they had a checksum
            table = pq.read_table(part).replace_schema_metadata({"sslzoo": '{"inputs": "", "failures": []}'})
            pq.write_table(table, part, compression="NONE", use_dictionary=False, write_statistics=False)

    e = tmp_path / "e"
    rewrite(vectors[:2000])
    folder.write_index(e, "exact")
    sizes = [part.stat().st_size for part in sorted(e.glob("part-*"))]
    rewrite(np.concatenate([vectors[:1500], vectors[2000:2001], vectors[1501:2000]]))
    assert [part.stat().st_size for part in sorted(e.glob("part-*"))] == sizes
    with pytest.raises(InputError, match="sslzoo index"):
        folder.open_index(e)
    assert folder.write_index(e, "exact").search(vectors[2000:2001], 1).rows[0].tolist() == [1500]


def test_filters(tmp_path, vectors):
    write(tmp_path / "e", vectors[:2500])
    rows = folder.write_index(tmp_path / "e", "exact").collection
    assert rows.matching() is None
    assert rows.matching(prefix="a/").sum() == 1250
    assert rows.matching(where={"label": "b"}).tolist() == [i % 2 == 1 for i in range(2500)]
    assert rows.matching(prefix="a/", where={"label": "b"}).sum() == 0
    assert np.flatnonzero(rows.matching(where={"flags": "first-frame"})).tolist() == [0, 1000, 2000]
    assert rows.matching(where={"width": "10"}).all()
    with pytest.raises(InputError, match="label"):
        rows.matching(where={"colour": "red"})
    assert rows.row_of("b/3.jpg") == 3
    assert rows.row_of("nothing") is None


def test_values_of_some_rows_are_those_that_arrow_gives():
    words = ["plain", "", "café", "写真.jpg", None, "end"]
    bank = collection.Collection(Embeddings(np.zeros((6, 1), np.float32), list("abcdef"), space="s"))
    for array in (pa.array(words), pa.array(words[:4]), pa.array(words[1:4] * 2)[2:6], pa.array([""] * 5)):
        for column in (pa.chunked_array([array]), pa.chunked_array([array[:1], array[1:]])):
            bank._read, bank._chunks = {"word": column}, {}
            rows = np.array([3, 0, 1, 3])
            assert bank.take("word", rows) == [array[row].as_py() for row in rows.tolist()]
            assert bank.take("word", rows[:0]) == []


def test_a_column_that_some_parts_lack(tmp_path, vectors):
    write(tmp_path / "e", vectors[:2000])
    part = tmp_path / "e" / "part-00001.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["label"]), part)
    rows = folder.write_index(tmp_path / "e", "exact").collection
    assert rows.matching(where={"label": "a"}).sum() == 500
    assert rows.column("path").type == pa.string()


def test_other_spaces_damage_and_unknown_ids(tmp_path, vectors):
    e = tmp_path / "e"
    write(e, vectors[:2500])
    folder.write_index(e, "pq")
    with pytest.raises(InputError, match=r"ids look like a/0\.jpg"):
        folder.remove(e, ["nothing.jpg"])
    manifest = json.loads((e / "manifest.json").read_text())
    (e / "manifest.json").write_text(json.dumps(manifest | {"space": "other"}))
    with pytest.raises(SpaceMismatch, match="--rebuild"):
        folder.open_index(e)
    (e / "manifest.json").write_text(json.dumps(manifest))
    (structure,) = (e / "index").glob("*.faiss")
    structure.write_bytes(structure.read_bytes()[:200])
    with pytest.raises(InputError, match="can't be read"):
        folder.open_index(e)
    (e / "index" / "vectors-1.f32").write_bytes(b"123")
    with pytest.raises(InputError, match="cut off"):
        folder.open_index(e)
    for damaged in ("{", "7", '{"format": 2}'):
        (e / "index" / "index.json").write_text(damaged)
        with pytest.raises(InputError, match="sslzoo index"):
            folder.open_index(e)


def test_a_refused_kind_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    write(tmp_path / "e", noise)
    with pytest.raises(InputError, match="hnsw"):
        folder.write_index(tmp_path / "e", "tree")
    assert not (tmp_path / "e" / "index").exists()
    with pytest.raises(InputError, match="--recall"):
        folder.write_index(tmp_path / "e", "ivf", recall=1.1)
    assert [path.name for path in (tmp_path / "e" / "index").iterdir()] == [".lock"]
    folder.write_index(tmp_path / "e", "exact")
    before = sorted(path.name for path in (tmp_path / "e" / "index").iterdir())
    with pytest.raises(InputError, match="--recall"):
        folder.write_index(tmp_path / "e", "ivf", recall=1.1, rebuild=True)
    assert sorted(path.name for path in (tmp_path / "e" / "index").iterdir()) == before


def test_a_vector_that_is_not_a_number_is_refused(tmp_path, vectors, monkeypatch):
    """One of another program's; ours writes none."""
    monkeypatch.setattr(Part, "put", lambda part, rows, some: part._vectors.append((rows, some)))
    vectors[1234, 5] = np.nan
    write(tmp_path / "e", vectors[:2000])
    with pytest.raises(InputError, match=r"row 1234 .*fp32"):
        folder.write_index(tmp_path / "e")


@pytest.mark.parametrize(("limit", "kind"), [(100_000, "exact"), (700_000, "hnsw")])  # of the vectors; of the structure
def test_a_full_disk_ends_in_one_line_and_keeps_the_old_index(tmp_path, vectors, limit, kind):
    e = tmp_path / "e"
    write(e, vectors[:2500])
    before = folder.write_index(e, "exact")
    if kind == "exact":
        write(e, vectors[2500:], first_part=3)
    code = (
        "import resource, sys\n"  # a write beyond the limit fails, as on a full disk: Python ignores the signal
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        f"sys.argv = ['sslzoo', 'index', sys.argv[1], '--kind', {kind!r}]\n"
        "from sslzoo.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(e)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "can't be written" in done.stderr
    kept = folder.open_index(e)
    assert (kept.kind, len(kept)) == ("exact", 2500)
    assert kept.search(vectors[:5], 3).ids == before.search(vectors[:5], 3).ids


def test_an_interrupted_build_leaves_the_earlier_index(tmp_path, vectors, monkeypatch):
    e = tmp_path / "e"
    write(e, vectors[:2500])
    folder.write_index(e, "exact")

    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "build_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write_index(e, "pq")
    assert folder.open_index(e).kind == "exact"
    assert not list(e.glob(".index*"))


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("stop_before", ["build_index", "_append_vectors", "_save"])
def test_a_killed_process_leaves_the_old_index_and_the_next_one_finishes(tmp_path, vectors, signal_, stop_before):
    e = tmp_path / "e"
    write(e, vectors[:3000])
    before = folder.write_index(e, "exact").search(vectors[:5], 5)
    write(e, vectors[3000:], first_part=3)
    code = (
        "import os, signal, sys; from sslzoo.index import folder\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background inherits it ignored
        f"whole = folder.{stop_before}\n"
        "def stop(*a, **k):\n"
        f"    if {stop_before!r} == '_append_vectors': whole(*a, **k)\n"  # the vectors are there, nothing names them
        f"    os.kill(os.getpid(), {int(signal_)})\n"
        f"folder.{stop_before} = stop\n"
        "folder.write_index(sys.argv[1], 'pq')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(e)], capture_output=True)
    assert done.returncode != 0
    old = folder.open_index(e)
    assert (old.kind, len(old), old.unindexed) == ("exact", 3000, 2000)
    assert old.search(vectors[:5], 5).ids == before.ids
    new = folder.write_index(e, "pq")
    assert (new.kind, len(new), new.unindexed) == ("pq", 5000, 0)
    assert new.search(vectors[4321:4322], 1).rows[0][0] == 4321
    used = set(json.loads((e / "index" / "index.json").read_text())["files"].values())
    assert {path.name for path in (e / "index").iterdir()} - {".lock", "index.json"} == used


def test_a_threshold_without_k_finds_every_row_that_reaches_it(tmp_path, vectors):
    write(tmp_path / "e", vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = [set(np.flatnonzero(unit @ unit[i] >= 0.7)) for i in range(20)]
    assert max(map(len, wanted)) > 50
    for kind in ("exact", "flat", "pq", "hnsw"):
        found = folder.write_index(tmp_path / "e", kind).search(vectors[:20], None, threshold=0.7)
        assert [set(rows.tolist()) for rows in found.rows] == wanted
        assert all((np.diff(scores) <= 0).all() for scores in found.scores)
    with pytest.raises(InputError, match="threshold"):
        folder.open_index(tmp_path / "e").search(vectors[:1], None)
