"""`sslzoo.embed()`: images to vectors, in memory or in an embeddings folder; fresh, resumed, brought up to date, or in shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sslzoo import registry
from sslzoo.backends import open_backend
from sslzoo.backends.backend import Backend
from sslzoo.embeddings import Embeddings, read_manifest
from sslzoo.errors import InputError
from sslzoo.images.decode import DEFAULT, Policy
from sslzoo.images.discover import Source
from sslzoo.pipeline.job import PART_SIZE, Job
from sslzoo.pipeline.update import Reuse, swap, update_folder
from sslzoo.pipeline.writer import Collector, Writer, prepare_output


def embed(
    source: Source,
    model: Any = None,
    out: str | Path | None = None,
    *,
    batch_size: int = 0,
    workers: int = 0,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    policy: Policy = DEFAULT,
    decoder: str = "pillow",
    compiled: bool = False,
    dtype: str = "float32",
    int8: Path | None = None,
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
    in a folder (by size and time) and drops what is gone. `precision` is fp32, bf16, fp16, int8 or auto, `backend` torch,
    openvino or auto (see `backends.open_backend`). int8 is calibrated on the first images; with `int8`, the quantised
    graph in that embeddings folder is used. `workers` 0 takes one decode thread per processor, `batch_size` 0 is 16 on a
    CPU and 256 on a GPU. For a GPU, `decoder` "torch" decodes JPEG files there, and `compiled` runs the network through
    torch.compile. `policy` is what may be chosen about decoding. `deterministic` computes in batches of one size, so that
    on one machine a vector never depends on what it was computed with. `dtype` float16 halves the folder's size.
    `progress` shows a bar on stderr; `stop` is asked between parts.

    Row i never shifts: ids are the images' own paths. Raises InputError when the source is missing, empty or without one
    readable image (nothing is written then), OutputExists when `out` is there already, and Interrupted after `stop`.
    """
    job = Job(source, batch_size, workers, deterministic, part_size, policy, decoder, dtype)
    folder = Path(out) if out is not None else None
    choices = {"device": device, "backend": backend, "compiled": compiled}
    if update and folder is not None and folder.exists():
        return _update(job, folder, model, progress, stop, choices)
    items = job.items()
    earlier = prepare_output(folder, resume=resume, overwrite=overwrite) if folder is not None else None
    if folder is not None and earlier is not None:
        precision, job = earlier["precision"], job.like(earlier)
        int8 = folder
    run = _open(model, job, int8, precision=precision, **choices)
    manifest = job.manifest(run)
    if folder is not None and earlier is not None:
        require_same(earlier, manifest, folder)
        if earlier["complete"]:
            return Embeddings.open(folder)
    begun = earlier is not None
    sink = Writer(folder, manifest, started=begun, files=run.files) if folder is not None else Collector(manifest)
    job.run(items, run, sink, progress=progress, stop=stop)
    return sink.finish(job.summary.left_out)


def _open(model: Any, job: Job, int8: Path | None, **choices: Any) -> Backend:
    return open_backend(model or registry.PACKAGE_ENCODER, int8=int8 or job.samples, **choices)


def _update(
    job: Job, folder: Path, model: Any, progress: bool, stop: Callable[[], bool], choices: dict[str, Any]
) -> Embeddings:
    """Embeds what is new or changed into a folder beside the old one, takes over the rest, and puts it in its place."""
    earlier = read_manifest(folder)
    if not earlier["complete"]:
        raise InputError(f"{folder} is of a run that was not finished; run it with --resume first")
    items = job.items()
    job = job.like(earlier)
    run = _open(model, job, folder, precision=earlier["precision"], **choices)
    manifest = job.manifest(run)
    require_same(earlier, manifest, folder)
    beside = update_folder(folder)
    begun = prepare_output(beside, resume=True, overwrite=False)
    reuse = Reuse(folder)
    writer = Writer(beside, manifest, started=begun is not None, files=run.files)
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
    portions = ("batch_size", "workers", "deterministic", "part_size", "policy", "decoder", "dtype")
    job = Job(source, **{key: options.pop(key) for key in portions if key in options})
    items, folder = job.items(), Path(out)
    earlier = prepare_output(folder, resume=True, overwrite=False)
    run = _open(model, job, folder if earlier is not None else None, **{"precision": "auto", **options})
    manifest = job.manifest(run)
    if earlier is not None:
        require_same(earlier, manifest, folder)
    writer = Writer(folder, manifest, started=False, files=run.files)
    writer.start()
    parts = job.run(items, run, writer, progress=progress, mine=lambda number: number % shards == shard)
    writer.mark_shard(shard, shards, parts, job.summary.left_out)
    return parts


def require_same(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Raises InputError when a folder was begun with another decode policy, model or source."""
    for key, shown, noun in (
        ("decode", "decode", "decode policy"),
        ("space", "model", "model"),
        ("source", "source", "source"),
    ):
        if earlier.get(key, now[key]) != now[key]:
            was, present = earlier[shown], now[shown]
            if was == present:
                raise InputError(
                    f"{folder} was begun with the same {noun} in another state ({was}: its weights, sizes or precision have"
                    " changed since); choose another -o, or make it again with --overwrite"
                )
            raise InputError(
                f"{folder} was begun with another {noun} ({was}, now {present}); go on with that one, or choose another -o"
            )
