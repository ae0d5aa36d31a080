"""Exact nearest neighbours by cosine: the definition that every faster index is tested against.

A matrix product, in float32 or where torch is loaded already in bfloat16, tells which rows can be among the k nearest,
whatever its rounding; these are scored and sorted. A GPU proposes a few candidates instead, and a query whose answer they
can't prove is computed again here. Scores are float32 dot products of stored vectors, taken pair by pair, so that they
don't depend on who proposed the pair.
"""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.index import faiss_door
from sslzoo.index.collection import Collection

SIMILARITY_BYTES = 128 << 20  # of similarities at a time
GATHER_BYTES = 1 << 20  # of vectors copied for scoring at a time: they stay in the processor's cache
BULK = 16  # queries from which a GPU, or bfloat16, pays for the copy of the vectors
FEW = 32  # neighbours up to which bfloat16 pays; beyond, its rounding lets too many candidates through
NOTHING = np.float32(-2)  # less than any cosine
SLACK = 8  # candidates beyond k, so that a near tie at the k-th place can be told apart

# how far the cosine of a candidate may be off: sums of float32 products in any order for dim up to a few thousand, and
# for bfloat16 the rounding of both vectors (2^-9 each, by Cauchy-Schwarz) and of the result
ROUNDING = 4e-6
ROUNDING_BF16 = 2 * 2**-9 + 2**-9

Found = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows and scores [q, k], nearest first; -1 and -inf where none
Propose = Callable[[NDArray[np.float32], NDArray[np.float32], int], Found]


@dataclass(frozen=True)
class Neighbours:
    """For each query its nearest ids, nearest first, with cosine scores and rows of the collection, `[queries][k]`."""

    ids: list[list[str]]
    scores: list[NDArray[np.float32]]
    rows: list[NDArray[np.int64]]


class ExactIndex:
    """Compares every query with every vector; also what all other kinds of index inherit."""

    kind = "exact"

    def __init__(self, embeddings: Embeddings | Collection) -> None:
        self.collection = embeddings if isinstance(embeddings, Collection) else Collection(embeddings)
        self.unindexed = 0  # rows of its folder that came after the index was made, and are not searched

    def __len__(self) -> int:
        return len(self.collection) - len(self.collection.removed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, {len(self)} vectors, model={self.collection.model!r})"

    def search(
        self,
        queries: Embeddings | NDArray[np.float32],
        k: int | None = 10,
        *,
        exclude: Sequence[int | None] | None = None,
        within: NDArray[np.bool_] | None = None,
        threshold: float | None = None,
    ) -> Neighbours:
        """The k nearest of each query by cosine, equal scores in the order of the collection.

        `queries` are Embeddings, whose space is checked, or vectors `[q, dim]` on your own word. `exclude` names for each
        query one row of the collection to leave out (itself), or None; `within` is a mask `[n]` of the rows that may be
        found; `threshold` drops scores below it. k is cut to what there is; None finds every row that reaches the threshold,
        in an exact pass whatever the kind of index. Raises SpaceMismatch or InputError.
        """
        probes = self.collection.queries(queries)
        if k is None and threshold is None:
            raise InputError("k is None, which finds all that reach a threshold; give one")
        if k is not None and k < 1:
            raise InputError(f"k is {k}; ask for at least one neighbour")
        if exclude is not None and len(exclude) != len(probes):
            raise InputError(
                f"exclude names {len(exclude)} rows for {len(probes)} queries; name one, or None, for each"
            )
        if within is not None and (within.dtype != bool or within.shape != (len(self.collection),)):
            raise InputError(
                f"within is {within.dtype} of shape {within.shape}; give a mask, bool of shape ({len(self.collection)},)"
            )
        if len(self.collection.removed):
            within = self.collection.alive if within is None else within & self.collection.alive
        left_out = None
        if exclude is not None:
            left_out = np.array([-1 if row is None else row for row in exclude], np.int64)
        if k is None:
            assert threshold is not None
            rows, scores = all_above(self.collection, probes, threshold, left_out, within)
        else:
            found, cosines = self._nearest(probes, min(k, max(1, len(self.collection))), left_out, within)
            rows, scores = list(found), list(cosines)
            if threshold is not None or not (cosines[:, -1:] > -np.inf).all():  # what is none, or no number, comes last
                keep = (found >= 0) & (cosines >= (-np.inf if threshold is None else threshold))
                rows = [line[kept] for line, kept in zip(rows, keep, strict=True)]
                scores = [line[kept] for line, kept in zip(scores, keep, strict=True)]
        ids = iter(self.collection.ids_at(np.concatenate([*rows, np.empty(0, np.int64)])))
        return Neighbours([list(itertools.islice(ids, len(line))) for line in rows], scores, rows)

    def _nearest(
        self, probes: NDArray[np.float32], k: int, left_out: NDArray[np.int64] | None, within: NDArray[np.bool_] | None
    ) -> Found:
        return exact(self.collection, probes, k, left_out, within)


def exact(
    collection: Collection,
    probes: NDArray[np.float32],
    k: int,
    left_out: NDArray[np.int64] | None = None,
    within: NDArray[np.bool_] | None = None,
    propose: Propose | None = None,
) -> Found:
    """The k nearest rows of normalised probes `[q, dim]`, in one pass over the collection, chunk by chunk.

    `left_out` is a row to skip for each probe (-1 for none), `within` a mask of the rows that may be found.
    """
    wanted = k + (left_out is not None and bool((left_out >= 0).any()))
    rows = np.full((len(probes), 0), -1, np.int64)
    scores = np.full((len(probes), 0), -np.inf, np.float32)
    for start, bank in collection.chunks():
        places = np.flatnonzero(within[start : start + len(bank)]) if within is not None else None
        if places is not None:
            bank = bank[places]
        if not len(bank) or not len(probes):
            continue
        near, cosine = top(bank, probes, wanted, propose)
        found = (near if places is None else places[near]) + start
        if left_out is not None:
            cosine = np.where(found == left_out[:, None], -np.inf, cosine).astype(np.float32)
            found = np.where(found == left_out[:, None], -1, found)
        rows, scores = order(np.hstack([rows, found]), np.hstack([scores, cosine]), wanted)
    return rows[:, :k], scores[:, :k]


def all_above(
    collection: Collection,
    probes: NDArray[np.float32],
    threshold: float,
    left_out: NDArray[np.int64] | None = None,
    within: NDArray[np.bool_] | None = None,
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    """For each probe all rows whose score is at least the threshold, nearest first, and these scores."""
    rows: list[list[NDArray[np.int64]]] = [[] for _ in probes]
    scores: list[list[NDArray[np.float32]]] = [[] for _ in probes]
    for query, near, cosine in pairs_above(collection, probes, threshold, within):
        kept = cosine >= threshold
        if left_out is not None:
            kept &= near != left_out[query]
        query, near, cosine = query[kept], near[kept], cosine[kept]
        ends = np.searchsorted(query, np.arange(len(probes) + 1))
        for i in np.unique(query):
            rows[i].append(near[ends[i] : ends[i + 1]])
            scores[i].append(cosine[ends[i] : ends[i + 1]])
    found, cosines = [], []
    for i in range(len(probes)):
        near = np.concatenate([*rows[i], np.empty(0, np.int64)])
        cosine = np.concatenate([*scores[i], np.empty(0, np.float32)])
        best = np.lexsort((near, -cosine))
        found.append(near[best])
        cosines.append(cosine[best])
    return found, cosines


def pairs_above(
    collection: Collection, probes: NDArray[np.float32], threshold: float, within: NDArray[np.bool_] | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """All pairs of a probe and a row whose score is, but for rounding, at least the threshold: probes in order, rows, scores.

    They come block by block of the similarity matrix, so that the memory is that of the pairs in one block.
    """
    for start, bank in collection.chunks():
        step = max(1, SIMILARITY_BYTES // (4 * len(bank)))
        for first in range(0, len(probes), step):
            block = probes[first : first + step]
            query, place = np.nonzero(block @ bank.T >= threshold - ROUNDING)
            if within is not None:
                allowed = within[start + place]
                query, place = query[allowed], place[allowed]
            if len(query):
                cosine = np.empty(len(query), np.float32)
                many = max(1, GATHER_BYTES // (8 * bank.shape[1]))
                for at in range(0, len(query), many):
                    some = slice(at, at + many)
                    cosine[some] = score(bank[place[some], None], block[query[some]])[:, 0]
                yield first + query, start + place, cosine


def order(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Found:
    """The first k of each line by falling score, then by row."""
    best = np.lexsort((rows, -scores))[:, :k]
    lines = np.arange(len(rows))[:, None]
    return rows[lines, best], scores[lines, best]


def score(vectors: NDArray[np.float32], probes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The dot products `[..., m]` of vectors `[..., m, dim]` with probes `[..., dim]`: one definition for every kind of index."""
    return np.asarray(np.einsum("...md,...d->...m", vectors, probes), np.float32)


def rescore(
    fetch: Callable[[NDArray[np.int64]], NDArray[np.float32]], rows: NDArray[np.int64], probes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The scores `[q, m]` of proposed rows `[q, m]`, -inf where a row is -1; `fetch` gets the vectors of rows."""
    scores = np.empty(rows.shape, np.float32)
    step = max(1, GATHER_BYTES // max(1, 4 * rows.shape[1] * probes.shape[1]))
    for start in range(0, len(probes), step):
        block = rows[start : start + step]
        vectors = fetch(np.maximum(block, 0).ravel()).reshape(*block.shape, -1)
        scores[start : start + step] = score(vectors, probes[start : start + step])
    scores[rows < 0] = -np.inf
    return scores


def top(bank: NDArray[np.float32], probes: NDArray[np.float32], k: int, propose: Propose | None = None) -> Found:
    """The k nearest rows of a bank held in memory, by whatever is fastest here; always what numpy alone would give."""
    k = min(k, len(bank))
    propose = propose or _gpu(len(probes))
    m = min(k + SLACK, len(bank))
    if propose is None or 2 * m > len(bank):
        return _top(bank, probes, k)
    rows, guesses = propose(bank, probes, m)
    found, scores = order(rows, rescore(bank.__getitem__, rows, probes), k)
    unproven = scores[:, -1] <= guesses[:, -1] + ROUNDING  # something that was not proposed might be as near
    if unproven.any():
        found[unproven], scores[unproven] = _top(bank, probes[unproven], k)
    return found, scores


def _top(bank: NDArray[np.float32], probes: NDArray[np.float32], k: int) -> Found:
    rows = np.empty((len(probes), k), np.int64)
    scores = np.empty((len(probes), k), np.float32)
    torch = _torch_with_bf16() if len(probes) >= BULK and k <= FEW else None
    keys = None if torch is None else _tensor(torch, bank).bfloat16().T
    step = max(1, SIMILARITY_BYTES // (4 * len(bank)))
    room = np.empty((min(step, len(probes)), len(bank)), np.float32)  # used again: new memory costs as much as a pass
    for start in range(0, len(probes), step):
        block = probes[start : start + step]
        similarity = room[: len(block)]  # [q, n]
        if torch is None:
            _multiply(block, bank, similarity)
        else:
            _tensor(torch, similarity).copy_(_tensor(torch, block).bfloat16() @ keys)
        for i, line in enumerate(similarity, start):
            floor = _floor(line, k) - ROUNDING
            if np.isnan(floor):  # some vectors are not numbers: they come last
                line = np.fmax(line, NOTHING)
                floor = _floor(line, k) - ROUNDING
            if torch is not None:  # what the k nearest by bfloat16 really score is a closer bound than its own rounding
                real = np.fmax(score(bank[line >= floor], probes[i]), NOTHING)
                floor = np.partition(real, len(real) - k)[len(real) - k] - ROUNDING_BF16
            near = np.flatnonzero(line >= floor)
            cosine = score(bank[near], probes[i])
            best = np.argsort(-cosine, kind="stable")[:k]
            rows[i], scores[i] = near[best], cosine[best]
    return rows, scores


def _floor(line: NDArray[np.float32], k: int) -> np.float32:
    """A number that at least k of a line's values reach, and few more; quicker than looking for the k-th largest itself.

    NaN where one of the values is.
    """
    height = math.isqrt(len(line) // k)
    width = len(line) // height  # at least k
    peaks = line[: height * width].reshape(height, width).max(axis=0)
    if np.isnan(peaks.sum()):
        return np.float32(np.nan)
    return np.float32(np.partition(peaks, width - k)[width - k])


def _multiply(probes: NDArray[np.float32], bank: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Similarities `[q, n]`; which of three equal products is quickest depends on how BLAS treats narrow matrices."""
    if len(probes) <= 2:
        for probe, line in zip(probes, out, strict=True):
            np.matmul(bank, probe, out=line)
    elif len(probes) < BULK:
        out[:] = (bank @ probes.T).T
    else:
        np.matmul(probes, bank.T, out=out)


def _torch_with_bf16() -> Any:
    """torch, if it is loaded and the processor multiplies bfloat16; it is never imported for this, which takes longer."""
    torch = sys.modules.get("torch")
    native = torch is not None and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch if native else None


def _gpu(queries: int) -> Propose | None:
    """Who proposes candidates on a GPU: torch, where it is loaded already, or FAISS, where it is installed for one."""
    if queries < BULK:
        return None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.get_float32_matmul_precision() == "highest":
        return partial(_nearest_by_torch, torch, "cuda")
    return faiss_door.nearest if faiss_door.has_gpu() else None


def _nearest_by_torch(torch: Any, device: str, bank: NDArray[np.float32], probes: NDArray[np.float32], m: int) -> Found:
    keys = _tensor(torch, bank).to(device).T
    rows, guesses = [], []
    step = max(1, SIMILARITY_BYTES // (4 * len(bank)))
    for start in range(0, len(probes), step):
        near = torch.topk(_tensor(torch, probes[start : start + step]).to(device) @ keys, m, dim=1)
        rows.append(near.indices.cpu().numpy())
        guesses.append(near.values.cpu().numpy())
    return np.concatenate(rows), np.concatenate(guesses)


def _tensor(torch: Any, array: NDArray[np.float32]) -> Any:
    """The array as a tensor, in the same memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a memory-mapped array is not writable; nothing writes
        return torch.from_numpy(array)
