"""Nearest neighbours by cosine: `build_index(embeddings).search(queries, k)`."""

from __future__ import annotations

from sslzoo.embeddings import Embeddings
from sslzoo.index.exact import ExactIndex, Neighbours

__all__ = ["ExactIndex", "Neighbours", "build_index"]


def build_index(embeddings: Embeddings) -> ExactIndex:
    """An index over the embeddings: exact search, which is the definition."""
    return ExactIndex(embeddings)
