"""`embed` and `merge`: images to vectors."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslzoo.cli.options import Device, Json, Model, Precision, Quiet, Workers, one_line, one_of
from sslzoo.cli.process import make_lean
from sslzoo.errors import InputError, Interrupted, OutputExists

if TYPE_CHECKING:
    from sslzoo.embeddings import Embeddings

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IN",
        help="A folder, an image, a pattern ('**/*.jpg', 's-{000..099}.tar'), a tar, zip or Parquet file, a .txt of paths "
        "('-': on stdin), or a URL; or several folders and images.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Embeddings folder; by default ./<IN's name>.emb, of several ./images.emb."),
]
FAILURES_SHOWN = 5
Format = Annotated[
    str,
    typer.Option(**one_of("parquet", "npy", "csv"), help="parquet; with npy or csv, these are written too."),
]


def embed(
    ctx: typer.Context,
    sources: Sources,
    output: Output = None,
    model: Model = None,
    batch_size: Annotated[
        int, typer.Option("-b", "--batch-size", min=0, help="Images per forward pass; 0: 16 on a CPU, 256 on a GPU.")
    ] = 0,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Annotated[
        str, typer.Option(**one_of("auto", "torch", "openvino"), help="auto, torch or openvino.")
    ] = "auto",
    decoder: Annotated[
        str,
        typer.Option(
            **one_of("pillow", "torch"), help="pillow, or torch: JPEG on the GPU, by torchcodec or torchvision."
        ),
    ] = "pillow",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Run torch's network through torch.compile: slow to start, then faster.")
    ] = False,
    background: Annotated[
        str, typer.Option(help="What lies under transparent pixels: a colour's name or #rrggbb.")
    ] = "white",
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Embed what there is of a truncated file, and flag it.")
    ] = False,
    pixel_limit: Annotated[
        int | None, typer.Option(min=1, help="Refuse images of more pixels; by default 179 million.")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Vectors that never depend on the batch.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Embed what is new or changed, drop what is gone.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder that is there, once the new one is whole.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do one share of N (0/N to N-1/N); then: merge.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            **one_of("local", "ray"), help="local, or ray: on the cluster of RAY_ADDRESS, else one made here."
        ),
    ] = "local",
    actors: Annotated[int, typer.Option(min=0, help="Encoders of --engine ray; 0: one a GPU, or one a machine.")] = 0,
    format: Format = "parquet",
    dtype: Annotated[
        str,
        typer.Option(
            **one_of("float32", "float16"), help="Of the vectors on disk: float32, or float16 at half the size."
        ),
    ] = "float32",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the images and estimate time and size.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn images into vectors: an embeddings folder of Parquet parts, with the failures listed beside them."""
    from sslzoo.embeddings import is_embeddings, read_manifest
    from sslzoo.images.decode import PIXEL_LIMIT, Policy
    from sslzoo.pipeline import plan, run
    from sslzoo.pipeline.job import DETERMINISTIC_BATCH
    from sslzoo.pipeline.output import prepare_output

    make_lean()
    if engine == "ray" and (update or shard is not None):
        raise InputError("--engine ray makes a whole folder; leave out --update and --shard, or use --engine local")
    if shard is not None and (update or overwrite):
        raise InputError("--shard writes beside other shards; leave out --update and --overwrite, or choose another -o")
    if update and overwrite:
        raise InputError("--update keeps what has not changed, --overwrite nothing; leave one of them out")
    if shard is not None and dry_run:
        raise InputError("--dry-run counts the images of all shards; leave out --shard")
    share = _shard(shard) if shard is not None else None
    source = _one(sources)
    out = output or Path((stem(source) if isinstance(source, str) else "images") + ".emb")
    if shard is not None and format != "parquet":
        raise InputError(
            f"--format {format} is written of the whole, not of a shard; leave it out, and give it at the end: "
            f"sslzoo merge {out} --format {format}"
        )
    choices: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "backend": backend,
        "batch_size": batch_size,
        "workers": workers,
        "decoder": decoder,
        "compiled": compiled,
        "dtype": dtype,
        "policy": Policy(_colour(background), allow_truncated, pixel_limit or PIXEL_LIMIT),
    }
    if dry_run:
        there = out if update and is_embeddings(out) and read_manifest(out)["complete"] else None
        _print_plan(plan.plan(source, model, update=there, **choices), as_json)
        return
    wanted = {"resume": resume, "overwrite": overwrite}
    try:
        prepared = prepare_output(out, update=update, shard=shard is not None, **wanted)
    except OutputExists:
        _tell_typos(source, model)
        raise
    if prepared.earlier is not None:
        _say_ignored(ctx, prepared.earlier, out)
    elif deterministic and batch_size not in (0, DETERMINISTIC_BATCH):
        typer.echo(
            f"--batch-size {batch_size} is ignored: --deterministic computes in batches of {DETERMINISTIC_BATCH}",
            err=True,
        )
    if share is not None:
        whole: Callable[..., Any] = partial(run.embed_shard, shard=share[0], shards=share[1])
        wanted = {}
    elif engine == "ray":
        from sslzoo import distributed

        logging.disable(logging.WARNING)  # Ray Data tells of every step it takes
        whole = partial(distributed.embed, actors=actors)
    else:
        whole = partial(run.embed, update=update)
    try:
        result = whole(
            source,
            model,
            out,
            deterministic=deterministic,
            progress=not quiet,
            stop=_stop_on_interrupt("part" if engine == "ray" else "batch"),
            **wanted,
            **choices,
        )
    except (KeyboardInterrupt, Interrupted) as error:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C while leaving changes nothing
        again = "the same command" + ("" if share is not None else " with --resume")
        at_once = isinstance(error, KeyboardInterrupt)
        typer.echo(f"interrupted; {_kept(prepared.place, at_once=at_once, again=again)}", err=True)
        if engine == "ray":
            os._exit(130)  # Ray's threads outlive its shutdown, and now and then end the process with 1
        raise typer.Exit(130) from None
    if share is not None:
        _print_shard(result, out, f"{share[0]}/{share[1]}", as_json)
        return
    if prepared.finished:
        typer.echo(f"{out} is finished already; add --update for what is new or changed", err=True)
    _write_format(out, format)
    _print_result(result, out, as_json)


def merge(
    folder: Annotated[Path, typer.Argument(metavar="EMB", help="A folder that all shards have written.")],
    format: Format = "parquet",
    as_json: Json = False,
) -> None:
    """Complete an embeddings folder that was written in shards."""
    from sslzoo.pipeline.writer import merge as complete

    whole = complete(folder)
    _write_format(folder, format)
    _print_result(whole, folder, as_json)


def _tell_typos(source: str | list[str], model: str | None) -> None:
    """Raises InputError for a source or an encoder that isn't there, as far as this computer can tell by itself."""
    from sslzoo.backends import PIXELS
    from sslzoo.images.discover import open_source
    from sslzoo.registry import resolve

    if model not in (None, PIXELS.name) and not model.startswith("hf-hub:"):
        resolve(model)
    if not any(name == "-" or "://" in name for name in ([source] if isinstance(source, str) else source)):
        open_source(source)


def _one(sources: list[str]) -> str | list[str]:
    """What was named, alone or as a list in the order of a walk; a shell has its own, which differs between machines.

    Raises InputError for what can't stand in a list.
    """
    if len(sources) == 1:
        return sources[0]
    if "-" in sources:
        raise InputError("'-' reads a list of paths from stdin and goes alone; put the other inputs into that list")
    return sorted(set(sources), key=lambda source: source.split("/"))


def _kept(place: Path, *, at_once: bool, again: str) -> str:
    """What an interrupted run leaves in the folder that it writes in, and how to go on."""
    from sslzoo.embeddings import part_files

    parts = len(part_files(place))
    if not parts and not any(place.glob(".part-*-begun.tmp")):
        return f"nothing was finished, and {again} starts anew"
    if at_once:  # what the run had of a part was in memory alone
        return f"what it had of the current part is lost, what was written before ({parts} parts) is kept, and {again} goes on"
    return f"what is finished is kept, and {again} goes on"


def _write_format(folder: Path, format: str) -> None:
    """The vectors of a finished folder once more, where another format was asked for."""
    from sslzoo.pipeline import formats

    if format != "parquet":
        typer.echo(f"{formats.convert(folder, format)}: the same vectors as {format}", err=True)


def _say_ignored(ctx: typer.Context, settled: dict[str, Any], out: Path) -> None:
    """Tells which options go for nothing, because the run that is continued has settled them."""
    for name in ("batch_size", "precision", "backend", "decoder", "deterministic", "dtype"):
        given, kept = ctx.params[name], settled.get(name, "pillow")  # decoder, where the manifest says nothing
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and given not in (kept, "auto", 0):
            option = f"--{name.replace('_', '-')}" + ("" if given is True else f" {given}")
            typer.echo(f"{option} is ignored: {out} was begun with {name.replace('_', ' ')} {kept}", err=True)


def _print_shard(m: dict[str, Any], out: Path, shard: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_facts(m, out) | {"shard": shard, "parts": m.get("parts")}))
    elif m.get("complete"):
        typer.echo(f"{out} is merged already, {m['rows']} vectors; there is nothing to do for shard {shard}")
    else:
        typer.echo(f"{out}: shard {shard} of {m['parts']} parts is done; after the last one: sslzoo merge {out}")
    if m["failed"]:
        typer.echo(f"{m['failed']} images could not be read; merge lists them in {out / 'failures.parquet'}", err=True)
        raise typer.Exit(3)


def _facts(m: dict[str, Any], out: Path) -> dict[str, Any]:
    """What a program wants to know of a result."""
    keys = ("model", "space", "precision", "backend", "rows", "failed", "left_out")
    return {key: m[key] for key in keys} | {"output": str(out)} | ({"update": m["update"]} if "update" in m else {})


def _print_result(result: Embeddings, out: Path, as_json: bool) -> None:
    m = result.manifest
    if as_json:
        typer.echo(json.dumps(_facts(m, out)))
    else:
        typer.echo(
            f"{out}: {m['rows']} vectors of {m['dim']} numbers by {m['model']} ({m['precision']}, {m['backend']})"
        )
        if update := m.get("update"):
            typer.echo("{kept} kept, {changed} made anew, {added} added, {dropped} dropped".format(**update))
        left_out = m["left_out"]
        if isinstance(left_out, dict) and left_out:
            typer.echo("left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items()), err=True)
    if agreement := m.get("agreement"):
        typer.echo(
            "int8 beside fp32 on your images: " + ", ".join(f"{k} {v:.4g}" for k, v in agreement.items()), err=True
        )
    if m["failed"]:
        for path, reason in result.failures[:FAILURES_SHOWN]:
            typer.echo(f"left out {one_line(path)}: {one_line(reason)}", err=True)
        typer.echo(f"{m['failed']} images could not be read; see {out / 'failures.parquet'}", err=True)
        raise typer.Exit(3)


def _print_plan(plan: object, as_json: bool) -> None:
    from dataclasses import asdict

    facts = asdict(plan)  # type: ignore[call-overload]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    images, seconds, size = facts["images"], facts["seconds"], facts["bytes_out"]
    if not images and images is not None:
        typer.echo("no image is new or has changed")
        return
    typer.echo(f"{images if images is not None else 'an unknown number of'} images")
    typer.echo(f"{facts['images_per_second']:.1f} images/s ({facts['precision']}, {facts['backend']})")
    if seconds is not None:
        time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        typer.echo(f"about {time} and {size / 1e6:.1f} MB of vectors")


def _stop_on_interrupt(unit: str) -> Callable[[], bool]:
    """True after Ctrl-C, so that the current batch or part is finished; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        typer.echo(
            f"finishing the current {unit}; press Ctrl-C again to stop at once and lose the current part", err=True
        )

    with contextlib.suppress(ValueError):  # not in the main thread: whoever called us there handles signals
        signal.signal(signal.SIGINT, on_signal)
    return lambda: bool(asked)


def stem(source: str) -> str:
    """The name of an input without folders, patterns or endings; never one that could be taken for an option."""
    if source == "-":
        return "stdin"
    name = Path(source).resolve().name if Path(source).exists() else source.rstrip("/").rsplit("/", 1)[-1]
    name = name.split(".")[0] if not Path(source).is_dir() else name
    name = name.encode("utf-8", "ignore").decode()  # Parquet's readers take no other names
    return "".join(c for c in name if c not in "*?[]{}").lstrip("-") or "images"


def _colour(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise typer.BadParameter(f"{text!r}; write a colour's name or #rrggbb", param_hint="--background") from None


def _shard(text: str) -> tuple[int, int]:
    index, slash, shards = text.partition("/")
    if not (slash and index.isdecimal() and shards.isdecimal() and int(index) < int(shards)):
        raise typer.BadParameter(f"{text!r}; write it as 0/8, 1/8 … 7/8", param_hint="--shard")
    return int(index), int(shards)
