"""Weighted kNN against a hand calculation and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.neighbors import KNeighborsClassifier

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError, SpaceMismatch
from sslzoo.evaluate import knn as module
from sslzoo.evaluate.knn import GRID, GROUP, knn, largest


def labelled(n, seed, classes=5, dim=12, space="s"):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, n)
    vectors = (centres[labels] + 1.5 * rng.normal(size=(n, dim))).astype(np.float32)
    return Embeddings(
        vectors, [str(i) for i in range(n)], space=space, model="m", labels=[f"class {c}" for c in labels]
    )


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.1), (50, 1.0)])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_equals_scikit_learn(k, temperature, chunk):
    train, test = labelled(400, 0), labelled(150, 1)
    score = knn(train, test, [(k, temperature)], chunk=chunk)[0]
    # among unit vectors cosine = 1 - d²/2
    reference = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d**2 / 2) / temperature), algorithm="brute")
    reference.fit(train.normalized, train.labels)
    hits = reference.predict(test.normalized) == np.asarray(test.labels)
    assert 0.3 < hits.mean() < 0.95  # a case in which both right and wrong answers are seen
    np.testing.assert_array_equal(score.items, hits)
    assert score.value == pytest.approx(hits.mean())


def test_votes_by_hand():
    # neighbours at cosine 1.0 (a), 0.8 (b), 0.8 (b): at T=0.1 one exact match outvotes two, at T=1 it doesn't
    train = Embeddings(
        np.array([[1, 0], [0.8, 0.6], [0.8, -0.6]], np.float32), list("123"), space="s", labels=["a", "b", "b"]
    )
    query = Embeddings(np.array([[2, 0]], np.float32), ["q"], space="s", labels=["a"])
    sharp, flat, nearest = knn(train, query, [(3, 0.1), (3, 1.0), (1, 1.0)])
    assert (sharp.value, flat.value, nearest.value) == (1.0, 0.0, 1.0)


def test_leave_one_out_never_sees_itself():
    train = labelled(60, 0)
    score = knn(train, protocols=[(1, 0.07)])[0]
    hits = []
    for i in range(60):
        similarity = train.normalized @ train.normalized[i]
        similarity[i] = -2
        hits.append(train.labels[int(similarity.argmax())] == train.labels[i])
    np.testing.assert_array_equal(score.items, hits)
    assert "leave-one-out" in score.protocol


def test_k_is_cut_to_what_is_there_and_said_so():
    score = knn(labelled(30, 0), labelled(10, 1), [(200, 0.1)])[0]
    assert score.protocol == "knn_top1@k=30,T=0.1 (cosine, n=30, 10 queries)"


def test_small_temperatures_do_not_overflow():
    assert np.isfinite(knn(labelled(30, 0), labelled(10, 1), [(20, 1e-4)])[0].value)


def test_interval_of_a_coin_toss():
    score = knn(labelled(400, 0), labelled(150, 1))[0]
    interval = binomtest(int(score.items.sum()), 150).proportion_ci(method="wilson")
    assert score.interval() == pytest.approx(max(score.value - interval.low, interval.high - score.value), rel=1e-4)


def test_refusals():
    train = labelled(30, 0)
    with pytest.raises(SpaceMismatch):
        knn(train, labelled(10, 1, space="other"))
    for labels, first in ((None, 0), (["a", None, "b", None] + ["a"] * 26, 1)):
        with pytest.raises(InputError, match=f"kNN needs labels, and {first} has none: a folder with"):
            knn(Embeddings(train.vectors, train.ids, space="s", labels=labels))


@pytest.mark.parametrize("alone", [True, False])
def test_training_images_of_one_class_are_refused(alone):
    train = labelled(30, 0, classes=1)
    with pytest.raises(InputError, match="has the one class 'class 0'; give at least two, such as a folder with a sub"):
        knn(train, None if alone else labelled(10, 1))


@pytest.mark.parametrize("alone", [True, False])
def test_all_twelve_from_one_pass_and_in_blocks(monkeypatch, alone):
    train, test = labelled(500, 0), None if alone else labelled(90, 1)
    at_once = knn(train, test, GRID)
    monkeypatch.setattr(module, "BLOCK", 64)
    in_blocks = knn(train, test, GRID, chunk=50)
    assert len(at_once) == 12
    for protocol, a, b in zip(GRID, at_once, in_blocks, strict=True):
        np.testing.assert_array_equal(a.items, b.items)
        np.testing.assert_array_equal(a.items, knn(train, test, [protocol])[0].items)
    assert len({s.value for s in at_once}) > 3


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_largest_is_topk(kind):
    random = torch.Generator().manual_seed(0)
    similarity = torch.randn((30, 4007), generator=random)
    similarity[3] = 1.0  # all equal
    similarity[4] += torch.linspace(0, 50, 4007)  # rising: the largest are in the columns that fill no group
    similarity[5, 7:] = -torch.inf
    similarity = similarity.to(kind)
    values, columns = largest(similarity, 20)
    assert 4007 // GROUP >= 4 * 20  # so it is not topk itself that was called
    assert torch.equal(values, similarity.topk(20, dim=1).values)
    assert torch.equal(similarity.gather(1, columns), values)
    assert all(len(set(row.tolist())) == 20 for row in columns)


def test_bf16_moves_few_items():
    train, test = labelled(4000, 0, dim=24), labelled(600, 1, dim=24)
    for full, low in zip(knn(train, test, GRID), knn(train, test, GRID, precision="bf16"), strict=True):
        assert (full.items != low.items).mean() < 0.02
        assert low.protocol == full.protocol.replace(" queries)", " queries, bf16)")
    with pytest.raises(InputError, match="fp32 or bf16"):
        knn(train, test, precision="int8")


def test_a_score_knows_its_sets():
    train, test = labelled(60, 0), labelled(30, 1)
    score = knn(train, test)[0]
    assert (score.train.size, score.test.size) == (60, 30)
    assert score.test == knn(train, Embeddings(test.vectors, test.ids, space="s", labels=test.labels))[0].test
    other = Embeddings(test.vectors, test.ids, space="s", labels=["class 0"] * 30)
    assert score.test != knn(train, other)[0].test
