"""Searching a collection by image file, URL, standard input, array or id; only an image needs a forward pass."""

from __future__ import annotations

import itertools
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import ImageError, InputError, SpaceMismatch
from sslzoo.images.decode import Policy, decode
from sslzoo.images.sources.location import stamp_of
from sslzoo.index import ExactIndex, Neighbours
from sslzoo.index.collection import Collection
from sslzoo.thumbnails import image_file

URL_BYTES = 64 << 20  # of an image fetched by URL
URL_SECONDS = 20.0
SHOWN = 200  # letters of a query in a message
WEB = ("http://", "https://")
AGENT = "sslzoo (image search)"


Failure = tuple[str, InputError | OSError]  # the query as it was given, and why there is nothing to search by


@dataclass(frozen=True)
class Query:
    """One vector to search by: its name, its row where it belongs to the collection, and the picture where there is one."""

    name: str
    vector: NDArray[np.float32]  # [dim]
    row: int | None = None
    picture: Path | bytes | None = None


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
    finds itself, first or beside its copies; `exclude_self` drops it. A file that was changed since is embedded anew.
    `threshold` drops lower cosines, and with k None all that reach it are found; `prefix` and `where` (column: value) say
    which images may be found. Raises InputError for a query that is none of these, and SpaceMismatch when the encoder is not
    the one that made the collection.
    """
    index = collection if isinstance(collection, ExactIndex) else ExactIndex(collection)
    read, failures = read_queries(index.collection, queries, device=device)
    for _, error in failures:
        raise error
    found = search_by(index, read, k, exclude_self=exclude_self, threshold=threshold, prefix=prefix, where=where)
    return [query.name for query in read], found


def search_by(
    index: ExactIndex,
    queries: Sequence[Query],
    k: int | None = 10,
    *,
    exclude_self: bool = False,
    threshold: float | None = None,
    prefix: str = "",
    where: Mapping[str, str] | None = None,
) -> Neighbours:
    """The k nearest images of each query; the options are those of `search_images`."""
    probes = np.array([query.vector for query in queries], np.float32).reshape(len(queries), index.collection.dim)
    within = index.collection.matching(prefix=prefix, where=where)
    exclude = [query.row for query in queries] if exclude_self else None
    return index.search(probes, k, exclude=exclude, within=within, threshold=threshold)


def read_queries(
    collection: Collection, queries: Sequence[str], *, device: str = "auto"
) -> tuple[list[Query], list[Failure]]:
    """What `search_images` searches by, one or more for each query that can be read, and the failures.

    Pictures go through the encoder together.
    """
    read: list[list[Query]] = []
    pictures: dict[int, tuple[Path | bytes, bytes]] = {}  # by the query's place
    rows_of: dict[int, int | None] = {}
    failures: dict[int, InputError | OSError] = {}
    for place, query in enumerate(queries):
        read.append([])
        try:
            row = rows_of[place] = _row(collection, query)
            if row is not None and not _is_changed(collection, query, row):
                read[place] = [Query(query, collection.vectors_at(np.array([row]))[0], row)]
            elif query.endswith(".npy"):
                rows = _array(Path(query), collection.dim)
                several = [f"{query}[{i}]" for i in range(len(rows))] if len(rows) > 1 else [query]
                read[place] = [Query(name, vector) for name, vector in zip(several, rows, strict=True)]
            else:
                pictures[place] = _picture(query)
        except (InputError, OSError) as error:
            failures[place] = error
    vectors, unreadable = _embed(collection, {place: data for place, (_, data) in pictures.items()}, device)
    for place, reason in unreadable.items():
        failures[place] = ImageError(reason, "standard input" if queries[place] == "-" else queries[place])
    for place, vector in vectors.items():
        read[place] = [Query(queries[place], vector, rows_of[place], pictures[place][0])]
    return list(itertools.chain.from_iterable(read)), [(queries[place], failures[place]) for place in sorted(failures)]


def _picture(query: str) -> tuple[Path | bytes, bytes]:
    """A picture as a contact sheet takes it, and its bytes."""
    if query == "-":
        data = _limited(sys.stdin.buffer.read(URL_BYTES + 1), "standard input")
    elif query.startswith(WEB):
        data = download(query)
    else:
        return Path(query), Path(query).read_bytes()
    return data, data


def _row(collection: Collection, query: str) -> int | None:
    """The query's row in the collection, by id or by where the file lies."""
    row = collection.row_of(query)
    if row is not None or query == "-" or query.startswith(WEB):
        return row
    path = Path(query)
    if not os.path.isfile(query):  # unlike Path's, it takes a text that is too long for a name
        example = collection.ids_at([0])[0]
        raise InputError(f"{query[:SHOWN]} is neither a file nor an id of the collection; ids look like {example}")
    source = Path(collection.manifest.get("source", ""))
    if source.is_absolute() and path.resolve().is_relative_to(source):
        return collection.row_of(path.resolve().relative_to(source).as_posix())
    for name in dict.fromkeys((os.path.normpath(query), os.path.abspath(query), os.path.relpath(query))):
        if (row := collection.row_of(name)) is not None:  # of a list or pattern, whose ids are paths
            own = image_file(name, collection.manifest, listed=True)
            if own is not None and own.samefile(query):
                return row
    return None


def _is_changed(collection: Collection, query: str, row: int) -> bool:
    """Whether the query is the file that the row's vector was made from, and not the same any more."""
    if "mtime_ns" not in collection.column_names or not os.path.isfile(query):
        return False
    own = image_file(collection.ids_at([row])[0], collection.manifest, listed=True)
    before = tuple(collection.take(name, [row])[0] for name in ("bytes", "mtime_ns"))
    return own is not None and own.samefile(query) and None not in before and stamp_of(query) != before


def _array(path: Path, dim: int) -> NDArray[np.float32]:
    try:
        values = np.load(path, allow_pickle=False)
        vectors = np.atleast_2d(np.asarray(values, np.float32))
    except (ValueError, TypeError, EOFError) as error:
        raise InputError(f"{path} is not an array of numbers ({error}); write one with numpy.save") from None
    if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
        raise InputError(f"{path} has shape {values.shape}; the collection needs [{dim}] or [n, {dim}], n at least 1")
    if not np.isfinite(vectors).all():
        raise InputError(f"{path} holds NaN or infinity, which is near to nothing; make its vectors again")
    return vectors


def download(url: str, *, limit: int = URL_BYTES, seconds: float = URL_SECONDS) -> bytes:
    """The bytes behind an http(s) URL; raises InputError when it fails, stalls, or is larger than `limit`."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": AGENT})  # many servers refuse Python's own
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            data: bytes = answer.read(limit + 1)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(f"{url} can't be fetched: {reason}; download the image and name the file") from None
    return _limited(data, url, limit)


def _limited(data: bytes, name: str, limit: int = URL_BYTES) -> bytes:
    if len(data) > limit:
        raise InputError(f"{name} is larger than {limit >> 20} MB; download the image and name the file")
    return data


def _embed(
    collection: Collection, pictures: Mapping[int, bytes], device: str
) -> tuple[dict[int, NDArray[np.float32]], dict[int, str]]:
    """The vector of each picture, by the encoder, precision and decode policy that made the collection; or why it has none."""
    if not pictures:
        return {}, {}
    from sslzoo.pipeline.run import embed
    from sslzoo.registry import maker_of

    manifest = collection.manifest
    policy = Policy.of(manifest)
    encoder = maker_of(collection.folder, manifest)
    choices = {"device": device, "precision": manifest.get("precision", "fp32"), "policy": policy}
    try:
        # bytes, not paths: of a path that is an archive, the members would be embedded
        made = embed(list(pictures.values()), encoder, int8=collection.folder, **choices)
    except InputError:
        unreadable = _unreadable(pictures, policy)
        if len(unreadable) < len(pictures):
            raise
        return {}, unreadable
    unreadable = _unreadable(pictures, policy) if len(made) < len(pictures) else {}
    if made.space != collection.space:
        raise SpaceMismatch(
            f"the collection was made by {collection.model} (space {collection.space[:8]}), the query by {made.model} (space "
            f"{made.space[:8]}): the weights have changed; embed the collection again"
        )
    return dict(zip((place for place in pictures if place not in unreadable), made.vectors, strict=True)), unreadable


def _unreadable(pictures: Mapping[int, bytes], policy: Policy) -> dict[int, str]:
    """Why a picture can't be decoded, for each that can't."""
    reasons = {}
    for place, data in pictures.items():
        try:
            decode(data, policy=policy)
        except ImageError as error:
            reasons[place] = error.reason
    return reasons
