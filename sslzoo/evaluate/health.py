"""How healthy a set of vectors is: collapse, rank, alignment, uniformity, hubs and duplicates, each by its formula.

`z` are the vectors `[n, d]` as stored, `u` the same divided by their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.knn import compute_device, neighbours
from sslzoo.evaluate.score import SetId, features_of, require_finite, set_id

ROWS = 25_000  # of a larger set so many are drawn for ranks and pairs (RankMe's own number)
HUB_K = 10
DUPLICATE = 0.999
READS = {
    "std": "1: spread over the sphere, 0: collapsed",
    "rankme": "how many directions are used",
    "effective_rank": "the common direction left out",
    "alignment": "small: classes are tight",
    "uniformity": "very negative: spread evenly",
    "hubness": "large: a few are everybody's neighbour",
    "antihubs": "large: many are never found",
    "duplicates": "large: the set repeats itself",
}


@dataclass(frozen=True)
class Health:
    """The figures of one set, how they were taken and of what; `alignment` is None where no label is shared by two images."""

    protocol: str
    data: SetId
    features: str  # see `score.features_of`

    rows: int
    dim: int
    std: float
    rankme: float
    effective_rank: float
    alignment: float | None
    uniformity: float
    hubness: float
    antihubs: float
    duplicates: float

    def figures(self) -> dict[str, float | None]:
        """The figures alone, by name."""
        return {key: value for key, value in asdict(self).items() if key not in ("protocol", "data", "features")}

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        judged = {"features": self.features} if self.features else {}
        failed = {"failed": len(self.data.failures)} if self.data.failures else {}
        return {**self.figures(), "protocol": self.protocol, "data": str(self.data), **judged, **failed}


def health(embeddings: Embeddings, *, seed: int = 0, device: str = "cpu") -> Health:
    """All figures of a set; of more than 25,000 rows a fixed random part. Raises InputError below two rows."""
    n = len(embeddings)
    if n < 2:
        raise InputError(f"there are {n} vectors; health needs at least two")
    require_finite(embeddings)
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:ROWS])
    z, u = embeddings.vectors[rows], embeddings.normalized[rows]
    labels = None if embeddings.labels is None else [embeddings.labels[r] for r in rows]
    k = min(HUB_K, len(z) - 1)
    bank = torch.tensor(u, device=compute_device(device))
    found = list(neighbours(bank, bank, k, 1024, "fp32", alone=True))
    nearest = torch.cat([near for _, _, near in found]).cpu().numpy()
    closest = torch.cat([cosine[:, 0] for _, cosine, _ in found]).cpu().numpy()
    counts = occurrences(nearest, len(z))
    drawn = f", {len(z)} drawn with seed {seed}" if len(z) < n else ""
    return Health(
        protocol=f"health@k={k},cosine={DUPLICATE} (n={n}{drawn})",
        data=set_id(embeddings),
        features=features_of(embeddings),
        rows=n,
        dim=z.shape[1],
        std=scaled_std(u),
        rankme=rankme(z),
        effective_rank=effective_rank(z),
        alignment=None if labels is None else alignment(u, labels),
        uniformity=uniformity(u),
        hubness=skewness(counts),
        antihubs=float((counts == 0).mean()),
        duplicates=float((closest >= DUPLICATE).mean()),
    )


def scaled_std(u: NDArray[np.float32]) -> float:
    """std · √d: the mean over dimensions of the standard deviation of u, times √d (SimSiam, arXiv:2011.10566, section 4.1).

    1 for directions spread evenly over the sphere, 0 when all have collapsed to one.
    """
    return float(u.std(0, dtype=np.float64).mean() * u.shape[1] ** 0.5)


def rankme(z: NDArray[np.float32]) -> float:
    """RankMe = exp(-Σ p log p), p = σ / Σσ + 1e-7, σ the singular values of z, not centred (arXiv:2210.02885, eq. 1).

    0 when all vectors are zero.
    """
    sigma = _singular_values(z)
    if sigma.sum() == 0:
        return 0.0
    p = sigma / sigma.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def effective_rank(z: NDArray[np.float32]) -> float:
    """exp(-Σ p log p), p = λ / Σλ, λ the eigenvalues of the covariance (Roy and Vetterli, EUSIPCO 2007, on the covariance)."""
    values = _singular_values(z - z.mean(0)) ** 2
    if values.sum() <= 0:
        return 1.0
    p = values / values.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def alignment(u: NDArray[np.float32], labels: Sequence[object]) -> float | None:
    """E |u_i - u_j|² over pairs of images of one label (Wang and Isola, arXiv:2005.10242, section 4.1, with α = 2).

    The authors' pairs are two views of one image; here they are two images of one class, and all of them: for a class of
    m vectors with sum s the mean is 2 (m² - |s|²) / (m (m - 1)) as |u| = 1. Images without a label are in no pair.
    """
    rows_of: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            rows_of.setdefault(str(label), []).append(row)
    total, pairs = 0.0, 0
    for members in rows_of.values():
        rows = u[members].astype(np.float64)
        m = len(rows)
        total += m * (rows**2).sum() - (rows.sum(0) ** 2).sum()  # Σ_{i<j} |u_i - u_j|²
        pairs += m * (m - 1) // 2
    return total / pairs if pairs else None


def uniformity(u: NDArray[np.float32], chunk: int = 1024) -> float:
    """log E exp(-2 |u_i - u_j|²) over all pairs i < j (Wang and Isola, arXiv:2005.10242, section 4.1, with t = 2).

    0 when all are one point; about -4 for directions spread evenly in many dimensions.
    """
    total, n = 0.0, len(u)
    squares = np.asarray(u.any(1), np.float32)  # |u|²: a zero vector stays zero
    for start in range(0, n, chunk):
        block = u[start : start + chunk]
        distance = np.maximum(squares[start : start + chunk, None] + squares[start:] - 2 * (block @ u[start:].T), 0)
        later = np.arange(start, n)[None] > np.arange(start, start + len(block))[:, None]
        total += float(np.exp(-2 * distance, dtype=np.float64)[later].sum())
    return float(np.log(total / (n * (n - 1) / 2)))


def occurrences(nearest: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """N_k: how often each of n rows is among the k nearest `[n, k]` of another."""
    return np.bincount(nearest.ravel(), minlength=n)


def skewness(counts: NDArray[np.int64]) -> float:
    """Hubness: the skewness of N_k, E (N - mean)³ / std³ (Radovanović et al., JMLR 11, 2010, eq. 1); 0 where all are equal."""
    centred = counts - counts.mean()
    std = centred.std()
    return float((centred**3).mean() / std**3) if std > 0 else 0.0


def _singular_values(z: NDArray[np.float32]) -> NDArray[np.float64]:
    narrow = z.astype(np.float64) if z.shape[0] >= z.shape[1] else z.astype(np.float64).T
    if narrow.shape[1] > 512:  # the Gram matrix is much quicker, and good to 1e-8 of the largest
        return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(narrow.T @ narrow), 0)), np.float64)
    return np.asarray(np.linalg.svd(narrow, compute_uv=False), np.float64)
