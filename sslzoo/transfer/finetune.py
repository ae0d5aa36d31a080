"""`sslzoo.finetune()`: an encoder and labelled images to a classifier folder, with its score on test images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslzoo import hub, registry
from sslzoo.encoder import Encoder
from sslzoo.errors import InputError, OutputExists
from sslzoo.evaluate.linear import draw
from sslzoo.evaluate.score import Score, of_items
from sslzoo.images.discover import Source
from sslzoo.spec import EncoderSpec
from sslzoo.transfer import folder as folders
from sslzoo.transfer import loop
from sslzoo.transfer.classifier import Classifier, fresh, spec_of
from sslzoo.transfer.folder import CHECKPOINT
from sslzoo.transfer.photos import Photos
from sslzoo.transfer.settings import Settings

HELD_OUT = 0.1  # of the training images, where early stopping asks for some


@dataclass(frozen=True)
class FineTuned:
    """A trained classifier, what each epoch gave, and its score on the test images where there were any.

    `failures` has under "train" and "test" the reason of every image that could not be read, by its id.
    """

    classifier: Classifier
    epochs: tuple[loop.Epoch, ...]
    score: Score | None
    failures: Mapping[str, Mapping[str, str]]


def finetune(
    train: Source,
    model: str | EncoderSpec | Encoder = registry.PACKAGE_ENCODER,
    out: str | Path | None = None,
    test: Source | None = None,
    *,
    settings: Settings | None = None,
    metric: str = "top1",
    resume: bool = False,
    device: str = "auto",
    workers: int = 0,
    on_epoch: Callable[[loop.Epoch], None] = lambda epoch: None,
) -> FineTuned:
    """Fine-tunes an encoder on labelled images, or trains a classifier on it while it stays frozen (`settings.stages` 0).

    `train` and `test` are what `embed` takes, with labels; images that can't be read are left out and listed. With `out` a
    classifier folder is written there, and `resume` goes on where an interrupted run of the same call stopped; of a finished
    one it opens the folder and scores it on `test`. "random-r18" is training from scratch. An Encoder is changed in place.
    `metric` of the score is top1 or mean_per_class. Raises InputError for images without labels or of one class, and for
    `resume` with another model, images or settings; OutputExists.
    """
    settings = settings or Settings()
    if metric not in ("top1", "mean_per_class"):
        raise InputError(f"the metric is {metric!r}; use top1 or mean_per_class")
    folder = _prepare(out, resume)
    photos = Photos.open(train)
    tests = None if test is None else Photos.open(test, photos.classes)
    used, held = photos, None
    if settings.patience:
        rows = draw([item.id for item in photos.items], photos.codes, share=HELD_OUT)
        used, held = photos.take(np.setdiff1d(np.arange(len(photos.items)), rows)), photos.take(rows)
    origin = spec_of(model)
    call = {
        "model": origin.name,
        "weights": origin.sha256[:12],
        "images": str(photos.id),
        "files": photos.files,
        "settings": json.loads(json.dumps(settings.to_dict())),
    }
    epochs: list[loop.Epoch] = []
    finished = folder is not None and (folder / hub.CONFIG).exists()
    if folder is not None and finished:
        run = folders.read_run(folder)
        loop.require_same(folder, run, call)
        classifier = Classifier.from_pretrained(folder, device=device)
        epochs = [loop.Epoch(**epoch) for epoch in run["epochs"]]
        photos.failures.update(run["failures"]["train"])
    else:
        classifier = fresh(model, photos.classes, device=device, seed=settings.seed)
        classifier.encoder.spec = _sized(origin, settings)
        for epoch in loop.train(
            classifier, used, settings, held_out=held, folder=folder, call=call, done=epochs, workers=workers
        ):
            on_epoch(epoch)
    length = _length(epochs, settings)
    score = None
    if tests is not None:
        count = len(used.readable.items)
        score = _score(classifier, photos.readable, count, tests, settings, length, metric, workers)
    failures = {"train": photos.failures, "test": {} if tests is None else tests.failures}
    if not finished:
        classifier.encoder.spec = _described(classifier.encoder.spec, origin, photos.readable, length, folder)
        if folder is not None:
            run = {
                **call,
                "epochs": [dataclasses.asdict(epoch) for epoch in epochs],
                "scores": [] if score is None else [score.to_dict()],
                "failures": failures,
            }
            classifier.encoder.spec = classifier.save_pretrained(folder, run)
    if folder is not None:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return FineTuned(classifier, tuple(epochs), score, failures)


def _prepare(out: str | Path | None, resume: bool) -> Path | None:
    """The output folder, which is new, or with `resume` that of a run begun or finished; raises OutputExists."""
    if out is None:
        return None
    folder = Path(out)
    if (folder / hub.CONFIG).exists():
        if resume:
            return folder
        raise OutputExists(f"{folder} is finished; use it with: sslzoo predict {folder} IMAGES, or choose another -o")
    begun = folders.begun(folder)
    if folder.exists() and any(folder.iterdir()) and not (resume and begun):
        hint = "add --resume to go on, or choose another -o" if begun else "choose another -o"
        raise OutputExists(f"{folder} already exists; {hint}")
    return folder


def _length(epochs: Sequence[loop.Epoch], settings: Settings) -> str:
    """How long the weights that were kept have been trained: the whole run, or to the best epoch by the held-out images."""
    judged = {epoch.number: epoch.held_out for epoch in epochs if epoch.held_out is not None}
    if not judged:
        return f"{len(epochs)} epoch{'s' if len(epochs) > 1 else ''}"
    return f"epoch {max(judged, key=judged.__getitem__)} of {settings.epochs}, the best on held-out images"


def _sized(spec: EncoderSpec, settings: Settings) -> EncoderSpec:
    """The encoder at the size of the settings, its preprocessing scaled alike."""
    if not settings.size:
        return spec
    p = spec.preprocess
    scaled = dataclasses.replace(p, size=settings.size, resize=round(settings.size * p.resize / p.size))
    return dataclasses.replace(spec, preprocess=scaled)


def _described(spec: EncoderSpec, origin: EncoderSpec, photos: Photos, length: str, folder: Path | None) -> EncoderSpec:
    images = f"{len(photos.items)} labelled images of {len(photos.classes)} classes"
    scratch = origin.method == "random"
    how = "Trained from random weights" if scratch else f"Fine-tuned from {origin.name}"
    changes: dict[str, Any] = {
        "name": folder.resolve().name if folder is not None else f"{origin.name}-finetuned",
        "method": "supervised" if scratch else origin.method,
        "trained_on": f"{images}" if scratch else f"{origin.trained_on}; then {images}",
        "note": f"{how} on {images} ({length}).{f' Of {origin.name}: {origin.note}' if origin.note else ''}",
    }
    return dataclasses.replace(spec, sources=(), sha256="", size_bytes=0, **changes)


def _score(
    classifier: Classifier,
    photos: Photos,
    count: int,
    tests: Photos,
    settings: Settings,
    length: str,
    metric: str,
    workers: int,
) -> Score:
    trained = ("classifier alone", "layer4", *(f"layer4 to layer{5 - n}" for n in (2, 3, 4)), "whole network")[
        settings.stages
    ]
    p = classifier.encoder.spec.preprocess
    rows, right = loop.hits(classifier, tests, workers)
    tests = tests.take(rows)
    protocol = (
        f"finetune_{metric}@{length} ({trained}, {settings.optimizer}, lr {settings.lr:g}, batch "
        f"{settings.batch_size}, {p.resize} to {p.size} px, n={count}, {len(tests.items)} test images)"
    )
    groups = tests.codes if metric == "mean_per_class" else None
    return of_items(right, protocol, photos.id, tests.id, groups)
