"""`sslzoo.embed()`: images to vectors, in memory or in an embeddings folder; fresh, resumed, brought up to date, or in shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslzoo import registry
from sslzoo.backends import PIXELS, open_backend
from sslzoo.backends.backend import Backend
from sslzoo.embeddings import Embeddings, part_name
from sslzoo.errors import InputError
from sslzoo.images.decode import DEFAULT, Policy
from sslzoo.images.discover import Item, Source
from sslzoo.pipeline.job import PART_SIZE, Job
from sslzoo.pipeline.output import Output, begun_with_another, prepare_output
from sslzoo.pipeline.update import Reuse, changes
from sslzoo.pipeline.writer import Collector


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

    `resume` goes on with an interrupted run, keeping its precision, back end and batch size, and makes again what has
    changed since (by size and time); `update` embeds what is new or changed in a folder and drops what is gone, with the
    settings that made it; the result's `manifest["update"]` counts the rows kept, changed, added and dropped. With `update`
    and `overwrite` the new state is written beside the old one, which it replaces once it is whole. `precision` is fp32,
    bf16, fp16, int8 or auto, `backend` torch, openvino or auto (see `backends.open_backend`). int8 is calibrated on the
    first images; with `int8`, the quantised
    graph in that embeddings folder is used. `workers` 0 takes one decode thread per processor, `batch_size` 0 is 16 on a
    CPU and 256 on a GPU. For a GPU, `decoder` "torch" decodes JPEG files there, and `compiled` runs the network through
    torch.compile. `policy` is what may be chosen about decoding. `deterministic` computes in batches of 16, whatever
    `batch_size`, so that on one machine a vector never depends on what it was computed with. `dtype` float16 halves
    the folder's size. `progress` shows a bar on stderr; `stop` is asked between batches, and a part that it ends is gone on
    with by `resume`.

    Row i never shifts: ids are the images' own paths. Raises InputError when the source is missing, empty or without one
    readable image (nothing is written then), OutputExists when `out` is there already, and Interrupted after `stop`.
    """
    job = Job(source, batch_size, workers, deterministic, part_size, policy, decoder, dtype)
    items = job.items()
    choices = {"device": device, "precision": precision, "backend": backend, "compiled": compiled}
    if out is None:
        run = _open(model, job, int8, choices)
        collector = Collector(job.manifest(run))
        job.run(items, run, collector, progress=progress, stop=stop)
        return collector.finish(job.summary.left_out)
    output = prepare_output(Path(out), resume=resume, update=update, overwrite=overwrite)
    job, choices = as_before(output, model, job, choices)
    run = _open(model, job, output.kept or int8, choices)
    writer = output.writer(job.manifest(run), run.files)
    if output.finished:
        return Embeddings.open(out)
    reuse = Reuse(output.folder) if output.kept == output.folder != output.place else None
    parts = job.run(items, run, writer, progress=progress, stop=stop, reuse=reuse)
    writer.finish(job.summary.left_out, parts)
    compared = {"update": changes(output.folder, output.place)} if update and output.place != output.folder else {}
    made = output.close()
    made.manifest |= compared  # not on disk, where a folder is the same whatever it was before
    return made


def embed_shard(
    source: Source,
    model: Any,
    out: str | Path,
    *,
    shard: int,
    shards: int,
    progress: bool = False,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> dict[str, Any]:
    """Embeds every `shards`-th part of `source`, from part `shard` on, into the folder `out`.

    Returns the manifest with the rows and failures of this shard alone, and "parts", how many there are in all; of a folder
    that is merged already, its manifest. Several processes or machines may write into one folder; `merge` completes it.
    Options are those of `embed`. Parts that are there already are kept, so that a shard which was killed is simply started
    again. The first shard that starts decides precision, back end and sizes.
    """
    if not 0 <= shard < shards:
        raise InputError(f"there is no shard {shard}/{shards}; they count from 0/{shards} to {shards - 1}/{shards}")
    portions = ("batch_size", "workers", "deterministic", "part_size", "policy", "decoder", "dtype")
    job = Job(source, **{key: options.pop(key) for key in portions if key in options})
    items, output = job.items(), prepare_output(Path(out), shard=True)
    job, choices = as_before(output, model, job, {"precision": "auto", "backend": "auto", **options})
    run = _open(model, job, output.kept, choices)
    manifest = job.manifest(run)
    manifest.pop("source_state", None)  # a machine may read a copy of its own, with another time
    writer = output.writer(manifest, run.files)
    if output.finished and output.earlier is not None:
        return output.earlier
    if not writer.started:
        writer.start()
    writer.mark_shard(shard, None)  # that of an earlier run, which this one may not live to replace
    inputs = hashlib.sha256()

    def counted() -> Iterator[Item]:
        for item in items:
            inputs.update(f"{item.id}\0".encode("utf-8", "surrogatepass"))
            yield item

    def mine(number: int) -> bool:
        return number % shards == shard

    parts = job.run(counted(), run, writer, progress=progress, stop=stop, mine=mine)
    left_out = job.summary.left_out
    rows, failures = writer.gather([writer.folder / part_name(number) for number in range(parts) if mine(number)])
    writer.mark_shard(shard, {"shards": shards, "parts": parts, "inputs": inputs.hexdigest(), "left_out": left_out})
    return manifest | {"rows": rows, "failed": len(failures), "left_out": left_out, "parts": parts}


def as_before(output: Output, model: Any, job: Job, choices: dict[str, Any]) -> tuple[Job, dict[str, Any]]:
    """The job and the choices of a back end, with what the run that is to be continued has settled.

    Raises InputError when it was of another model, for which those choices need not hold.
    """
    if output.earlier is None or output.kept is None:
        return job, choices
    if isinstance(model, str | None) and model != PIXELS.name:
        name = registry.resolve(model or registry.PACKAGE_ENCODER).name
        if name != output.earlier["model"]:
            raise begun_with_another(output.kept, "model", output.earlier["model"], name)
    kept = {"precision": output.earlier["precision"]}
    if output.earlier["backend"] in ("torch", "openvino"):
        kept["backend"] = output.earlier["backend"]
    return job.like(output.earlier), choices | kept


def _open(model: Any, job: Job, int8: Path | None, choices: dict[str, Any]) -> Backend:
    return open_backend(model or registry.PACKAGE_ENCODER, int8=int8 or job.samples, **choices)
