"""The training images, and kNN on a labelled test split between the epochs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import typer

from sslzoo.backends.processor import native_bf16
from sslzoo.embeddings import Embeddings
from sslzoo.evaluate.knn import knn
from training import data, distributed, recipe
from training.methods import Method

IMAGES = "images.json"  # in a run folder: how many there are, and those that can't be read


def load_data(
    path: str, settings: recipe.Recipe, summary: Path | None = None
) -> tuple[data.Images, Callable[[Method], dict[str, float]]]:
    """The training images, and a function that judges a method by kNN on the labelled test split (empty without one).

    The judge's bank is 5,000 training images and its queries 2,000 test images at most: a signal, not a score to quote.
    `summary` is the file in which an earlier start has listed what can't be read.
    """
    train, test = data.splits(path)
    known = json.loads(summary.read_text()) if summary is not None and summary.is_file() else None
    whole = None if settings.square else settings.preprocess
    train_set = data.load(
        train, settings.store_size, storage=settings.storage, decode=settings.decode, whole=whole, known=known
    )

    def say(message: str) -> None:
        if distributed.rank() == 0:
            typer.echo(message, err=True)

    def say_failures(images: data.Images, of: str, where: str) -> None:
        for name, reason in images.failures[:5]:
            say(f"left out{of} {name}: {reason}")
        if images.failures:
            say(f"{len(images.failures)} images{of and ' to be judged by'} can't be read and are left out{where}")

    say_failures(train_set, "", f"; {IMAGES} lists them")
    if test is None:
        return train_set, lambda method: {}
    test_set = data.load(test, settings.store_size, limit=2000, whole=whole)
    say_failures(test_set, " of the judging images", "")
    if None in train_set.labels or not set(test_set.labels) <= set(train_set.labels):
        say(f"no kNN: the labels of {test} are not those of the training images")
        return train_set, lambda method: {}

    def judge(method: Method) -> dict[str, float]:
        bank = embed(method, train_set, settings, 5000)
        return {score.protocol: round(score.value, 4) for score in knn(bank, embed(method, test_set, settings, 2000))}

    return train_set, judge


@torch.no_grad()
def embed(method: Method, images: data.Images, settings: recipe.Recipe, limit: int) -> Embeddings:
    """Pooled features of at most `limit` images at the size they are stored in, without augmentation.

    Whole pictures are shown as the encoder will take them.
    """
    device = next(method.parameters()).device
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (settings.mean, settings.std))
    method.eval()
    parts = []
    pixels, labels = images.sample(limit)
    for batch in torch.split(pixels, 128):
        x = ((batch.to(device) / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=native_bf16(device)):
            parts.append(method.backbone(x).float().cpu())
    method.train()
    vectors = torch.cat(parts).numpy()
    return Embeddings(vectors, [str(i) for i in range(len(vectors))], space="training", labels=labels)
