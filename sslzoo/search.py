"""Searching a collection by image file, URL, standard input, array or id; only an image needs a forward pass."""

from __future__ import annotations

import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError, SpaceMismatch
from sslzoo.images.decode import Policy
from sslzoo.index import ExactIndex, Neighbours
from sslzoo.index.collection import Collection

URL_BYTES = 64 << 20  # of an image fetched by URL
URL_SECONDS = 20.0


def search_images(
    collection: Embeddings | ExactIndex,
    queries: Sequence[str],
    k: int | None = 10,
    *,
    exclude_self: bool = False,
    threshold: float | None = None,
    prefix: str = "",
    where: Mapping[str, str] | None = None,
    device: str = "auto",
) -> tuple[list[str], Neighbours]:
    """The names of the queries (a row of an array is `name[i]`) and the k nearest images of each.

    A query is an id of the collection, an image file, an http(s) URL, "-" (an image on standard input) or a .npy file of
    vectors `[dim]` or `[q, dim]` of the collection's space. One that belongs to the collection uses its stored vector and
    finds itself first; `exclude_self` drops it. `threshold` drops lower cosines, and with k None all that reach it are
    found; `prefix` and `where` (column: value) say which images may be found. Raises InputError for a query that is none
    of these, and SpaceMismatch when the encoder is not the one that made the collection.
    """
    index = collection if isinstance(collection, ExactIndex) else ExactIndex(collection)
    names: list[str] = []
    rows: list[int | None] = []
    vectors: list[NDArray[np.float32]] = []
    for query in queries:
        row, found = _query(index.collection, query, device)
        names += [query] if len(found) == 1 else [f"{query}[{i}]" for i in range(len(found))]
        rows += [row] * len(found)
        vectors.append(found)
    probes = np.concatenate([np.zeros((0, index.collection.dim), np.float32), *vectors])
    within = index.collection.matching(prefix=prefix, where=where)
    exclude = rows if exclude_self else None
    return names, index.search(probes, k, exclude=exclude, within=within, threshold=threshold)


def _query(collection: Collection, query: str, device: str) -> tuple[int | None, NDArray[np.float32]]:
    """A query's row in the collection, if it has one, and its vectors `[q, dim]`."""
    row = _row(collection, query)
    if row is not None:
        return row, collection.vectors_at(np.array([row]))
    if query.endswith(".npy"):
        return None, _array(Path(query), collection.dim)
    if query == "-":
        return None, _embed_bytes(collection, sys.stdin.buffer.read(URL_BYTES + 1), "standard input", device)
    if query.startswith(("http://", "https://")):
        return None, _embed_bytes(collection, download(query), query, device)
    return None, _embed(collection, query, device)


def _row(collection: Collection, query: str) -> int | None:
    """The query's row in the collection, by id or by where the file lies."""
    row = collection.row_of(query)
    if row is not None or query == "-" or query.startswith(("http://", "https://")):
        return row
    path = Path(query)
    if not path.is_file():
        example = collection.ids_at([0])[0]
        raise InputError(f"{query} is neither a file nor an id of the collection; ids look like {example}")
    source = Path(collection.manifest.get("source", ""))
    if source.is_absolute() and path.resolve().is_relative_to(source):
        return collection.row_of(path.resolve().relative_to(source).as_posix())
    return None


def _array(path: Path, dim: int) -> NDArray[np.float32]:
    try:
        values = np.load(path, allow_pickle=False)
        vectors = np.atleast_2d(np.asarray(values, np.float32))
    except (ValueError, TypeError, EOFError) as error:
        raise InputError(f"{path} is not an array of numbers ({error}); write one with numpy.save") from None
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise InputError(f"{path} has shape {values.shape}; the collection needs [{dim}] or [n, {dim}]")
    return vectors


def download(url: str, *, limit: int = URL_BYTES, seconds: float = URL_SECONDS) -> bytes:
    """The bytes behind an http(s) URL; raises InputError when it fails, stalls, or is larger than `limit`."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            data: bytes = answer.read(limit + 1)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(f"{url} can't be fetched: {reason}; download the image and name the file") from None
    if len(data) > limit:
        raise InputError(f"{url} is larger than {limit >> 20} MB; download the image and name the file")
    return data


def _embed_bytes(collection: Collection, data: bytes, name: str, device: str) -> NDArray[np.float32]:
    if len(data) > URL_BYTES:
        raise InputError(f"{name} is larger than {URL_BYTES >> 20} MB; name a file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "query"
        path.write_bytes(data)
        try:
            return _embed(collection, str(path), device)
        except InputError as error:
            if str(path.name) not in str(error):
                raise
            raise InputError(f"{name} is not an image that can be read; see it for yourself") from None


def _embed(collection: Collection, query: str, device: str) -> NDArray[np.float32]:
    from sslzoo.pipeline import embed

    source: str = collection.manifest.get("model_source", "")
    model = source if source.startswith("local-dir:") else collection.model
    manifest = collection.manifest
    policy = Policy.of(manifest)
    precision = manifest.get("precision", "fp32")
    made = embed(query, model, device=device, precision=precision, policy=policy, int8=collection.embeddings.folder)
    if made.space != collection.space:
        raise SpaceMismatch(
            f"the collection was made by {collection.model} (space {collection.space[:8]}), the query by {made.model} (space "
            f"{made.space[:8]}): the weights have changed; embed the collection again"
        )
    return made.vectors
