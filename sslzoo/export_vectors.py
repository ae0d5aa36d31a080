"""Hands a collection to a vector database, LanceDB or Qdrant: streamed part by part, with ids, columns and the space.

Row i becomes the point with number i, so a run that was interrupted goes on where the table ends (LanceDB) or writes the
same points again (Qdrant). Vectors are stored with length 1, so that cosine and dot product agree with exact search.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslzoo.embeddings import normalize, part_files, read_manifest, tables_by_part, vectors_by_part
from sslzoo.errors import InputError, MissingExtra, SpaceMismatch

BATCH = 512  # points a request to Qdrant


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


def _batches(folder: Path) -> Iterator[Any]:
    """An Arrow table for each part: number, path, vector, and the other columns."""
    import numpy as np
    import pyarrow as pa

    files = part_files(folder)
    row = 0
    for vectors, rest in zip(vectors_by_part(files, empty=True), tables_by_part(files), strict=True):
        n, dim = vectors.shape
        flat = pa.array(normalize(vectors).ravel(), pa.float32())
        table = rest.add_column(0, "number", pa.array(np.arange(row, row + n), pa.int64()))
        yield table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, dim))
        row += n


def _lancedb(folder: Path, manifest: dict[str, Any], at: Any, name: str) -> int:
    try:
        import lancedb
    except ImportError:
        raise MissingExtra("LanceDB is not installed: pip install 'sslzoo[lancedb]'") from None
    database = lancedb.connect(str(at))
    facts = {"sslzoo.space": manifest["space"], "sslzoo.model": manifest["model"]}
    table: Any = None
    with contextlib.suppress(ValueError, FileNotFoundError):  # there is none yet
        table = database.open_table(name)
    if table is not None:
        known = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        _require_space(f"{at} {name}", known.get("sslzoo.space"), known.get("sslzoo.model", "?"), manifest)
    done = table.count_rows() if table is not None else 0
    row = 0
    for batch in _batches(folder):
        end = row + len(batch)
        if end > done:
            rest = batch.slice(max(0, done - row)).replace_schema_metadata(facts)
            if table is None:
                table = database.create_table(name, rest)
            else:
                table.add(rest)
        row = end
    return row


def _qdrant(folder: Path, manifest: dict[str, Any], at: Any, name: str) -> int:
    try:
        from qdrant_client import QdrantClient, models
    except ImportError:
        raise MissingExtra("Qdrant's client is not installed: pip install 'sslzoo[qdrant]'") from None
    client = QdrantClient(url=at) if isinstance(at, str) else at
    facts = {"sslzoo_space": manifest["space"], "sslzoo_model": manifest["model"]}
    if client.collection_exists(name):
        points, _ = client.scroll(name, limit=1, with_payload=True)
        if points:
            known = points[0].payload
            _require_space(f"{at} {name}", known.get("sslzoo_space"), known.get("sslzoo_model", "?"), manifest)
    else:
        shape = models.VectorParams(size=manifest["dim"], distance=models.Distance.COSINE)
        client.create_collection(name, vectors_config=shape)
    row = 0
    for batch in _batches(folder):
        for start in range(0, len(batch), BATCH):
            some = batch.slice(start, BATCH).to_pylist()
            points = [
                models.PointStruct(
                    id=entry["number"],
                    vector=entry["vector"],
                    payload={k: v for k, v in entry.items() if k not in ("number", "vector")} | facts,
                )
                for entry in some
            ]
            client.upsert(name, points=points, wait=True)
        row += len(batch)
    return row


def _require_space(where: str, space: str | None, model: str, manifest: dict[str, Any]) -> None:
    if space != manifest["space"]:
        raise SpaceMismatch(
            f"{where} holds vectors made by {model} (space {str(space)[:8]}), these were made by {manifest['model']} (space "
            f"{manifest['space'][:8]}); choose another --table"
        )


DATABASES: dict[str, Callable[[Path, dict[str, Any], Any, str], int]] = {"lancedb": _lancedb, "qdrant": _qdrant}
