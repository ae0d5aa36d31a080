"""`eval`: judging an encoder on labelled images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslzoo.cli.examples import epilog
from sslzoo.cli.options import (
    Device,
    Json,
    Model,
    Precision,
    Quiet,
    encoder_names,
    one_line,
    one_of,
    percent,
    print_table,
)
from sslzoo.errors import InputError

if TYPE_CHECKING:
    from sslzoo.embeddings import Embeddings
    from sslzoo.evaluate.score import Score, SetId

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Judge an encoder on labelled images.")

Train = Annotated[
    str,
    typer.Argument(metavar="TRAIN", help="Labelled images (one folder a class, or Parquet), or an embeddings folder."),
]
Shots = Annotated[
    list[int] | None, typer.Option(min=1, help="Also from so many images of each class; may be repeated.")
]
Share = Annotated[
    list[float] | None, typer.Option(min=1e-6, max=1, help="Also from this share of the labels (0.01); repeatable.")
]


@app.command(epilog=epilog("eval knn"))
def knn(
    train: Train,
    test: Annotated[
        str | None, typer.Argument(metavar="TEST", help="The test images; without them, leave-one-out.")
    ] = None,
    model: Model = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Neighbours; with -T one protocol instead of the usual twelve.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("-T", "--temperature", min=1e-6, help="Temperature of the votes, with -k; by default 0.07."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Weighted kNN accuracy; on images, with random weights and raw pixels beside the encoder."""
    from sslzoo import baselines
    from sslzoo.evaluate.knn import GRID

    if k is None and temperature is not None:
        raise typer.BadParameter("goes with -k; add -k 20", param_hint="-T")
    table = baselines.knn_table(
        train,
        test,
        model,
        GRID if k is None else [(k, temperature or 0.07)],
        device=device,
        precision=precision,
        progress=not quiet,
    )
    # where k is cut to the number of training images, several of the twelve are one
    once = {name: list({score.protocol: score for score in scores}.values()) for name, scores in table.items()}
    _print_scores(once, as_json, train, test)


@app.command(epilog=epilog("eval linear"))
def linear(
    train: Train,
    test: Annotated[
        str | None, typer.Argument(metavar="TEST", help="The test images, or their embeddings folder; not with --head.")
    ] = None,
    model: Model = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="authors",
            help="authors: judge the linear classifier that they published instead, on TRAIN, labelled ImageNet-1k "
            "images: class folders by WordNet id, or Parquet with class numbers.",
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            **one_of("top1", "mean_per_class", "mAP11"),
            help="top1, mean_per_class, or mAP11 for labels such as 'cat|dog'.",
        ),
    ] = "top1",
    shots: Shots = None,
    share: Share = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy of logistic regression on frozen features, its penalty chosen of 45 on held-out training images."""
    from sslzoo import baselines
    from sslzoo.evaluate.linear import few_labels
    from sslzoo.evaluate.linear import linear as probe
    from sslzoo.evaluate.score import require_metric

    require_metric(metric)
    if head is not None:
        if head != "authors" or model is None or test is not None or shots or share or metric != "top1":
            raise InputError("type: sslzoo eval linear IMAGENET_VAL -m MODEL --head authors")
        _print_head(train, model, as_json, device=device, precision=precision, progress=not quiet)
        return
    if metric == "mAP11" and (shots or share):
        raise InputError("few labels are drawn class by class; leave out --shots and --share, or --metric mAP11")
    if test is None:
        raise InputError("a linear probe needs TEST images; type: sslzoo eval linear TRAIN TEST")

    def evaluate(bank: Embeddings, probes: Embeddings | None) -> list[Score]:
        assert probes is not None
        few = [few_labels(bank, probes, shots=n, metric=metric, device=device) for n in shots or ()]
        few += [few_labels(bank, probes, share=s, metric=metric, device=device) for s in share or ()]
        return [probe(bank, probes, metric=metric, device=device), *few]

    table = baselines.table(evaluate, train, test, model, device=device, precision=precision, progress=not quiet)
    _print_scores(table, as_json, train, test)


@app.command(epilog=epilog("eval health"))
def health(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Images, labelled or not, or an embeddings folder.")],
    model: Model = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Collapse, rank, alignment, uniformity, hubs and duplicates; on images, with random weights and pixels beside."""
    from sslzoo import baselines
    from sslzoo.evaluate.health import READS
    from sslzoo.evaluate.health import health as examine

    sets = baselines.sets(data, None, model, device=device, precision=precision, progress=not quiet)
    found = {name: examine(e, device=device) for name, e, _ in sets}
    if as_json:
        typer.echo(json.dumps([{"encoder": name, **facts.to_dict()} for name, facts in found.items()], indent=2))
    else:
        columns = [facts.figures() for facts in found.values()]
        rows = [
            (key, *("" if c[key] is None else f"{c[key]:.4g}" for c in columns), READS.get(key, ""))
            for key in columns[0]
        ]
        print_table([("figure", *found, "reads"), *rows])
        first = next(iter(found.values()))
        typer.echo(f"{first.protocol}; set {first.data} (hash/images)", err=True)
        _print_features({name: facts.features for name, facts in found.items()})
    _tell_failures((data, facts.data) for facts in found.values())


@app.command(epilog=epilog("eval report"))
def report(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="SET...",
            help="Labelled sets: folders with train and test (or val) inside, as sub-folders with one folder a class, or "
            "as Parquet; with --suite the folder that its sets lie in.",
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option(
            **one_of("small", "twelve"),
            help="small (cifar10, caltech101, imagenette, fashion_mnist as Parquet), or twelve: the transfer sets of the "
            "papers in their official layouts, with the papers' input and metrics. What isn't there is left out; what is there "
            "and can't be read is named.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            autocompletion=encoder_names,
            help="An encoder; repeatable. The others are compared with the first.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for report.md, .html and .json, and for the vectors.")
    ] = Path("report"),
    metric: Annotated[
        str | None,
        typer.Option(
            **one_of("top1", "mean_per_class", "mAP11"),
            help="Of the linear probe: top1 (the default), mean_per_class, or mAP11; the sets of a suite have theirs.",
        ),
    ] = None,
    probes: Annotated[
        list[str] | None,
        typer.Option("--probe", **one_of("knn", "linear"), help="Only knn, or only linear; by default both."),
    ] = None,
    shots: Shots = None,
    share: Share = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare encoders on several sets, random weights always among them; the same command again goes on."""
    from sslzoo import baselines, registry
    from sslzoo.embeddings import storable
    from sslzoo.labelled import open_set
    from sslzoo.suites import SUITES, Suite, papers_input

    if suite is not None and metric is not None:
        raise InputError(f"each set of --suite {suite} has its metric; leave out --metric")
    opened = [SUITES[suite](path) if suite else Suite([open_set(path, metric or "top1")], {}) for path in data]
    specs = [registry.resolve(model) for model in models or [registry.PACKAGE_ENCODER]]
    made = baselines.report(
        [each for found in opened for each in found.sets],
        [papers_input(spec) for spec in specs] if suite == "twelve" else specs,
        output,
        probes=probes or ("knn", "linear"),
        shots=shots or (),
        shares=share or (),
        device=device,
        precision=precision,
        progress=not quiet,
    )
    broken = {name: reason for found in opened for name, reason in found.broken.items()}
    made = replace(made, left_out=broken | dict(made.left_out))
    texts = {"md": made.to_markdown(), "html": made.to_html(), "json": made.to_json()}
    for suffix, text in texts.items():
        (output / f"report.{suffix}").write_text(storable(text), encoding="utf-8")
    typer.echo(storable(texts["json" if as_json else "md"]), nl=False)
    typer.echo(f"written to {output}: report.md, .html and .json, and the vectors", err=True)
    for name, reason in made.left_out.items():
        typer.echo(f"{name} is left out: {reason}", err=True)
    _tell_failures(
        (f"{name}, {part}", each)
        for sets in made.scores.values()
        for name, by_encoder in sets.items()
        for score in by_encoder.values()
        for part, each in (("train", score.train), ("test", score.test))
    )
    if made.left_out:
        raise typer.Exit(3)


def _tell_failures(judged: Iterable[tuple[str, SetId | None]]) -> None:
    """Lists on stderr what could not be read of the images that were judged, and then ends in 3; `judged` has names.

    Of an embeddings folder `embed` has told.
    """
    from sslzoo.embeddings import is_embeddings

    told = ((name, *failure) for name, each in judged if each and not is_embeddings(name) for failure in each.failures)
    failures = list(dict.fromkeys(told))
    for name, path, reason in failures:
        typer.echo(one_line(f"{name}: {path}: {reason}"), err=True)
    if failures:
        typer.echo(f"{len(failures)} images could not be read, and no score is of them", err=True)
        raise typer.Exit(3)


def _print_scores(table: dict[str, list[Score]], as_json: bool, train: str, test: str | None) -> None:
    """One line a protocol, one column an encoder; on stderr which images it was."""
    if as_json:
        lines = [{"encoder": name, **score.to_dict()} for name, scores in table.items() for score in scores]
        typer.echo(json.dumps(lines, indent=2))
    else:
        _print_columns(table)
    for name, found in table.items():
        for score in found:
            if score.doubt:
                typer.echo(f"{name}: {score.doubt}; {score.protocol}", err=True)
    of = (train, test or train)
    scores = itertools.chain.from_iterable(table.values())
    _tell_failures(pair for score in scores for pair in zip(of, (score.train, score.test), strict=True))


def _print_columns(table: dict[str, list[Score]]) -> None:
    rows = [("protocol", *table)]
    for scores in zip(*table.values(), strict=True):
        cells = (f"{percent(score.value)} ± {percent(score.interval())}" for score in scores)
        rows.append((scores[0].protocol, *cells))
    print_table(rows)
    first = next(iter(table.values()))[0]
    typer.echo(f"% with 95 % intervals; train set {first.train}, test set {first.test} (hash/images)", err=True)
    _print_features({name: score.features for name, (score, *_) in table.items()})


def _print_features(features: Mapping[str, str]) -> None:
    for name, made in features.items():
        typer.echo(f"{name}: {made}", err=True)


def _print_head(data: str, model: str, as_json: bool, **options: Any) -> None:
    """Top-1 of the authors' classifier, beside the reported one and the same network at random."""
    from sslzoo import registry
    from sslzoo.baselines import head_table

    spec = registry.resolve(model)
    table = head_table(data, spec, **options)
    if as_json:
        typer.echo(json.dumps([{"encoder": name, **score.to_dict()} for name, score in table.items()], indent=2))
    else:
        (protocol,) = {score.protocol for score in table.values()}
        rows = [(name, f"{percent(s.value)} ± {percent(s.interval())}") for name, s in table.items()]
        reported = [("reported", percent(spec.linear_top1))] if spec.linear_top1 is not None else []
        print_table([("encoder", protocol), *rows, *reported])
        typer.echo(f"% with 95 % intervals; set {table[spec.name].test} (hash/images)", err=True)
        _print_features({name: score.features for name, score in table.items()})
    _tell_failures((data, score.test) for score in table.values())
