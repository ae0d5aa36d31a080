"""Searching an embeddings folder by image; only a query that is not in the collection needs a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.index import Neighbours, build_index


def search_images(
    embeddings: Embeddings, queries: Sequence[str], k: int = 10, *, exclude_self: bool = False, device: str = "auto"
) -> Neighbours:
    """The k nearest images of each query, an image file or an id of the collection.

    A query that belongs to the collection uses its stored vector and finds itself first; `exclude_self` drops it. Raises
    InputError for a query that is neither, and SpaceMismatch when the encoder is not the one that made the collection.
    """
    rows = [_row(embeddings, query) for query in queries]
    vectors = np.empty((len(queries), embeddings.dim), np.float32)
    for i, (query, row) in enumerate(zip(queries, rows, strict=True)):
        vectors[i] = embeddings.vectors[row] if row is not None else _embed(embeddings, query, device)[0]
    return build_index(embeddings).search(vectors, k, exclude=rows if exclude_self else None)


def _row(embeddings: Embeddings, query: str) -> int | None:
    """The query's row in the collection, by id or by where the file lies."""
    if query in embeddings.rows:
        return embeddings.rows[query]
    path = Path(query)
    if not path.is_file():
        example = embeddings.ids[0]
        raise InputError(f"{query} is neither a file nor an id of the collection; ids look like {example}")
    source = Path(embeddings.manifest.get("source", ""))
    if source.is_absolute() and path.resolve().is_relative_to(source):
        return embeddings.rows.get(path.resolve().relative_to(source).as_posix())
    return None


def _embed(embeddings: Embeddings, query: str, device: str) -> NDArray[np.float32]:
    from sslzoo.pipeline import embed

    source: str = embeddings.manifest.get("model_source", "")
    model = source if source.startswith("local-dir:") else embeddings.model
    made = embed(query, model, device=device, precision=embeddings.manifest.get("precision", "fp32"))
    embeddings.require_space(made.space, made.model)
    return made.vectors
