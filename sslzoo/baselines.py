"""An encoder's scores on labelled images, with the same network at random weights and the raw pixels beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sslzoo import hub, registry
from sslzoo.backends import PIXELS
from sslzoo.embeddings import Embeddings, is_embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.heads import head_top1
from sslzoo.evaluate.knn import PROTOCOLS, knn
from sslzoo.evaluate.score import Score
from sslzoo.images.discover import Source, class_names
from sslzoo.pipeline import embed
from sslzoo.spec import EncoderSpec

Evaluate = Callable[[Embeddings, Embeddings | None], list[Score]]


def sets(
    train: Source, test: Source | None, model: str | EncoderSpec | None = None, **options: Any
) -> Iterator[tuple[str, Embeddings, Embeddings | None]]:
    """Encoder name and vectors of both sets: of the encoder, its random twin and raw pixels, all on the same images.

    Two embeddings folders are themselves the only vectors. `options` go to `embed` (device, precision, progress …).
    """
    given = [isinstance(s, str | Path) and is_embeddings(s) for s in (train, train if test is None else test)]
    if any(given):
        if not all(given):
            raise InputError("TRAIN and TEST must both be images, or both embeddings folders")
        bank = Embeddings.open(train)
        yield bank.model, bank, None if test is None else Embeddings.open(test)
        return
    spec = model if isinstance(model, EncoderSpec) else registry.resolve(model or registry.PACKAGE_ENCODER)
    for each in {s.name: s for s in (spec, registry.random_twin(spec), PIXELS)}.values():
        yield each.name, embed(train, each, **options), None if test is None else embed(test, each, **options)


def table(
    evaluate: Evaluate, train: Source, test: Source | None, model: str | EncoderSpec | None = None, **options: Any
) -> dict[str, list[Score]]:
    """Scores by encoder name, of the encoders of `sets`."""
    return {name: evaluate(bank, probes) for name, bank, probes in sets(train, test, model, **options)}


def knn_table(
    train: Source,
    test: Source | None = None,
    model: str | EncoderSpec | None = None,
    protocols: Sequence[tuple[int, float]] = PROTOCOLS,
    **options: Any,
) -> dict[str, list[Score]]:
    """kNN scores by encoder name; without `test` they are leave-one-out."""
    return table(lambda bank, probes: knn(bank, probes, protocols), train, test, model, **options)


def head_table(data: Source, model: str | EncoderSpec, **options: Any) -> dict[str, Score]:
    """Top-1 of the authors' linear classifier by encoder name: on the encoder's features, and on its random twin's.

    `data` holds labelled ImageNet-1k images (see `evaluate.heads.class_numbers`); `options` go to `embed`. Raises
    WeightsError where no classifier was published.
    """
    spec = model if isinstance(model, EncoderSpec) else registry.resolve(model)
    head = hub.read_head(spec)
    names = class_names(data)
    return {
        each.name: head_top1(embed(data, each, **options), head, names) for each in (spec, registry.random_twin(spec))
    }
