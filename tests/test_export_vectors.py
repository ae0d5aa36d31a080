"""Vector databases give exact search's neighbours, and an interrupted or repeated export leaves no row twice."""

import numpy as np
import pytest

from sslzoo import export_vectors as exporting
from sslzoo.errors import InputError, SpaceMismatch
from sslzoo.index.folder import open_index
from tests.index.test_folder import MANIFEST, write
from tests.index.vectors import clustered


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "e", clustered(2500).vectors)
    return tmp_path / "e"


def interrupted_after(monkeypatch, count):
    """Lets the first `count` parts through, then stops as a kill would."""
    whole = exporting._batches

    def some(folder, start=0):
        for number, batch in enumerate(whole(folder, start)):
            if number == count:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(exporting, "_batches", some)


@pytest.mark.filterwarnings("ignore")
def test_lancedb(folder, tmp_path, monkeypatch):
    lancedb = pytest.importorskip("lancedb")
    with monkeypatch.context() as patch:
        interrupted_after(patch, 1)
        patch.setattr(exporting, "PARTS", 1)
        with pytest.raises(KeyboardInterrupt):
            exporting.export_vectors(folder, "lancedb", tmp_path / "db")
    assert lancedb.connect(str(tmp_path / "db")).open_table("images").count_rows() == 1000
    for _ in range(2):
        assert exporting.export_vectors(folder, "lancedb", tmp_path / "db") == 2500
    table = lancedb.connect(str(tmp_path / "db")).open_table("images")
    assert table.count_rows() == 2500
    queries = clustered(5, seed=7)
    exact = open_index(folder).search(queries.vectors, 10)
    for query, ids, scores in zip(queries.normalized, exact.ids, exact.scores, strict=True):
        found = table.search(query).distance_type("cosine").limit(10).to_list()
        assert [f["path"] for f in found] == ids
        np.testing.assert_allclose([1 - f["_distance"] for f in found], scores, atol=1e-5)
    assert {"label", "width", "flags"} <= set(table.schema.names)
    assert len(table.list_versions()) == 2  # several parts a version
    write(tmp_path / "other", clustered(10).vectors)
    manifest = tmp_path / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"space": "s"', '"space": "t"'))
    with pytest.raises(SpaceMismatch, match="--table"):
        exporting.export_vectors(tmp_path / "other", "lancedb", tmp_path / "db")
    write(tmp_path / "fewer", clustered(10).vectors)
    with pytest.raises(InputError, match="other rows"):
        exporting.export_vectors(tmp_path / "fewer", "lancedb", tmp_path / "db")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--at"):
        exporting.export_vectors(folder, "lancedb", tmp_path / "file" / "db")


@pytest.mark.filterwarnings("ignore")
def test_qdrant(folder, tmp_path, monkeypatch):
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(":memory:")
    with monkeypatch.context() as patch:
        interrupted_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            exporting.export_vectors(folder, "qdrant", client)
    assert exporting.export_vectors(folder, "qdrant", client) == 2500
    assert client.count("images").count == 2500
    queries = clustered(5, seed=7)
    exact = open_index(folder).search(queries.vectors, 10)
    for query, ids, scores in zip(queries.normalized, exact.ids, exact.scores, strict=True):
        found = client.query_points("images", query=query.tolist(), limit=10).points
        assert [f.payload["path"] for f in found] == ids
        np.testing.assert_allclose([f.score for f in found], scores, atol=1e-5)
    assert found[0].payload["sslzoo_space"] == MANIFEST["space"]
    assert found[0].payload["label"] in "ab"
    write(tmp_path / "other", clustered(10).vectors)
    manifest = tmp_path / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"space": "s"', '"space": "t"'))
    with pytest.raises(SpaceMismatch, match="--table"):
        exporting.export_vectors(tmp_path / "other", "qdrant", client)
    write(tmp_path / "fewer", clustered(10).vectors)
    with pytest.raises(InputError, match="other rows"):
        exporting.export_vectors(tmp_path / "fewer", "qdrant", client)
    with pytest.raises(InputError, match="Connection refused"):
        exporting.export_vectors(folder, "qdrant", "http://127.0.0.1:9")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("changed", [5, 1700, 2499])
def test_a_folder_that_changed_under_the_same_names(folder, tmp_path, changed):
    pytest.importorskip("lancedb")
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(":memory:")
    exporting.export_vectors(folder, "lancedb", tmp_path / "db")
    exporting.export_vectors(folder, "qdrant", client)
    vectors = clustered(2500).vectors
    vectors[changed] = clustered(1, seed=7).vectors[0]
    write(folder, vectors)
    with pytest.raises(InputError, match="other rows"):
        exporting.export_vectors(folder, "lancedb", tmp_path / "db")
    exporting.export_vectors(folder, "qdrant", client)  # all points are written again
    found = client.query_points("images", query=vectors[changed].tolist(), limit=1).points[0]
    assert (found.id, round(found.score, 5)) == (changed, 1)


def test_an_unknown_database(folder):
    with pytest.raises(InputError, match="lancedb or qdrant"):
        exporting.export_vectors(folder, "sqlite", "x")
