"""`convert` and `push`: model folders from checkpoints, and to the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint: torch, Lightning, safetensors, Haiku pickle.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    format: Annotated[str, typer.Option("--format", help="auto, or one that the error message lists.")] = "auto",
    name: Annotated[str, typer.Option(help="The encoder's name; by default from format and file.")] = "",
    source: Annotated[str, typer.Option(help="Where the file comes from, for the record.")] = "",
    license: Annotated[str, typer.Option(help="License of the weights, for the record; push needs one.")] = "",
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", metavar="PREFIX", help="Leave out entries that start so; may be repeated."),
    ] = None,
) -> None:
    """Turn an authors' or your own checkpoint into a model folder; nothing in the file is run.

    A file whose published hash is known brings its name, source and license with it.
    """
    from sslzoo import hub, registry
    from sslzoo.convert import convert as run
    from sslzoo.errors import InputError, OutputExists

    if output.exists():
        raise OutputExists(f"{output} already exists; remove it or choose another -o")
    known = registry.of_checkpoint(file) if file.is_file() else None
    if known is not None and license and license != known.license:
        raise InputError(
            f"{file} is the published file of {known.name}, whose license is {known.license}; leave out --license {license}"
        )
    if known is not None:
        typer.echo(f"{file} is the published file of {known.name} ({known.license})", err=True)
    made = run(file, format=format, spec=known, name=name, source=source, license=license, drop=drop or ())
    within = known is not None and known.head is not None and known.head.checkpoint is None
    spec = dataclasses.replace(made.spec, head=None)
    hub.write(output, spec, made.tensors, hub.card(spec), head=made.head if within else None)
    p = made.spec.preprocess
    typer.echo(f"{output}: {made.spec.name}, a {made.spec.backbone}; format {made.format}")
    typer.echo(
        f"dropped {len(made.dropped)} entries of heads; assumed {p.size} px, mean {p.mean}, std {p.std}, "
        f"{made.spec.geometry.padding} padding (edit {output / hub.CONFIG} if it was trained otherwise)",
        err=True,
    )


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="ORG/NAME on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private if it is new.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, upload nothing.")] = False,
) -> None:
    """Upload a model folder to the Hugging Face Hub; one without a license is refused."""
    from sslzoo import hub

    for line in hub.push(folder, repo, private=private, dry_run=dry_run).lines:
        typer.echo(line)
