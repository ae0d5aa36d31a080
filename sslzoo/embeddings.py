"""Embeddings: vectors with their ids, in memory or in a folder of Parquet parts with a manifest.

The folder holds `part-00000.parquet` … (columns path, embedding, width, height, flags, and label where known),
`failures.parquet` (path, reason) and `manifest.json`. A part is written whole or not at all, and carries in its own
metadata which inputs it covers and which of them failed, so that an interrupted run can go on from the parts alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError, OutputExists, SpaceMismatch

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MANIFEST = "manifest.json"
FAILURES = "failures.parquet"
INDEX = "index"

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
        self._table: tuple[NDArray[np.float32], Sequence[str], Labels | None] | None = (vectors, ids, labels)
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
        self._table, self.folder, self.manifest = None, folder, manifest
        self.space, self.model = manifest["space"], manifest["model"]
        return self

    def _columns(self) -> tuple[NDArray[np.float32], Sequence[str], Labels | None]:
        if self._table is None:
            assert self.folder is not None
            self._table = _read_parts(self.folder)
        return self._table

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 `[n, dim]`."""
        return self._columns()[0]

    @property
    def ids(self) -> Sequence[str]:
        """One id a row: the image's path relative to the input, with "/"."""
        return self._columns()[1]

    @property
    def labels(self) -> Labels | None:
        """One label a row, or None where there are none."""
        return self._columns()[2]

    def __len__(self) -> int:
        return int(self.manifest["rows"]) if self._table is None else len(self.ids)

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} vectors, model={self.model!r}, space={self.space[:8]!r})"

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self.manifest["dim"]) if self._table is None else int(self.vectors.shape[1])

    @cached_property
    def normalized(self) -> NDArray[np.float32]:
        """The vectors divided by their length, float32 `[n, dim]`; a zero vector stays zero."""
        return normalize(self.vectors)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each id."""
        return {id_: row for row, id_ in enumerate(self.ids)}

    def require_space(self, space: str, model: str) -> None:
        """Raises SpaceMismatch unless vectors of that space, made by that model, can be compared with these."""
        if space != self.space:
            raise SpaceMismatch(
                f"these vectors were made by {self.model} (space {self.space[:8]}) and the others by {model} "
                f"(space {space[:8]}); make both with one encoder: sslzoo embed … -m {self.model}"
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
        raise InputError(f"{folder / MANIFEST} is damaged ({error}); embed again with --overwrite") from None
    raise InputError(f"{folder} has format {manifest['format']}, this version reads {FORMAT}; upgrade sslzoo")


@dataclass
class Part:
    """The rows and failures of a fixed run of inputs, in their order."""

    paths: list[str] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)  # batches [b, dim]
    sizes: list[tuple[int, int]] = field(default_factory=list)
    flags: list[list[str]] = field(default_factory=list)
    labels: list[str | int | None] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def matrix(self, dim: int) -> NDArray[np.float32]:
        """All vectors of the part, float32 `[rows, dim]`."""
        return np.concatenate([np.zeros((0, dim), np.float32), *self.vectors])


def fingerprint(inputs: Sequence[str]) -> str:
    """A hash of input ids in their order."""
    return hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogatepass")).hexdigest()


class Collector:
    """Keeps parts in memory."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        self.parts: list[Part] = []

    def has(self, number: int, inputs: Sequence[str]) -> bool:
        """Nothing is there before the run."""
        return False

    def add(self, number: int, part: Part) -> None:
        """Takes the next part."""
        self.parts.append(part)

    def finish(self, left_out: dict[str, int]) -> Embeddings:
        """Everything as one; raises InputError when no image could be read."""
        failures = [failure for part in self.parts for failure in part.failures]
        ids = [path for part in self.parts for path in part.paths]
        if not ids:
            raise _nothing_readable(failures)
        labels = [label for part in self.parts for label in part.labels]
        vectors = np.concatenate([part.matrix(self.manifest["dim"]) for part in self.parts])
        manifest = self.manifest | {
            "rows": len(ids),
            "failed": len(failures),
            "left_out": left_out,
            "failures": failures,
        }
        known = any(label is not None for label in labels)
        space, model = self.manifest["space"], self.manifest["model"]
        return Embeddings(vectors, ids, space=space, model=model, labels=labels if known else None, manifest=manifest)


class Writer:
    """Writes an embeddings folder part by part; every file appears whole, under its final name, or not at all.

    The folder itself appears with the first image that could be read, so that a run without one leaves nothing behind.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], *, started: bool) -> None:
        self.folder, self.manifest, self.started = folder, manifest, started
        self.waiting: list[tuple[int, Part]] = []  # parts without a row, until there is one

    def has(self, number: int, inputs: Sequence[str]) -> bool:
        """Whether that part is there from an earlier run; raises InputError when it was made of other inputs."""
        import pyarrow.parquet as pq

        path = self.folder / part_name(number)
        if not path.exists():
            return False
        if _part_facts(pq.read_schema(path))["inputs"] != fingerprint(inputs):
            raise InputError(f"the images have changed since {path} was made; embed again with --overwrite")
        return True

    def add(self, number: int, part: Part) -> None:
        """Writes one part."""
        self.waiting.append((number, part))
        if not self.started:
            if not part.paths:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_manifest(complete=False)
            self.started = True
        for waiting in self.waiting:
            self._write_part(*waiting)
        self.waiting = []

    def _write_part(self, number: int, part: Part) -> None:
        import pyarrow as pa

        dim = self.manifest["dim"]
        values = pa.array(part.matrix(dim).ravel(), pa.float32())
        columns: dict[str, pa.Array] = {
            "path": pa.array([_storable(path) for path in part.paths], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(values, dim),
            "width": pa.array([size[0] for size in part.sizes], pa.int32()),
            "height": pa.array([size[1] for size in part.sizes], pa.int32()),
            "flags": pa.array(part.flags, pa.list_(pa.string())),
        }
        if any(label is not None for label in part.labels):
            columns["label"] = pa.array([None if label is None else str(label) for label in part.labels], pa.string())
        failures = [(_storable(path), reason) for path, reason in part.failures]
        facts = {"inputs": fingerprint(part.inputs), "failures": failures}
        table = pa.table(columns).replace_schema_metadata({"sslzoo": json.dumps(facts)})
        self._write_table(table, part_name(number))

    def finish(self, left_out: dict[str, int]) -> Embeddings:
        """Gathers the failures and completes the manifest; raises InputError when no image could be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.started:
            raise _nothing_readable([failure for _, part in self.waiting for failure in part.failures])
        rows, failures = 0, []
        for path in _parts(self.folder):
            file = pq.ParquetFile(path)
            rows += file.metadata.num_rows
            failures += _part_facts(file.schema_arrow)["failures"]
        paths, reasons = ([row[i] for row in failures] for i in (0, 1))
        columns = {"path": pa.array(paths, pa.string()), "reason": pa.array(reasons, pa.string())}
        self._write_table(pa.table(columns), FAILURES)
        self.manifest |= {"rows": rows, "failed": len(failures), "left_out": left_out}
        self._write_manifest(complete=True)
        return Embeddings.open(self.folder)

    def _write_manifest(self, *, complete: bool) -> None:
        text = json.dumps({**self.manifest, "complete": complete}, indent=2, ensure_ascii=False) + "\n"
        with _atomically(self.folder / MANIFEST) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _write_table(self, table: pa.Table, name: str) -> None:
        import pyarrow.parquet as pq

        with _atomically(self.folder / name) as temporary:
            # vectors are noise to a compressor; dictionaries and page statistics would only cost time and space
            pq.write_table(table, temporary, compression="NONE", use_dictionary=False, write_statistics=False)


def prepare_output(folder: Path, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Makes sure that a run may write to `folder`; returns the manifest to continue from, if any.

    Raises OutputExists when something is there and neither `resume` nor `overwrite` was asked for; a folder that isn't
    one of ours is never cleared.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not folder.is_dir():
        raise OutputExists(f"{folder} is a file; choose another output with -o")
    ours = is_embeddings(folder)
    if resume:
        return read_manifest(folder) if ours else None
    if not overwrite:
        raise OutputExists(
            f"{folder} already exists; add --resume to go on, --overwrite to start anew, or choose another -o"
        )
    if not ours:
        raise OutputExists(
            f"{folder} is not an embeddings folder, so it is not overwritten; choose another output with -o"
        )
    for path in (*_parts(folder), folder / FAILURES, folder / MANIFEST):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / INDEX, ignore_errors=True)
    return None


def _nothing_readable(failures: list[tuple[str, str]]) -> InputError:
    path, reason = failures[0]
    return InputError(
        f"none of the {len(failures)} images can be read, nothing was written; the first: {path}: {reason}"
    )


def part_name(number: int) -> str:
    """The file name of a part."""
    return f"part-{number:05d}.parquet"


def _parts(folder: Path) -> list[Path]:
    # by number, not by name: the hundred-thousandth part has one digit more
    return sorted(folder.glob("part-*.parquet"), key=lambda path: int(path.stem.removeprefix("part-")))


def _part_facts(schema: pa.Schema) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(schema.metadata[b"sslzoo"])
    return facts


def _read_parts(folder: Path) -> tuple[NDArray[np.float32], list[str], Labels | None]:
    import pyarrow.parquet as pq

    vectors: list[NDArray[np.float32]] = []
    ids: list[str] = []
    labels: list[str | int | None] = []
    for path in _parts(folder):
        table = pq.read_table(path)
        if table.num_rows:
            flat = table["embedding"].combine_chunks().flatten().to_numpy()
            vectors.append(np.asarray(flat, np.float32).reshape(table.num_rows, -1))
        ids += table["path"].to_pylist()
        labels += table["label"].to_pylist() if "label" in table.column_names else [None] * table.num_rows
    return np.concatenate(vectors), ids, labels if any(label is not None for label in labels) else None


def part_files(folder: Path) -> list[Path]:
    """The folder's parts in their order."""
    return _parts(folder)


def vectors_by_part(files: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    """The vectors of each part, float32 `[rows, dim]`; parts without a row are left out."""
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as file:
            column = file.read(columns=["embedding"])["embedding"].combine_chunks()
        if len(column):
            yield np.asarray(column.flatten().to_numpy(), np.float32).reshape(len(column), -1)


def columns(files: Sequence[Path]) -> pa.Table:
    """All columns but the vectors, of all parts; where a part lacks a column its rows have nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in files:
        names = [name for name in pq.read_schema(path).names if name != "embedding"]
        with pq.ParquetFile(path) as file:
            tables.append(file.read(columns=names).replace_schema_metadata(None))
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def _storable(path: str) -> str:
    """A path as valid UTF-8: bytes of a name that isn't (surrogates, in Python) become backslash escapes."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


class _atomically:
    """A temporary path beside the final one, renamed to it when the block ends well and removed when it doesn't."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        with self.temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.temporary, self.path)
