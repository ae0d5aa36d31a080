"""Every figure of health by hand, and on cases whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from sslzoo.embeddings import Embeddings, normalize
from sslzoo.errors import InputError
from sslzoo.evaluate import health as module
from sslzoo.evaluate.health import alignment, effective_rank, health, rankme, scaled_std, skewness, uniformity
from sslzoo.evaluate.score import set_id

CROSS = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)


def test_std():
    assert scaled_std(CROSS) == pytest.approx(1)  # each dimension: values 1, -1, 0, 0 with std √½, times √2
    assert scaled_std(np.ones((5, 3), np.float32)) == 0
    assert scaled_std(normalize(np.random.default_rng(0).normal(size=(9000, 64)).astype(np.float32))) == pytest.approx(
        1, abs=0.01
    )


def test_ranks():
    assert rankme(CROSS) == pytest.approx(2, rel=1e-5)  # two equal singular values
    z = np.diag([3.0, 1.0]).astype(np.float32)
    assert rankme(z) == pytest.approx(4 / 3**0.75, rel=1e-5)  # p = 3/4, 1/4: exp of their entropy
    assert rankme(np.outer(np.arange(1, 9), [1, 2, 3]).astype(np.float32)) == pytest.approx(1, abs=1e-4)
    cloud = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32) + 7
    assert effective_rank(cloud) == pytest.approx(np.exp(stats.entropy([0.9, 0.1])))  # variances 9 : 1, mean removed
    assert effective_rank(np.ones((4, 3), np.float32)) == 1
    wide = np.random.default_rng(0).normal(size=(900, 700)).astype(np.float32)
    expected = np.exp(stats.entropy(np.linalg.svd(wide.astype(float), compute_uv=False)))
    assert rankme(wide) == pytest.approx(expected, rel=1e-3)


def test_alignment_and_uniformity():
    assert alignment(CROSS, "aabb") == pytest.approx(4)  # opposite points
    assert alignment(CROSS, "aaab") == pytest.approx((4 + 2 + 2) / 3)
    assert alignment(CROSS, "abcd") is None
    assert alignment(CROSS, [None, None, "a", "a"]) == pytest.approx(4)  # those without a label are no class
    assert alignment(CROSS, [None] * 4) is None
    # six pairs: four at squared distance 2, two at 4
    assert uniformity(CROSS) == pytest.approx(np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6))
    u = normalize(np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32))
    pairs = [((u[i] - u[j]) ** 2).sum() for i in range(300) for j in range(i)]
    assert uniformity(u, chunk=77) == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(pairs)))), rel=1e-4)


def test_vectors_of_zeros():
    zeros = np.zeros((20, 8), np.float32)
    assert (rankme(zeros), uniformity(zeros), scaled_std(zeros)) == (0, 0, 0)
    # three pairs: of zeros at distance 0, and each of these with a unit vector at squared distance 1
    assert uniformity(np.array([[0, 0], [0, 0], [1, 0]], np.float32)) == pytest.approx(np.log((1 + 2 * np.exp(-2)) / 3))


def test_hubness():
    counts = np.array([0, 0, 0, 4])
    assert skewness(counts) == pytest.approx(stats.skew(counts))
    assert skewness(np.array([1, 1, 1])) == 0


def test_all_at_once(monkeypatch):
    # a star on the sphere: everyone's nearest is row 0; rows 5 and 6 are the same picture
    monkeypatch.setattr(module, "HUB_K", 1)
    rows = np.array([[1, 0, 0, 0, 0], *(np.eye(5)[1:] + np.eye(5)[0] * 1.2), [-1, -1, 0, 0, 0], [-1, -1, 0, 0, 0]])
    found = health(Embeddings(3 * rows.astype(np.float32), list("abcdefg"), space="s"))
    assert (found.rows, found.dim, found.alignment) == (7, 5, None)
    assert found.protocol == "health@k=1,cosine=0.999 (n=7)"
    same = Embeddings(rows.astype(np.float32), list("abcdefg"), space="s")
    assert found.data == set_id(same) and found.to_dict()["data"] == f"{set_id(same)}"
    assert "protocol" not in found.figures()
    monkeypatch.setattr(module, "ROWS", 5)
    assert health(same).protocol == "health@k=1,cosine=0.999 (n=7, 5 drawn with seed 0)"
    rows[3, 2] = np.nan
    with pytest.raises(InputError, match="the vector of d has numbers that are not finite"):
        health(Embeddings(rows.astype(np.float32), list("abcdefg"), space="s"))
    counts = [4, 1, 0, 0, 0, 1, 1]  # row 0 names one of its equals, rows 1 to 4 name row 0, the twins one another
    assert found.hubness == pytest.approx(stats.skew(counts))
    assert found.antihubs == pytest.approx(3 / 7)
    assert found.duplicates == pytest.approx(2 / 7)
    with pytest.raises(InputError, match="at least two"):
        health(Embeddings(np.ones((1, 3), np.float32), ["a"], space="s"))
