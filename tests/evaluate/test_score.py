"""Intervals and paired comparison by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.score import Score, SetId, codes, compare, half_width, of_items, set_id

SET = SetId("abc", 4)


def score(items, groups=None, protocol="p"):
    groups = None if groups is None else np.array(groups)
    return of_items(np.array(items, np.float32), protocol, SET, SET, groups)


def wilson(p, n):
    """The roots q of (p - q)² = 1.96² q (1 - q) / n."""
    z2 = 1.959964**2
    return sorted(np.roots([1 + z2 / n, -2 * p - z2 / n, p * p]).real)


def test_a_set_with_a_name_that_is_not_utf8_is_the_same_from_disk_and_from_memory():
    known = [
        Embeddings(np.ones((1, 2)), [name], space="s", labels=["a"]) for name in ("bad\udcff.png", "bad\\udcff.png")
    ]
    assert set_id(known[0]) == set_id(known[1])


@pytest.mark.parametrize(("right", "n"), [(9, 10), (12, 12), (0, 5), (1, 1), (30, 100)])
def test_the_interval_of_a_share_is_wilsons(right, n):
    interval = binomtest(right, n).proportion_ci(method="wilson")
    reaches = max(right / n - interval.low, interval.high - right / n)
    assert score([1] * right + [0] * (n - right)).interval() == pytest.approx(reaches, rel=1e-5)


def test_small_classes_that_are_all_right_are_no_certainty():
    # three images in three classes: as many effective items as images
    low, _ = wilson(1, 3)
    assert score([1, 1, 1], [0, 1, 2]).interval() == pytest.approx(1 - low)
    # with 4, 1 and 1 images all right: 3² / (1/4 + 1 + 1)
    low, _ = wilson(1, 4)
    assert score([1] * 6, [0, 0, 0, 0, 1, 2]).interval() == pytest.approx(1 - low)


def test_the_mean_over_classes_and_its_interval():
    # class 0: 1 of 3 right; class 1: 1 of 1; by image 2/4, by class (1/3 + 1) / 2
    s = score([1, 0, 0, 1], [0, 0, 0, 1])
    assert s.value == pytest.approx(2 / 3)
    assert score([1, 0, 0, 1]).value == 0.5
    # within the classes 2/3 of squares over 4 - 2 degrees of freedom, times (1/3 + 1/1) / 2² is the variance of the mean,
    # as of n independent items of variance 2/9
    n = (2 / 9) / (2 / 3 / 2 * (1 / 3 + 1) / 4)
    low, high = wilson(2 / 3, n)
    assert s.interval() == pytest.approx(max(2 / 3 - low, high - 2 / 3), rel=1e-3)


def test_a_paired_comparison_is_narrower_than_two_intervals():
    a, b = score([1, 1, 1, 0]), score([1, 1, 0, 0])
    c = compare(a, b)
    # differences 0, 0, 1, 0: mean 1/4, sample variance 1/4
    assert (c.difference, c.interval) == (0.25, pytest.approx(1.96 * (1 / 4 / 4) ** 0.5, rel=1e-3))
    assert not c.differs
    assert str(c) == "no difference (+25.0 ± 49.0)"
    # none of four differs, as would happen once in 40 times if 0.602 of all did
    assert compare(a, a).interval == pytest.approx(binomtest(0, 4).proportion_ci().high) and not compare(a, a).differs


@pytest.mark.parametrize("n", [30, 1000])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("better", "worse"), [(5, 0), (6, 0), (7, 1), (8, 1), (9, 2), (3, 12), (17, 6), (12, 12)])
def test_few_discordant_pairs_are_judged_by_the_exact_test(n, grouped, better, worse):
    a = np.array([1] * better + [0] * worse + [1] * (n - better - worse))
    b = np.array([0] * better + [1] * worse + [1] * (n - better - worse))
    groups = np.arange(n) % 2 if grouped else None
    found = compare(score(a, groups), score(b, groups))
    exact = binomtest(better, better + worse).proportion_ci().low if better > worse else 0
    if not grouped and better > worse:
        limit = (better + worse) / n * (2 * exact - 1)  # of the difference, towards zero
        assert found.difference - found.interval <= limit + 1e-6
    assert found.differs == (binomtest(better, better + worse).pvalue < 0.05)


def test_a_clear_difference_is_one():
    c = compare(score([1] * 9 + [0]), score([0] * 9 + [0]))
    assert c.differs
    # of nine differences all nine one way: Clopper and Pearson's lower limit is 0.025^(1/9)
    assert c.interval == pytest.approx(2 * 0.9 * (1 - 0.025 ** (1 / 9)))
    assert str(c) == "+90.0 ± 60.5"


def test_only_like_with_like():
    with pytest.raises(InputError, match="one protocol"):
        compare(score([1, 0]), score([1, 0], protocol="q"))
    with pytest.raises(InputError, match="one test set"):
        compare(score([1, 0]), Score(0.5, np.ones(2, np.float32), "p", SET, SetId("abd", 4)))


def test_intervals_cover_the_truth_19_times_in_20():
    random = np.random.default_rng(0)
    draws = random.random((2000, 200)) < 0.3
    covered = [abs(d.mean() - 0.3) <= half_width(d.astype(np.float32)) for d in draws]
    assert 0.92 < np.mean(covered) < 0.97


def test_draws_are_compared_in_pairs_too():
    from dataclasses import replace

    a = replace(score([1, 1, 0, 0]), draws=(0.4, 0.5, 0.6))
    b = replace(score([1, 1, 0, 0]), draws=(0.3, 0.4, 0.8))
    # differences .1, .1, -.2: sample deviation sqrt(.03) and Student's 4.303 of two degrees of freedom
    assert compare(a, b).interval == pytest.approx(np.hypot(4.303 * (0.03 / 3) ** 0.5, 1 - 0.025**0.25))
    with pytest.raises(InputError, match="one protocol"):
        compare(score([1, 0]), Score(0.5, np.array([1, 0], np.float32), "p", SetId("abd", 4), SET))


def test_a_score_tells_what_was_judged(photos):
    import sslzoo
    from sslzoo.evaluate.knn import knn

    e = sslzoo.embed(photos, "random-r18", precision="fp32")
    found = knn(e, protocols=[(1, 0.1)])[0].to_dict()["features"]
    assert found.startswith("pooled layer4, short side 96 px bilinear, centre 96 px, fp32, weights ")
    assert found.endswith(e.manifest["weights"][:12])
    assert "features" not in score([1, 0]).to_dict()  # unknown of vectors without a manifest


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 1.0], "label of c is 1.0"),
        (["x", "y", float("nan")], "label of c is nan"),
        (["x", "", "y"], "label of b is ''"),
        ([["x"], "y", "x"], r"label of a is \['x'\]"),
    ],
)
def test_a_label_is_a_name_or_a_whole_number(labels, message):
    good = Embeddings(np.eye(3, dtype=np.float32), list("abc"), space="s", labels=["x", "y", "x"])
    odd = Embeddings(np.eye(3, dtype=np.float32), list("abc"), space="s", labels=labels)
    for pair in ((good, odd), (odd, good)):
        with pytest.raises(InputError, match=message):
            codes(*pair, "kNN")


def test_sets_without_a_common_class_and_bad_vectors_are_refused():
    def made(labels, worst=1.0):
        return Embeddings(np.diag([1, worst]).astype(np.float32), list("ab"), space="s", labels=labels)

    assert codes(made([0, np.int64(1)]), made(["1", "2"]), "kNN")[0].tolist() == ["0", "1", "2"]
    with pytest.raises(InputError, match=r"no class is in both sets \('0' … in the training set, '0.0' …"):
        codes(made([0, 1]), made(["0.0", "1.0"]), "kNN")
    for worst in (np.nan, np.inf):
        with pytest.raises(InputError, match="the vector of b has numbers that are not finite"):
            codes(made([0, 1]), made([0, 1], worst), "kNN")
