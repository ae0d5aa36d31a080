"""An encoder's scores on labelled images, with the same network at random weights and the raw pixels beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sslzoo import registry
from sslzoo.backends import PIXELS
from sslzoo.evaluate.knn import PROTOCOLS, Score, knn
from sslzoo.images.discover import Source
from sslzoo.pipeline import embed
from sslzoo.spec import EncoderSpec


def knn_table(
    train: Source,
    test: Source | None = None,
    model: str | EncoderSpec | None = None,
    protocols: Sequence[tuple[int, float]] = PROTOCOLS,
    **options: Any,
) -> dict[str, list[Score]]:
    """kNN scores by encoder name: the encoder, its random twin, raw pixels, all on the same images.

    `options` go to `embed` (device, precision, progress …); without `test` the scores are leave-one-out.
    """
    spec = model if isinstance(model, EncoderSpec) else registry.resolve(model or registry.PACKAGE_ENCODER)
    table: dict[str, list[Score]] = {}
    for each in (spec, registry.random_twin(spec), PIXELS):
        bank = embed(train, each, **options)
        table[each.name] = knn(bank, None if test is None else embed(test, each, **options), protocols)
    return table
