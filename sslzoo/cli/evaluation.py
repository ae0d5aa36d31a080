"""`eval`: judging an encoder on labelled images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslzoo.cli.options import Device, Json, Model, Precision, Quiet, print_table
from sslzoo.errors import InputError

if TYPE_CHECKING:
    from sslzoo.evaluate.knn import Score

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Judge an encoder on labelled images.")


@app.command()
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
    precision: Precision = "auto",
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
    print_table([header, *rows])


def _score(encoder: str, score: Score) -> dict[str, Any]:
    return {"encoder": encoder, "value": score.value, "interval95": score.interval(), "protocol": score.protocol}
