"""Which kind of index: exact while that is quick, else the quickest that keeps its recall on the user's own vectors."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from sslzoo.embeddings import Embeddings
from sslzoo.index import faiss_door
from sslzoo.index.approximate import KINDS, ApproximateIndex
from sslzoo.index.collection import Collection
from sslzoo.index.exact import ExactIndex

EXACT_BYTES = 400 << 20  # of vectors: one query reads them all, about 30 ms on two cores (0.07 ms a MB)
SAMPLE = 50_000  # vectors on which the kinds compete
TRIALS = 100  # single queries timed for each

Say = Callable[[str], None]  # is told of each step


def silent(text: str) -> None:
    """Says nothing."""


def choose(collection: Collection, *, recall: float, memory: int, say: Say = silent) -> ExactIndex:
    """The index to use, built. Without FAISS, and where no kind keeps the promised recall within `memory` bytes, exact.

    The kinds that fit the memory compete on a sample of the collection; in the order of their speed there they are built
    in full, until one keeps the recall in full. `say` is told of each step.
    """
    vectors = 4 * len(collection) * collection.dim
    if vectors <= min(EXACT_BYTES, memory) or not faiss_door.available():
        return ExactIndex(collection)
    fitting = [
        name for name, kind in KINDS.items() if kind.bytes_per_vector(collection.dim) * len(collection) <= memory
    ]
    sample = _sample(collection)
    speed: dict[str, float] = {}
    for name in fitting:
        trial = ApproximateIndex(sample, name)
        trial.build()
        if (reached := trial.tune(recall)) < recall:
            say(f"{name}: recall {reached:.3f} on {len(sample):,} of the vectors, {recall} was wanted")
            continue
        # what scans every code slows down with the collection, the others hardly do
        speed[name] = _seconds(trial) * (1 if KINDS[name].knob else len(collection) / len(sample))
        say(
            f"{name}: recall {reached:.3f} on {len(sample):,} of the vectors, about {1000 * speed[name]:.2f} ms a query"
        )
    for name in sorted(speed, key=speed.__getitem__):
        say(f"building {name} of all {len(collection):,} vectors")
        index = ApproximateIndex(collection, name)
        index.build()
        if (reached := index.tune(recall)) >= recall:
            return index
        say(f"{name}: recall {reached:.3f} on all of them, {recall} was wanted")
    say("no kind keeps that recall within that memory: exact")
    return ExactIndex(collection)


def _sample(collection: Collection, seed: int = 0) -> Collection:
    if collection.alive.sum() <= SAMPLE:
        return collection
    rows = np.sort(np.random.default_rng(seed).choice(np.flatnonzero(collection.alive), SAMPLE, replace=False))
    vectors = collection.vectors_at(rows)
    return Collection(Embeddings(vectors, [str(row) for row in rows], space=collection.space, model=collection.model))


def _seconds(index: ApproximateIndex) -> float:
    """Seconds for a single query: the mean of several, one after the other."""
    probes = index.collection.vectors_at(np.arange(min(TRIALS, len(index))))
    start = time.perf_counter()
    for probe in probes:
        index.search(probe[None])
    return (time.perf_counter() - start) / len(probes)
