"""The streaming pipeline behind `sslzoo.embed()`: decode threads, batches, forward pass, and parts that can be resumed."""

from __future__ import annotations

import itertools
import platform
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sslzoo import registry
from sslzoo.backends import Backend, open_backend
from sslzoo.embeddings import FORMAT, Embeddings
from sslzoo.errors import ImageError, InputError, Interrupted
from sslzoo.images.discover import Item, Reader, Source, Summary, open_source
from sslzoo.images.read import read
from sslzoo.images.sources.location import is_url
from sslzoo.writer import Collector, Facts, Part, Writer, prepare_output

PART_SIZE = 1024  # inputs; at most so much work is lost to a kill, or waited for after Ctrl-C


def embed(
    source: Source,
    model: Any = None,
    out: str | Path | None = None,
    *,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    part_size: int = PART_SIZE,
    stop: Callable[[], bool] = lambda: False,
) -> Embeddings:
    """Embeds every image of `source` and returns the vectors; those that can't be read are left out and listed.

    `source` is what `sslzoo.images.discover.open_source` takes: a folder, a file, a pattern, a tar, zip or Parquet file, a
    URL, a list of images, a `datasets.Dataset`. `model` is a name, a spec or an Encoder (by default the encoder inside the
    package). With `out`, an embeddings folder is written there part by part, in bounded memory, and `resume` goes on with
    an interrupted one, keeping its precision and batch size; without it everything stays in memory. `workers` 0 takes one
    decode thread per processor; `progress` shows a bar on stderr; `stop` is asked between parts.

    Row i never shifts: ids are the images' own paths. Raises InputError when the source is missing, empty or without one
    readable image (nothing is written then), OutputExists when `out` is there already, and Interrupted after `stop`.
    """
    summary, reader = Summary(), open_source(source)
    items = _at_least_one(reader.items(summary), source, summary)
    folder = Path(out) if out is not None else None
    earlier = prepare_output(folder, resume=resume, overwrite=overwrite) if folder is not None else None
    if earlier is not None:
        precision, part_size, batch_size = earlier["precision"], earlier["part_size"], earlier["batch_size"]
    backend = open_backend(model or registry.PACKAGE_ENCODER, device=device, precision=precision)
    manifest = _manifest(source, reader, backend, part_size, batch_size)
    if folder is not None and earlier is not None:
        _require_same(earlier, manifest, folder)
        if earlier["complete"]:
            return Embeddings.open(folder)

    sink = Writer(folder, manifest, started=earlier is not None) if folder is not None else Collector(manifest)
    with _Bar(reader, shown=progress) as bar:
        for number, first in enumerate(items):
            inputs = itertools.chain([first], itertools.islice(items, part_size - 1))
            if sink.has(number):
                ids = [item.id for item in inputs]
                sink.check(number, ids)
                bar.update(len(ids))
                continue
            if stop():
                raise Interrupted(f"stopped after part {number}; the same command with --resume goes on")
            sink.add(number, embed_part(inputs, backend, batch_size, workers, bar))
    return sink.finish(summary.left_out)


def embed_part(items: Iterator[Item], backend: Backend, batch_size: int, workers: int, bar: _Bar) -> Part:
    """The rows and failures of one part; its batches don't depend on what came before it."""
    part = Part(backend.spec.dim)
    rows: list[int] = []
    batch: list[NDArray[np.uint8]] = []
    for item, result in read(items, backend.spec.preprocess, workers=workers, ahead=4 * batch_size):
        part.inputs.append(item.id)
        if isinstance(result, ImageError):
            part.failures.append((item.id, result.reason))
            bar.update(failed=True)
            continue
        pixels, decoded = result
        facts = Facts(decoded.width, decoded.height, decoded.flags, item.label, item.columns, item.stamp)
        rows.append(part.add(item.id, facts))
        batch.append(pixels)
        if len(batch) == batch_size:
            part.put(rows, backend(np.stack(batch)))
            rows, batch = [], []
        bar.update()
    if batch:
        part.put(rows, backend(np.stack(batch)))
    return part


def _at_least_one(items: Iterator[Item], source: Source, summary: Summary) -> Iterator[Item]:
    first = next(items, None)
    if first is None:
        seen = ", ".join(f"{count} {reason}" for reason, count in summary.left_out.items())
        raise InputError(f"no image in {source} ({seen or 'it is empty'}); name a folder that holds images")
    return itertools.chain([first], items)


def _manifest(source: Source, reader: Reader, backend: Backend, part_size: int, batch_size: int) -> dict[str, Any]:
    packages = ("sslzoo", "torch", "numpy", "pillow")
    return {
        "format": FORMAT,
        "model": backend.spec.name,
        "model_source": backend.spec.sources[0] if backend.spec.sources else "",
        "dim": backend.spec.dim,
        "space": backend.space,
        "weights": backend.weights,
        "preprocess": backend.spec.preprocess.to_dict(),
        "precision": backend.precision,
        "source": _describe(source),
        "columns": dict(reader.columns),
        "part_size": part_size,
        "batch_size": batch_size,
        "software": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


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
                f"{folder} was begun with another {what} ({was}, now {present}); resume with that one, or choose another -o"
            )


class _Bar:
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
        if failed:
            self.failed += 1
            self.bar.set_postfix(failed=self.failed)
        self.bar.update(images)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
