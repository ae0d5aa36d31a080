"""Predicting with a classifier folder: the images are embedded by its encoder, and the linear layer reads the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo import hub
from sslzoo.backends import open_backend
from sslzoo.embeddings import Embeddings, is_embeddings
from sslzoo.errors import InputError
from sslzoo.images.discover import Source
from sslzoo.pipeline.job import Job
from sslzoo.pipeline.writer import Collector, Part
from sslzoo.transfer.folder import read_classes, read_head


@dataclass(frozen=True)
class Predictions:
    """For each image its classes, the likeliest first, and their probabilities `[n, top]`; `failures` are (id, reason)."""

    ids: Sequence[str]
    classes: Sequence[Sequence[str]]
    probabilities: NDArray[np.float32]
    failures: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.ids)


def predict(
    source: Source, folder: str | Path, *, top: int = 1, progress: bool = False, workers: int = 0, **options: Any
) -> Predictions:
    """The `top` likeliest classes of every image of `source`, by the classifier in `folder`.

    `source` is what `embed` takes, or an embeddings folder that was made with `-m FOLDER`. Images that can't be read are
    listed. `options` are those of `open_backend`: device, precision, backend. Raises InputError where the folder holds no
    classifier, and SpaceMismatch for another encoder's vectors.
    """
    head = _Head(folder, top)
    spec = hub.read_config(Path(folder))
    run = open_backend(spec, **{"precision": "auto", **options})
    if isinstance(source, str | Path) and is_embeddings(source):
        vectors = Embeddings.open(source)
        remedy = f"give the images themselves, or make vectors with: sslzoo embed IMAGES -m local-dir:{folder}"
        vectors.require_space(run.space, spec.name, remedy)
        return Predictions(vectors.ids, *head(vectors.vectors))
    job = Job(source, workers=workers)
    sink = _Sink(head)
    job.run(job.items(), run, sink, progress=progress)
    if not sink.ids:
        raise InputError(f"no image of {source} could be read (first: {sink.failures[0][0]}: {sink.failures[0][1]})")
    probabilities = np.concatenate([part for _, part in sink.results])
    return Predictions(sink.ids, [row for rows, _ in sink.results for row in rows], probabilities, sink.failures)


class _Head:
    """The linear layer and softmax on vectors, and of each row the likeliest."""

    def __init__(self, folder: str | Path, top: int) -> None:
        self.names = read_classes(folder)
        self.weight, self.bias = read_head(folder)
        self.top = min(top, len(self.names))

    def __call__(self, vectors: NDArray[np.float32]) -> tuple[list[list[str]], NDArray[np.float32]]:
        logits = vectors @ self.weight.T + self.bias
        likely = np.exp(logits - logits.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        order = np.argsort(-likely, axis=1, kind="stable")[:, : self.top]
        return [[self.names[c] for c in row] for row in order], np.take_along_axis(likely, order, 1)


class _Sink(Collector):
    """Takes parts as a job makes them, and keeps of each only what was predicted."""

    def __init__(self, head: _Head) -> None:
        super().__init__({})
        self.head = head
        self.ids: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self.results: list[tuple[list[list[str]], NDArray[np.float32]]] = []

    def add(self, number: int, part: Part) -> None:
        self.ids += part.paths
        self.failures += part.failures
        if part.paths:
            self.results.append(self.head(part.matrix()))
