"""An index inside its embeddings folder (`index/`): written from the parts in bounded memory, opened memory-mapped.

`vectors.f32` holds the normalised vectors row by row, `rows.arrow` all other columns, `index.json` the kind, the space, the
parts it was made of and what was removed; an approximate kind adds `structure-N.faiss` and `members-N.npy`. The parts
themselves are never changed. `index.json` is written last, so an interrupted change leaves the index as it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslzoo.embeddings import INDEX, Embeddings, columns, normalize, part_files, read_manifest, vectors_by_part
from sslzoo.errors import InputError, SpaceMismatch
from sslzoo.index import MEMORY, RECALL, build_index
from sslzoo.index.approximate import STALE, ApproximateIndex, FlatIndex
from sslzoo.index.collection import MappedCollection
from sslzoo.index.exact import ExactIndex

FORMAT = 1
FACTS, VECTORS, ROWS = "index.json", "vectors.f32", "rows.arrow"


def has_index(folder: str | Path) -> bool:
    """Whether an embeddings folder holds an index."""
    return (Path(folder) / INDEX / FACTS).is_file()


def open_index(folder: str | Path) -> ExactIndex:
    """The index of an embeddings folder, memory-mapped; exact search over the parts where none was made.

    Raises InputError when the folder is no embeddings folder or its parts have changed since, and SpaceMismatch when the
    index was made of vectors from another encoder.
    """
    folder = Path(folder)
    if not has_index(folder):
        return ExactIndex(Embeddings.open(folder))
    facts = _facts(folder)
    if _parts_now(folder) != facts["parts"]:
        raise InputError(f"{folder} has changed since its index was made; bring it up to date: sslzoo index {folder}")
    return _open(folder, facts)


def write_index(
    folder: str | Path, kind: str = "auto", *, recall: float = RECALL, memory: int = MEMORY, rebuild: bool = False
) -> ExactIndex:
    """Makes the index of an embeddings folder, or brings the one that is there up to date, and opens it.

    New parts are added to an index of the same kind; anything else builds it anew. Raises like `build_index`.
    """
    folder = Path(folder)
    embeddings = Embeddings.open(folder)
    if has_index(folder) and not rebuild:
        facts, parts = _facts(folder), _parts_now(folder)
        same_kind = kind in (facts["kind"], facts["asked"]) and (facts["recall"] is None or facts["recall"] >= recall)
        if same_kind and facts["parts"] == parts[: len(facts["parts"])]:
            return _open(folder, facts) if parts == facts["parts"] else _add_parts(folder, facts, parts)
    temporary = folder / f".{INDEX}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        parts = _parts_now(folder)
        facts = {
            "format": FORMAT,
            "space": embeddings.space,
            "model": embeddings.model,
            "dim": embeddings.dim,
            "rows": _write_vectors(temporary / VECTORS, part_files(folder), keep=0, dim=embeddings.dim),
            "parts": parts,
            "removed": _still_removed(folder, parts),
            "asked": kind,
            "wanted": recall,
            "recall": None,
            "version": 0,
        }
        _write_rows(temporary / ROWS, part_files(folder))
        collection = MappedCollection(temporary / VECTORS, temporary / ROWS, facts, embeddings.manifest)
        collection.removed = np.array(facts["removed"], np.int64)
        index = build_index(collection, kind, recall=recall, memory=memory)
        _save(temporary, facts, index)
        shutil.rmtree(folder / INDEX, ignore_errors=True)
        os.replace(temporary, folder / INDEX)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_index(folder)


def remove(folder: str | Path, ids: Sequence[str]) -> ExactIndex:
    """Takes images out of the index, which is written first where there is none; the parts keep them.

    The removed are remembered and skipped; when they become more than a fifth of an approximate index it is built anew
    without them. Raises InputError for an id that isn't there.
    """
    folder = Path(folder)
    index = open_index(folder) if has_index(folder) else write_index(folder, "exact")
    rows = {id_: index.collection.row_of(id_) for id_ in ids}
    if unknown := [id_ for id_, row in rows.items() if row is None]:
        example = index.collection.ids_at([0])[0]
        raise InputError(f"{unknown[0]} is not an id of {folder}; ids look like {example}")
    index.collection.removed = np.union1d(index.collection.removed, np.array(list(rows.values()), np.int64))
    facts = _facts(folder)
    if isinstance(index, ApproximateIndex) and index.structure is not None:
        inside = int(np.isin(index.members, index.collection.removed).sum())
        if inside > STALE * len(index.members):
            index.build()
            index.tune(facts["wanted"])
            facts["version"] += 1
    _save(folder / INDEX, facts, index)
    return open_index(folder)


def _open(folder: Path, facts: dict[str, Any], *, mapped: bool = True) -> ExactIndex:
    manifest = read_manifest(folder)
    if manifest["space"] != facts["space"]:
        raise SpaceMismatch(
            f"the index of {folder} was made of vectors by {facts['model']} (space {facts['space'][:8]}), the folder now "
            f"has those by {manifest['model']} (space {manifest['space'][:8]}); build it again: sslzoo index {folder} --rebuild"
        )
    at = folder / INDEX
    expected = 4 * facts["rows"] * facts["dim"]
    if not (at / VECTORS).is_file() or (at / VECTORS).stat().st_size < expected:
        raise InputError(f"{at / VECTORS} is cut off; build the index again: sslzoo index {folder} --rebuild")
    collection = MappedCollection(at / VECTORS, at / ROWS, facts, manifest)
    collection.removed = np.array(facts["removed"], np.int64)
    if facts["kind"] in ("exact", "flat"):
        return ExactIndex(collection) if facts["kind"] == "exact" else FlatIndex(collection)
    index = ApproximateIndex(collection, facts["kind"])
    index.effort, index.recall = facts["effort"], facts["recall"]
    structure, members = _structure(at, facts)
    if structure.is_file():
        index.load(structure, mapped=mapped)
        index.members = np.load(members, mmap_mode="r")
    return index


def _save(at: Path, facts: dict[str, Any], index: ExactIndex) -> None:
    facts = facts | {"kind": index.kind, "removed": index.collection.removed.tolist()}
    keep = {FACTS, VECTORS, ROWS}
    if isinstance(index, ApproximateIndex):
        facts |= {"effort": index.effort, "recall": index.recall}
        structure, members = _structure(at, facts)
        if index.structure is not None:
            if not structure.exists():
                index.save(structure)
                np.save(members, index.members)
            keep |= {structure.name, members.name}
    temporary = at / f".{FACTS}.tmp"
    temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    os.replace(temporary, at / FACTS)
    for path in at.iterdir():
        if path.name not in keep:
            path.unlink()


def _add_parts(folder: Path, facts: dict[str, Any], parts: list[list[Any]]) -> ExactIndex:
    index = _open(folder, facts, mapped=False)
    files = part_files(folder)
    before = facts["rows"]
    at = folder / INDEX
    bytes_before = 4 * before * facts["dim"]
    added = _write_vectors(at / VECTORS, files[len(facts["parts"]) :], keep=bytes_before, dim=facts["dim"])
    _write_rows(at / ROWS, files)
    facts |= {"rows": before + added, "parts": parts, "version": facts["version"] + 1}
    removed = index.collection.removed
    index.collection = MappedCollection(at / VECTORS, at / ROWS, facts, index.collection.manifest)
    index.collection.removed = removed
    if isinstance(index, ApproximateIndex):
        index.add(before)
        index.tune(facts["wanted"])
    _save(at, facts, index)
    return open_index(folder)


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / INDEX / FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] == FORMAT:
            return facts
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path} can't be read by this version; remove {path.parent} and run: sslzoo index {folder}")


def _parts_now(folder: Path) -> list[list[Any]]:
    """Name and size in bytes of each part: enough to see that parts came or went."""
    return [[path.name, path.stat().st_size] for path in part_files(folder)]


def _still_removed(folder: Path, parts: list[list[Any]]) -> list[int]:
    """The rows removed from the index that is there, if its parts still begin the folder's."""
    if not has_index(folder):
        return []
    facts = _facts(folder)
    removed: list[int] = facts["removed"] if facts["parts"] == parts[: len(facts["parts"])] else []
    return removed


def _structure(at: Path, facts: dict[str, Any]) -> tuple[Path, Path]:
    return at / f"structure-{facts['version']}.faiss", at / f"members-{facts['version']}.npy"


def _write_vectors(path: Path, parts: Sequence[Path], *, keep: int, dim: int) -> int:
    """Appends the parts' vectors, normalised, after the first `keep` bytes; returns how many rows that were."""
    rows = 0
    with path.open("r+b" if keep else "wb") as file:
        file.truncate(keep)
        file.seek(keep)
        for vectors in vectors_by_part(parts):
            if vectors.shape[1] != dim:
                raise InputError(f"a part has vectors of {vectors.shape[1]} numbers, the manifest says {dim}")
            file.write(normalize(vectors).tobytes())
            rows += len(vectors)
        file.flush()
        os.fsync(file.fileno())
    return rows


def _write_rows(path: Path, parts: Sequence[Path]) -> None:
    import pyarrow as pa

    table = columns(parts)
    temporary = path.with_name(f".{path.name}.tmp")
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    os.replace(temporary, path)
