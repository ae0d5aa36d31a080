"""`models`, `show`, `pull` and `verify`: what is known of the encoders, and getting them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sslzoo.cli.options import Json, encoder_names, number, one_of, percent, print_table
from sslzoo.errors import SslzooError

VERIFIED = {
    "none": "neither the file nor its format was checked",
    "format": "not this file, but its format: weights that the authors' own code made, of this network or of a sibling in "
    "another size, gave the same features after conversion",
    "online": "the authors' file was downloaded, converted and checked",
}
License = Annotated[str | None, typer.Option(help="'permissive', or one license id.")]


def models(
    pattern: Annotated[str, typer.Argument(help="A part of a name, such as byol, or a shell pattern.")] = "*",
    license: License = None,
    method: Annotated[str | None, typer.Option(help="Only this method, such as simsiam.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only this backbone, such as resnet50 or r50w2.")] = None,
    data: Annotated[str | None, typer.Option(help="Only those trained on this data set, such as ImageNet-1k.")] = None,
    verified: Annotated[str | None, typer.Option(**one_of(*VERIFIED), help="Only none, format or online.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Only those that load without a network.")] = False,
    as_json: Json = False,
) -> None:
    """List the known encoders."""
    from sslzoo import hub, registry
    from sslzoo.spec import backbone_name

    specs = [
        spec
        for spec in (registry.known()[name] for name in registry.list_models(pattern, license=license))
        if method in (None, spec.method)
        and (backbone is None or spec.backbone == (backbone_name(backbone) or backbone))
        and (data is None or spec.trained_on.lower().startswith(data.lower()))
        and verified in (None, spec.verified)
        and (not cached or hub.is_cached(spec))
    ]
    if as_json:
        typer.echo(json.dumps([spec.to_dict() for spec in specs], indent=2))
        return
    header = ("name", "method", "backbone", "data", "epochs", "linear", "license", "verified", "size", "cached")
    rows = [
        (
            s.name + ("  *" if s.default else ""),
            s.method,
            s.backbone,
            s.trained_on.partition(" (")[0],
            number(s.epochs),
            percent(s.linear_top1),
            s.license,
            s.verified if s.checkpoints else "ours",
            f"{s.size_bytes / 1e6:.0f} MB",
            "yes" if hub.is_cached(s) else "",
        )
        for s in specs
    ]
    if not rows:
        typer.echo("no encoder matches; leave a filter away, or see all: sslzoo models", err=True)
        everyone = registry.known().values()
        for option, value, values in (
            ("--license", license, {"permissive", *(s.license for s in everyone)}),
            ("--method", method, {s.method for s in everyone}),
            ("--backbone", backbone and (backbone_name(backbone) or backbone), {s.backbone for s in everyone}),
        ):
            if value is not None and value.lower() not in {each.lower() for each in values}:
                typer.echo(
                    f"no encoder has {option} {value}; there are: {', '.join(sorted(filter(None, values)))}", err=True
                )
        return
    print_table([header, *rows])
    typer.echo(
        "linear: ImageNet-1k top-1 in %, as reported by the authors; *: what the bare name gives\n"
        "verified: ours, which were never converted, count as none\n"
        "random-r18, random-r50 …: the same networks with seeded random weights",
        err=True,
    )


def show(
    name: Annotated[
        str, typer.Argument(autocompletion=encoder_names, help="An encoder's name, model folder, or hf-hub:ORG/REPO.")
    ],
    as_json: Json = False,
) -> None:
    """Print all that is known of one encoder: provenance, preprocessing, license, data terms, scores."""
    from sslzoo import hub, registry

    spec = registry.known().get(name) or registry.resolve(name)  # also where SSLZOO_LICENSE would refuse it
    if as_json:
        typer.echo(spec.to_json(), nl=False)
        return
    p, g = spec.preprocess, spec.geometry
    pinned = f"sha256 {spec.sha256}" if spec.sha256 else "sha256 pinned on first use"
    head = spec.head and (spec.head.checkpoint.url if spec.head.checkpoint else "in the encoder's own file")
    files = [
        f"{c.url} ({', '.join(filter(None, [c.format, c.hash, f'{c.size_bytes} bytes' if c.size_bytes else '']))})"
        for c in spec.checkpoints
    ]
    unknown = "nothing" if spec.method == "random" else "not stated"
    facts = {
        "name": spec.name,
        "method": f"{spec.method} {spec.paper}".strip(),
        "backbone": f"{spec.backbone}, {spec.dim} features, {g.stem} stem, {g.padding} padding, BN epsilon {g.bn_eps:g}",
        "trained on": f"{spec.trained_on}, {number(spec.epochs)} epochs" if spec.trained_on else unknown,
        "license": " ".join([spec.license or "not stated", spec.license_note]).strip(),
        "data terms": spec.data_terms or "not stated",
        "preprocess": f"short side to {p.resize} px ({p.interpolation}), centre {p.size} px, mean {p.mean}, std {p.std}",
        "weights": f"{spec.size_bytes / 1e6:.1f} MB, {pinned}" if spec.size_bytes else "none",
        "sources": f"\n{'':<11} ".join([*spec.sources, *files]) or "none",
        "linear head": head or "none was published",
        "cached": "yes" if hub.is_cached(spec) else "no",
        "verified": f"{spec.verified} ({VERIFIED[spec.verified]})"
        if spec.checkpoints
        else "ours: nothing was converted",
        "recipe": " at commit ".join(filter(None, [spec.recipe, spec.commit])) or "none",
    }
    for key, value in facts.items():
        typer.echo(f"{key:<11} {value}")
    if spec.note:
        typer.echo(f"{'note':<11} {spec.note}")
    if any(s.random_weights is not None for s in spec.scores):
        typer.echo("scores      (with random weights and raw pixels in the same protocol)")
        rows = [
            (
                *("", s.dataset, s.protocol),
                f"{percent(s.value)} ± {percent(s.interval)}" if s.interval else percent(s.value),
                *(percent(s.random_weights), percent(s.raw_pixels)),
            )
            for s in spec.scores
        ]
        print_table([("", "data", "protocol", "score", "random", "pixels"), *rows])
    elif spec.scores:
        typer.echo("scores      (as reported, not measured by us)")
        rows = [("", s.dataset, s.metric, percent(s.value), s.protocol, s.source) for s in spec.scores]
        print_table([("", "data", "metric", "score", "protocol", "source"), *rows])


def pull(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME", autocompletion=encoder_names, help="Encoders by name, or hf-hub:ORG/REPO[@REVISION]."
        ),
    ],
    license: License = None,
) -> None:
    """Download encoders now, so that they load without a network later; prints their model folders."""
    from sslzoo import hub, registry

    for name in names:
        typer.echo(hub.fetch(registry.resolve(name, license=license)))


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", autocompletion=encoder_names, help="Encoders by name.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every known encoder; failures are listed, not fatal.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Labelled images, such as ImageNet's val: kNN accuracy, leave-one-out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the JSON with hashes, sizes and canary.")
    ] = None,
) -> None:
    """Check encoders online: hashes, sizes, names and shapes, canary; write their zoo JSON with all of it filled in."""
    from sslzoo import registry
    from sslzoo.verify import verify as run

    failed = 0
    for name in registry.list_models() if every else names or []:
        try:
            report = run(name, data=data)
        except SslzooError as error:
            if not every:
                raise
            failed += 1
            typer.echo(f"{name}: FAILED: {error}", err=True)
            continue
        for line in report.lines:
            typer.echo(f"{name}: {line}")
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / f"{report.spec.name}.json").write_text(report.spec.to_json(), encoding="utf-8")
    if not every and not names:
        raise typer.BadParameter("name an encoder, or use --all")
    if failed:
        raise typer.Exit(3)
