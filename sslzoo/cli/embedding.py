"""`embed`: images to vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sslzoo.cli.options import Device, Json, Model, Precision, Quiet, Workers


def embed(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A folder of images, an image, or Parquet with an image column.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Embeddings folder; by default ./<IN's name>.emb.")
    ] = None,
    model: Model = None,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per forward pass.")] = 16,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an embeddings folder that is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn images into vectors: an embeddings folder of Parquet parts, with the failures listed beside them."""
    from sslzoo.pipeline import embed as run

    out = output or Path(Path(source).resolve().with_suffix("").name + ".emb")
    try:
        result = run(
            source,
            model,
            out,
            batch_size=batch_size,
            workers=workers,
            device=device,
            precision=precision,
            resume=resume,
            overwrite=overwrite,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; finished parts are kept, and the same command with --resume goes on", err=True)
        raise typer.Exit(130) from None
    m = result.manifest
    if as_json:
        typer.echo(
            json.dumps({key: m[key] for key in ("model", "space", "rows", "failed", "left_out")} | {"output": str(out)})
        )
    else:
        typer.echo(f"{out}: {m['rows']} vectors of {m['dim']} numbers by {m['model']}")
        if left_out := ", ".join(f"{count} {reason}" for reason, count in m["left_out"].items()):
            typer.echo(f"left out: {left_out}", err=True)
    if m["failed"]:
        typer.echo(f"{m['failed']} images could not be read; see {out / 'failures.parquet'}", err=True)
        raise typer.Exit(3)
