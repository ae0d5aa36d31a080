"""Checks an encoder as it loads today (hashes, sizes, names, canary, kNN) and fills in what its zoo entry can pin."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sslzoo import hub, registry
from sslzoo.baselines import knn_table
from sslzoo.encoder import Encoder
from sslzoo.errors import WeightsError
from sslzoo.spec import Canary, Checkpoint, EncoderSpec

CANARY = "cat-chelsea.jpg"


@dataclass(frozen=True)
class Report:
    """What was found, line by line, and the spec with hashes, size and canary filled in."""

    lines: list[str]
    spec: EncoderSpec


def verify(name: str, *, data: Path | None = None) -> Report:
    """Gets an encoder (from the cache if it is there) and checks it.

    Published hashes and pins are checked by getting it, names and shapes by loading it; then the canary is compared, or
    made where there is none. Raises WeightsError for what doesn't agree. With labelled `data`, kNN is measured too.
    """
    spec = registry.resolve(name)
    folder = hub.fetch(spec)
    made = hub.read_config(folder)
    encoder = Encoder.from_spec(spec, device="cpu")
    vector = encoder.encode(hub.PACKAGE / "photos" / CANARY)[0]
    canary = Canary(CANARY, tuple(round(float(v), 5) for v in vector[:8]), round(float(vector.std()) / 100, 5))
    lines = [f"weights {made.size_bytes} bytes, sha256 {made.sha256}"]
    lines += [f"from {c.url}: {c.size_bytes} bytes, {c.hash}" for c in made.checkpoints]
    if spec.canary is not None and spec.canary.image == CANARY:
        worst = float(np.abs(np.subtract(spec.canary.values, vector[: len(spec.canary.values)])).max())
        if worst > spec.canary.tolerance:
            raise WeightsError(
                f"{spec.name}: the canary is off by {worst:.2g}, allowed are {spec.canary.tolerance:.2g}"
            )
        canary = spec.canary
    if spec.linear_top1 is not None:
        lines.append(f"reported linear top-1 {100 * spec.linear_top1:.1f} %")
    if data is not None:
        for each, scores in knn_table(str(data), None, spec, device="auto").items():
            lines += [f"{each}: {100 * s.value:.1f} ± {100 * s.interval():.1f} % by {s.protocol}" for s in scores]
    filled = dataclasses.replace(
        spec,
        sha256=made.sha256,
        size_bytes=made.size_bytes,
        checkpoints=_exact(spec, made),
        canary=canary,
        verified="online" if spec.checkpoints else spec.verified,
    )
    return Report(lines, filled)


def _exact(spec: EncoderSpec, made: EncoderSpec) -> tuple[Checkpoint, ...]:
    """The spec's checkpoints, the one that was used with its whole hash and size."""
    used = {c.url: c for c in made.checkpoints}
    return tuple(used.get(c.url, c) for c in spec.checkpoints)
