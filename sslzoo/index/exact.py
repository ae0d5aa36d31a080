"""Exact nearest neighbours by cosine, in numpy: the definition that every faster index is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings, normalize
from sslzoo.errors import InputError

CHUNK_BYTES = 256 << 20  # of similarities at a time


@dataclass(frozen=True)
class Neighbours:
    """For each query its nearest ids, nearest first, with cosine scores and rows of the collection, `[queries][k]`."""

    ids: list[list[str]]
    scores: list[NDArray[np.float32]]
    rows: list[NDArray[np.int64]]


class ExactIndex:
    """Compares every query with every vector."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings

    def search(
        self, queries: Embeddings | NDArray[np.float32], k: int = 10, *, exclude: Sequence[int | None] | None = None
    ) -> Neighbours:
        """The k nearest of each query by cosine, equal scores in the order of the collection.

        `queries` are Embeddings, whose space is checked, or vectors `[q, dim]` on your own word. `exclude` names for each
        query one row of the collection to leave out (itself), or None. k is cut to the size of the collection. Raises
        SpaceMismatch or InputError.
        """
        if isinstance(queries, Embeddings):
            self.embeddings.require_space(queries.space, queries.model)
            queries = queries.vectors
        bank = self.embeddings.normalized
        if queries.ndim != 2 or queries.shape[1] != bank.shape[1]:
            raise InputError(f"queries have shape {queries.shape}; the collection needs [n, {bank.shape[1]}]")
        if k < 1:
            raise InputError(f"k is {k}; ask for at least one neighbour")
        probes = normalize(queries)
        step = max(1, CHUNK_BYTES // (4 * len(bank)))
        rows: list[NDArray[np.int64]] = []
        scores: list[NDArray[np.float32]] = []
        for start in range(0, len(probes), step):
            similarity = probes[start : start + step] @ bank.T  # [q, n]
            for i, line in enumerate(similarity):
                left_out = exclude[start + i] if exclude is not None else None
                nearest = _largest(line, k + (left_out is not None))
                nearest = nearest[nearest != left_out][:k] if left_out is not None else nearest
                rows.append(nearest)
                scores.append(line[nearest])
        return Neighbours([[self.embeddings.ids[row] for row in line] for line in rows], scores, rows)


def _largest(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the k largest scores, largest first, the earlier of two equal ones first."""
    k = min(k, len(scores))
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= threshold)  # with all that tie for the last place
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
