"""Nearest neighbours by cosine: `build_index(embeddings).search(queries, k)`, exact or approximate, in memory or in a folder.

Every kind of index gives the same scores, those of `exact`; an approximate one may miss a neighbour, and says how often it
did on a sample of the collection.
"""

from __future__ import annotations

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.index.approximate import KINDS as APPROXIMATE
from sslzoo.index.approximate import ApproximateIndex, FlatIndex
from sslzoo.index.auto import Say, choose, silent
from sslzoo.index.collection import Collection
from sslzoo.index.exact import ExactIndex, Neighbours

__all__ = ["KINDS", "ExactIndex", "Neighbours", "build_index"]

KINDS = ("exact", "flat", *APPROXIMATE)
RECALL = 0.95
MEMORY = 4 << 30


def build_index(
    embeddings: Embeddings | Collection,
    kind: str = "exact",
    *,
    recall: float = RECALL,
    memory: int = MEMORY,
    say: Say = silent,
) -> ExactIndex:
    """An index in memory over the embeddings, of one of the KINDS, or "auto" for the quickest that keeps the promise.

    `recall` is the share of the true ten nearest that an approximate kind has to find on a sample of these very vectors;
    it raises InputError when it does not. "auto" falls back to exact then; `memory` in bytes is what its structure may
    take, and `say` is told how it chooses.
    """
    require_kind(kind)
    collection = embeddings if isinstance(embeddings, Collection) else Collection(embeddings)
    if kind == "auto":
        return choose(collection, recall=recall, memory=memory, say=say)
    if kind == "exact":
        return ExactIndex(collection)
    if kind == "flat":
        return FlatIndex(collection)
    index = ApproximateIndex(collection, kind)
    index.build()
    if (reached := index.tune(recall)) < recall:
        raise InputError(
            f"{kind} finds {reached:.3f} of the true neighbours of a sample of these vectors, {recall} was wanted; use "
            "--kind auto, or promise less with --recall"
        )
    return index


def require_kind(kind: str) -> None:
    """Raises InputError for a kind of index that isn't known."""
    if kind not in ("auto", *KINDS):
        raise InputError(f"kind is {kind!r}; use auto, {', '.join(KINDS)}")
