"""Rows of an earlier run, taken over: of files that have not changed since, and of a part that was interrupted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import part_files, storable, tables_by_part
from sslzoo.errors import InputError
from sslzoo.images.sources.item import Item
from sslzoo.pipeline.writer import Facts


@dataclass(frozen=True)
class Known:
    """A row from an earlier run."""

    facts: Facts
    vector: NDArray[np.float32]


class Reuse:
    """The rows of a finished folder, found again by their ids in whatever order these come.

    In memory are a hash of each id, and the rows of one part: those that come in their order are read part by part.
    """

    def __init__(self, folder: Path) -> None:
        self._files = part_files(folder)
        ids = [np.fromiter(map(hash, t["path"].to_pylist()), np.int64) for t in tables_by_part(self._files, ["path"])]
        self._ends = np.cumsum([len(part) for part in ids])
        hashes = np.concatenate(ids)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self._part, self._rows = -1, list[tuple[str, Known]]()

    def find(self, item: Item) -> Known | None:
        """The item's row, if its file has the same size and time as then."""
        if item.stamp is None:
            raise InputError(
                "only files (in a folder, pattern or list) have a size and a time to be updated by; "
                "embed again: sslzoo embed … --overwrite"
            )
        id_ = storable(item.id)
        at = np.searchsorted(self._hashes, hash(id_))
        if at == len(self._hashes) or self._hashes[at] != hash(id_):
            return None
        part = int(np.searchsorted(self._ends, self._order[at], "right"))
        if part != self._part:
            self._part, self._rows = part, list(_read(self._files[part : part + 1]))
        known_id, known = self._rows[self._order[at] - self._ends[part]]  # from the part's end
        if known_id != id_ or known.facts.stamp != item.stamp:
            return None
        # a copy, which doesn't keep the part in memory
        return Known(replace(known.facts, label=item.label), known.vector.copy())


class Begun:
    """The rows of a part that was interrupted, found again in their order; once a file of them has changed, no more."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._rows = deque(_read(files))

    def find(self, item: Item) -> Known | None:
        """The item's row, with what the source tells of it now."""
        if not self._rows or (storable(item.id), item.stamp) != (self._rows[0][0], self._rows[0][1].facts.stamp):
            return None
        _, known = self._rows.popleft()
        return replace(known, facts=replace(known.facts, label=item.label, columns=item.columns))


def _read(files: Sequence[Path]) -> Iterator[tuple[str, Known]]:
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as file:
            table = file.read()
        dim = table.schema.field("embedding").type.list_size
        flat = table["embedding"].combine_chunks().flatten().to_numpy()
        vectors = flat.reshape(-1, dim) if len(table) else []
        rows = table.drop_columns(["embedding"]).to_pylist()
        for row, vector in zip(rows, vectors, strict=True):
            stamp = (row["bytes"], row["mtime_ns"]) if row["bytes"] is not None else None
            facts = Facts(row["width"], row["height"], tuple(row["flags"]), row["label"], stamp=stamp)
            yield row["path"], Known(facts, vector)


def changes(before: Path, after: Path) -> dict[str, int]:
    """How many rows of an updated folder were kept, made anew (changed) or added, and how many of the old one dropped.

    Rows are found again by the rule of `Reuse`.
    """
    (old, old_stamped), (new, new_stamped) = _hashes(before), _hashes(after)
    found, kept = _common(old, new), _common(old_stamped, new_stamped)
    return {"kept": kept, "changed": found - kept, "added": len(new) - found, "dropped": len(old) - found}


def _hashes(folder: Path) -> NDArray[np.int64]:
    """int64 `[2, rows]`: hashes of each row's id, and of its id, size and time."""
    hashes = (hash(key) for id_, stamp in _stamps(folder) for key in (id_, (id_, stamp)))
    return np.fromiter(hashes, np.int64).reshape(-1, 2).T


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many values two lists share; a value that a list has twice counts twice."""
    (values, n), (others, m) = (np.unique(x, return_counts=True) for x in (a, b))
    _, i, j = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    return int(np.minimum(n[i], m[j]).sum())


def _stamps(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The id, size and time of every row."""
    for table in tables_by_part(part_files(folder), ["path", "bytes", "mtime_ns"]):
        ids, sizes, times = (column.to_pylist() for column in table.columns)
        yield from zip(ids, zip(sizes, times, strict=True), strict=True)
