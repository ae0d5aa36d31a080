"""Weighted kNN classification: votes exp(cosine / T) of the k nearest training vectors (Wu et al., arXiv:1805.01978, eq. 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from sslzoo.backends.torch_backend import pick_device
from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.score import Score, codes, features_of, of_items, set_id

KS = (1, 5, 10, 20, 100, 200)
TEMPERATURES = (0.07, 0.1)
PROTOCOLS = ((20, 0.07), (200, 0.1))  # DINO's usual setting, and that of InstDisc, MoCo and lightly
GRID = tuple((k, temperature) for temperature in TEMPERATURES for k in KS)

BLOCK = 65_536  # training vectors compared at a time: 256 MB of similarities with the usual chunk
GROUP = 16  # similarities of which only the largest is looked at first
RESCORED = 32  # nearest neighbours whose cosine is taken again in fp32 after a bf16 product; the rest weigh little each


def knn(
    train: Embeddings,
    test: Embeddings | None = None,
    protocols: Sequence[tuple[int, float]] = PROTOCOLS,
    *,
    chunk: int = 1024,
    device: str = "cpu",
    precision: str = "fp32",
) -> list[Score]:
    """Top-1 accuracy in [0, 1] for each (k, T), all from one pass; without `test`, leave-one-out within `train`.

    Vectors are normalised here. Ties between classes go to the one whose name sorts first. k is cut to the number of
    training vectors, and the protocol says which was used. `chunk` queries are compared with `BLOCK` training vectors at a
    time, which bounds the memory. `precision` bf16 halves the time of the product where the processor has it natively; the
    neighbours are then bf16's, and only the nearest are weighed in fp32, which moves the accuracy by some 0.0002.

    Raises InputError when labels are missing, and SpaceMismatch when the two sets were made by different encoders.
    """
    if precision not in ("fp32", "bf16"):
        raise InputError(f"the precision of kNN is {precision!r}; use fp32 or bf16")
    queries = train if test is None else test
    classes, bank_codes, answers = codes(train, queries, "kNN")
    available = len(train) - (test is None)
    if available < 1:
        raise InputError("kNN needs at least two labelled images")
    ks = [min(k, available) for k, _ in protocols]
    where = compute_device(device)
    bank, probes = (functional.normalize(torch.tensor(e.vectors, device=where)) for e in (train, queries))
    labels, truth = torch.tensor(bank_codes, device=where), torch.tensor(answers, device=where)
    hits = torch.empty((len(protocols), len(probes)), device=where)
    for start, cosine, nearest in neighbours(bank, probes, max(ks), chunk, precision, alone=test is None):
        rows = slice(start, start + len(cosine))
        voters = labels[nearest]  # [q, k]
        for temperature in {t for _, t in protocols}:
            weights = ((cosine - cosine[:, :1]).double() / temperature).exp()  # relative to the nearest: no overflow
            votes = torch.zeros((len(cosine), len(classes)), dtype=torch.float64, device=where)
            counted = 0
            for k in sorted({k for k, (_, t) in zip(ks, protocols, strict=True) if t == temperature}):
                votes.scatter_add_(1, voters[:, counted:k], weights[:, counted:k])
                counted, right = k, votes.argmax(1) == truth[rows]
                for i, (cut, (_, t)) in enumerate(zip(ks, protocols, strict=True)):
                    if (cut, t) == (k, temperature):
                        hits[i, rows] = right.float()
    split = "leave-one-out" if test is None else f"n={len(bank)}"
    note = "" if precision == "fp32" else ", bf16"
    made = [
        of_items(
            hit,
            f"knn_top1@k={k},T={temperature} (cosine, {split}, {len(probes)} queries{note})",
            set_id(train),
            set_id(queries),
        )
        for hit, k, (_, temperature) in zip(hits.cpu().numpy(), ks, protocols, strict=True)
    ]
    return [replace(score, features=features_of(queries)) for score in made]


def compute_device(device: str) -> torch.device:
    """`pick_device`, but the CPU in place of Apple's GPU, which has no float64."""
    picked = pick_device(device)
    return torch.device("cpu") if picked.type == "mps" else picked


def neighbours(
    bank: Tensor, probes: Tensor, k: int, chunk: int, precision: str, *, alone: bool
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The k nearest rows of `bank` `[n, dim]` for the probes, chunk by chunk: start, cosines `[q, k]` falling, rows `[q, k]`.

    With `alone` the probes are the bank, and none is its own neighbour.
    """
    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    keys, asked = bank.to(kind), probes.to(kind)
    for start in range(0, len(probes), chunk):
        block = asked[start : start + chunk]
        cosine = torch.empty((len(block), 0), dtype=kind, device=bank.device)
        nearest = torch.empty((len(block), 0), dtype=torch.int64, device=bank.device)
        for first in range(0, len(bank), BLOCK):
            similarity = block @ keys[first : first + BLOCK].T  # [q, n]
            if alone:
                own = torch.arange(start - first, start - first + len(block), device=bank.device)
                inside = ((own >= 0) & (own < similarity.shape[1])).nonzero()[:, 0]
                similarity[inside, own[inside]] = -torch.inf
            values, rows = largest(similarity, min(k, similarity.shape[1]))
            cosine, nearest = torch.hstack([cosine, values]), torch.hstack([nearest, rows + first])
            if cosine.shape[1] > k:
                cosine, best = cosine.topk(k, dim=1)
                nearest = nearest.gather(1, best)
        cosine = cosine.float()
        if kind != torch.float32:
            head = nearest[:, :RESCORED]
            exact = torch.einsum("qd,qkd->qk", probes[start : start + chunk], bank[head])
            exact, order = exact.sort(dim=1, descending=True)
            cosine[:, :RESCORED], nearest[:, :RESCORED] = exact, head.gather(1, order)
        yield start, cosine, nearest


def largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`similarity.topk(k, dim=1)`, on a processor in a fraction of the time.

    The columns are taken in `GROUP`s. Outside of the k groups with the largest maxima nothing is among the k largest: each of
    those k maxima is at least as large. So topk has to see the maxima, and then the members of k groups.
    """
    rows, columns = similarity.shape
    groups = columns // GROUP
    if similarity.is_cuda or groups < 4 * k:
        return similarity.topk(k, dim=1)
    whole = groups * GROUP  # a group is every `groups`-th column: its maximum is taken over contiguous lines
    peaks = similarity[:, :whole].view(rows, GROUP, groups).amax(1)
    members = peaks.topk(k, dim=1, sorted=False).indices[:, None] + torch.arange(0, whole, groups)[:, None]
    rest = torch.arange(whole, columns).expand(rows, -1)
    candidates = torch.hstack([members.flatten(1), rest])
    values, order = similarity.gather(1, candidates).topk(k, dim=1)
    return values, candidates.gather(1, order)
