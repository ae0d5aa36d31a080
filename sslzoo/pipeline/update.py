"""Bringing an embeddings folder up to date: rows of files that have not changed are taken over, without holding them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import part_files, storable
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
        self._rows = self._read(folder)
        self._next = next(self._rows, None)

    def find(self, item: Item) -> Known | None:
        """The item's row, if its file has the same size and time as then. Items must come in the order of the walk."""
        if item.stamp is None:
            raise InputError(
                "only files (in a folder, pattern or list) have a size and a time to be updated by; embed again with --overwrite"
            )
        id_ = storable(item.id)
        key = id_.split("/")
        while self._next is not None and self._next[0].split("/") < key:
            self._next = next(self._rows, None)
        if self._next is None or self._next[0] != id_ or self._next[1].facts.stamp != item.stamp:
            return None
        known = self._next[1]
        return replace(known, facts=replace(known.facts, label=item.label))

    def _read(self, folder: Path) -> Iterator[tuple[str, Known]]:
        import pyarrow.parquet as pq

        for path in part_files(folder):
            table = pq.read_table(path)
            dim = table.schema.field("embedding").type.list_size
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, dim) if len(table) else []
            rows = table.drop_columns(["embedding"]).to_pylist()
            for row, vector in zip(rows, vectors, strict=True):
                stamp = (row["bytes"], row["mtime_ns"])
                facts = Facts(row["width"], row["height"], tuple(row["flags"]), row["label"], stamp=stamp)
                yield row["path"], Known(facts, vector)
