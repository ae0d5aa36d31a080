"""Clusters of a collection by spherical k-means (FAISS), and how pure they are where labels are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sslzoo.errors import InputError
from sslzoo.index import ExactIndex, faiss_door


@dataclass(frozen=True)
class Cluster:
    """Ids with the nearest to the centre first, their cosines to it, and the commonest label with its share, if known."""

    ids: list[str]
    scores: list[float]
    label: str | None
    share: float | None


def clusters(index: ExactIndex, k: int, *, seed: int = 0) -> list[Cluster]:
    """k clusters at most (empty ones are left out), the largest first. Raises InputError for a k that can't be."""
    collection = index.collection
    alive = np.flatnonzero(collection.alive)
    if not 1 <= k <= len(alive):
        raise InputError(f"k is {k}; the collection has {len(alive)} images, so use -k between 1 and {len(alive)}")
    sample = np.sort(np.random.default_rng(seed).choice(alive, min(len(alive), 256 * k), replace=False))
    centres = faiss_door.kmeans(collection.vectors_at(sample), k, seed=seed)
    nearest = np.zeros(len(collection), np.int64)
    cosine = np.zeros(len(collection), np.float32)
    for start, bank in collection.chunks():
        similarity = bank @ centres.T  # [m, k]
        nearest[start : start + len(bank)] = similarity.argmax(1)
        cosine[start : start + len(bank)] = similarity.max(1)
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
        out.append(Cluster(collection.ids_at(rows), cosine[rows].tolist(), label, share))
    return sorted(out, key=lambda cluster: -len(cluster.ids))


def purity(found: list[Cluster]) -> float | None:
    """The share of images in the commonest label of their cluster (arithmetic mean over images), None without labels."""
    known = [(cluster.share, len(cluster.ids)) for cluster in found if cluster.share is not None]
    return sum(share * n for share, n in known) / sum(n for _, n in known) if known else None
