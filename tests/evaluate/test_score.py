"""Intervals and paired comparison by hand."""

import numpy as np
import pytest

from sslzoo.errors import InputError
from sslzoo.evaluate.score import Score, SetId, compare, half_width, of_items

SET = SetId("abc", 4)


def score(items, groups=None, protocol="p"):
    groups = None if groups is None else np.array(groups)
    return of_items(np.array(items, np.float32), protocol, SET, SET, groups)


def test_the_mean_over_classes_and_its_interval():
    # class 0: 1 of 3 right; class 1: 1 of 1; by image 2/4, by class (1/3 + 1) / 2
    s = score([1, 0, 0, 1], [0, 0, 0, 1])
    assert s.value == pytest.approx(2 / 3)
    assert score([1, 0, 0, 1]).value == 0.5
    # variances: 1/3 · 2/3 = 2/9 over 3 items, and 0: 1.96 · sqrt(2/27) / 2
    assert s.interval() == pytest.approx(1.96 * (2 / 27) ** 0.5 / 2, rel=1e-3)


def test_a_paired_comparison_is_narrower_than_two_intervals():
    a, b = score([1, 1, 1, 0]), score([1, 1, 0, 0])
    c = compare(a, b)
    # differences 0, 0, 1, 0: mean 1/4, variance 3/16
    assert (c.difference, c.interval) == (0.25, pytest.approx(1.96 * (3 / 16 / 4) ** 0.5, rel=1e-3))
    assert not c.differs
    assert str(c) == "no difference (+25.0 ± 42.4)"
    assert compare(a, a).interval == 0 and not compare(a, a).differs


def test_a_clear_difference_is_one():
    c = compare(score([1] * 9 + [0]), score([0] * 9 + [0]))
    assert c.differs
    assert str(c) == "+90.0 ± 18.6"


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
    assert compare(a, b).interval == pytest.approx(4.303 * (0.03 / 3) ** 0.5)
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
