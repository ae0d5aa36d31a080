"""Places in the plane for all photos: their first two principal components, or UMAP where it is installed; kept in the cache."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslzoo.demo.collection import Photos
from sslzoo.user_cache import keep, user_cache

CHUNK = 4096
NEIGHBOURS = 15  # UMAP's own default


def kinds(photos: Photos) -> list[str]:
    """The layouts there are, the best last."""
    return ["PCA", "UMAP"] if len(photos) > 4 and has_umap() else ["PCA"]


def has_umap() -> bool:
    """Whether UMAP is installed."""
    return importlib.util.find_spec("umap") is not None


def place(photos: Photos, kind: str) -> NDArray[np.float32]:
    """A place for each photo, float32 `[n, 2]` in [0, 1]."""
    cached = _kept(photos, kind)
    with photos.once(kind):
        try:
            return np.asarray(np.load(cached, allow_pickle=False), np.float32)
        except (OSError, ValueError):
            pass
        vectors = photos.collection.vectors_at(photos.rows)
        found = _fit(umap(vectors) if kind == "UMAP" else pca(vectors))
        buffer = io.BytesIO()
        np.save(buffer, found, allow_pickle=False)
        keep(cached, buffer.getvalue())
        return found


def is_made(photos: Photos, kind: str) -> bool:
    """Whether `place` need not compute it."""
    return _kept(photos, kind).is_file()


def _kept(photos: Photos, kind: str) -> Path:
    return user_cache() / "maps" / f"{_digest(photos)}-{kind}.npy"


@functools.cache
def _digest(photos: Photos) -> str:
    return hashlib.sha256(photos.collection.vectors_at(photos.rows).tobytes()).hexdigest()[:32]


def pca(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The projection of `[n, dim]` onto its two directions of largest variance, `[n, 2]`, the largest entry of each positive."""
    mean = vectors.mean(0, dtype=np.float64)
    covariance = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), CHUNK):
        block = vectors[start : start + CHUNK] - mean
        covariance += block.T @ block
    directions = np.linalg.eigh(covariance)[1][:, :-3:-1]  # [dim, 2]
    directions *= np.sign(directions[np.abs(directions).argmax(0), [0, 1]])
    return np.asarray((vectors - mean.astype(np.float32)) @ directions.astype(np.float32), np.float32)


def umap(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """UMAP by cosine (arXiv:1802.03426), seeded, `[n, 2]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba's and scikit-learn's, about themselves
        from umap import UMAP

        made = UMAP(n_neighbors=min(NEIGHBOURS, len(vectors) - 1), metric="cosine", random_state=0, n_jobs=1)
        return np.asarray(made.fit_transform(vectors), np.float32)


def _fit(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scaled to [0, 1] in both directions."""
    low, high = places.min(0), places.max(0)
    return np.asarray((places - low) / np.where(high > low, high - low, 1), np.float32)
