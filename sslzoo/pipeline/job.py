"""A job: what is embedded, in which portions, and everything about it that decides the vectors."""

from __future__ import annotations

import itertools
import platform
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sslzoo.backends.backend import Backend
from sslzoo.embeddings import FORMAT, is_embeddings, part_files, storable
from sslzoo.errors import ImageError, InputError, Interrupted
from sslzoo.images.decode import DEFAULT, Policy
from sslzoo.images.discover import LISTED, Item, Reader, Source, Summary, archives_state, open_source
from sslzoo.images.read import Fast, read, read_or_reuse
from sslzoo.images.sources.location import is_url
from sslzoo.images.sources.table import holds_images
from sslzoo.pipeline.update import Begun, Known, Reuse
from sslzoo.pipeline.writer import Collector, Facts, Part, Writer, fingerprint
from sslzoo.spec import Preprocess

PART_SIZE = 1024  # inputs; at most so much work is lost to a kill
DETERMINISTIC_BATCH = 16


@dataclass
class Job:
    """What is embedded, and in which portions."""

    source: Source
    batch_size: int = 0  # 0: what suits the back end
    workers: int = 0
    deterministic: bool = False
    part_size: int = PART_SIZE
    policy: Policy = DEFAULT
    decoder: str = "pillow"
    dtype: str = "float32"  # of the vectors on disk
    summary: Summary = field(default_factory=Summary)
    reader: Reader = None  # type: ignore[assignment]  # of the source, which is opened once: it may be standard input

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16"):
            raise InputError(f"dtype is {self.dtype!r}; use float32 or float16")
        if self.decoder not in ("pillow", "torch"):
            raise InputError(f"decoder is {self.decoder!r}; use pillow, or torch for JPEG on a GPU")
        if isinstance(self.source, str | Path):
            _require_no_vectors(Path(self.source))
        self.reader = self.reader or open_source(self.source)
        if self.deterministic:
            self.batch_size = DETERMINISTIC_BATCH

    def like(self, manifest: dict[str, Any]) -> Job:
        """The same job in an earlier run's portions, so that a resumed run computes the very batches of an unbroken one."""
        sizes = {key: manifest[key] for key in ("batch_size", "part_size", "deterministic")}
        kept = {"decoder": manifest.get("decoder", "pillow"), "dtype": manifest.get("dtype", "float32")}
        return replace(self, **sizes, **kept)

    def items(self) -> Iterator[Item]:
        """The inputs; raises InputError when there is none."""
        items = self.reader.items(self.summary)
        first = next(items, None)
        if first is None:
            seen = ", ".join(f"{count} {reason}" for reason, count in self.summary.left_out.items())
            raise InputError(f"no image in {self.source} ({seen or 'it is empty'}); name a folder that holds images")
        return itertools.chain([first], items)

    def samples(self, preprocess: Preprocess, count: int = 128) -> NDArray[np.uint8]:
        """Up to `count` of the first images, uint8 `[n, size, size, 3]`, spread over those of eight times as many."""
        first = list(itertools.islice(self.reader.items(Summary()), 8 * count))
        chosen = first[:: max(1, len(first) // count)][:count]
        results = (result for _, result in read(chosen, preprocess, self.policy, workers=self.workers))
        images = [result[0] for result in results if not isinstance(result, ImageError)]
        return np.stack(images) if images else np.empty((0, preprocess.size, preprocess.size, 3), np.uint8)

    def manifest(self, run: Backend) -> dict[str, Any]:
        """Everything about the run that decides its vectors."""
        packages = ("sslzoo", "numpy", "pillow", *([run.engine] if run.engine != "numpy" else []))
        return {
            "format": FORMAT,
            "model": run.spec.name,
            "model_source": run.spec.sources[0] if run.spec.sources else "",
            "dim": run.spec.dim,
            "space": self.policy.space(run.space),
            "weights": run.weights,
            "preprocess": run.spec.preprocess.to_dict(),
            "decode": self.policy.to_dict(),
            "precision": run.precision,
            **({"agreement": run.agreement} if run.agreement else {}),
            "backend": run.engine,
            "source": describe(self.source),
            **({"source_state": state} if (state := archives_state(self.reader)) else {}),
            "columns": dict(self.reader.columns),
            "dtype": self.dtype,
            "part_size": self.part_size,
            "batch_size": self.batch_size or run.batch_size,
            "deterministic": self.deterministic,
            **({"decoder": self.decoder} if self.decoder != "pillow" else {}),
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
        """Embeds part after part, but for those that are there or not `mine`; returns how many parts there are in all.

        A part that is there and whose inputs have changed since is made again; raises InputError where they can't be read
        twice, as from a pipe or a compressed tar.
        """
        number, there = -1, sink.there()
        with Bar(self.reader, shown=progress) as bar:
            for number, first in enumerate(items):
                inputs: Iterator[Item] = itertools.chain([first], itertools.islice(items, self.part_size - 1))
                if not mine(number):
                    bar.update(sum(1 for _ in inputs))
                    continue
                if number in there:
                    keys, files = list[str](), list[Item]()
                    for item in inputs:
                        keys.append(item.key)
                        if item.stamp is not None:  # others may hold their contents, too much for a list
                            files.append(item)
                    if fingerprint(keys) == there[number]:
                        bar.update(len(keys))
                        continue
                    if len(files) < len(keys):
                        raise InputError(
                            f"the images have changed since part {number} was made; embed again: sslzoo embed … --overwrite"
                        )
                    inputs = iter(files)
                if stop():
                    raise Interrupted(f"stopped after {number} parts; the same command with --resume goes on")
                part = self.embed_part(inputs, run, bar, reuse, Begun(sink.begun(number)), stop)
                if not part.whole:
                    sink.keep(number, part)
                    raise Interrupted(
                        f"stopped after {number} parts and {len(part.inputs)} images of the next; "
                        "the same command with --resume goes on"
                    )
                sink.add(number, part)
        return number + 1

    def embed_part(
        self,
        items: Iterator[Item],
        run: Backend,
        bar: Bar,
        reuse: Reuse | None = None,
        begun_before: Begun | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Part:
        """The rows and failures of one part; its batches don't depend on what came before it.

        Where `stop` tells so after a batch, the part ends there and isn't whole. `begun_before` has the rows of such a one:
        they are those of whole batches, so that the others are computed in the very batches of an unbroken run.
        """
        part = Part(run.spec.dim)
        size = self.batch_size or run.batch_size
        rows: list[int] = []
        batch: list[NDArray[np.uint8]] = []
        begun: deque[tuple[list[int], Callable[[], NDArray[np.float32]]]] = deque()

        def begin(padding: int = 0) -> None:
            """Starts the batch; meanwhile the vectors of the one before it are fetched."""
            begun.append((rows, run.begin(np.stack(batch + [np.zeros_like(batch[0])] * padding))))
            if len(begun) > 1:
                fetch()

        def fetch() -> None:
            places, vectors = begun.popleft()
            part.put(places, vectors()[: len(places)])

        def find(item: Item) -> Known | None:
            known = begun_before.find(item) if begun_before else None
            return known or (reuse.find(item) if reuse else None)

        known = ((item, find(item)) for item in items)
        for item, result in read_or_reuse(
            known, run.spec.preprocess, self.policy, workers=self.workers, ahead=4 * size, fast=self._fast(run)
        ):
            part.inputs.append(item.key)
            bar.update(failed=isinstance(result, ImageError))
            if isinstance(result, ImageError):
                part.failures.append((item.id, result.reason))
                continue
            if isinstance(result, Known):
                part.put([part.add(item.id, result.facts)], result.vector[None])
                continue
            pixels, facts = result
            rows.append(
                part.add(item.id, Facts(facts.width, facts.height, facts.flags, item.label, item.columns, item.stamp))
            )
            batch.append(pixels)
            if len(batch) == size:
                begin()
                rows, batch = [], []
                if stop():
                    part.whole = False
                    break
        if batch:
            begin(size - len(batch) if self.deterministic else 0)
        while begun:
            fetch()
        return part

    def _fast(self, run: Backend) -> Fast | None:
        """The decoder of JPEG files where it isn't Pillow."""
        if self.decoder == "pillow":
            return None
        if not hasattr(run, "device"):
            raise InputError(f"--decoder torch goes with --backend torch, not {run.engine}; add it")
        from sslzoo.backends import fast_decode

        return partial(fast_decode.pixels, device=run.device)


def describe(source: Source) -> str:
    """A source as the manifest names it: the absolute path, the URL or pattern, or what kind of object it was."""
    if isinstance(source, str | Path):
        return str(source) if is_url(str(source)) or source == "-" else storable(str(Path(source).resolve()))
    if isinstance(source, Sequence) and all(isinstance(value, str | Path) for value in source):
        return LISTED[1]
    return f"a {type(source).__name__} in memory"


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


def _require_no_vectors(folder: Path) -> None:
    """Raises InputError for an embeddings folder, whose parts would pass for tables of paths to images."""
    if is_embeddings(folder) and (parts := part_files(folder)) and not holds_images(parts[0]):
        raise InputError(
            f"{folder} is an embeddings folder, not one of images; search it: sslzoo search {folder} QUERY"
        )
