"""What a run would take, measured on a few of its images."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

from sslzoo import registry
from sslzoo.backends import open_backend
from sslzoo.images.discover import Source
from sslzoo.pipeline.job import Bar, Job
from sslzoo.pipeline.update import Reuse


@dataclass(frozen=True)
class Plan:
    """What a run would take, measured on a few of its images."""

    images: int | None
    bytes_out: int | None
    images_per_second: float
    seconds: float | None
    precision: str
    backend: str


def plan(source: Source, model: Any = None, *, sample: int = 48, update: Path | None = None, **options: Any) -> Plan:
    """Counts the images and embeds the first `sample` of them, to tell how long the whole would take and how large it gets.

    Counts are None where only reading everything would tell (a compressed or remote tar, a remote folder). With `update`,
    a finished embeddings folder, those alone are counted that are new or have changed since.
    """
    portions = {
        key: options.pop(key) for key in ("batch_size", "workers", "policy", "decoder", "dtype") if key in options
    }
    job = Job(source, part_size=sample, **portions)
    wanted = job.items()
    if update is not None:
        wanted = filterfalse(Reuse(update).find, wanted)
    items = list(itertools.islice(wanted, sample + 1))
    run = open_backend(model or registry.PACKAGE_ENCODER, **{"precision": "auto", "int8": job.samples, **options})
    if not items:
        return Plan(0, 0, 0.0, 0.0, run.precision, run.engine)
    with Bar(job.reader, shown=False) as bar:
        rest = iter(items)
        for item in rest:  # graphs are compiled and caches filled by the first that can be read
            if job.embed_part(iter([item]), run, bar).paths:
                break
        measured = list(rest) or items
        began = time.perf_counter()
        job.embed_part(iter(measured), run, bar)
    speed = len(measured) / max(time.perf_counter() - began, 1e-9)
    count = job.reader.count() if update is None else len(items) + sum(1 for _ in wanted)
    size = count and count * run.spec.dim * (2 if job.dtype == "float16" else 4)
    seconds = count / speed if count is not None else None
    return Plan(count, size, speed, seconds, run.precision, run.engine)
