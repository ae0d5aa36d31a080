"""Embeddings: vectors with their ids, in memory and as a folder of Parquet parts with a manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError, SpaceMismatch

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MANIFEST = "manifest.json"
FAILURES = "failures.parquet"


@dataclass(frozen=True)
class Embeddings:
    """Vectors float32 `[n, dim]`, not normalised, with one id each, labels where known, and the space they live in.

    `model` names the encoder. Two embeddings can be compared only when their `space` is equal.
    """

    vectors: NDArray[np.float32]
    ids: Sequence[str]
    space: str
    model: str = ""
    labels: Sequence[str | int | None] | None = None
    root: str = ""
    manifest: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.ids):
            raise InputError(f"vectors have shape {self.vectors.shape} and there are {len(self.ids)} ids; one row an id is needed")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} x {self.dim}, model={self.model!r}, space={self.space[:8]!r})"

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def normalized(self) -> NDArray[np.float32]:
        """The vectors divided by their length; a zero vector stays zero."""
        return self._normalized

    @cached_property
    def _normalized(self) -> NDArray[np.float32]:
        return normalize(self.vectors)

    def require_space(self, space: str, model: str) -> None:
        """Raises SpaceMismatch unless vectors of that space, made by that model, can be compared with these."""
        if space != self.space:
            raise SpaceMismatch(
                f"these vectors were made by {self.model} (space {self.space[:8]}) and the query by {model} "
                f"(space {space[:8]}); embed the query with -m {self.model}, or the collection again with -m {model}"
            )


def normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their Euclidean length, float32; a zero row stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)
