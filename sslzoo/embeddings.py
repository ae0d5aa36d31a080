"""Embeddings: vectors with their ids, in memory or in a folder of Parquet parts with a manifest.

The folder holds `part-00000.parquet` … (columns path, embedding, width, height, flags, label, bytes and
mtime_ns of the file, and further columns of the input),
`failures.parquet` (path, reason) and `manifest.json`. A part is written whole or not at all, and carries in its own
metadata which inputs it covers and which of them failed, so that an interrupted run can go on from the parts alone, and a
checksum of its rows, so that whatever was made of it (an index, a table of a database) can tell when they change.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError, SpaceMismatch

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MANIFEST = "manifest.json"
FAILURES = "failures.parquet"
INDEX = "index"
CHECKSUM = "checksum"  # in a part's facts: of its rows

Labels = Sequence[str | int | None]


class Embeddings:
    """Vectors float32 `[n, dim]`, not normalised, one id each, labels where known, and the space they live in.

    `model` names the encoder; `manifest` is that of the folder they came from. Two embeddings can be compared only when
    their `space` is equal. Those of a folder are read from disk when first used.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        ids: Sequence[str],
        *,
        space: str,
        model: str = "",
        labels: Labels | None = None,
        manifest: dict[str, Any] | None = None,
    ) -> None:
        if vectors.ndim != 2 or len(vectors) != len(ids) or (labels is not None and len(labels) != len(ids)):
            raise InputError(
                f"vectors of shape {vectors.shape} don't go with {len(ids)} ids; give one id (and label) a row"
            )
        self.vectors, self.ids, self.labels = vectors, ids, labels
        self.space, self.model = space, model
        self.manifest = manifest or {}
        self.folder: Path | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Embeddings:
        """The embeddings in a folder; raises InputError when it isn't one, or its run was not finished."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not manifest["complete"]:
            raise InputError(f"{folder} is of a run that was not finished; run the same `sslzoo embed` with --resume")
        self = cls.__new__(cls)
        self.folder, self.manifest = folder, manifest
        self.space, self.model = manifest["space"], manifest["model"]
        return self

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """float32 `[n, dim]`."""
        return self._read(lambda vectors: vectors)

    @cached_property
    def ids(self) -> Sequence[str]:
        """One id a row: the image's path relative to the input, with "/"."""
        return self._column("path")

    @cached_property
    def labels(self) -> Labels | None:
        """One label a row, or None where there are none."""
        labels = self._column("label")
        return labels if any(label is not None for label in labels) else None

    @cached_property
    def failures(self) -> Sequence[tuple[str, str]]:
        """What the run that made them could not read: (path, reason)."""
        if self.folder is None:
            return tuple(self.manifest.get("failures", ()))
        import pyarrow.parquet as pq

        if not self.manifest.get("failed"):
            return ()
        return [(row["path"], row["reason"]) for row in pq.read_table(self.folder / FAILURES).to_pylist()]

    def _read(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The folder's vectors, changed part by part, so that no second copy of all is ever made."""
        assert self.folder is not None
        out, row = np.empty((len(self), self.dim), np.float32), 0
        for vectors in vectors_by_part(part_files(self.folder)):
            end = row + len(vectors)
            if end > len(out) or vectors.shape[1] != self.dim:
                break
            out[row:end], row = change(vectors), end
        else:
            if row == len(out):
                return out
        raise InputError(
            f"the parts of {self.folder} are not those of its manifest; embed again: sslzoo embed … --overwrite"
        )

    def _column(self, name: str) -> list[Any]:
        assert self.folder is not None
        return [value for table in tables_by_part(part_files(self.folder), [name]) for value in table[name].to_pylist()]

    def __len__(self) -> int:
        return len(self.ids) if self.folder is None else int(self.manifest["rows"])

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} vectors, model={self.model!r}, space={self.space[:8]!r})"

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self.vectors.shape[1] if self.folder is None else self.manifest["dim"])

    @cached_property
    def normalized(self) -> NDArray[np.float32]:
        """The vectors divided by their length, float32 `[n, dim]`; a zero vector stays zero."""
        if self.folder is None or "vectors" in self.__dict__:
            return normalize(self.vectors)
        return self._read(normalize)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each id."""
        return {id_: row for row, id_ in enumerate(self.ids)}

    def require_space(self, space: str, model: str, remedy: str = "") -> None:
        """Raises SpaceMismatch unless vectors of that space, made by that model, can be compared with these.

        `remedy` is what to do then; without it, to make both with this one's model.
        """
        if space != self.space:
            raise SpaceMismatch(
                f"these vectors were made by {self.model} (space {self.space[:8]}) and the others by {model} "
                f"(space {space[:8]}); {remedy or f'make both with one encoder: sslzoo embed … -m {self.model}'}"
            )


def normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their Euclidean length, float32; a zero row stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)


def is_embeddings(path: str | Path) -> bool:
    """Whether the path is an embeddings folder (and not, say, a folder of images)."""
    return (Path(path) / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an embeddings folder; raises InputError when there is none that this version reads."""
    if not is_embeddings(folder):
        raise InputError(f"{folder} is not an embeddings folder; make one with: sslzoo embed IMAGES -o {folder}")
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] == FORMAT:
            return manifest
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} is damaged ({error}); embed again: sslzoo embed … --overwrite") from None
    raise InputError(f"{folder} has format {manifest['format']}, this version reads {FORMAT}; upgrade sslzoo")


def part_name(number: int) -> str:
    """The file name of a part."""
    return f"part-{number:05d}.parquet"


def part_files(folder: Path) -> list[Path]:
    """The parts of a folder in their order."""
    # by number, not by name: the hundred-thousandth part has one digit more
    return sorted(folder.glob("part-*.parquet"), key=part_number)


def part_number(path: Path) -> int:
    """The number in a part's file name."""
    return int(path.stem.removeprefix("part-"))


def part_facts(schema: pa.Schema) -> dict[str, Any]:
    """What made a part, which inputs it covers (fingerprints) and which of them failed, from its schema's metadata."""
    facts: dict[str, Any] = json.loads(schema.metadata[b"sslzoo"])
    return facts


def part_stamp(path: Path) -> list[Any]:
    """What tells a part from any other, read from its last bytes: name, size and a checksum of its Parquet footer.

    The footer holds the checksum of the rows; for a part that was written before there was one, its time in ns is added.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length = (
            int.from_bytes(file.read(4), "little") + 8
        )  # a Parquet file ends in its footer, that one's length and "PAR1"
        file.seek(max(0, size - length))
        footer = file.read()
        stamp = [path.name, size, zlib.crc32(footer)]
        return stamp if f'"{CHECKSUM}": "'.encode() in footer else [*stamp, os.fstat(file.fileno()).st_mtime_ns]


def storable(path: str) -> str:
    """A path as valid UTF-8: bytes of a name that isn't (surrogates, in Python) become backslash escapes."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def vectors_by_part(files: Sequence[Path], *, empty: bool = False) -> Iterator[NDArray[np.float32]]:
    """The vectors of each part, float32 `[rows, dim]`; parts without a row only where `empty`."""
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as file:
            column = file.read(columns=["embedding"])["embedding"].combine_chunks()
        if len(column) or empty:
            flat = np.asarray(column.flatten().to_numpy(), np.float32)
            yield flat.reshape(len(column), column.type.list_size)


def columns_schema(files: Sequence[Path]) -> pa.Schema:
    """The columns of all parts but the vectors, with the types that hold them all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(path).remove_metadata() for path in files]
    whole = pa.unify_schemas(list(dict.fromkeys(schemas)), promote_options="default")
    return pa.schema([field for field in whole if field.name != "embedding"])


def tables_by_part(files: Sequence[Path], names: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Columns of each part, all but the vectors or those named; where a part lacks a column its rows have nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = columns_schema(files)
    if names is not None:
        schema = pa.schema([schema.field(name) for name in names])
    for path in files:
        with pq.ParquetFile(path) as file:
            known = [name for name in schema.names if name in file.schema_arrow.names]
            table = file.read(columns=known).combine_chunks()
            n = file.metadata.num_rows
        data = [table[f.name].cast(f.type) if f.name in known else pa.nulls(n, f.type) for f in schema]
        yield pa.table(data, schema=schema)
