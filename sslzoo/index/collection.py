"""What an index searches: normalised vectors with their ids and columns, in memory, in Parquet parts, or memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import (
    INDEX,
    Embeddings,
    columns_schema,
    normalize,
    part_files,
    storable,
    tables_by_part,
    vectors_by_part,
)
from sslzoo.errors import InputError, SpaceMismatch

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_BYTES = 128 << 20  # of vectors at a time: bounds the memory, and large enough for a matrix product
Values = Callable[[NDArray[np.int64]], list[Any]]  # those of a chunk at some places
IN_MEMORY = 1 << 30  # bytes of vectors up to which a folder is read once and kept; beyond, its parts are streamed


class Collection:
    """Vectors of one space, read in chunks: those of an Embeddings.

    A folder's vectors stay in memory up to 1 GB; beyond that every pass reads the Parquet parts again.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self.folder = embeddings.folder  # where the vectors come from, if from disk
        self.space, self.model, self.manifest = embeddings.space, embeddings.model, embeddings.manifest
        self.dim = embeddings.dim
        self.removed: NDArray[np.int64] = np.empty(0, np.int64)  # rows that no search finds any more
        self._read: dict[str, pa.ChunkedArray] = {}
        self._chunks: dict[str, tuple[list[Values], NDArray[np.int64]]] = {}  # of columns, and where each begins

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows are not removed, `[n]`."""
        mask = np.ones(len(self), bool)
        mask[self.removed] = False
        return mask

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def normalized(self) -> NDArray[np.float32] | None:
        """All vectors, float32 `[n, dim]` of length 1, or None where they are too many to keep."""
        in_memory = self.embeddings.folder is None or 4 * len(self) * self.dim <= IN_MEMORY
        return self.embeddings.normalized if in_memory else None

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All vectors in turn: the row of the first, and float32 `[m, dim]` of length 1."""
        if self.normalized is not None:
            yield from _slices(self.normalized)
            return
        row = 0
        waiting: list[NDArray[np.float32]] = []
        for vectors in vectors_by_part(self._files):
            waiting.append(normalize(vectors))
            if sum(part.nbytes for part in waiting) >= CHUNK_BYTES:
                yield row, np.concatenate(waiting)
                row += sum(map(len, waiting))
                waiting = []
        if waiting:
            yield row, np.concatenate(waiting)

    def vectors_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of some rows, float32 `[len(rows), dim]` of length 1."""
        if self.normalized is not None:
            return self.normalized[rows]
        out = np.empty((len(rows), self.dim), np.float32)
        for start, bank in self.chunks():
            inside = (rows >= start) & (rows < start + len(bank))
            out[inside] = bank[rows[inside] - start]
        return out

    @cached_property
    def _files(self) -> list[Path]:
        assert self.embeddings.folder is not None
        return part_files(self.embeddings.folder)

    @property
    def column_names(self) -> list[str]:
        """The columns beside the vectors; `path` holds the ids."""
        if self.embeddings.folder is not None:
            names: list[str] = columns_schema(self._files).names
            return names
        return ["path"] if self.embeddings.labels is None else ["path", "label"]

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, in the order of the rows; read when it is first asked for."""
        if name not in self._read:
            self._read[name] = self._column(name)
        return self._read[name]

    def _column(self, name: str) -> pa.ChunkedArray:
        import pyarrow as pa

        if self.embeddings.folder is not None:
            tables = list(tables_by_part(self._files, [name]))
            return pa.concat_tables(tables).column(0)
        values = self.embeddings.ids if name == "path" else self.embeddings.labels or ()
        return pa.chunked_array([pa.array([None if value is None else str(value) for value in values], pa.string())])

    def take(self, name: str, rows: Sequence[int] | NDArray[np.int64]) -> list[Any]:
        """The values of some rows in a column; only the chunks in which they lie are looked at."""
        if name not in self._chunks:
            chunks = self.column(name).chunks
            self._chunks[name] = [_values_of(chunk) for chunk in chunks], np.cumsum([0, *map(len, chunks)])
        chunks, starts = self._chunks[name]
        rows = np.asarray(rows, np.int64)
        if len(chunks) == 1:
            return chunks[0](rows)
        chunk_of = np.searchsorted(starts, rows, side="right") - 1
        out = np.empty(len(rows), object)
        for number in set(chunk_of.tolist()):
            here = chunk_of == number
            out[here] = chunks[number](rows[here] - starts[number])
        return list(out)

    def ids_at(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The ids of some rows."""
        return self.take("path", rows)

    def row_of(self, id_: str) -> int | None:
        """The first row of an id, or None."""
        import pyarrow.compute as pc

        wanted, start = _text(id_), 0
        for chunk in self.column("path").chunks:
            row = int(pc.index(chunk, value=wanted).as_py())
            if row >= 0:
                return start + row
            start += len(chunk)
        return None

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """All rows that have one of these ids, ascending."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array([storable(id_) for id_ in ids], pa.string())
        return np.flatnonzero(np.asarray(pc.is_in(self.column("path"), value_set=wanted)))

    def matching(self, *, prefix: str = "", where: Mapping[str, str] | None = None) -> NDArray[np.bool_] | None:
        """Which rows have an id that starts with `prefix` and these values in these columns; None where all may.

        Values are compared as text; a column of lists (`flags`) matches where one of its entries does. Raises InputError
        for a column that isn't there.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        def equals(chunk: Any, value: str) -> NDArray[np.bool_]:
            if not pa.types.is_list(chunk.type):
                return np.asarray(pc.equal(pc.cast(chunk, pa.string()), _text(value)), bool)
            found = np.zeros(len(chunk), bool)
            equal = pc.equal(pc.cast(pc.list_flatten(chunk), pa.string()), _text(value))
            found[np.asarray(pc.list_parent_indices(chunk).filter(equal))] = True
            return found

        tests: list[tuple[str, Callable[[Any], NDArray[np.bool_]]]] = []
        if prefix:
            tests.append(("path", lambda chunk: np.asarray(pc.starts_with(chunk, pattern=storable(prefix)), bool)))
        for name, value in (where or {}).items():
            if name not in self.column_names:
                raise InputError(f"no column {name!r}; filter by one of: {', '.join(self.column_names)}")
            tests.append((name, partial(equals, value=value)))
        if not tests:
            return None
        mask = np.ones(len(self), bool)
        for name, test in tests:
            start = 0
            for chunk in self.column(name).chunks:
                mask[start : start + len(chunk)] &= test(chunk)
                start += len(chunk)
        return mask

    def queries(self, queries: Embeddings | NDArray[np.float32]) -> NDArray[np.float32]:
        """Query vectors, checked and divided by their length; raises SpaceMismatch or InputError."""
        if isinstance(queries, Embeddings):
            if queries.space != self.space:
                raise SpaceMismatch(
                    f"these vectors were made by {self.model} (space {self.space[:8]}) and the queries by "
                    f"{queries.model} (space {queries.space[:8]}); make both with one encoder: sslzoo embed … -m {self.model}"
                )
            queries = queries.vectors
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(f"queries have shape {queries.shape}; the collection needs [n, {self.dim}]")
        if not np.isfinite(queries).all():
            raise InputError("a query holds NaN or infinity, which is near to nothing; make its vector again")
        return normalize(np.asarray(queries, np.float32))


class MappedCollection(Collection):
    """A collection whose vectors lie normalised in one memory-mapped file, as the index folder keeps them."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], manifest: dict[str, Any]) -> None:
        self.folder: Path | None = folder
        self.space, self.model, self.manifest = facts["space"], facts["model"], manifest
        self.dim, self._n = facts["dim"], facts["rows"]
        self._vectors, self._rows = (folder / INDEX / facts["files"][name] for name in ("vectors", "rows"))
        self.removed = np.empty(0, np.int64)
        self._read = {}
        self._chunks = {}

    def open(self) -> None:
        """Opens the files, which are otherwise opened when first used: then they can be read even when they are replaced."""
        _ = self.normalized, self._table

    def __len__(self) -> int:
        return int(self._n)

    @cached_property
    def normalized(self) -> NDArray[np.float32]:
        if not self._n:
            return np.zeros((0, self.dim), np.float32)
        mapped = np.memmap(self._vectors, np.float32, mode="r", shape=(self._n, self.dim))
        return np.asarray(mapped)  # a view: np.memmap itself is slower at every small step

    @cached_property
    def _table(self) -> pa.Table:
        import pyarrow as pa

        return pa.ipc.open_file(pa.memory_map(str(self._rows))).read_all()

    @property
    def column_names(self) -> list[str]:
        found: list[str] = self._table.column_names
        return found

    def _column(self, name: str) -> pa.ChunkedArray:
        return self._table.column(name)


def _values_of(chunk: pa.Array) -> Values:
    """What gives the values at some places of a chunk, which is taken apart once and not at every query."""
    import pyarrow as pa

    if chunk.type == pa.string() and not chunk.null_count:  # a few strings are read faster than Arrow copies them
        _, ends, letters = chunk.buffers()
        if letters is None:
            return lambda places: [""] * len(places)
        at, data = np.frombuffer(ends, np.int32)[chunk.offset :], memoryview(letters)
        return lambda places: [
            str(data[a:b], "utf-8") for a, b in zip(at[places].tolist(), at[places + 1].tolist(), strict=True)
        ]

    def taken(places: NDArray[np.int64]) -> list[Any]:
        # not from the numpy array itself: pyarrow would import pandas to look at it
        indices = pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)])
        return list(chunk.take(indices).to_pylist())

    return taken


def _text(value: str) -> pa.Scalar:
    """A string for pyarrow to compare with; `pa.scalar` and `pa.array` import pandas, which takes longer than a search."""
    import pyarrow as pa

    data = storable(value).encode("utf-8")
    ends = np.array([0, len(data)], np.int32)
    return pa.StringArray.from_buffers(1, pa.py_buffer(ends), pa.py_buffer(data))[0]


def _slices(vectors: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    step = max(1, CHUNK_BYTES // max(1, 4 * vectors.shape[1]))
    for start in range(0, len(vectors), step):
        yield start, vectors[start : start + step]
