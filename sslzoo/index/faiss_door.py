"""The one door to FAISS, an optional package: every other module asks here."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import MissingExtra

# all of them install the same folder `faiss`, and pip does not stop anybody from having two
PACKAGES = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")
MANY = 100  # centres beyond which k-means starts once only, as it takes long and chance evens out


@cache
def available() -> bool:
    """Whether FAISS is installed."""
    return importlib.util.find_spec("faiss") is not None


@cache
def has_gpu() -> bool:
    """Whether a FAISS for GPUs is installed and finds one; FAISS for the CPU isn't imported for this."""
    found = _installed()
    if not available() or "faiss-cpu" in found or len(found) > 1:
        return False
    return bool(getattr(load(), "get_num_gpus", int)() > 0)


@cache
def load(purpose: str = "every kind of index but exact") -> Any:
    """The module faiss; raises MissingExtra, for this purpose, where there is none, or two that overwrite each other."""
    found = _installed()
    if len(found) > 1:
        raise MissingExtra(
            f"{' and '.join(found)} are both installed and overwrite each other; keep one: "
            f"pip uninstall -y {' '.join(found)} && pip install {found[-1]}"
        )
    try:
        import faiss
    except ImportError:
        raise MissingExtra(f"{purpose} needs FAISS, which is not installed: pip install 'sslzoo[faiss]'") from None
    return faiss


def _installed() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def nearest(
    bank: NDArray[np.float32], probes: NDArray[np.float32], m: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The m rows of largest dot product for each probe, and these products, `[q, m]` each, by brute force."""
    faiss = load()
    bank, probes = np.ascontiguousarray(bank), np.ascontiguousarray(probes)
    if has_gpu():
        products, rows = faiss.knn_gpu(_gpu(), probes, bank, m, metric=faiss.METRIC_INNER_PRODUCT)
    else:
        products, rows = faiss.knn(probes, bank, m, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, products


def products(bank: NDArray[np.float32], probes: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The dot products `[q, m]` of each probe with its own rows of the bank, anything where a row is -1; nothing is copied."""
    faiss = load()
    probes, rows = np.ascontiguousarray(probes), np.ascontiguousarray(rows)
    out = np.empty(rows.shape, np.float32)
    pointers = (faiss.swig_ptr(array) for array in (out, probes, bank, rows))
    faiss.fvec_inner_products_by_idx(*pointers, probes.shape[1], *rows.shape)
    return out


def kmeans(vectors: NDArray[np.float32], k: int, *, seed: int = 0) -> NDArray[np.float32]:
    """The centres of spherical k-means, float32 `[k, dim]` of length 1."""
    tries = 5 if k <= MANY else 1
    options = {"niter": 25, "spherical": True, "seed": seed, "min_points_per_centroid": 1, "nredo": tries}
    found = load("clustering").Kmeans(vectors.shape[1], k, **options)
    found.train(np.ascontiguousarray(vectors))
    return np.asarray(found.centroids, np.float32)


@cache
def _gpu() -> Any:
    return load().StandardGpuResources()
