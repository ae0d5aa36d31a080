"""A score: its value, the result of every test item, its protocol and its data; 95 % intervals and paired comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import comb
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings, storable
from sslzoo.errors import InputError

METRICS = ("top1", "mean_per_class", "mAP11")
Z95 = 1.959964  # the normal distribution's 97.5 % point
FEW = 25  # discordant pairs below which McNemar's test is the exact one (Fagerland et al., BMC Med Res Methodol 13:91, 2013)


def require_metric(metric: str) -> None:
    """Raises InputError for a name that isn't a metric's."""
    if metric not in METRICS:
        raise InputError(f"the metric is {metric!r}; use {', '.join(METRICS[:-1])} or {METRICS[-1]}")


@dataclass(frozen=True)
class SetId:
    """Which images with which labels: a hash of (id, label) in order, and how many; `failures` could not be read.

    Pixels have no part in the hash: ids are paths, or FILE/ROW in tables. Nor have failures (id, reason).
    """

    hash: str
    size: int
    failures: Sequence[tuple[str, str]] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.hash}/{self.size}"


def set_id(embeddings: Embeddings) -> SetId:
    """The identity of a labelled set; equal for all encoders that have embedded it."""
    known = set_id_of(embeddings.ids, embeddings.labels or [None] * len(embeddings))
    return replace(known, failures=embeddings.failures)


def set_id_of(ids: Sequence[str], labels: Sequence[object]) -> SetId:
    """The same from ids and labels."""
    # a name that isn't UTF-8 counts as an embeddings folder spells it
    lines = "".join(storable(f"{label}\t{id_}\n") for label, id_ in zip(labels, ids, strict=True))
    return SetId(hashlib.sha256(lines.encode()).hexdigest()[:12], len(ids))


def features_of(embeddings: Embeddings) -> str:
    """How vectors came about, as far as their manifest tells: layer, input, precision and weights."""
    m = embeddings.manifest
    if "preprocess" not in m:
        return ""
    p, layer = m["preprocess"], "pixels" if m["backend"] == "numpy" else "pooled layer4"
    taken = f"short side {p['resize']} px {p['interpolation']}, centre {p['size']} px"
    return f"{layer}, {taken}, {m['precision']}, weights {m['weights'][:12]}"


@dataclass(frozen=True)
class Score:
    """One number, the results behind it, and what makes it comparable: protocol and data.

    `items` has one result a test image (1.0 or 0.0; for mAP one average precision a class). With `groups` (each item's
    class) the value is the mean over classes, otherwise the mean over items.
    """

    value: float
    items: NDArray[np.float32]
    protocol: str
    train: SetId | None = None
    test: SetId | None = None
    groups: NDArray[np.int64] | None = None
    draws: tuple[float, ...] = ()  # the value of each draw of training images, where `value` is their mean
    penalty: float | None = None  # the λ that a linear probe chose
    features: str = ""  # what was judged: see `features_of`
    unsolved: int = 0  # of a linear probe's fits, those that the solver did not finish

    @property
    def doubt(self) -> str:
        """What has to be said beside the value, where anything has to."""
        return f"the solver stopped early in {self.unsolved} fits; the score may be off" if self.unsolved else ""

    def interval(self) -> float:
        """Half the width of the 95 % interval, in the unit of `value`: see `half_width`; with draws, over these too."""
        items = half_width(self.items, self.groups)
        return float(np.hypot(items, _of_draws(np.array(self.draws)))) if len(self.draws) > 1 else items

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        known = {name: each for name, each in (("train", self.train), ("test", self.test)) if each}
        failed = {name: len(each.failures) for name, each in known.items() if each.failures}
        chosen = {} if self.penalty is None else {"penalty": self.penalty}
        judged = {"features": self.features} if self.features else {}
        return {
            "value": self.value,
            "interval95": self.interval(),
            "protocol": self.protocol,
            **{name: str(each) for name, each in known.items()},
            **({"failed": failed} if failed else {}),
            **judged,
            **chosen,
            **({"unsolved": self.unsolved} if self.unsolved else {}),
        }


def of_items(
    items: NDArray[np.float32],
    protocol: str,
    train: SetId | None = None,
    test: SetId | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Score:
    """A score from its items: their mean, or with `groups` the mean of the groups' means."""
    return Score(mean_of(items, groups), items, protocol, train, test, groups)


def half_width(items: NDArray[np.floating[Any]], groups: NDArray[np.int64] | None = None) -> float:
    """How far Wilson's 95 % interval of a mean of items in [0, 1] reaches from the mean, on its longer side.

    Items that aren't 0 or 1, and a mean over groups, count as their effective number p (1 - p) / var(p) (Korn and Graubard,
    Survey Methodology 24, 1998). It is over the test items alone: another training run, or training set, would vary more.
    """
    p = float(mean_of(items, groups))
    variance, share = _spread(items, groups)
    n = 1 / share if variance == 0 else p * (1 - p) / variance
    z2 = Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * (p * (1 - p) / n + z2 / (4 * n**2)) ** 0.5
    return float(half + abs(centre - p))


def _spread(items: NDArray[np.floating[Any]], groups: NDArray[np.int64] | None) -> tuple[float, float]:
    """The variance of a mean of items, and by what that of one item is multiplied in it: 1 / n, or Σ (1 / n_g) / G².

    With groups the variance of an item is that within them, pooled with N - G degrees of freedom: that of a small group
    alone would often be 0. Where every group has one item it is that of all.
    """
    if groups is None or len(np.unique(groups)) == len(items):
        return float(items.var() / len(items)), 1 / len(items)
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(numbers, items) / sizes
    within = float(((items - means[numbers]) ** 2).sum())
    share = float((1 / sizes).sum() / len(sizes) ** 2)
    return within / (len(items) - len(sizes)) * share, share


def _of_draws(values: NDArray[np.float64]) -> float:
    """Half the 95 % interval of a mean of a few draws, by Student's t (97.5 % points for 1 to 9 degrees of freedom)."""
    points = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
    t = points[min(len(values) - 1, len(points)) - 1]
    return float(t * values.std(ddof=1) / len(values) ** 0.5)


@dataclass(frozen=True)
class Comparison:
    """`difference` = a - b over the same items, with half its 95 % interval."""

    difference: float
    interval: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.difference) > self.interval

    def __str__(self) -> str:
        text = f"{100 * self.difference:+.1f} ± {100 * self.interval:.1f}"
        return text if self.differs else f"no difference ({text})"


def compare(a: Score, b: Score) -> Comparison:
    """The paired comparison of two scores of one protocol on one test set; raises InputError when they aren't that."""
    if (a.train, a.test, a.protocol, len(a.items)) != (b.train, b.test, b.protocol, len(b.items)):
        raise InputError(
            f"only scores of one protocol on one test set can be compared: {a.protocol} on {a.test}, {b.protocol} on {b.test}"
        )
    interval = _of_differences(a.items - b.items, a.groups)
    if len(a.draws) > 1:  # both were trained on the same draws
        interval = float(np.hypot(interval, _of_draws(np.subtract(a.draws, b.draws))))
    return Comparison(a.value - b.value, interval)


def _of_differences(differences: NDArray[np.float32], groups: NDArray[np.int64] | None) -> float:
    """Half the 95 % interval of a mean of paired differences: 1.96 standard errors, and no less than exact tests give.

    Of images on which two classifiers differ (m, of k the one is right) k is binomial; where m is small, the interval is
    Clopper and Pearson's for k / m, and leaves out zero where the sign test (McNemar's exact one) does. Where none differs
    it is what their share may be all the same: 1 - 0.025^(1 / n).
    """
    variance, share = _spread(differences, groups)
    if groups is None and len(differences) > 1:
        variance *= len(differences) / (len(differences) - 1)
    normal = float(Z95 * variance**0.5)
    m = int(np.count_nonzero(differences))
    if m >= FEW or not np.isin(differences, (-1, 0, 1)).all():
        return normal
    if m == 0:
        return float(1 - 0.025**share)
    k = max(int((differences > 0).sum()), int((differences < 0).sum()))
    return max(normal, 2 * mean_of(np.abs(differences), groups) * (k / m - _least(k, m)))


def _least(k: int, m: int) -> float:
    """Clopper and Pearson's lower 97.5 % limit of a probability of which k of m were seen, k > 0."""
    low, high = 0.0, k / m
    for _ in range(50):
        p = (low + high) / 2
        tail = sum(comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(k, m + 1))
        low, high = (p, high) if tail < 0.025 else (low, p)
    return low


def mean_of(items: NDArray[np.floating[Any]], groups: NDArray[np.int64] | None) -> float:
    """The mean of items, or with `groups` the mean of the groups' means."""
    if groups is None:
        return float(items.mean())
    return float(np.mean([items[groups == g].mean() for g in np.unique(groups)]))


def labels_of(train: Embeddings, test: Embeddings, what: str) -> tuple[list[str], list[str]]:
    """The labels of both sets as text; raises InputError for a row without one, of another kind, or with a bad vector, and
    for training images of one class."""
    train.require_space(test.space, test.model)
    found = []
    for each in (train, test):
        labels = each.labels or [None] * len(each)
        bare = [id_ for id_, label in zip(each.ids, labels, strict=True) if label is None]
        if each.labels is None or bare:
            first = f", and {bare[0]} has none" if bare else ""
            raise InputError(
                f"{what} needs labels{first}: a folder with one sub-folder a class, or a 'label' column in Parquet"
            )
        for id_, label in zip(each.ids, each.labels, strict=True):
            if not isinstance(label, str | Integral) or label == "":
                raise InputError(f"the label of {id_} is {label!r}; give every image a class's name or a whole number")
        require_finite(each)
        found.append([str(label) for label in each.labels])
    require_classes("the training set", set(found[0]))
    return found[0], found[1]


def require_classes(name: str, classes: Collection[str]) -> None:
    """Raises InputError where there is one class alone: every classifier is right then."""
    if len(classes) == 1:
        raise InputError(
            f"{name} has the one class {next(iter(classes))!r}; give at least two, such as a folder with a sub-folder for each"
        )


def require_finite(embeddings: Embeddings) -> None:
    """Raises InputError naming the first row whose vector has a NaN or an infinite number."""
    bad = np.flatnonzero(~np.isfinite(embeddings.vectors).all(1))
    if len(bad):
        raise InputError(
            f"the vector of {embeddings.ids[bad[0]]} has numbers that are not finite ({len(bad)} such vectors); embed again "
            "with --precision fp32, or leave them out"
        )


def codes(
    train: Embeddings, test: Embeddings, what: str
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    """Class names (sorted), and the class of each row of both sets; raises InputError as `labels_of`, and for sets that
    have no class in common."""
    known, asked = labels_of(train, test, what)
    if known and asked and not set(known) & set(asked):
        raise InputError(
            f"no class is in both sets ({sorted(set(known))[0]!r} … in the training set, {sorted(set(asked))[0]!r} … in the "
            "test set); write the labels of both in the same way"
        )
    classes, found = np.unique(np.asarray([*known, *asked], dtype=str), return_inverse=True)
    return classes, found[: len(known)], found[len(known) :]
