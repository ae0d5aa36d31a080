"""`convert`, `export` and `push`: model folders from checkpoints, to other programs, and to the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sslzoo.cli.options import Json, encoder_names, one_of

CHECKPOINTS = (
    "vissl byol simclr-v1 simclr-v2 mocov1 moco mocov3 solo-learn solo-learn-old simsiam swav lightly mmselfsup backbone "
    "torchvision"
).split()


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint: torch, Lightning, safetensors, Haiku pickle.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            **one_of("auto", *CHECKPOINTS),
            help=f"auto, {', '.join(CHECKPOINTS[:-1])} or {CHECKPOINTS[-1]}.",
        ),
    ] = "auto",
    name: Annotated[str, typer.Option(help="The encoder's name; by default from format and file.")] = "",
    source: Annotated[str, typer.Option(help="Where the file comes from, for the record.")] = "",
    license: Annotated[
        str,
        typer.Option(help="License of the weights by its id on the Hub, such as cc-by-nc-4.0; push needs one."),
    ] = "",
    prefix: Annotated[
        str,
        typer.Option(metavar="PREFIX", help="The encoder's entries start so, as in 'teacher.'; leave out all others."),
    ] = "",
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
    license = hub.license_id(license)
    known = registry.of_checkpoint(file) if file.is_file() else None
    if known is not None:
        own = {"license": known.license, "name": known.name, "source": known.checkpoints[0].url}
        for option, given in (("license", license), ("name", name), ("source", source)):
            if given not in ("", own[option]):
                raise InputError(
                    f"{file} is the published file of {known.name}, whose {option} is {own[option]}; leave out --{option} {given}"
                )
        typer.echo(f"{file} is the published file of {known.name} ({known.license})", err=True)
    made = run(
        file, format=format, spec=known, name=name, source=source, license=license, prefix=prefix, drop=drop or ()
    )
    within = known is not None and known.head is not None and known.head.checkpoint is None
    spec = dataclasses.replace(made.spec, head=None)
    hub.write(output, spec, made.tensors, hub.card(spec), head=made.head if within else None)
    p = made.spec.preprocess
    typer.echo(f"{output}: {made.spec.name}, a {made.spec.backbone}; format {made.format}")
    typer.echo(
        f"dropped {len(made.dropped)} entries beside the encoder; assumed {p.size} px, mean {p.mean}, std {p.std}, "
        f"{made.spec.geometry.padding} padding (edit {output / hub.CONFIG} if it was trained otherwise)",
        err=True,
    )


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", autocompletion=encoder_names, help="An encoder's name, model folder, or hf-hub:ORG/REPO."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder to write; by default ./NAME.FORMAT.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            **one_of("onnx", "torch", "safetensors", "openvino"),
            help="onnx (extra onnx), torch (torch.export), safetensors (a folder that timm opens), or openvino (extra fast).",
        ),
    ] = "onnx",
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0, help="Largest difference from torch's vectors, over the largest number in them; by default 0.001."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an encoder for other people's programs, compared with torch on real photos before it is kept.

    Beside the network stand export.json (input, output, preprocessing, license) and a README with code that needs no sslzoo.
    """
    from sslzoo import registry
    from sslzoo.export import TOLERANCE
    from sslzoo.export import export as run

    if output is None:
        output = Path(Path(f"{registry.resolve(model).name}.{format}").name)  # others' config may name a path
    record = run(model, output, format, tolerance=TOLERANCE if tolerance is None else tolerance)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    size = sum(path.stat().st_size for path in output.iterdir())
    typer.echo(
        f"{output}: {record['name']} as {format}, {size / 1e6:.1f} MB; {output / 'README.md'} says how to run it"
    )
    parity = record["parity"]
    typer.echo(
        f"beside torch on {parity['images']} photos: largest difference {parity['max_difference']:.1e}, mean "
        f"{parity['mean_difference']:.1e}, lowest cosine {parity['cosine']:.7f}",
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
