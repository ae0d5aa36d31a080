"""Near-duplicates: groups of images whose cosine reaches a threshold, with the one to keep. Nothing is ever deleted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError
from sslzoo.index import ExactIndex
from sslzoo.index.collection import Collection
from sslzoo.index.exact import pairs_above
from sslzoo.thumbnails import image_file

NEIGHBOURS = 64  # of each image; where all of them are duplicates there may be more, which only all pairs tell
BATCH = 1024  # queries at a time
ROUNDING = 1e-6  # by which a copy can miss a cosine of 1 in float32


@dataclass(frozen=True)
class Group:
    """Images that are near-duplicates: ids with the one to keep first, each one's width and height in px (0 where unknown),
    and its cosine to the kept one.
    """

    ids: list[str]
    sizes: list[tuple[int, int]]
    scores: list[float]

    def copies(self, threshold: float) -> int:
        """How many reach the threshold beside the kept one itself; the others are here by their likeness to one of these."""
        return sum(self.is_copy(i, threshold) for i in range(1, len(self.ids)))

    def is_copy(self, i: int, threshold: float) -> bool:
        """Whether image `i` itself reaches the threshold with the kept one."""
        return self.scores[i] >= threshold - ROUNDING


def duplicates(index: ExactIndex, threshold: float = 0.97) -> list[Group]:
    """Groups of two or more images, connected by cosines of at least `threshold`, the largest group first.

    Likeness is handed on, so that a group may hold images that are less alike than that (see `Group.copies`). Every pair that
    reaches the threshold connects; an approximate index may miss some. The one with the most pixels is kept, the earlier of
    two equal ones. A file that is there under several names (a link, a path listed twice) counts once: it is no copy.
    Raises InputError for a threshold outside (-1, 1].
    """
    if not -1 < threshold <= 1:
        raise InputError(f"threshold is {threshold}; a cosine lies between -1 and 1, near-duplicates are above 0.9")
    threshold -= ROUNDING
    collection = index.collection
    parent = np.arange(len(collection))
    alive = np.flatnonzero(collection.alive)
    full: list[int] = []
    for start in range(0, len(alive), BATCH):
        rows = alive[start : start + BATCH]
        found = index.search(collection.vectors_at(rows), NEIGHBOURS, threshold=threshold)
        for row, near in zip(rows.tolist(), found.rows, strict=True):
            _connect(parent, row, near)
            if len(near) == NEIGHBOURS:
                full.append(row)
    _complete(collection, parent, np.array(full, np.int64), threshold)
    groups: dict[int, list[int]] = {}
    for row in alive.tolist():
        groups.setdefault(_root(parent, row), []).append(row)
    several = [files for rows in groups.values() if len(rows) > 1 and len(files := _files(collection, rows)) > 1]
    return [_group(index, rows) for rows in sorted(several, key=lambda rows: (-len(rows), rows[0]))]


def _complete(collection: Collection, parent: NDArray[np.int64], rows: NDArray[np.int64], threshold: float) -> None:
    """Connects these rows with all that reach the threshold, group by group: only pairs that lead out of it are scored."""
    alive = collection.alive
    while len(rows):
        while (parent[parent] != parent).any():
            parent[:] = parent[parent]
        inside = parent[rows] == parent[rows[0]]
        group, rows = rows[inside], rows[~inside]
        outside = alive & (parent != parent[group[0]])
        for start in range(0, len(group), BATCH):
            probes = collection.vectors_at(group[start : start + BATCH])
            for _, near, cosine in pairs_above(collection, probes, threshold, outside):
                _connect(parent, int(group[0]), np.unique(parent[near[cosine >= threshold]]))


def _connect(parent: NDArray[np.int64], row: int, others: NDArray[np.int64]) -> None:
    for other in others.tolist():
        a, b = _root(parent, row), _root(parent, other)
        parent[max(a, b)] = min(a, b)


def _root(parent: NDArray[np.int64], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row


def _files(collection: Collection, rows: list[int]) -> list[int]:
    """One row for each file, under its own name rather than a link's; an image that is no file here counts for itself."""
    found: dict[str, int] = {}
    for row, id_ in zip(rows, collection.ids_at(rows), strict=True):
        path = image_file(id_, collection.manifest, listed=True, anywhere=True)
        file = path.as_posix() if path else f"row {row}"
        if file not in found or f"/{file}".endswith(f"/{id_}"):
            found[file] = row
    return sorted(found.values())


def _group(index: ExactIndex, rows: list[int]) -> Group:
    collection = index.collection
    sizes = [(0, 0)] * len(rows)
    if {"width", "height"} <= set(collection.column_names):
        columns = [collection.take(name, rows) for name in ("width", "height")]
        sizes = [(width or 0, height or 0) for width, height in zip(*columns, strict=True)]
    best = max(range(len(rows)), key=lambda i: (sizes[i][0] * sizes[i][1], -rows[i]))
    vectors = collection.vectors_at(np.array(rows))
    scores = vectors @ vectors[best]
    order = [best, *(i for i in np.argsort(-scores, kind="stable").tolist() if i != best)]
    ids = collection.ids_at(rows)
    return Group([ids[i] for i in order], [sizes[i] for i in order], [float(scores[i]) for i in order])
