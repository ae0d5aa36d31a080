"""Exact search against scikit-learn and FAISS."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import sslzoo
from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.index import collection, exact


def photos(n=300, dim=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return Embeddings(vectors, [f"{i}.jpg" for i in range(n)], space="s", model="m")


@pytest.mark.parametrize("chunk", [1 << 30, 5000])
def test_equals_scikit_learn(monkeypatch, chunk):
    monkeypatch.setattr(collection, "CHUNK_BYTES", chunk)
    bank, queries = photos(), photos(40, seed=1)
    found = sslzoo.build_index(bank).search(queries, k=7)
    distance, rows = (
        NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute")
        .fit(bank.vectors)
        .kneighbors(queries.vectors)
    )
    assert np.array_equal(np.stack(found.rows), rows)
    np.testing.assert_allclose(np.stack(found.scores), 1 - distance, atol=1e-6)
    assert found.ids[3][0] == f"{rows[3][0]}.jpg"


@pytest.mark.parametrize("n", [1, 2, 3, 17, 1000])
def test_a_floor_lets_k_through_and_few_more(n):
    line = np.random.default_rng(n).normal(size=n).astype(np.float32)
    for k in {1, (n + 1) // 2, n}:
        floor = exact._floor(line, k)
        assert k <= (line >= floor).sum() and floor <= np.sort(line)[n - k]


@pytest.mark.parametrize("dim", [1, 7, 16, 100, 512, 2048])
def test_a_score_depends_on_nothing_but_its_two_vectors(dim):
    rng = np.random.default_rng(dim)
    bank, probes = (rng.normal(size=(n, dim)).astype(np.float32) for n in (60, 5))
    rows = rng.integers(0, 60, (5, 40))
    together = exact.rescore(bank.__getitem__, rows, probes)
    for i in range(5):
        assert np.array_equal(exact.score(bank[rows[i]], probes[i]), together[i])
        alone = [exact.score(bank[row, None], probes[i])[0] for row in rows[i]]
        assert np.array_equal(alone, together[i])
    pairs = exact.score(bank[rows.ravel(), None], probes.repeat(40, axis=0))
    assert np.array_equal(pairs.reshape(5, 40), together)
    np.testing.assert_allclose(together, np.take_along_axis(probes @ bank.T, rows, 1), rtol=1e-4, atol=1e-4)


def test_equals_faiss():
    faiss = pytest.importorskip("faiss")
    bank, queries = photos(), photos(40, seed=1)
    index = faiss.IndexFlatIP(16)
    index.add(bank.normalized)
    scores, rows = index.search(queries.normalized, 5)
    found = sslzoo.build_index(bank).search(queries, k=5)
    assert np.array_equal(np.stack(found.rows), rows)
    np.testing.assert_allclose(np.stack(found.scores), scores, atol=1e-6)


def test_a_vector_of_the_collection_finds_itself_first_and_can_be_dropped():
    bank = photos()
    index = sslzoo.build_index(bank)
    found = index.search(bank.vectors[[5, 9]], k=3)
    assert [rows[0] for rows in found.rows] == [5, 9]
    assert found.scores[0][0] == pytest.approx(1, abs=1e-6)
    without = index.search(bank.vectors[[5, 9]], k=2, exclude=[5, None])
    assert without.rows[0].tolist() == found.rows[0][1:].tolist()
    assert without.rows[1].tolist() == found.rows[1][:2].tolist()


def test_length_does_not_matter_and_k_is_cut():
    bank = photos(20)
    a = sslzoo.build_index(bank).search(bank.vectors[:2] * 7.5, k=100)
    assert len(a.ids[0]) == 20
    assert sorted(a.rows[0].tolist()) == list(range(20))
    assert (np.diff(a.scores[0]) <= 0).all()


def test_equal_scores_keep_the_order_of_the_photos():
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 0, 2]]
    bank = Embeddings(vectors, list("abcde"), space="s")
    found = sslzoo.build_index(bank).search(np.eye(4, dtype=np.float32)[:1], k=2)
    assert found.ids == [["a", "c"]]


@pytest.mark.parametrize("queries", [1, 4, 40])
def test_vectors_that_are_not_numbers_are_never_found(queries):
    bank = photos()
    bank.vectors[::9] = np.nan
    good = np.flatnonzero(np.arange(300) % 9)
    wanted = sslzoo.build_index(Embeddings(bank.vectors[good], [str(i) for i in good], space="s"))
    for k in (5, 300):
        found = sslzoo.build_index(bank).search(photos(queries, seed=1), k)
        for rows, expected in zip(found.rows, wanted.search(photos(queries, seed=1), k).rows, strict=True):
            assert rows.tolist() == good[expected].tolist()


def test_wrong_queries():
    index = sslzoo.build_index(photos())
    with pytest.raises(InputError, match="NaN"):
        index.search(np.full((1, 16), np.nan, np.float32))
    with pytest.raises(InputError, match=r"\[n, 16\]"):
        index.search(np.zeros((2, 5), np.float32))
    three = photos(3).vectors
    for exclude in ([0], [], [0, None, 1, 2]):
        with pytest.raises(InputError, match="3 queries"):
            index.search(three, exclude=exclude)
    for within in (np.ones(7, bool), np.arange(300), np.ones((1, 300), bool)):
        with pytest.raises(InputError, match=r"bool of shape \(300,\)"):
            index.search(three, within=within)
    with pytest.raises(InputError, match="at least one"):
        index.search(np.zeros((2, 16), np.float32), k=0)
