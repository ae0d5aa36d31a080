"""The streaming pipeline behind `sslzoo.embed()`: decode threads, batches, forward pass, and parts that can be resumed."""

from __future__ import annotations

import itertools
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sslzoo import registry
from sslzoo.backends import Backend, open_backend
from sslzoo.embeddings import FORMAT, Embeddings, read_manifest
from sslzoo.errors import ImageError, InputError, Interrupted
from sslzoo.images.discover import Item, Reader, Source, Summary, open_source
from sslzoo.images.read import read_or_reuse
from sslzoo.images.sources.location import is_url
from sslzoo.update import Known, Reuse, swap, update_folder
from sslzoo.writer import Collector, Facts, Part, Writer, prepare_output

PART_SIZE = 1024  # inputs; at most so much work is lost to a kill, or waited for after Ctrl-C
DETERMINISTIC_BATCH = 16


def embed(
    source: Source,
    model: Any = None,
    out: str | Path | None = None,
    *,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    resume: bool = False,
    update: bool = False,
    overwrite: bool = False,
    deterministic: bool = False,
    progress: bool = False,
    part_size: int = PART_SIZE,
    stop: Callable[[], bool] = lambda: False,
) -> Embeddings:
    """Embeds every image of `source` and returns the vectors; those that can't be read are left out and listed.

    `source` is what `sslzoo.images.discover.open_source` takes: a folder, a file, a pattern, a tar, zip or Parquet file, a
    URL, a list of images, a `datasets.Dataset`. `model` is a name, a spec or an Encoder (by default the encoder inside the
    package). With `out`, an embeddings folder is written there part by part, in bounded memory; without it everything
    stays in memory.

    `resume` goes on with an interrupted run, keeping its precision and batch size; `update` embeds what is new or changed
    in a folder (by size and time) and drops what is gone. `precision` is fp32, bf16, fp16 or auto, `backend` torch,
    openvino or auto (see `backends.open_backend`). `workers` 0 takes one decode thread per processor. `deterministic`
    computes in batches of one size, so that on one machine a vector never depends on what it was computed with. `progress`
    shows a bar on stderr; `stop` is asked between parts.

    Row i never shifts: ids are the images' own paths. Raises InputError when the source is missing, empty or without one
    readable image (nothing is written then), OutputExists when `out` is there already, and Interrupted after `stop`.
    """
    job = Job(source, batch_size, workers, deterministic, part_size)
    folder = Path(out) if out is not None else None
    if update and folder is not None and folder.exists():
        return _update(job, folder, model, device, backend, progress, stop)
    items = job.items()
    earlier = prepare_output(folder, resume=resume, overwrite=overwrite) if folder is not None else None
    if earlier is not None:
        precision, job = earlier["precision"], job.like(earlier)
    run = open_backend(model or registry.PACKAGE_ENCODER, device=device, precision=precision, backend=backend)
    manifest = job.manifest(run)
    if folder is not None and earlier is not None:
        _require_same(earlier, manifest, folder)
        if earlier["complete"]:
            return Embeddings.open(folder)
    sink = Writer(folder, manifest, started=earlier is not None) if folder is not None else Collector(manifest)
    job.run(items, run, sink, progress=progress, stop=stop)
    return sink.finish(job.summary.left_out)


def _update(
    job: Job, folder: Path, model: Any, device: str, backend: str, progress: bool, stop: Callable[[], bool]
) -> Embeddings:
    """Embeds what is new or changed into a folder beside the old one, takes over the rest, and puts it in its place."""
    earlier = read_manifest(folder)
    if not earlier["complete"]:
        raise InputError(f"{folder} is of a run that was not finished; run it with --resume first")
    items = job.items()
    job = job.like(earlier)
    run = open_backend(
        model or registry.PACKAGE_ENCODER, device=device, precision=earlier["precision"], backend=backend
    )
    manifest = job.manifest(run)
    _require_same(earlier, manifest, folder)
    beside = update_folder(folder)
    begun = prepare_output(beside, resume=True, overwrite=False)
    reuse = Reuse(folder)
    writer = Writer(beside, manifest, started=begun is not None)
    job.run(items, run, writer, progress=progress, stop=stop, reuse=reuse)
    writer.finish(job.summary.left_out)
    swap(beside, folder)
    return Embeddings.open(folder)


def embed_shard(
    source: Source, model: Any, out: str | Path, *, shard: int, shards: int, progress: bool = False, **options: Any
) -> int:
    """Embeds every `shards`-th part of `source`, from part `shard` on, into the folder `out`, and returns how many parts.

    Several processes or machines may write into one folder; `merge` completes it. Options are those of `embed`. Parts
    that are there already are kept, so that a shard which was killed is simply started again.
    """
    if not 0 <= shard < shards:
        raise InputError(f"there is no shard {shard}/{shards}; they count from 0/{shards} to {shards - 1}/{shards}")
    batch_size, workers = options.pop("batch_size", 16), options.pop("workers", 0)
    job = Job(source, batch_size, workers, options.pop("deterministic", False), options.pop("part_size", PART_SIZE))
    items, folder = job.items(), Path(out)
    earlier = prepare_output(folder, resume=True, overwrite=False)
    run = open_backend(model or registry.PACKAGE_ENCODER, **{"precision": "auto", **options})
    manifest = job.manifest(run)
    if earlier is not None:
        _require_same(earlier, manifest, folder)
    writer = Writer(folder, manifest, started=False)
    writer.start()
    parts = job.run(items, run, writer, progress=progress, mine=lambda number: number % shards == shard)
    writer.mark_shard(shard, shards, parts, job.summary.left_out)
    return parts


@dataclass
class Job:
    """What is embedded, and in which portions."""

    source: Source
    batch_size: int
    workers: int
    deterministic: bool
    part_size: int

    def __post_init__(self) -> None:
        self.summary, self.reader = Summary(), open_source(self.source)
        if self.deterministic:
            self.batch_size = DETERMINISTIC_BATCH

    def like(self, manifest: dict[str, Any]) -> Job:
        """The same job in an earlier run's portions, so that a resumed run computes the very batches of an unbroken one."""
        sizes = {key: manifest[key] for key in ("batch_size", "part_size", "deterministic")}
        job = replace(self, **sizes)
        job.summary, job.reader = self.summary, self.reader
        return job

    def items(self) -> Iterator[Item]:
        """The inputs; raises InputError when there is none."""
        items = self.reader.items(self.summary)
        first = next(items, None)
        if first is None:
            seen = ", ".join(f"{count} {reason}" for reason, count in self.summary.left_out.items())
            raise InputError(f"no image in {self.source} ({seen or 'it is empty'}); name a folder that holds images")
        return itertools.chain([first], items)

    def manifest(self, run: Backend) -> dict[str, Any]:
        """Everything about the run that decides its vectors."""
        packages = ("sslzoo", "numpy", "pillow", *([run.engine] if run.engine != "numpy" else []))
        return {
            "format": FORMAT,
            "model": run.spec.name,
            "model_source": run.spec.sources[0] if run.spec.sources else "",
            "dim": run.spec.dim,
            "space": run.space,
            "weights": run.weights,
            "preprocess": run.spec.preprocess.to_dict(),
            "precision": run.precision,
            "backend": run.engine,
            "source": _describe(self.source),
            "columns": dict(self.reader.columns),
            "part_size": self.part_size,
            "batch_size": self.batch_size,
            "deterministic": self.deterministic,
            "software": {"python": platform.python_version()} | {name: version(name) for name in packages},
        }

    def run(
        self,
        items: Iterator[Item],
        run: Backend,
        sink: Writer | Collector,
        *,
        progress: bool = False,
        stop: Callable[[], bool] = lambda: False,
        mine: Callable[[int], bool] = lambda number: True,
        reuse: Reuse | None = None,
    ) -> int:
        """Embeds part after part, but for those that are there or not `mine`; returns how many parts there are in all."""
        number = -1
        with Bar(self.reader, shown=progress) as bar:
            for number, first in enumerate(items):
                inputs = itertools.chain([first], itertools.islice(items, self.part_size - 1))
                if not mine(number):
                    bar.update(sum(1 for _ in inputs))
                elif sink.has(number):
                    ids = [item.id for item in inputs]
                    sink.check(number, ids)
                    bar.update(len(ids))
                else:
                    if stop():
                        raise Interrupted(f"stopped after {number} parts; the same command with --resume goes on")
                    sink.add(number, self.embed_part(inputs, run, bar, reuse))
        return number + 1

    def embed_part(self, items: Iterator[Item], run: Backend, bar: Bar, reuse: Reuse | None = None) -> Part:
        """The rows and failures of one part; its batches don't depend on what came before it."""
        part = Part(run.spec.dim)
        rows: list[int] = []
        batch: list[NDArray[np.uint8]] = []
        known = ((item, reuse.find(item) if reuse else None) for item in items)
        for item, result in read_or_reuse(known, run.spec.preprocess, workers=self.workers, ahead=4 * self.batch_size):
            part.inputs.append(item.id)
            bar.update(failed=isinstance(result, ImageError))
            if isinstance(result, ImageError):
                part.failures.append((item.id, result.reason))
                continue
            if isinstance(result, Known):
                part.put([part.add(item.id, result.facts)], result.vector[None])
                continue
            pixels, decoded = result
            facts = Facts(decoded.width, decoded.height, decoded.flags, item.label, item.columns, item.stamp)
            rows.append(part.add(item.id, facts))
            batch.append(pixels)
            if len(batch) == self.batch_size:
                part.put(rows, run(np.stack(batch)))
                rows, batch = [], []
        if batch:
            padding = [np.zeros_like(batch[0])] * (self.batch_size - len(batch) if self.deterministic else 0)
            part.put(rows, run(np.stack(batch + padding))[: len(batch)])
        return part


@dataclass(frozen=True)
class Plan:
    """What a run would take, measured on a few of its images."""

    images: int | None
    bytes_out: int | None
    images_per_second: float
    seconds: float | None
    precision: str
    backend: str


def plan(source: Source, model: Any = None, *, sample: int = 48, **options: Any) -> Plan:
    """Counts the images and embeds the first `sample` of them, to tell how long the whole would take and how large it gets.

    Counts are None where only reading everything would tell (a compressed tar, a remote folder).
    """
    job = Job(source, options.pop("batch_size", 16), options.pop("workers", 0), False, sample)
    items = job.items()
    run = open_backend(model or registry.PACKAGE_ENCODER, **{"precision": "auto", **options})
    with Bar(job.reader, shown=False) as bar:
        job.embed_part(itertools.islice(items, 1), run, bar)  # graphs are compiled and caches filled by the first
        began = time.perf_counter()
        part = job.embed_part(itertools.islice(items, sample), run, bar)
    speed = len(part.inputs) / max(time.perf_counter() - began, 1e-9)
    count = job.reader.count()
    if count is None or not part.inputs:
        return Plan(count, count and count * run.spec.dim * 4, speed, None, run.precision, run.engine)
    return Plan(count, count * run.spec.dim * 4, speed, count / speed, run.precision, run.engine)


def _describe(source: Source) -> str:
    """A source as the manifest names it: the absolute path, the URL or pattern, or what kind of object it was."""
    if isinstance(source, str | Path):
        return str(source) if is_url(str(source)) or source == "-" else str(Path(source).resolve())
    return f"a {type(source).__name__} in memory"


def _require_same(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for key, what in (("space", "model"), ("source", "source")):
        if earlier[key] != now[key]:
            was, present = earlier[what], now[what]
            raise InputError(
                f"{folder} was begun with another {what} ({was}, now {present}); go on with that one, or choose another -o"
            )


class Bar:
    """Progress on stderr: images a second, failures so far, and the time left once a second walk has counted the images."""

    def __init__(self, reader: Reader, *, shown: bool) -> None:
        self.bar = tqdm(unit="img", disable=not shown, dynamic_ncols=True)
        self.failed = 0
        if shown:
            threading.Thread(target=self._count, args=(reader,), daemon=True).start()

    def _count(self, reader: Reader) -> None:
        try:
            self.bar.total = reader.count()
        except Exception:
            self.bar.total = None  # the count only feeds the time left; the run itself reports what is wrong

    def update(self, images: int = 1, *, failed: bool = False) -> None:
        """So many more, or one that failed."""
        if failed:
            self.failed += 1
            self.bar.set_postfix(failed=self.failed)
        self.bar.update(images)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
