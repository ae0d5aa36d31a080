"""The command line: each command parses, calls the library and prints; results on stdout, everything else on stderr.

Exit codes: 0 done, 1 failed, 2 usage, 3 done but some inputs failed, 130 interrupted. Heavy packages are imported inside
the commands, so that --help stays quick.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslzoo import __version__
from sslzoo.errors import InputError, SslzooError

if TYPE_CHECKING:
    from sslzoo.evaluate.knn import Score

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Self-supervised image encoders by name: embed a folder of images, search it, judge the encoder.",
)
evaluation = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Judge an encoder on labelled images.")
app.add_typer(evaluation, name="eval")

Model = Annotated[
    str | None,
    typer.Option("-m", "--model", help="An encoder's name or model folder; by default the one inside the package."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
Workers = Annotated[int, typer.Option("-j", "--workers", help="Decode threads; 0 takes one per processor.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


@app.command()
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
        (s.name, s.method, s.backbone, s.trained_on, _number(s.epochs), s.license, f"{s.size_bytes / 1e6:.0f} MB")
        for s in specs
    ]
    _print_table([header, *rows])
    typer.echo("random-r18, random-r50 …: the same networks with seeded random weights", err=True)


@app.command()
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
        "trained on": f"{spec.trained_on}, {_number(spec.epochs)} epochs" if spec.trained_on else "nothing",
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
            ("", s.dataset, s.protocol, _percent(s.value), _percent(s.random_weights), _percent(s.raw_pixels))
            for s in spec.scores
        ]
        _print_table([("", "data", "protocol", "score", "random", "pixels"), *rows])


@app.command()
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


@app.command()
def search(
    embeddings: Annotated[Path, typer.Argument(metavar="EMB", help="An embeddings folder.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="Image files, or ids of the collection.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Drop the query itself from its results.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Print the images nearest to each query, with their cosine."""
    from sslzoo.embeddings import Embeddings
    from sslzoo.search import search_images

    found = search_images(Embeddings.open(embeddings), queries, k, exclude_self=exclude_self, device=device)
    results = [
        (query, list(zip(ids, (float(score) for score in scores), strict=True)))
        for query, ids, scores in zip(queries, found.ids, found.scores, strict=True)
    ]
    if as_json:
        lines = [
            {"query": q, "neighbours": [{"id": id_, "score": round(s, 6)} for id_, s in near]} for q, near in results
        ]
        typer.echo(json.dumps(lines, indent=2))
        return
    for query, near in results:
        if len(results) > 1:
            typer.echo(f"{query}:")
        for id_, score in near:
            typer.echo(f"{score:.4f}  {id_}")


@evaluation.command()
def knn(
    train: Annotated[
        str,
        typer.Argument(
            metavar="TRAIN", help="Labelled images (one folder a class, or Parquet), or an embeddings folder."
        ),
    ],
    test: Annotated[
        str | None, typer.Argument(metavar="TEST", help="The test images; without them, leave-one-out.")
    ] = None,
    model: Model = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Neighbours; with -T one protocol instead of the usual two.")
    ] = None,
    temperature: Annotated[
        float, typer.Option("-T", "--temperature", min=1e-6, help="Temperature of the votes, with -k.")
    ] = 0.07,
    device: Device = "auto",
    precision: Precision = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Weighted kNN accuracy; on images, with random weights and raw pixels beside the encoder."""
    from sslzoo.baselines import knn_table
    from sslzoo.embeddings import Embeddings, is_embeddings
    from sslzoo.evaluate import knn as evaluate

    protocols = [(k, temperature)] if k is not None else evaluate.PROTOCOLS
    if is_embeddings(train) != is_embeddings(test or train):
        raise InputError("TRAIN and TEST must both be images, or both embeddings folders")
    if is_embeddings(train):
        bank = Embeddings.open(train)
        table = {bank.model: evaluate.knn(bank, Embeddings.open(test) if test else None, protocols)}
    else:
        table = knn_table(train, test, model, protocols, device=device, precision=precision, progress=not quiet)
    if as_json:
        typer.echo(json.dumps([_score(name, score) for name, scores in table.items() for score in scores], indent=2))
        return
    header = ("encoder", *(score.protocol for score in next(iter(table.values()))))
    rows = [
        (name, *(f"{100 * s.value:.1f} ± {100 * s.interval():.1f}" for s in scores)) for name, scores in table.items()
    ]
    _print_table([header, *rows])


def _score(encoder: str, score: Score) -> dict[str, Any]:
    return {"encoder": encoder, "value": score.value, "interval95": score.interval(), "protocol": score.protocol}


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Runs the command line; an error of ours is one line on stderr and exit code 1."""
    try:
        code = app(prog_name="sslzoo", standalone_mode=False)
    except SslzooError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        # typer's own errors (usage) know how to show themselves
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
