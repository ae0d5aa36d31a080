"""Approximate kinds of index: FAISS proposes a shortlist, and exact search's own scores decide on it.

A kind is a FAISS structure and its efforts: how many cells or links to visit, and how many times k to shortlist. The
effort in use is the smallest that reached the wanted recall on a sample of the collection itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.index import faiss_door
from sslzoo.index.collection import Collection
from sslzoo.index.exact import SLACK, ExactIndex, Found, exact, order, rescore

SMALL = 2000  # vectors up to which a structure is not worth training: the shortlist is everything
PER_CENTROID = 39  # training vectors a centroid, below which FAISS's k-means warns
TRAIN_BYTES = 512 << 20  # of training vectors at most
SHORTLIST = 32  # candidates at least, of a structure whose own scores are not true
PROBES = 200  # sampled vectors on which recall is measured
RECALL_K = 10
MOST_CELLS = 4096  # beyond, on two cores, building takes hours for what a larger share of visited cells gives as well
STALE = 0.2  # share of removed vectors from which a structure is built anew without them


@dataclass(frozen=True)
class Kind:
    """A FAISS structure: its factory string, its knob with growing efforts (value, shortlist as a multiple of k), its size."""

    about: str
    factory: Callable[[int, int], str]  # (vectors, dim) -> FAISS's own notation
    knob: str
    efforts: tuple[tuple[int, int], ...]
    bytes_per_vector: Callable[[int], float]  # dim -> resident bytes beside the stored vectors
    whole: bool = False  # it holds the vectors themselves, so that FAISS's scores are true but for rounding


def _cells(n: int) -> int:
    """Cells of an inverted file: FAISS's own guide, 4 √n, as long as each can be trained and building stays quick."""
    return max(1, min(round(4 * math.sqrt(n)), n // PER_CENTROID, MOST_CELLS))


def _codes(dim: int) -> int:
    """Sub-vectors of a product quantiser: about a quarter of dim, a divisor of it."""
    return next(m for m in range(max(1, dim // 4), 0, -1) if dim % m == 0)


_VISITS = ((8, 8), (16, 8), (32, 16), (64, 16), (128, 32), (256, 64))

KINDS: dict[str, Kind] = {
    "pq": Kind(
        "4-bit product quantisation, every code scanned",
        lambda n, dim: f"PQ{_codes(dim)}x4fs",
        "",
        ((0, 4), (0, 8), (0, 16), (0, 32), (0, 64)),
        lambda dim: _codes(dim) / 2,
    ),
    "ivfpq": Kind(
        "cells of 4-bit product-quantised vectors",
        lambda n, dim: f"IVF{_cells(n)},PQ{_codes(dim)}x4fs",
        "nprobe",
        _VISITS,
        lambda dim: _codes(dim) / 2 + 8,
    ),
    "rabitq": Kind(
        "one bit a dimension, every code scanned",
        lambda n, dim: "RaBitQfs",
        "",
        ((0, 8), (0, 16), (0, 32), (0, 64), (0, 128)),
        lambda dim: dim / 8 + 8,
    ),
    "ivf": Kind(
        "cells of whole vectors",
        lambda n, dim: f"IVF{_cells(n)},Flat",
        "nprobe",
        tuple((visits, 1) for visits, _ in _VISITS),
        lambda dim: 4 * dim + 8,
        whole=True,
    ),
    "hnsw": Kind(
        "a graph of near vectors",
        lambda n, dim: "HNSW32",
        "efSearch",
        ((32, 1), (64, 1), (128, 1), (256, 1), (512, 1)),
        lambda dim: 4 * dim + 4 * 2 * 32 * 1.1,
        whole=True,
    ),
}


class ApproximateIndex(ExactIndex):
    """An index of one of the approximate KINDS; what it can't answer in full, exact search does."""

    def __init__(self, embeddings: Embeddings | Collection, kind: str) -> None:
        super().__init__(embeddings)
        self.kind = kind
        self.facts = KINDS[kind]
        self.structure: Any = None  # FAISS's, or None while the collection is small
        self.members: NDArray[np.int64] = np.empty(0, np.int64)  # the row behind each of its positions
        self.effort = 0
        self.recall: float | None = None

    def build(self, *, seed: int = 0) -> None:
        """Trains the structure on a sample and adds every vector that is not removed, chunk by chunk."""
        alive = self.collection.alive
        self.structure, self.members, self.recall = None, np.empty(0, np.int64), None
        if alive.sum() <= SMALL:
            return
        faiss = faiss_door.load()
        notation = self.facts.factory(int(alive.sum()), self.collection.dim)
        try:
            structure = faiss.index_factory(self.collection.dim, notation, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError:
            raise InputError(
                f"the installed FAISS {faiss.__version__} can't build {self.kind} ({notation}); upgrade it, or use "
                f"another --kind: {', '.join(KINDS)}"
            ) from None
        structure.train(self._sample(alive, seed))
        self.structure = structure
        self.add(0)

    def add(self, start: int) -> None:
        """Adds the rows from `start` on that are not removed; a structure read for searching can't take any."""
        alive = self.collection.alive
        if self.structure is None:
            self.build()
            return
        for first, bank in self.collection.chunks():
            rows = first + np.flatnonzero(alive[first : first + len(bank)])
            rows = rows[rows >= start]
            if len(rows):
                self.structure.add(_numbers(np.ascontiguousarray(bank[rows - first]), rows))
                self.members = np.concatenate([self.members, rows])

    def _sample(self, alive: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
        """Training vectors, a random sample of those alive, as many as the structure can use."""
        rows = np.flatnonzero(alive)
        most = max(256 * PER_CENTROID, 64 * _cells(len(rows)))
        most = min(most, TRAIN_BYTES // (4 * self.collection.dim), len(rows))
        chosen = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
        return _numbers(self.collection.vectors_at(chosen), chosen)

    def shortlist(self, probes: NDArray[np.float32], m: int) -> Found:
        """Rows that FAISS proposes for each probe and its own scores, `[q, m]`, -1 where it has fewer."""
        value, _ = self.facts.efforts[self.effort]
        if self.facts.knob == "efSearch":
            self.structure.hnsw.efSearch = value  # FAISS takes m where that is more
        elif self.facts.knob:
            self.structure.nprobe = value
        near, places = self.structure.search(np.ascontiguousarray(probes), min(m, len(self.members)))
        rows = self.members[places]
        rows[places < 0] = -1
        return rows, near

    def _nearest(
        self, probes: NDArray[np.float32], k: int, left_out: NDArray[np.int64] | None, within: NDArray[np.bool_] | None
    ) -> Found:
        allowed = len(self.collection) if within is None else int(within.sum())
        share = allowed / max(1, len(self.members))
        # more is fetched where some of it will be dropped; where most of it would be, the few that remain are compared
        wanted = k + SLACK if self.facts.whole else max(SHORTLIST, self.facts.efforts[self.effort][1] * (k + 1))
        m = math.ceil(wanted / max(share, 1e-9))
        if self.structure is None or share < 0.1 or 2 * m > len(self.members) or self.collection.normalized is None:
            return exact(self.collection, probes, k, left_out, within)
        rows, near = self.shortlist(probes, m)
        one_left_out = left_out is not None and bool((left_out >= 0).any())
        if left_out is not None:
            rows[rows == left_out[:, None]] = -1
        if within is not None:
            rows[~within[rows]] = -1
        if rows.shape[1] > k + SLACK:
            # only the few that count are copied: by FAISS's true scores, or by products that it takes where the vectors lie
            if not self.facts.whole:
                near = faiss_door.products(self.collection.normalized, probes, rows)
            near[rows < 0] = -np.inf
            best = np.argpartition(-near, k + SLACK - 1, axis=1)[:, : k + SLACK]
            rows = rows[np.arange(len(rows))[:, None], best]
        rows, scores = order(rows, rescore(self.collection.vectors_at, rows, probes), k)
        available = min(k, allowed - one_left_out)
        short = rows[:, available - 1] < 0  # those that are none come last
        if short.any():
            skip = None if left_out is None else left_out[short]
            found, score = exact(self.collection, probes[short], k, skip, within)
            width = found.shape[1]
            rows[short], scores[short] = -1, -np.inf
            rows[short, :width], scores[short, :width] = found, score
        return rows, scores

    def tune(self, wanted: float, *, seed: int = 0) -> float:
        """Takes the smallest effort whose recall@10, measured on a sample of the collection, is at least `wanted`.

        Returns that recall, the share of the true ten nearest found, or the best there was.
        """
        self.effort, self.recall = 0, 1.0
        alive = self.collection.alive
        if self.structure is None:
            return self.recall
        rows = np.sort(np.random.default_rng(seed).choice(np.flatnonzero(alive), PROBES, replace=False))
        probes = self.collection.vectors_at(rows)
        within = alive if len(self.collection.removed) else None
        _, truth = exact(self.collection, probes, RECALL_K, rows, within)
        for effort in range(len(self.facts.efforts)):
            self.effort = effort
            _, scores = self._nearest(probes, RECALL_K, rows, within)
            # by score, so that one of two equally near vectors is as good as the other
            self.recall = float((scores >= truth[:, -1:]).mean())
            if self.recall >= wanted:
                break
        return self.recall

    def save(self, path: Path) -> None:
        """Writes the structure; raises OSError when it can't."""
        if self.structure is None:
            return
        try:
            faiss_door.load().write_index(self.structure, str(path))
        except RuntimeError as error:
            raise OSError(str(error).splitlines()[0][:120]) from None

    def load(self, path: Path, *, mapped: bool = True) -> None:
        """Reads the structure, memory-mapped for searching or into memory for adding."""
        faiss = faiss_door.load()
        flags = getattr(faiss, "IO_FLAG_MMAP_IFC", 0) if mapped else 0
        try:
            self.structure = faiss.read_index(str(path), flags)
        except RuntimeError as error:
            raise InputError(
                f"{path} can't be read ({str(error).splitlines()[0][:120]}); build the index again: sslzoo index"
            ) from None


def _numbers(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors of these rows; raises InputError for NaN and infinity, which no structure takes."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InputError(
            f"the vector of row {rows[np.argmin(finite)]} holds NaN or infinity; embed again with --precision fp32, or use "
            "--kind exact, which never finds it"
        )
    return vectors


class FlatIndex(ExactIndex):
    """FAISS's brute force for one query as for many; exact, and FAISS is required."""

    kind = "flat"

    def __init__(self, embeddings: Embeddings | Collection) -> None:
        super().__init__(embeddings)
        faiss_door.load()

    def _nearest(
        self, probes: NDArray[np.float32], k: int, left_out: NDArray[np.int64] | None, within: NDArray[np.bool_] | None
    ) -> Found:
        return exact(self.collection, probes, k, left_out, within, faiss_door.nearest)
