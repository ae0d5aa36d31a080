"""Writing an embeddings folder: parts that appear whole or not at all, and a manifest that says what made them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import (
    CHECKSUM,
    FAILURES,
    MANIFEST,
    Embeddings,
    part_facts,
    part_files,
    part_name,
    part_number,
    read_manifest,
    storable,
)
from sslzoo.errors import InputError, OutputError

if TYPE_CHECKING:
    import pyarrow as pa


class Part:
    """The rows and failures of a fixed run of inputs, in their order; vectors arrive batch by batch, in any order."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.inputs: list[str] = []
        self.paths: list[str] = []
        self.facts: list[Facts] = []
        self.failures: list[tuple[str, str]] = []
        self.whole = True  # False: it ends before its inputs do
        self._vectors: list[tuple[list[int], NDArray[np.float32]]] = []

    def add(self, path: str, facts: Facts) -> int:
        """A new row, whose vector is to follow."""
        self.paths.append(path)
        self.facts.append(facts)
        return len(self.paths) - 1

    def put(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        """The vectors of these rows; raises InputError for numbers that are not finite, which nothing could compare."""
        if len(bad := np.flatnonzero(~np.isfinite(vectors).all(1))):
            raise InputError(
                f"the vector of {self.paths[rows[bad[0]]]} has numbers that are not finite; embed again: sslzoo embed … "
                "--overwrite --precision fp32, or leave the image out"
            )
        self._vectors.append((rows, vectors))

    def matrix(self) -> NDArray[np.float32]:
        """All vectors of the part, float32 `[rows, dim]`."""
        matrix = np.empty((len(self.paths), self.dim), np.float32)
        for rows, vectors in self._vectors:
            matrix[rows] = vectors
        return matrix


@dataclass(frozen=True)
class Facts:
    """What is known of a row beside its vector: size in px, flags, label, further columns, and (bytes, mtime in ns)."""

    width: int
    height: int
    flags: tuple[str, ...] = ()
    label: str | int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    stamp: tuple[int, int] | None = None


def fingerprint(inputs: Sequence[str]) -> str:
    """A hash of the keys of inputs in their order."""
    return hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(table: pa.Table) -> str:
    """A hash of all values of a table, in the form in which Arrow sends them."""
    digest = hashlib.sha256()
    for batch in table.to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def settings(manifest: dict[str, Any]) -> str:
    """A hash of what decides a part's vectors beside its inputs; all parts of a folder have the same."""
    keys = ("space", "precision", "backend", "dtype", "decoder", "batch_size", "part_size", "deterministic")
    return fingerprint([json.dumps(manifest.get(key)) for key in keys])


class Collector:
    """Keeps parts in memory."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        self.parts: list[Part] = []

    def there(self) -> dict[int, str]:
        """Nothing is there before the run."""
        return {}

    def begun(self, number: int) -> list[Path]:
        """Nothing is begun before the run."""
        return []

    def add(self, number: int, part: Part) -> None:
        """Takes the next part."""
        self.parts.append(part)

    def keep(self, number: int, part: Part) -> None:
        """Nothing outlives the run."""

    def finish(self, left_out: dict[str, int], parts: int | None = None) -> Embeddings:
        """Everything as one; raises InputError when no image could be read."""
        failures = [failure for part in self.parts for failure in part.failures]
        ids = [path for part in self.parts for path in part.paths]
        if not ids:
            raise _nothing_readable(failures)
        labels = [facts.label for part in self.parts for facts in part.facts]
        vectors = np.concatenate([part.matrix() for part in self.parts])
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

    def __init__(self, folder: Path, manifest: dict[str, Any], *, started: bool, files: Sequence[Path] = ()) -> None:
        self.folder, self.manifest, self.started = folder, manifest, started
        self.files = files  # of the back end, kept beside its vectors
        self.waiting: list[tuple[int, Part]] = []  # parts without a row, until there is one

    def start(self) -> None:
        """Makes the folder, with a manifest that says the run isn't complete."""
        for file in self.files:
            if not (self.folder / file.name).exists():
                with _atomically(self.folder / file.name) as temporary:
                    shutil.copyfile(file, temporary)
        self._write_manifest(complete=False)
        self.started = True

    def there(self) -> dict[int, str]:
        """The fingerprints of the parts that an earlier run with these settings has written; all others are made again."""
        found = {}
        for path in part_files(self.folder):
            with contextlib.suppress(InputError):  # a damaged part, as if it weren't there
                facts, _ = _read_facts(path)
                if facts.get("run") == settings(self.manifest):
                    found[part_number(path)] = facts["inputs"]
        if found and not self.started:
            self.start()
        return found

    def add(self, number: int, part: Part) -> None:
        """Writes one part."""
        self.waiting.append((number, part))
        if self.started or part.paths:
            self._write_waiting()

    def keep(self, number: int, part: Part) -> None:
        """Keeps the rows of a part that was interrupted, under a name of its own, for the run that goes on with it."""
        self._write_waiting()
        self._write_table(self._table(part), _begun_name(number))

    def begun(self, number: int) -> list[Path]:
        """The file of a part that a run with these settings was interrupted in, if there is one."""
        path = self.folder / _begun_name(number)
        with contextlib.suppress(InputError, OSError):  # damaged or not there
            return [path] if _read_facts(path)[0].get("run") == settings(self.manifest) else []
        return []

    def _write_waiting(self) -> None:
        if not self.started:
            self.start()
        for number, part in self.waiting:
            self._write_part(number, part)
        self.waiting = []

    def _write_part(self, number: int, part: Part) -> None:
        self._write_table(self._table(part), part_name(number))

    def _table(self, part: Part) -> pa.Table:
        import pyarrow as pa

        facts = part.facts
        values = pa.array(self._stored(part).ravel())
        columns: dict[str, pa.Array] = {
            "path": pa.array([storable(path) for path in part.paths], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(values, part.dim),
            "width": pa.array([row.width for row in facts], pa.int32()),
            "height": pa.array([row.height for row in facts], pa.int32()),
            "flags": pa.array([row.flags for row in facts], pa.list_(pa.string())),
            "label": pa.array([None if row.label is None else str(row.label) for row in facts], pa.string()),
            "bytes": pa.array([row.stamp and row.stamp[0] for row in facts], pa.int64()),
            "mtime_ns": pa.array([row.stamp and row.stamp[1] for row in facts], pa.int64()),
        }
        for name, kind in self.manifest["columns"].items():
            columns.setdefault(name, pa.array([row.columns.get(name) for row in facts], pa.type_for_alias(kind)))
        failures = [(storable(path), reason) for path, reason in part.failures]
        table = pa.table(columns)
        about = {
            "run": settings(self.manifest),
            "inputs": fingerprint(part.inputs),
            CHECKSUM: _checksum(table),
            "failures": failures,
        }
        return table.replace_schema_metadata({"sslzoo": json.dumps(about)})

    def _stored(self, part: Part) -> NDArray[np.floating[Any]]:
        """The vectors in the type that they are kept in; raises InputError for what float16 doesn't hold."""
        matrix = part.matrix()
        if self.manifest.get("dtype") != "float16":
            return matrix
        largest = np.abs(matrix).max(axis=1, initial=0)
        if len(beyond := np.flatnonzero(largest > np.finfo(np.float16).max)):
            raise InputError(
                f"the vector of {part.paths[beyond[0]]} has {largest[beyond[0]]:.6g}, more than float16 holds; "
                "embed again: sslzoo embed … --overwrite --dtype float32"
            )
        return matrix.astype(np.float16)

    def finish(self, left_out: dict[str, int], parts: int | None = None) -> Embeddings:
        """Gathers the failures and completes the manifest; raises InputError when no image could be read.

        What an earlier run left beyond `parts`, the parts of this one, goes, and so do files that it was killed in writing
        and parts that it had begun.
        """
        import pyarrow as pa

        if not self.started:
            raise _nothing_readable([failure for _, part in self.waiting for failure in part.failures])
        beyond = [path for path in part_files(self.folder) if parts is not None and part_number(path) >= parts]
        for path in (*beyond, *self.folder.glob(".*-*.tmp")):
            path.unlink()
        rows, failures = self.gather(part_files(self.folder))
        paths, reasons = ([row[i] for row in failures] for i in (0, 1))
        if not rows:
            raise _nothing_readable(failures)
        columns = {"path": pa.array(paths, pa.string()), "reason": pa.array(reasons, pa.string())}
        self._write_table(pa.table(columns), FAILURES)
        self.manifest |= {"rows": rows, "failed": len(failures), "left_out": left_out}
        self._write_manifest(complete=True)
        return Embeddings.open(self.folder)

    def gather(self, paths: Sequence[Path]) -> tuple[int, list[tuple[str, str]]]:
        """The number of rows in these parts and their failures; raises InputError when one is damaged or of another run."""
        rows, failures = 0, []
        for path in paths:
            facts, count = _read_facts(path)
            if facts.get("run") != settings(self.manifest):
                raise InputError(
                    f"{path} was made with another model or other settings than {MANIFEST} says; make it again by the same "
                    "sslzoo embed with --resume, or with its --shard"
                )
            rows += count
            failures += facts["failures"]
        return rows, failures

    def mark_shard(self, shard: int, about: dict[str, Any] | None) -> None:
        """Notes what is to be known of a shard that is done, or that it isn't."""
        path = _mark(self.folder, shard)
        if about is None:
            path.unlink(missing_ok=True)
            return
        with _atomically(path) as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")

    def _write_manifest(self, *, complete: bool) -> None:
        text = json.dumps({**self.manifest, "complete": complete}, indent=2, ensure_ascii=False) + "\n"
        path = self.folder / MANIFEST
        if path.exists() and path.read_text(encoding="utf-8") == text:  # another shard's, begun at the same time
            return
        with _atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _write_table(self, table: pa.Table, name: str) -> None:
        import pyarrow.parquet as pq

        with _atomically(self.folder / name) as temporary:
            # vectors are noise to a compressor; dictionaries and page statistics would only cost time and space
            pq.write_table(table, temporary, compression="NONE", use_dictionary=False, write_statistics=False)


def merge(folder: Path) -> Embeddings:
    """Completes a folder that several shards have written; raises InputError naming the shards that are missing."""
    manifest = read_manifest(folder)
    if manifest["complete"]:
        return Embeddings.open(folder)
    marks = {
        int(path.stem.removeprefix("shard-")): json.loads(path.read_text()) for path in folder.glob("shard-*.json")
    }
    if not marks:
        raise InputError(
            f"{folder} has no finished shard; make them with: sslzoo embed … -o {folder} --shard 0/4 (to 3/4)"
        )
    last = max(marks, key=lambda shard: _mark(folder, shard).stat().st_mtime_ns)
    shards, parts = max(mark["shards"] for mark in marks.values()), marks[last]["parts"]
    if missing := [f"{i}/{shards}" for i in range(shards) if i not in marks]:
        raise InputError(
            f"{folder} lacks shard {', '.join(missing)}; run: sslzoo embed … -o {folder} --shard {missing[0]}"
        )
    if stale := [
        f"{i}/{shards}" for i, mark in sorted(marks.items()) if mark.get("inputs") != marks[last].get("inputs")
    ]:
        raise InputError(
            f"the images have changed since shard {', '.join(stale)} of {folder} was made; run it again: "
            f"sslzoo embed … -o {folder} --shard {stale[0]}"
        )
    if lost := [number for number in range(parts) if not (folder / part_name(number)).exists()]:
        raise InputError(f"{folder} lacks part {lost[0]} of {parts}; run shard {lost[0] % shards}/{shards} again")
    keep = {key: value for key, value in manifest.items() if key != "complete"}
    result = Writer(folder, keep, started=True).finish(marks[0]["left_out"], parts)
    for path in folder.glob("shard-*.json"):
        path.unlink()
    return result


def _begun_name(number: int) -> str:
    """The name of a part that was interrupted: like those of files that a run was killed in writing, it goes at the end."""
    return f".part-{number:05d}-begun.tmp"


def _mark(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.json"


def _read_facts(path: Path) -> tuple[dict[str, Any], int]:
    """What a part says of itself, and how many rows it has; raises InputError when it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return part_facts(file.schema_arrow), file.metadata.num_rows
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); the same sslzoo embed makes it again with --resume") from None


def _nothing_readable(failures: list[tuple[str, str]]) -> InputError:
    path, reason = failures[0]
    return InputError(
        f"no image can be read ({len(failures)} failed), nothing was written; the first: {path}: {reason}"
    )


@contextlib.contextmanager
def _atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside the final one, renamed to it when the block ends well and removed when it doesn't.

    Raises OutputError when the disk is full or the folder can't be written.
    """
    # several shards write a manifest at once, each under a name of its own
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        cause = os.strerror(error.errno) if error.errno else error
        raise OutputError(
            f"{path} can't be written ({cause}); finished parts are kept: make room, and the same command with --resume "
            "goes on, or choose another -o"
        ) from None
