"""Checks an encoder as it loads today (hashes, sizes, names, canary, kNN, the authors' linear head) and fills in what its
zoo entry can pin.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sslzoo import hub, registry
from sslzoo.baselines import head_table, knn_table
from sslzoo.encoder import Encoder
from sslzoo.errors import WeightsError
from sslzoo.evaluate.score import Score
from sslzoo.spec import IMAGENET_STD, Canary, Checkpoint, EncoderSpec, Geometry, Head, Preprocess, ReportedScore

CANARY = "cat-chelsea.jpg"
SOURCE = "sslzoo verify"  # of the scores that were measured here


@dataclass(frozen=True)
class Report:
    """What was found, line by line, and the spec with hashes, size and canary filled in."""

    lines: list[str]
    spec: EncoderSpec


def verify(name: str, *, data: Path | None = None) -> Report:
    """Gets an encoder (from the cache if it is there) and checks it.

    Published hashes and pins are checked by getting it, names and shapes by loading it; then the canary is compared, or
    made where there is none. Raises WeightsError for what doesn't agree. With labelled `data` (ImageNet's val), kNN and
    the authors' linear classifier are measured too, beside random weights and what the authors reported.
    """
    spec = registry.resolve(name)
    folder = hub.fetch(spec)
    made = hub.read_config(folder)
    encoder = Encoder.from_spec(spec, device="cpu")
    canary = canary_of(encoder)
    lines = [f"weights {made.size_bytes} bytes, sha256 {made.sha256}"]
    lines += [f"from {c.url}: {c.size_bytes} bytes, {c.hash}" for c in made.checkpoints]
    if spec.canary is not None and spec.canary.image == CANARY:
        worst = float(np.abs(np.subtract(spec.canary.values, canary.values[: len(spec.canary.values)])).max())
        if worst > spec.canary.tolerance:
            raise WeightsError(
                f"{spec.name}: the canary is off by {worst:.2g}, allowed are {spec.canary.tolerance:.2g}"
            )
        canary = spec.canary
    if spec.linear_top1 is not None:
        lines.append(f"reported linear top-1 {100 * spec.linear_top1:.1f} %")
    lines += _left_out(folder)
    scores = _measured(spec, data) if data is not None else []
    lines += [
        f"{s.metric} {100 * s.value:.1f} ± {100 * (s.interval or 0):.1f} % by {s.protocol}"
        + (f" (random weights {100 * s.random_weights:.1f})" if s.random_weights is not None else "")
        for s in scores
    ]
    kept = [s for s in spec.scores if s.source != SOURCE or data is None]
    made = hub.read_config(folder)  # the classifier's hash stands in it once it was used
    filled = dataclasses.replace(
        spec,
        head=_exact_head(spec, made),
        scores=(*kept, *(s for s in scores if "variant" not in s.protocol)),
        sha256=made.sha256,
        size_bytes=made.size_bytes,
        checkpoints=_exact(spec, made),
        canary=canary,
        verified="online" if spec.checkpoints else spec.verified,
    )
    return Report(lines, filled)


def canary_of(encoder: Encoder) -> Canary:
    """The first eight numbers of the embedding of a photo inside the package."""
    vector = encoder.encode(hub.PACKAGE / "photos" / CANARY)[0]
    # a hundredth of a standard deviation: far above the difference between processors, far below any real change
    return Canary(CANARY, tuple(round(float(v), 5) for v in vector[:8]), tolerance=round(float(vector.std()) / 100, 5))


def _measured(spec: EncoderSpec, data: Path) -> list[ReportedScore]:
    """kNN within the data, the authors' classifier where there is one, and that under what other code assumes instead."""

    def row(metric: str, ours: Score, random: Score | None, note: str = "") -> ReportedScore:
        return ReportedScore(
            dataset=data.name,
            metric=metric,
            protocol=ours.protocol + note,
            value=round(ours.value, 4),
            interval=round(ours.interval(), 4),
            random_weights=None if random is None else round(random.value, 4),
            source=SOURCE,
        )

    knn, at_random, _ = knn_table(str(data), None, spec, device="auto").values()
    rows = [row("knn_top1", *pair) for pair in zip(knn, at_random, strict=True)]
    if spec.head is None:
        return rows
    ours, random = head_table(str(data), spec, device="auto").values()
    rows.append(row("linear_top1", ours, random))
    for note, other in _variants(spec):
        rows.append(
            row("linear_top1", head_table(str(data), other, device="auto")[spec.name], None, f", variant: {note}")
        )
    return rows


def _variants(spec: EncoderSpec) -> list[tuple[str, EncoderSpec]]:
    """The encoder as code would run it that overlooks its padding or normalisation: it should score less."""
    found = []
    if spec.geometry.padding != "torchvision":
        plain = dataclasses.replace(spec.geometry, padding=Geometry().padding)
        found.append(("torchvision's padding", dataclasses.replace(spec, geometry=plain)))
    if spec.preprocess.std != IMAGENET_STD:
        usual = dataclasses.replace(spec.preprocess, mean=Preprocess.mean, std=IMAGENET_STD)
        found.append(("ImageNet's usual mean and std", dataclasses.replace(spec, preprocess=usual)))
    return found


def _left_out(folder: Path) -> list[str]:
    """What of the authors' file is no part of the encoder, by the first part of the names."""
    if not (folder / hub.CONVERSION).is_file():
        return []
    dropped = json.loads((folder / hub.CONVERSION).read_text(encoding="utf-8"))["dropped"]
    counts = Counter(re.split(r"[./]", name)[0] for name in dropped)
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "nothing"
    return [f"left out of the file: {listed}"]


def _exact_head(spec: EncoderSpec, made: EncoderSpec) -> Head | None:
    """The classifier with its hash, if it was downloaded; a claim without one otherwise."""
    return made.head if spec.head is not None and made.head is not None else spec.head


def _exact(spec: EncoderSpec, made: EncoderSpec) -> tuple[Checkpoint, ...]:
    """The spec's checkpoints; the one that was used with its whole hash and size, and on the Hub its whole revision."""
    used = {c.url: c for c in made.checkpoints}
    return tuple(
        dataclasses.replace(used[c.url], url=hub.pinned_url(c.url)) if c.url in used else c for c in spec.checkpoints
    )
