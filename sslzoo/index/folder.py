"""An index inside its embeddings folder (`index/`): written from the parts in bounded memory, opened memory-mapped.

`index.json` holds the kind, the space, the parts it was made of, and the names of the other files: `vectors-N.f32`, the
normalised vectors row by row; `rows-N.arrow`, all other columns; `removed-N.npy`; and for an approximate kind
`structure-N.faiss` and `members-N.npy`. A change writes files of new names (vectors are appended behind those in use), then
replaces `index.json`, then removes the files that nothing names any more: killed at any point, it leaves the index as it was.
A reader opens all files at once, and again where `index.json` was replaced meanwhile; what it has open stays as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import (
    INDEX,
    Embeddings,
    normalize,
    part_files,
    part_stamp,
    read_manifest,
    tables_by_part,
    vectors_by_part,
)
from sslzoo.errors import InputError, OutputError, SpaceMismatch
from sslzoo.index import MEMORY, RECALL, build_index, require_kind
from sslzoo.index.approximate import STALE, ApproximateIndex, FlatIndex
from sslzoo.index.auto import Say, silent
from sslzoo.index.collection import MappedCollection
from sslzoo.index.exact import ExactIndex

FORMAT = 2
FACTS, LOCK = "index.json", ".lock"
NEEDED = {"space", "model", "dim", "parts", "version", "rows", "files", "kind", "recall", "asked", "wanted"}
TRIES = 100  # to open an index that another process keeps replacing
ROWS_BYTES = 16 << 20  # of columns written at a time

Facts = dict[str, Any]


def has_index(folder: str | Path) -> bool:
    """Whether an embeddings folder holds an index."""
    return (Path(folder) / INDEX / FACTS).is_file()


def open_index(folder: str | Path) -> ExactIndex:
    """The index of an embeddings folder, memory-mapped; exact search over the parts where none was made.

    Parts that came after the index was made are not searched; `unindexed` says how many rows they have. Raises InputError
    when the folder is no embeddings folder or the parts of the index have changed, and SpaceMismatch when the index was
    made of vectors from another encoder.
    """
    folder = Path(folder)
    if not has_index(folder):
        return ExactIndex(Embeddings.open(folder))
    for _ in range(TRIES):
        facts = _facts(folder)
        try:
            if _continues(_parts_now(folder), facts):
                return _open(folder, facts)
        except (OSError, InputError):
            if _facts(folder)["version"] == facts["version"]:
                raise
        if _facts(folder)["version"] == facts["version"]:
            break
    raise InputError(f"{folder} has changed since its index was made; bring it up to date: sslzoo index {folder}")


def write_index(
    folder: str | Path,
    kind: str = "auto",
    *,
    recall: float = RECALL,
    memory: int = MEMORY,
    rebuild: bool = False,
    say: Say = silent,
) -> ExactIndex:
    """Makes the index of an embeddings folder, or brings the one that is there up to date, and opens it.

    Only what is new is read again: parts that came are appended, and a structure of the same kind takes them in, as long as
    it keeps the recall. Raises like `build_index`, and InputError while another process writes the same index.
    """
    require_kind(kind)
    folder = Path(folder)
    embeddings = Embeddings.open(folder)
    with _alone(folder), _tidy(folder):
        parts = _parts_now(folder)
        old = _facts(folder) if has_index(folder) and not rebuild else None
        if old and not (_continues(parts, old) and (old["space"], old["dim"]) == (embeddings.space, embeddings.dim)):
            old = None
        same = old is not None and kind in (old["kind"], old["asked"]) and (old["recall"] or 1) >= recall
        if old and same and old["parts"] == parts:
            return _open(folder, old)
        facts = _store(folder, embeddings, old, parts) | {"asked": kind, "wanted": recall}
        collection = _collection(folder, facts, embeddings.manifest)
        index = _grown(folder, old, collection, recall) if old and same else None
        _save(folder, facts, index or build_index(collection, kind, recall=recall, memory=memory, say=say))
    return open_index(folder)


def remove(folder: str | Path, ids: Sequence[str]) -> ExactIndex:
    """Takes images out of the index, which is written first where there is none; the parts keep them.

    Every row of an id goes. The removed are remembered by their ids and skipped, until the `index` folder is deleted; when
    they become more than a fifth of an approximate index it is built anew without them. Raises InputError for an id that
    isn't there.
    """
    folder = Path(folder)
    if not has_index(folder):
        write_index(folder, "exact")
    with _alone(folder), _tidy(folder):
        index, facts = open_index(folder), _facts(folder)
        collection = index.collection
        for id_ in ids:
            if collection.row_of(id_) is None:
                raise InputError(f"{id_} is not an id of {folder}; ids look like {collection.ids_at([0])[0]}")
        collection.removed = np.union1d(collection.removed, collection.rows_of(ids))
        unchanged = True
        if isinstance(index, ApproximateIndex) and index.structure is not None:
            inside = int(np.isin(index.members, collection.removed).sum())
            if inside > STALE * len(index.members):
                index.build()
                index.tune(facts["wanted"])
                unchanged = False
        _save(folder, facts, index, same_structure=unchanged)
    return open_index(folder)


def _open(folder: Path, facts: Facts, *, mapped: bool = True) -> ExactIndex:
    manifest = read_manifest(folder)
    if manifest["space"] != facts["space"]:
        raise SpaceMismatch(
            f"the index of {folder} was made of vectors by {facts['model']} (space {facts['space'][:8]}), the folder now "
            f"has those by {manifest['model']} (space {manifest['space'][:8]}); build it again: sslzoo index {folder} --rebuild"
        )
    at, files = folder / INDEX, facts["files"]
    vectors = at / files["vectors"]
    if not vectors.is_file() or vectors.stat().st_size < 4 * facts["rows"] * facts["dim"]:
        raise InputError(f"{vectors} is cut off; build the index again: sslzoo index {folder} --rebuild")
    collection = _collection(folder, facts, manifest)
    collection.open()
    index: ExactIndex
    if facts["kind"] in ("exact", "flat"):
        index = ExactIndex(collection) if facts["kind"] == "exact" else FlatIndex(collection)
    else:
        index = approximate = ApproximateIndex(collection, facts["kind"])
        approximate.effort, approximate.recall = facts["effort"], facts["recall"]
        if "structure" in files:
            approximate.load(at / files["structure"], mapped=mapped)
            approximate.members = np.asarray(np.load(at / files["members"], mmap_mode="r"))  # np.memmap itself is slow
    index.unindexed = manifest["rows"] - facts["rows"]
    return index


def _collection(folder: Path, facts: Facts, manifest: dict[str, Any]) -> MappedCollection:
    collection = MappedCollection(folder, facts, manifest)
    if "removed" in facts["files"]:
        collection.removed = np.load(folder / INDEX / facts["files"]["removed"])
    return collection


def _store(folder: Path, embeddings: Embeddings, old: Facts | None, parts: list[list[Any]]) -> Facts:
    """Brings vectors and columns on disk, as far as they are not there already; returns the facts of what there is now."""
    at = folder / INDEX
    at.mkdir(exist_ok=True)
    facts: Facts = {
        "format": FORMAT,
        "space": embeddings.space,
        "model": embeddings.model,
        "dim": embeddings.dim,
        "parts": parts,
        "version": _version(folder),
        "rows": old["rows"] if old else 0,
        "files": dict(old["files"]) if old else {},
    }
    if old and old["parts"] == parts:
        return facts
    number, files, new = facts["version"] + 1, facts["files"], part_files(folder)
    files["rows"] = f"rows-{number}.arrow"
    _write_rows(at / files["rows"], new)
    if old is None:
        files["vectors"] = f"vectors-{number}.f32"
    else:
        new = new[len(old["parts"]) :]
    keep = 4 * facts["rows"] * facts["dim"]
    facts["rows"] += _append_vectors(at / files["vectors"], new, keep=keep, dim=facts["dim"])
    if old is None and len(removed := _removed_before(folder, facts)):
        files["removed"] = _write(at / f"removed-{number}.npy", lambda path: np.save(path, removed))
    return facts


def _grown(folder: Path, old: Facts, collection: MappedCollection, recall: float) -> ApproximateIndex | None:
    """The index that is there with the new rows of the collection, if it can take them in and still keeps the recall."""
    if "structure" not in old["files"]:
        return None
    index = _open(folder, old, mapped=False)
    assert isinstance(index, ApproximateIndex)
    index.collection = collection
    index.add(old["rows"])
    return index if index.tune(recall) >= recall else None


def _save(folder: Path, facts: Facts, index: ExactIndex, *, same_structure: bool = False) -> None:
    at = folder / INDEX
    number = facts["version"] + 1
    files = {name: facts["files"][name] for name in ("vectors", "rows")}
    facts = facts | {"version": number, "kind": index.kind, "recall": None, "files": files}
    if len(index.collection.removed):
        files["removed"] = _write(at / f"removed-{number}.npy", lambda path: np.save(path, index.collection.removed))
    if isinstance(index, ApproximateIndex):
        facts |= {"effort": index.effort, "recall": index.recall}
        if index.structure is not None:
            files["structure"], files["members"] = f"structure-{number}.faiss", f"members-{number}.npy"
            if same_structure:
                old = _facts(folder)["files"]
                files["structure"], files["members"] = old["structure"], old["members"]
            else:
                _write(at / files["structure"], index.save)
                _write(at / files["members"], lambda path: np.save(path, index.members))
    temporary = at / f".{FACTS}.tmp"
    _write(temporary, lambda path: path.write_text(json.dumps(facts) + "\n", encoding="utf-8"))
    os.replace(temporary, at / FACTS)


def _write(path: Path, write: Callable[[Path], Any]) -> str:
    """Writes a file and waits until it is on disk; returns its name."""
    write(path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return path.name


@contextmanager
def _tidy(folder: Path) -> Iterator[None]:
    """Afterwards, also when it failed, nothing is left in the index but what its facts name."""
    try:
        yield
    finally:
        with suppress(OSError, InputError):  # facts that can't be read name nothing for sure
            named = _facts(folder)["files"].values() if has_index(folder) else ()
            for path in (folder / INDEX).iterdir():
                if path.name not in (FACTS, LOCK, *named):
                    path.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the index; the lock goes with the process that holds it."""
    from filelock import FileLock, Timeout

    try:
        (folder / INDEX).mkdir(exist_ok=True)
        lock = FileLock(folder / INDEX / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"another process is writing the index of {folder}; wait until it is done") from None
    except OSError as error:
        raise _not_written(folder, error) from None
    try:
        yield
    except OSError as error:
        raise _not_written(folder, error) from None
    finally:
        lock.release()


def _not_written(folder: Path, error: OSError) -> OutputError:
    cause = os.strerror(error.errno) if error.errno else error
    return OutputError(
        f"the index of {folder} can't be written ({cause}); the earlier one is kept: make room, and sslzoo index {folder} "
        "goes on"
    )


def _facts(folder: Path) -> Facts:
    path = folder / INDEX / FACTS
    try:
        facts: Facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] == FORMAT and facts.keys() >= NEEDED and facts["files"].keys() >= {"vectors", "rows"}:
            return facts
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path} can't be read by this version; build the index again: sslzoo index {folder} --rebuild")


def _version(folder: Path) -> int:
    """The number of the last change, finished or not."""
    numbers = [path.stem.rpartition("-")[2] for path in (folder / INDEX).glob("*-*.*")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _parts_now(folder: Path) -> list[list[Any]]:
    """The stamp of each part: enough to see that parts came, went or changed."""
    return [part_stamp(path) for path in part_files(folder)]


def _continues(parts: list[list[Any]], facts: Facts) -> bool:
    """Whether the folder's parts begin with those of the index."""
    return bool(parts[: len(facts["parts"])] == facts["parts"])


def _removed_before(folder: Path, facts: Facts) -> NDArray[np.int64]:
    """The rows of a new index whose ids were removed from the one that is there."""
    try:
        before = _collection(folder, _facts(folder), {})
        gone = before.ids_at(before.removed)
    except (InputError, OSError):  # none is there, or it can't be read
        return np.empty(0, np.int64)
    return MappedCollection(folder, facts, {}).rows_of(gone)


def _append_vectors(path: Path, parts: Sequence[Path], *, keep: int, dim: int) -> int:
    """Appends the parts' vectors, normalised, after the first `keep` bytes; returns how many rows that were."""
    rows = 0
    with path.open("r+b" if keep else "wb") as file:
        file.truncate(keep)
        file.seek(keep)
        for vectors in vectors_by_part(parts):
            if vectors.shape[1] != dim:
                raise InputError(f"a part has vectors of {vectors.shape[1]} numbers, the manifest says {dim}")
            if not np.isfinite(vectors).all():
                at = rows + int(np.argmin(np.isfinite(vectors).all(axis=1)))
                raise InputError(f"the vector of new row {at} holds NaN or infinity; embed again with --precision fp32")
            file.write(normalize(vectors).tobytes())
            rows += len(vectors)
        file.flush()
        os.fsync(file.fileno())
    return rows


def _write_rows(path: Path, parts: Sequence[Path]) -> None:
    import pyarrow as pa

    tables = tables_by_part(parts)
    first = next(tables)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        waiting = [first]
        for table in tables:
            if sum(table.nbytes for table in waiting) >= ROWS_BYTES:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
            waiting.append(table)
        writer.write_table(pa.concat_tables(waiting).combine_chunks())
