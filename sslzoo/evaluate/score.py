"""A score: its value, the result of every test item, its protocol and its data; 95 % intervals and paired comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError

Z95 = 1.959964  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class SetId:
    """Which images with which labels: a hash of (id, label) in order, and how many.

    Pixels have no part in the hash: ids are paths, or FILE/ROW in tables.
    """

    hash: str
    size: int

    def __str__(self) -> str:
        return f"{self.hash}/{self.size}"


def set_id(embeddings: Embeddings) -> SetId:
    """The identity of a labelled set; equal for all encoders that have embedded it."""
    return set_id_of(embeddings.ids, embeddings.labels or [None] * len(embeddings))


def set_id_of(ids: Sequence[str], labels: Sequence[object]) -> SetId:
    """The same from ids and labels."""
    lines = "".join(f"{label}\t{id_}\n" for label, id_ in zip(labels, ids, strict=True))
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

    def interval(self) -> float:
        """Half the width of the 95 % interval, in the unit of `value`: see `half_width`; with draws, over these too."""
        items = half_width(self.items, self.groups)
        return float(np.hypot(items, _of_draws(np.array(self.draws)))) if len(self.draws) > 1 else items

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        sets = {name: str(each) for name, each in (("train", self.train), ("test", self.test)) if each}
        chosen = {} if self.penalty is None else {"penalty": self.penalty}
        judged = {"features": self.features} if self.features else {}
        return {
            "value": self.value,
            "interval95": self.interval(),
            "protocol": self.protocol,
            **sets,
            **judged,
            **chosen,
        }


def of_items(
    items: NDArray[np.float32],
    protocol: str,
    train: SetId | None = None,
    test: SetId | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Score:
    """A score from its items: their mean, or with `groups` the mean of the groups' means."""
    return Score(_mean(items, groups), items, protocol, train, test, groups)


def half_width(items: NDArray[np.floating[Any]], groups: NDArray[np.int64] | None = None) -> float:
    """Half the 95 % interval of a mean of items, by the normal approximation: 1.96 · std / sqrt(n).

    For a mean over groups that of a stratified sample: 1.96 · sqrt(Σ var_g / n_g) / G. It is over the test items alone:
    another training run, or another training set, would vary more.
    """
    if groups is None:
        return float(Z95 * items.std() / max(1, len(items)) ** 0.5)
    parts = [items[groups == g] for g in np.unique(groups)]
    return float(Z95 * sum(part.var() / len(part) for part in parts) ** 0.5 / len(parts))


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
    interval = half_width(a.items - b.items, a.groups)
    if len(a.draws) > 1:  # both were trained on the same draws
        interval = float(np.hypot(interval, _of_draws(np.subtract(a.draws, b.draws))))
    return Comparison(a.value - b.value, interval)


def _mean(items: NDArray[np.float32], groups: NDArray[np.int64] | None) -> float:
    if groups is None:
        return float(items.mean())
    return float(np.mean([items[groups == g].mean() for g in np.unique(groups)]))


def codes(
    train: Embeddings, test: Embeddings, what: str
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    """Class names (sorted), and the class of each row of both sets; raises InputError for rows without a label."""
    for each in (train, test):
        if each.labels is None or any(label is None for label in each.labels):
            raise InputError(
                f"{what} needs labels: a folder with one sub-folder a class, or a 'label' column in Parquet"
            )
    train.require_space(test.space, test.model)
    assert train.labels is not None and test.labels is not None
    classes, found = np.unique(np.asarray([*train.labels, *test.labels], dtype=str), return_inverse=True)
    return classes, found[: len(train)], found[len(train) :]
