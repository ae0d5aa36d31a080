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
    """The rows of a finished folder, found again by a walk in the same order.

    Both sequences are in the order of the walk (entries sorted folder by folder), so that they are merged as they stream,
    one part of the old folder in memory at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._rows = _read(part_files(folder))
        self._next = next(self._rows, None)

    def find(self, item: Item) -> Known | None:
        """The item's row, if its file has the same size and time as then. Items must come in the order of the walk."""
        if item.stamp is None:
            raise InputError(
                "only files (in a folder, pattern or list) have a size and a time to be updated by; "
                "embed again: sslzoo embed … --overwrite"
            )
        id_ = storable(item.id)
        key = id_.split("/")
        while self._next is not None and self._next[0].split("/") < key:
            self._next = next(self._rows, None)
        if self._next is None or self._next[0] != id_ or self._next[1].facts.stamp != item.stamp:
            return None
        known = self._next[1]
        return replace(known, facts=replace(known.facts, label=item.label))


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
    counts = {"kept": 0, "changed": 0, "added": 0, "dropped": 0}
    old = _stamps(before)
    row = next(old, None)
    for id_, stamp in _stamps(after):
        key = id_.split("/")
        while row is not None and row[0].split("/") < key:
            counts["dropped"] += 1
            row = next(old, None)
        if row is not None and row[0] == id_:
            counts["kept" if row[1] == stamp else "changed"] += 1
            row = next(old, None)
        else:
            counts["added"] += 1
    counts["dropped"] += (row is not None) + sum(1 for _ in old)
    return counts


def _stamps(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The id, size and time of every row."""
    for table in tables_by_part(part_files(folder), ["path", "bytes", "mtime_ns"]):
        ids, sizes, times = (column.to_pylist() for column in table.columns)
        yield from zip(ids, zip(sizes, times, strict=True), strict=True)
