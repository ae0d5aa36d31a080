"""Clusters of a collection by spherical k-means (FAISS), and how pure they are where labels are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sslzoo.errors import InputError
from sslzoo.index import ExactIndex, faiss_door

PER_CENTRE = 256  # images of the sample on which k-means runs: FAISS's own default
SAMPLE_BYTES = 512 << 20  # of their vectors at most


@dataclass(frozen=True)
class Cluster:
    """Ids with the nearest to the centre first, their cosines to it, and of those with a label (so many) the commonest one
    and its share.
    """

    ids: list[str]
    scores: list[float]
    labelled: int
    label: str | None
    share: float | None


def clusters(index: ExactIndex, k: int, *, seed: int = 0) -> list[Cluster]:
    """k clusters at most (empty ones are left out), the largest first. Raises InputError for a k that can't be."""
    collection = index.collection
    alive = np.flatnonzero(collection.alive)
    if not 1 <= k <= len(alive):
        raise InputError(f"k is {k}; the collection has {len(alive)} images, so use -k between 1 and {len(alive)}")
    most = min(len(alive), PER_CENTRE * k, max(k, SAMPLE_BYTES // (4 * collection.dim)))
    sample = np.sort(np.random.default_rng(seed).choice(alive, most, replace=False))
    centres = faiss_door.kmeans(collection.vectors_at(sample), k, seed=seed)
    nearest = np.zeros(len(collection), np.int64)
    cosine = np.zeros(len(collection), np.float32)
    for start, bank in collection.chunks():
        rows, products = faiss_door.nearest(centres, bank, 1)
        nearest[start : start + len(bank)], cosine[start : start + len(bank)] = rows[:, 0], products[:, 0]
    labelled = "label" in collection.column_names
    out = []
    for number in range(k):
        rows = alive[nearest[alive] == number]
        if not len(rows):
            continue
        rows = rows[np.argsort(-cosine[rows], kind="stable")]
        known = [label for label in collection.take("label", rows) if label is not None] if labelled else []
        label, count = Counter(known).most_common(1)[0] if known else (None, 0)
        share = count / len(known) if known else None
        out.append(Cluster(collection.ids_at(rows), cosine[rows].tolist(), len(known), label, share))
    return sorted(out, key=lambda cluster: -len(cluster.ids))


def purity(found: list[Cluster]) -> float | None:
    """The share of labelled images that have the commonest label of their cluster, None without labels."""
    known = [(cluster.share, cluster.labelled) for cluster in found if cluster.share is not None]
    return sum(share * n for share, n in known) / sum(n for _, n in known) if known else None
