"""Weighted kNN classification: votes exp(cosine / T) of the k nearest training vectors (Wu et al., arXiv:1805.01978, eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError

PROTOCOLS = ((20, 0.07), (200, 0.1))  # DINO's usual setting, and that of InstDisc, MoCo and lightly


@dataclass(frozen=True)
class Score:
    """One number, the result of every test item behind it (1.0 or 0.0), and the protocol that makes it comparable."""

    value: float
    items: NDArray[np.float32]
    protocol: str

    def interval(self) -> float:
        """Half the width of the 95 % interval, in the unit of `value` (normal approximation over the items)."""
        return float(1.96 * self.items.std() / max(1, len(self.items)) ** 0.5)


def knn(
    train: Embeddings,
    test: Embeddings | None = None,
    protocols: Sequence[tuple[int, float]] = PROTOCOLS,
    *,
    chunk: int = 1024,
) -> list[Score]:
    """Top-1 accuracy in [0, 1] for each (k, T), all from one pass; without `test`, leave-one-out within `train`.

    Vectors are normalised here. Ties between classes go to the one whose name sorts first. k is cut to the number of
    training vectors, and the protocol says which was used. Raises InputError when labels are missing, and SpaceMismatch when the
    two sets were made by different encoders.
    """
    if train.labels is None or (test is not None and test.labels is None):
        raise InputError("kNN needs labels: a folder with one sub-folder a class, or a 'label' column in Parquet")
    queries = train if test is None else test
    train.require_space(queries.space, queries.model)
    assert queries.labels is not None
    classes, codes = np.unique(np.asarray([*train.labels, *queries.labels], dtype=str), return_inverse=True)
    bank_codes, answers = codes[: len(train)], codes[len(train) :]
    bank, probes = train.normalized, queries.normalized
    available = len(bank) - (test is None)
    if available < 1:
        raise InputError("kNN needs at least two labelled images")
    ks = [min(k, available) for k, _ in protocols]
    widest = max(ks)
    hits = np.empty((len(protocols), len(probes)), np.float32)
    for start in range(0, len(probes), chunk):
        rows = slice(start, min(start + chunk, len(probes)))
        similarity = probes[rows] @ bank.T  # [q, n]
        if test is None:
            similarity[np.arange(rows.stop - start), np.arange(start, rows.stop)] = -np.inf
        nearest = np.argpartition(-similarity, widest - 1, axis=1)[:, :widest]
        cosine = np.take_along_axis(similarity, nearest, 1)
        order = np.argsort(-cosine, axis=1, kind="stable")
        nearest, cosine = np.take_along_axis(nearest, order, 1), np.take_along_axis(cosine, order, 1)
        for i, (k, (_, temperature)) in enumerate(zip(ks, protocols, strict=True)):
            votes = np.zeros((len(nearest), len(classes)), np.float64)
            weights = np.exp((cosine[:, :k] - cosine[:, :1]) / temperature)  # relative to the nearest: no overflow
            np.add.at(votes, (np.arange(len(nearest))[:, None], bank_codes[nearest[:, :k]]), weights)
            hits[i, rows] = votes.argmax(1) == answers[rows]
    split = "leave-one-out" if test is None else f"n={len(bank)}"
    return [
        Score(float(hit.mean()), hit, f"knn_top1@k={k},T={temperature} (cosine, {split}, {len(probes)} queries)")
        for hit, k, (_, temperature) in zip(hits, ks, protocols, strict=True)
    ]
