"""`models` and `show`: what is known of the encoders."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sslzoo.cli.options import Json, number, percent, print_table


def models(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, such as 'byol*'.")] = "*",
    license: Annotated[str | None, typer.Option(help="'permissive', or one license id.")] = None,
    as_json: Json = False,
) -> None:
    """List the known encoders."""
    from sslzoo import registry

    specs = [registry.known()[name] for name in registry.list_models(pattern, license=license)]
    if as_json:
        typer.echo(json.dumps([spec.to_dict() for spec in specs], indent=2))
        return
    header = ("name", "method", "backbone", "data", "epochs", "license", "size")
    rows = [
        (s.name, s.method, s.backbone, s.trained_on, number(s.epochs), s.license, f"{s.size_bytes / 1e6:.0f} MB")
        for s in specs
    ]
    print_table([header, *rows])
    typer.echo("random-r18, random-r50 …: the same networks with seeded random weights", err=True)


def show(
    name: Annotated[str, typer.Argument(help="An encoder's name or model folder.")],
    as_json: Json = False,
) -> None:
    """Print all that is known of one encoder: provenance, preprocessing, license, data terms, scores."""
    from sslzoo import registry

    spec = registry.resolve(name)
    if as_json:
        typer.echo(spec.to_json(), nl=False)
        return
    p = spec.preprocess
    facts = {
        "name": spec.name,
        "method": f"{spec.method} {spec.paper}".strip(),
        "backbone": f"{spec.backbone}, {spec.dim} features",
        "trained on": f"{spec.trained_on}, {number(spec.epochs)} epochs" if spec.trained_on else "nothing",
        "license": spec.license or "not stated",
        "data terms": spec.data_terms or "not stated",
        "preprocess": f"short side to {p.resize} px ({p.interpolation}), centre {p.size} px, mean {p.mean}, std {p.std}",
        "weights": f"{spec.size_bytes / 1e6:.1f} MB, sha256 {spec.sha256[:16]}…" if spec.sha256 else "none",
        "sources": ", ".join(spec.sources) or "none",
        "recipe": spec.recipe or "none",
    }
    for key, value in facts.items():
        typer.echo(f"{key:<11} {value}")
    if spec.scores:
        typer.echo("scores      (with random weights and raw pixels in the same protocol)")
        rows = [
            ("", s.dataset, s.protocol, percent(s.value), percent(s.random_weights), percent(s.raw_pixels))
            for s in spec.scores
        ]
        print_table([("", "data", "protocol", "score", "random", "pixels"), *rows])
