"""Images by number, in any order: files, members of uncompressed tars and of zips, and rows of Parquet files."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sslzoo.images import discover
from sslzoo.images.discover import Item
from sslzoo.images.sources.archive import TarReader
from sslzoo.images.sources.item import Reader, Summary
from sslzoo.images.sources.table import DatasetReader, ParquetReader

WINDOW = 16_384  # images; ImageNet's take 110 kB each, so a window is 1.8 GB


class Rows(Protocol):
    """Inputs by number. `open` may be called by several threads at once."""

    labels: list[str | int | None]
    fingerprint: str

    def __len__(self) -> int: ...
    def item(self, row: int) -> Item: ...
    def windows(self, generator: torch.Generator) -> Tensor | None: ...


class Items:
    """Inputs that are as quick to open in one order as in another."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.labels = [item.label for item in items]
        self.fingerprint = hash_of(f"{item.id} {item.stamp}" for item in items)

    def __len__(self) -> int:
        return len(self.items)

    def item(self, row: int) -> Item:
        return self.items[row]

    def windows(self, generator: torch.Generator) -> Tensor | None:
        """None: one window holds all."""
        return None


class Tables:
    """Rows of Parquet files, which are read a row group at a time.

    An epoch takes the row groups in random order, a window of about 16 thousand images after the other, and mixes the
    rows inside a window: with fewer images than that the order is the plain permutation. Two windows are held at most,
    as encoded bytes. A process reads every row group that holds one of its rows, and decodes its own rows alone.
    """

    def __init__(self, readers: list[ParquetReader], window: int = WINDOW) -> None:
        self.groups = [(reader, group) for reader in readers for group in range(len(reader.groups))]
        sizes = [size for reader in readers for size in reader.groups]
        self.ends = torch.tensor(list(accumulate(sizes)), dtype=torch.long)
        self.sizes = torch.tensor(sizes, dtype=torch.long)
        self.window = window
        self.labels = [label for reader in readers for label in reader.labels()]
        self.fingerprint = hash_of(f"{reader.name} {reader.count()} {reader.location}" for reader in readers)
        self.cache: OrderedDict[int, Future[list[Item]]] = OrderedDict()
        self.lock = threading.Lock()
        self.turns = {id(reader): threading.Lock() for reader in readers}  # Arrow's file objects are for one thread
        self.held = 2 * (window + max(sizes, default=0))  # rows: a window ends with the group that fills it

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def item(self, row: int) -> Item:
        group = int(torch.searchsorted(self.ends, row, right=True))
        return self._items(group)[row - int(self.ends[group] - self.sizes[group])]

    def windows(self, generator: torch.Generator) -> Tensor | None:
        """The number of the window that each row falls in, with the row groups in random order."""
        shuffled = torch.randperm(len(self.sizes), generator=generator)
        before = self.sizes[shuffled].cumsum(0) - self.sizes[shuffled]
        window_of = torch.empty_like(shuffled)
        window_of[shuffled] = before // self.window
        return window_of.repeat_interleave(self.sizes)

    def _items(self, group: int) -> list[Item]:
        with self.lock:
            if mine := group not in self.cache:
                self.cache[group] = Future()
            self.cache.move_to_end(group)
            while mine and int(self.sizes[list(self.cache)].sum()) > self.held:
                self.cache.popitem(last=False)
            future = self.cache[group]
        if mine:
            reader, number = self.groups[group]
            try:
                with self.turns[id(reader)]:
                    future.set_result(reader.group(number))
            except BaseException as error:
                future.set_exception(error)
        return future.result()


def spread(count: int, limit: int) -> Tensor:
    """At most `limit` row numbers of `count`, evenly spaced: the first rows of a folder are all of one class."""
    few = min(count, limit)
    return torch.arange(few) * count // max(1, few)


def rows_of(source: discover.Source) -> Rows | None:
    """The inputs of a source by number; None for what can only be read from front to back (a compressed tar)."""
    reader = discover.open_source(source)
    parts = discover.parts(reader)
    tables = [part for part in parts if isinstance(part, ParquetReader)]
    if len(tables) == len(parts):
        return Tables(tables)
    if not all(_random_access(part) for part in parts):
        return None
    return Items(list(reader.items(Summary())))


def _random_access(reader: Reader) -> bool:
    if isinstance(reader, TarReader):
        return isinstance(reader.location, Path) and reader.location.suffix == ".tar"
    return not isinstance(reader, ParquetReader | DatasetReader)


def hash_of(parts: Iterable[str]) -> str:
    """A hash of texts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
