"""Hands a collection to a vector database, LanceDB or Qdrant: streamed part by part, with ids, columns and the space.

Row i becomes the point with number i, so a run that was interrupted goes on where the table ends (LanceDB, whose column
`sslzoo_part` tells of which state of its part a row is) or writes all points again (Qdrant). Vectors are stored with
length 1, so that cosine and dot product agree with exact search.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslzoo.embeddings import (
    Embeddings,
    normalize,
    part_files,
    part_stamp,
    read_manifest,
    tables_by_part,
    vectors_by_part,
)
from sslzoo.errors import InputError, MissingExtra, SpaceMismatch
from sslzoo.index.collection import Collection

PARTS = 64  # written to LanceDB as one version of its table, which costs a file or two; they pass through one by one
POINTS = 512  # a request to Qdrant
PART = "sslzoo_part"  # the column of LanceDB that tells of which state of its part a row is
CHECKED = 1000  # parts in a query to LanceDB
SECONDS = 60  # that a request to Qdrant may take


def export_vectors(folder: str | Path, to: str, at: Any, *, table: str = "images") -> int:
    """Writes the embeddings folder into the database `to` ("lancedb" or "qdrant") and returns its number of vectors.

    `at` is a folder for LanceDB, and a URL or a client for Qdrant; `table` names the table or collection. Memory is that of
    one part. Raises SpaceMismatch when the table holds vectors of another encoder, and MissingExtra.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        raise InputError(f"{folder} is of a run that was not finished; run the same `sslzoo embed` with --resume")
    if to not in DATABASES:
        raise InputError(f"--to {to!r} is not known; use {' or '.join(DATABASES)}")
    return DATABASES[to](folder, manifest, at, table)


def _batches(folder: Path, start: int = 0) -> Iterator[Any]:
    """An Arrow table for each part, from row `start` on: number, path, the other columns, the part's stamp, and vector."""
    import numpy as np
    import pyarrow as pa

    files = part_files(folder)
    row = 0
    for file, vectors, rest in zip(files, vectors_by_part(files, empty=True), tables_by_part(files), strict=True):
        n, dim = vectors.shape
        if row + n > start:
            flat = pa.array(normalize(vectors).ravel(), pa.float32())
            table = rest.add_column(0, "number", pa.array(np.arange(row, row + n), pa.int64()))
            table = table.append_column(PART, pa.array([_stamp(file)] * n, pa.string()))
            table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, dim))
            yield table.slice(max(0, start - row))
        row += n


def _lancedb(folder: Path, manifest: dict[str, Any], at: Any, name: str) -> int:
    try:
        import lancedb
    except ImportError:
        raise MissingExtra("LanceDB is not installed: pip install 'sslzoo[lancedb]'") from None
    import pyarrow as pa

    facts = {"sslzoo.space": manifest["space"], "sslzoo.model": manifest["model"]}
    try:
        database = lancedb.connect(str(at))
        table: Any = None
        with contextlib.suppress(ValueError, FileNotFoundError):  # there is none yet
            table = database.open_table(name)
        done = 0
        if table is not None:
            known = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
            _require_space(f"{at} {name}", known.get("sslzoo.space"), known.get("sslzoo.model", "?"), manifest)
            done = table.count_rows()
            if done:
                _require_same_parts(folder, table, f"{at} {name}", done)
        batches = _batches(folder, done)
        for first in batches:
            schema = first.schema.with_metadata(facts)
            parts = itertools.chain([first], itertools.islice(batches, PARTS - 1))
            stream = pa.RecordBatchReader.from_batches(schema, _record_batches(parts, schema))
            if table is None:
                table = database.create_table(name, stream)
            else:
                table.add(stream)
    except (OSError, RuntimeError) as error:
        raise InputError(f"LanceDB can't write {at} ({_first_line(error)}); choose another folder with --at") from None
    return int(manifest["rows"])


def _record_batches(tables: Iterator[Any], schema: Any) -> Iterator[Any]:
    for table in tables:
        yield from table.cast(schema).to_batches()


def _qdrant(folder: Path, manifest: dict[str, Any], at: Any, name: str) -> int:
    try:
        from qdrant_client import QdrantClient, models
        from qdrant_client.http.exceptions import ApiException
    except ImportError:
        raise MissingExtra("Qdrant's client is not installed: pip install 'sslzoo[qdrant]'") from None
    facts = {"sslzoo_space": manifest["space"], "sslzoo_model": manifest["model"]}
    try:
        key = os.environ.get("QDRANT_API_KEY")
        options: dict[str, Any] = {"api_key": key, "timeout": SECONDS, "check_compatibility": False}
        client = QdrantClient(url=at, **options) if isinstance(at, str) else at
        if client.collection_exists(name):
            first = client.scroll(name, limit=1, with_payload=True)[0]
            if first:
                known = first[0].payload or {}
                _require_space(f"{at} {name}", known.get("sslzoo_space"), known.get("sslzoo_model", "?"), manifest)
                done = client.count(name).count
                last = client.retrieve(name, [done - 1], with_payload=["path"])
                path = (last[0].payload or {}).get("path") if last else None
                _require_same_rows(folder, manifest, f"{at} {name}", done, path)
        else:
            shape = models.VectorParams(size=manifest["dim"], distance=models.Distance.COSINE)
            client.create_collection(name, vectors_config=shape)
        for batch in _batches(folder):
            for start in range(0, len(batch), POINTS):
                points = [
                    models.PointStruct(id=entry.pop("number"), vector=entry.pop("vector"), payload=entry | facts)
                    for entry in batch.drop_columns([PART]).slice(start, POINTS).to_pylist()
                ]
                client.upsert(name, points=points, wait=True)
    except (ApiException, ValueError) as error:
        raise InputError(
            f"Qdrant at {at} refused or can't be reached ({_first_line(error)}); check --at, a URL such as http://localhost:6333"
        ) from None
    return int(manifest["rows"])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def _stamp(part: Path) -> str:
    return " ".join(map(str, part_stamp(part)))


def _require_same_parts(folder: Path, table: Any, where: str, done: int) -> None:
    """Raises InputError unless the rows that are there, `done` of them, are those of the folder's first parts."""
    import pyarrow.parquet as pq

    stamps, row = {}, 0
    for path in part_files(folder):
        n = pq.read_metadata(path).num_rows
        for number in {row, min(row + n, done) - 1} if n and row < done else ():
            stamps[number] = _stamp(path)
        row += n
    found: dict[int, str] = {}
    numbers = list(stamps)
    for at in range(0, len(numbers) if PART in table.schema.names else 0, CHECKED):
        some = ", ".join(map(str, numbers[at : at + CHECKED]))
        rows = table.search().where(f"number IN ({some})").select(["number", PART]).limit(CHECKED).to_list()
        found |= {entry["number"]: entry[PART] for entry in rows}
    if done > row or found != stamps:
        raise _other_rows(where, folder)


def _other_rows(where: str, folder: Path) -> InputError:
    return InputError(f"{where} holds other rows than {folder} has now; choose another --table, or drop that one first")


def _require_same_rows(folder: Path, manifest: dict[str, Any], where: str, done: int, last: str | None) -> None:
    """Raises InputError unless the last row that is there is the folder's row of that number."""
    if done > manifest["rows"] or last != Collection(Embeddings.open(folder)).ids_at([done - 1])[0]:
        raise _other_rows(where, folder)


def _require_space(where: str, space: str | None, model: str, manifest: dict[str, Any]) -> None:
    if space != manifest["space"]:
        raise SpaceMismatch(
            f"{where} holds vectors made by {model} (space {str(space)[:8]}), these were made by {manifest['model']} (space "
            f"{manifest['space'][:8]}); choose another --table"
        )


DATABASES: dict[str, Callable[[Path, dict[str, Any], Any, str], int]] = {"lancedb": _lancedb, "qdrant": _qdrant}
