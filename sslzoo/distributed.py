"""`embed` on many machines: one stream of parts, a pool of encoders on Ray Data, and one writer.

One Ray task walks the source and cuts it into the same parts as a run without Ray; a pool of actors, each with an encoder,
takes them one by one; the process that called writes them in their order. So a run with Ray leaves the same folder, may go
on where one without it stopped, and the other way round. Every machine has to reach the source under the same path or URL.
"""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sslzoo import registry
from sslzoo.backends import allocator, open_backend
from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError, Interrupted, MissingExtra, SslzooError
from sslzoo.images.decode import DEFAULT, Policy
from sslzoo.images.discover import Item, Source, Summary
from sslzoo.images.read import processors
from sslzoo.pipeline.job import PART_SIZE, Bar, Job
from sslzoo.pipeline.output import prepare_output
from sslzoo.pipeline.run import as_before
from sslzoo.pipeline.writer import Part, Writer, fingerprint

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reports usage to its makers unless told not to
try:
    import ray
    from ray import cloudpickle
except ImportError:
    raise MissingExtra("Ray is not installed; pip install 'sslzoo[ray]'") from None

Row = dict[
    str, Any
]  # what flows through Ray Data: a part's number and something pickled about it, both in lists of one


def embed(
    source: Source,
    model: Any = None,
    out: str | Path = "",
    *,
    actors: int = 0,
    batch_size: int = 0,
    workers: int = 0,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    policy: Policy = DEFAULT,
    decoder: str = "pillow",
    compiled: bool = False,
    dtype: str = "float32",
    resume: bool = False,
    overwrite: bool = False,
    deterministic: bool = False,
    progress: bool = False,
    part_size: int = PART_SIZE,
    stop: Callable[[], bool] = lambda: False,
) -> Embeddings:
    """Embeds every image of `source` into the folder `out` with `actors` encoders; options are those of `sslzoo.embed`.

    `actors` 0 takes one for each GPU of the cluster, or one for each machine. It is the cluster that RAY_ADDRESS names, or
    else one on this machine for the time of the run. `workers` are the decode threads of one actor.
    """
    if precision == "int8":
        raise InputError("int8 is calibrated by one process; use --engine local, or --engine ray with fp32 or bf16")
    job = Job(source, batch_size, workers, deterministic, part_size, policy, decoder, dtype)
    next(job.items())  # raises InputError when there is none
    output = prepare_output(Path(out), resume=resume, overwrite=overwrite)
    choices = {"device": device, "precision": precision, "backend": backend, "compiled": compiled}
    job, choices = as_before(output, model, job, choices)
    model = model or registry.PACKAGE_ENCODER
    started = _connect(actors)
    try:
        actors, share = _share(actors, device)
        job = replace(job, workers=job.workers or share["num_cpus"], summary=Summary())
        manifest = _ask(ray.remote(_manifest).options(**share), job, model, choices)
        writer = output.writer(manifest)
        if output.finished:
            return Embeddings.open(out)
        choices |= {key: manifest[key] for key in ("precision", "backend") if manifest["backend"] != "numpy"}
        rows = _rows(job, writer.there(), (job, model, choices, manifest["space"]), actors, share)
        writer.finish(*_write(rows, writer, job, progress=progress, stop=stop))
        return output.close()
    except ray.exceptions.RayError as error:
        raise _ours(error) from None
    finally:
        if started:
            ray.shutdown()


def _write(
    rows: Iterator[Row], writer: Writer, job: Job, *, progress: bool, stop: Callable[[], bool]
) -> tuple[dict[str, int], int]:
    """Writes the parts as they come, in order; returns what discovery left out, and how many parts there are."""
    left_out, parts = dict[str, int](), 0
    with Bar(job.reader, shown=progress) as bar:
        for row in rows:
            number, found = row["number"], pickle.loads(row["data"])
            if isinstance(found, Summary):
                left_out, parts = found.left_out, number
            elif isinstance(found, Part):
                writer.add(number, found)
                bar.update(len(found.paths))
                for _ in found.failures:
                    bar.update(failed=True)
            else:
                bar.update(found)
            if stop() and not isinstance(found, Summary):
                raise Interrupted(f"stopped after {number + 1} parts; the same command with --resume goes on")
    return left_out, parts


def _rows(
    job: Job, done: dict[int, str], arguments: tuple[Any, ...], actors: int, share: dict[str, int]
) -> Iterator[Row]:
    """The stream of finished parts, in order: one task reads, a pool of actors encodes, one part a task."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # bytes: every part is a block, and so a task, of its own
    one = ray.data.from_items([{"number": 0}])
    parts = one.map_batches(_read, batch_size=1, fn_args=(job, done), num_cpus=0)  # it waits for the disk
    pool = ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2)
    vectors = parts.map_batches(_Encoder, batch_size=1, fn_constructor_args=arguments, compute=pool, **share)
    yield from vectors.iter_rows()


def _read(_: Row, job: Job, done: dict[int, str]) -> Iterator[Row]:
    """The parts as lists of items (of those that are done their numbers), and at the end what discovery left out."""
    items = job.items()
    number = -1
    for number, first in enumerate(items):
        part = [first, *itertools.islice(items, job.part_size - 1)]
        same = number in done and done[number] == fingerprint([item.key for item in part])
        yield _row(number, len(part) if same else part)
    yield _row(number + 1, job.summary)


def _row(number: int, found: Any) -> Row:
    try:
        data = cloudpickle.dumps(found)
    except TypeError:  # members of a zip file can't be opened from elsewhere, so that they travel as bytes
        data = cloudpickle.dumps([_with_bytes(item) for item in found])
    return {"number": [number], "data": np.array([data], dtype=object)}


def _with_bytes(item: Item) -> Item:
    """The item with its contents, or with the error that opening it gave."""
    try:
        data = item.open()
    except Exception as error:
        return replace(item, open=_Raise(error))
    return replace(item, open=lambda: data)


class _Raise:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self) -> bytes:
        raise self.error


class _Encoder:
    """One actor of the pool: an encoder that turns lists of items into parts, and passes on what is none."""

    def __init__(self, job: Job, model: Any, choices: dict[str, Any], space: str) -> None:
        allocator.own_process = True
        self.job, self.run = job, open_backend(model, **choices)
        if (here := job.policy.space(self.run.space)) != space:
            raise InputError(f"a machine has other weights or another sslzoo (space {here[:8]}, not {space[:8]})")

    def __call__(self, row: Row) -> Row:
        found = pickle.loads(row["data"][0])
        if isinstance(found, list):
            with Bar(self.job.reader, shown=False) as bar:
                found = self.job.embed_part(iter(found), self.run, bar)
        return _row(int(row["number"][0]), found)


def _manifest(job: Job, model: Any, choices: dict[str, Any]) -> dict[str, Any]:
    """What a machine of the cluster makes of the choices: which precision, which back end."""
    return job.manifest(open_backend(model, **choices))


def _connect(actors: int) -> bool:
    """Connects to the cluster, or starts one on this machine; returns whether it is ours to end."""
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it prints warnings about its own Data library
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
    else:
        cpus = max(actors, processors())
        ray.init("local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    return True


def _share(actors: int, device: str) -> tuple[int, dict[str, int]]:
    """How many actors there are, and the CPUs and GPUs of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    gpus = 0 if device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
    actors = actors or gpus or len(nodes)
    a_node = -(-actors // len(nodes))
    cpus = int(min(node["CPU"] for node in nodes)) // a_node
    if cpus < 1 or 0 < gpus < actors:
        has = f"{gpus} GPUs" if gpus else f"{int(sum(node['CPU'] for node in nodes))} CPUs"
        raise InputError(f"--actors is {actors}, but the cluster has {has}; ask for fewer")
    return actors, {"num_cpus": cpus, "num_gpus": 1 if gpus else 0}


def _ask(function: Any, *arguments: Any) -> Any:
    return ray.get(function.remote(*arguments))


def _ours(error: BaseException) -> SslzooError:
    """The error of ours that an error of Ray's wraps, or else Ray's in one line."""
    inner: BaseException | None = error
    while inner is not None:
        # what Ray raises for an error of ours is of both classes, and its message is a traceback
        if isinstance(inner, SslzooError) and not isinstance(inner, ray.exceptions.RayError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return InputError(
        f"Ray gave up: {(str(error).strip().splitlines() or [type(error).__name__])[-1]}; use --engine local"
    )
