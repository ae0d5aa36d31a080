"""The linear probe of the transfer protocol: logistic regression on standardised features, λ chosen on held-out images.

45 values of λ, log-spaced from 1e-6 to 1e5, the best on a held-out fifth of the training images, then a refit on all of
them (SimCLR, arXiv:2002.05709, appendix B.8; BYOL, arXiv:2006.07733, appendix D; λ on the sum of the losses). The best is
the best by the metric that is reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslzoo.embeddings import Embeddings, storable
from sslzoo.errors import InputError
from sslzoo.evaluate import logistic
from sslzoo.evaluate.knn import compute_device
from sslzoo.evaluate.score import (
    Score,
    SetId,
    codes,
    features_of,
    labels_of,
    mean_of,
    of_items,
    require_metric,
    set_id,
)

GRID = np.logspace(-6, 5, 45)
HELD_OUT = 0.2
FIXED = 1.0  # λ where a class has a single image, and nothing can be held out


def linear(
    train: Embeddings,
    test: Embeddings,
    *,
    metric: str = "top1",
    penalties: Sequence[float] | NDArray[np.float64] = GRID,
    rows: NDArray[np.int64] | None = None,
    held_out: str = "",
    device: str = "cpu",
) -> Score:
    """Accuracy in [0, 1] of the probe on `test`; with `metric` mean_per_class the mean over classes.

    With mAP11 an image has several labels, "cat|dog|?chair" ("?": difficult, not counted), and the score is the mean over
    classes of PASCAL VOC's 11-point average precision. `rows` are those of `train` that may be used. λ is chosen on the
    images whose ids begin with `held_out`, or on a drawn fifth, the same whatever the encoder (see `draw`).
    Raises InputError when labels are missing, and SpaceMismatch when the sets were made by different encoders.
    """
    require_metric(metric)
    tell: Callable[..., tuple[Any, NDArray[Any], NDArray[Any]]] = questions if metric == "mAP11" else codes
    classes, answers, truth = tell(train, test, "a linear probe")
    rows = np.arange(len(train)) if rows is None else rows
    where = compute_device(device)
    x, y = torch.tensor(train.vectors[rows], device=where), torch.tensor(answers[rows], device=where)
    ids = [train.ids[r] for r in rows]
    if held_out:
        held = np.flatnonzero([id_.startswith(held_out) for id_ in ids])
    else:
        held = draw(ids, answers[rows] if answers.ndim == 1 else np.zeros(len(rows), np.int64), share=HELD_OUT)
    unsolved = 0
    if len(penalties) == 1:
        penalty, rule = float(penalties[0]), f"λ={penalties[0]:g}"
    elif not 0 < len(held) < len(rows):
        penalty, rule = FIXED, f"λ={FIXED:g}, nothing to hold out"
    else:
        penalty, unsolved = choose(x, y, len(classes), torch.tensor(held, device=where), penalties, metric)
        rule = f"λ of {len(penalties)} held out" + (f" in {held_out}" if held_out else "")
    mean, std = moments(x)
    solution = logistic.fit((x - mean) / std, y, len(classes), [penalty])
    probes = (torch.tensor(test.vectors, device=where) - mean) / std
    items = _judged(solution, probes, truth)
    protocol = f"linear_{metric}@logistic (standardised, {rule}, n={len(rows)})"
    used = set_id(train) if len(rows) == len(train) else _subset_id(train, rows)
    made = of_items(items, protocol, used, set_id(test), truth if metric == "mean_per_class" else None)
    return replace(made, penalty=penalty, features=features_of(test), unsolved=unsolved + solution.unsolved)


def few_labels(
    train: Embeddings,
    test: Embeddings,
    *,
    share: float | None = None,
    shots: int | None = None,
    draws: int = 5,
    metric: str = "top1",
    device: str = "cpu",
) -> Score:
    """The probe on a share of the labels, or on `shots` images of each class: the mean over fixed draws.

    Its interval is over test images and draws. `train` in the score is the hash of all draws' images.
    """
    if (share is None) == (shots is None):
        raise InputError("say either which share of the labels, or how many shots of each class")
    if share is not None and not 0 < share <= 1:
        raise InputError(f"the share of the labels is {share}; give more than 0 and at most 1 (0.01: 1 %)")
    if shots is not None and shots < 1:
        raise InputError(f"there are {shots} shots of each class; give at least 1")
    if metric == "mAP11":
        raise InputError(
            "few labels are drawn class by class, and with mAP11 an image has several; leave out --shots, --share"
        )
    _, answers, _ = codes(train, test, "a linear probe")
    picked = [draw(train.ids, answers, share=share, shots=shots, seed=seed) for seed in range(draws)]
    scores = [linear(train, test, metric=metric, rows=rows, device=device) for rows in picked]
    amount = f"{shots} shots" if shots else f"{100 * (share or 0):g} % of labels"
    items = np.mean([s.items for s in scores], axis=0).astype(np.float32)
    protocol = scores[0].protocol.replace(", n=", f", {amount}, {draws} draws, n=")
    made = of_items(items, protocol, _subset_id(train, np.concatenate(picked)), scores[0].test, scores[0].groups)
    unsolved = sum(s.unsolved for s in scores)
    return replace(made, draws=tuple(s.value for s in scores), features=features_of(test), unsolved=unsolved)


def draw(
    ids: Sequence[str],
    classes: NDArray[np.int64],
    *,
    share: float | None = None,
    shots: int | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Rows of a fixed draw from each class, at least one: those whose sha256("SEED\\tID") is lowest, in order of row.

    It is the same on every machine and for every encoder, whatever the order of the rows.
    """
    keys = np.array([hashlib.sha256(storable(f"{seed}\t{id_}").encode()).hexdigest() for id_ in ids])
    found = []
    for c in np.unique(classes):
        rows = np.flatnonzero(classes == c)
        wanted = shots if shots is not None else max(1, round((share or 0) * len(rows)))
        found.append(rows[np.argsort(keys[rows])][:wanted])
    return np.sort(np.concatenate(found))


def choose(
    x: Tensor,
    y: Tensor,
    classes: int,
    held: Tensor,
    penalties: Sequence[float] | NDArray[np.float64],
    metric: str = "top1",
) -> tuple[float, int]:
    """The penalty that is best by `metric` on the `held` rows after a fit on the others; of equals the largest.

    Beside it stands how many of the fits the solver did not finish.
    """
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    mask[held] = True
    mean, std = moments(x[~mask])
    solutions = logistic.fit((x[~mask] - mean) / std, y[~mask], classes, penalties)
    probes, truth = (x[mask] - mean) / std, y[mask].cpu().numpy()
    groups = truth if metric == "mean_per_class" else None
    found = (mean_of(_judged(solutions.only(i), probes, truth), groups) for i in range(len(penalties)))
    return float(max(zip(found, penalties, strict=True))[1]), solutions.unsolved


def _judged(solution: logistic.Solutions, probes: Tensor, truth: NDArray[Any]) -> NDArray[np.float32]:
    """The `results` of one penalty's solution; where they are by image, with the logits of only so many at a time."""
    step = max(1, logistic.CELLS // solution.biases.shape[1]) if truth.ndim == 1 else max(1, len(probes))
    parts = (slice(start, start + step) for start in range(0, len(probes), step))
    return np.concatenate([results(solution.logits(probes[p])[0].cpu().numpy(), truth[p]) for p in parts])


def results(logits: NDArray[np.float32], truth: NDArray[Any]) -> NDArray[np.float32]:
    """Per image whether its largest logit `[n, c]` is its class `[n]`; of yes-or-no questions `[n, c]`, each one's 11-point AP.

    Questions to which no image says yes are left out, and so are images whose answer is NaN.
    """
    if truth.ndim == 1:
        return np.asarray(logits.argmax(1) == truth, np.float32)
    asked = [c for c in range(truth.shape[1]) if (truth[:, c] == 1).any()]
    known = {c: ~np.isnan(truth[:, c]) for c in asked}
    return np.array([average_precision_11(logits[known[c], c], truth[known[c], c] == 1) for c in asked], np.float32)


def questions(
    train: Embeddings, test: Embeddings, what: str
) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Class names (sorted), and for each row of both sets 1 where it has the class, NaN where it is difficult, else 0."""
    told = [[label.split("|") for label in labels] for labels in labels_of(train, test, what)]
    names = sorted({name.removeprefix("?") for labels in told for row in labels for name in row})
    column = {name: i for i, name in enumerate(names)}
    answers = []
    for labels in told:
        table = np.zeros((len(labels), len(names)), np.float32)
        for row, has in enumerate(labels):
            for name in has:
                table[row, column[name.removeprefix("?")]] = np.nan if name.startswith("?") else 1
        answers.append(table)
    return names, answers[0], answers[1]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[d]` of features `[n, d]`; a constant feature has 1."""
    std = x.std(0, correction=0)
    return x.mean(0), torch.where(std > 1e-8, std, 1.0)


def average_precision_11(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> float:
    """PASCAL VOC 2007's average precision of one class: the mean, over recalls 0, 0.1 … 1, of the best precision from there on.

    (Everingham et al., IJCV 2010, section 4.2.) `scores` `[n]`, the higher the surer; difficult images are left out before.
    """
    hits = relevant[np.argsort(-scores, kind="stable")]
    found = np.cumsum(hits)
    precision, recall = found / np.arange(1, len(hits) + 1), found / max(1, found[-1])
    return float(np.mean([precision[recall >= t - 1e-9].max(initial=0.0) for t in np.linspace(0, 1, 11)]))


def _subset_id(train: Embeddings, rows: NDArray[np.int64]) -> SetId:
    assert train.labels is not None
    labels = [train.labels[r] for r in rows]
    return set_id(Embeddings(train.vectors[rows], [train.ids[r] for r in rows], space=train.space, labels=labels))
