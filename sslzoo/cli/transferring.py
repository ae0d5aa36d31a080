"""`finetune` and `predict`: from an encoder to a classifier, and using it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sslzoo.cli.options import Device, Json, Model, Precision, Quiet, Workers, one_line, one_of
from sslzoo.errors import InputError

FEW_TESTS = 100  # 1.96 · sqrt(0.25 / n) is 0.1 at 96, and 0.05 at 384


def finetune(
    train: Annotated[
        str, typer.Argument(metavar="DATA", help="Labelled training images: one folder a class, or Parquet.")
    ],
    test: Annotated[str | None, typer.Argument(metavar="TEST", help="Labelled test images, to be scored on.")] = None,
    model: Model = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The classifier folder to write.")] = Path(
        "classifier"
    ),
    preset: Annotated[
        str,
        typer.Option(
            **one_of("finetune", "moco-linear", "simclr-linear", "byol-linear", "simsiam-linear", "swav-linear"),
            help="finetune, or a paper's linear probe: moco-linear, simclr-linear, byol-linear, simsiam-linear, "
            "swav-linear. Further options change single settings of it.",
        ),
    ] = "finetune",
    freeze: Annotated[bool, typer.Option("--freeze", help="Train the classifier alone: a linear probe.")] = False,
    stages: Annotated[
        int | None, typer.Option(min=0, max=5, help="Train the last N stages: 1 is layer4, 5 everything.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option("-b", "--batch-size", min=2, help="Images per step.")] = None,
    optimizer: Annotated[str | None, typer.Option(**one_of("sgd", "lars", "adamw"), help="sgd, lars or adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate for 256 images; scaled with the batch.")] = None,
    head_lr: Annotated[float | None, typer.Option(help="The classifier's rate, as a multiple of that.")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="Each stage's rate over that of the one above it.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Not on biases and norms.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="The rate rises from zero for so long.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the input in px; by default the encoder's.")] = None,
    min_crop: Annotated[float | None, typer.Option(help="Least share of the image's area in a crop.")] = None,
    randaugment: Annotated[
        int | None, typer.Option(min=0, max=30, help="Magnitude of RandAugment, such as 9; at most 30.")
    ] = None,
    mixup: Annotated[float | None, typer.Option(min=0, help="Alpha of mixup, such as 0.2.")] = None,
    cutmix: Annotated[float | None, typer.Option(min=0, help="Alpha of cutmix, such as 1.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the label given to all.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after N epochs without gain on a held-out tenth; keep the best.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the head, the order and the crops.")] = None,
    metric: Annotated[
        str, typer.Option(**one_of("top1", "mean_per_class"), help="Of the score on TEST: top1 or mean_per_class.")
    ] = "top1",
    device: Device = "auto",
    precision: Annotated[
        str | None, typer.Option(**one_of("auto", "fp32", "bf16"), help="auto (bf16 where it is native), fp32 or bf16.")
    ] = None,
    workers: Workers = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune an encoder on labelled images; -m random-r18 trains the same network from scratch, to compare."""
    from sslzoo import registry
    from sslzoo.transfer.finetune import finetune as run
    from sslzoo.transfer.loop import Epoch
    from sslzoo.transfer.settings import preset as named

    if freeze and stages:
        raise InputError(f"--freeze trains no stage and --stages {stages} the last {stages}; leave out one of them")
    if freeze and layer_decay is not None:
        raise InputError(
            "--freeze trains the classifier alone, and --layer-decay is for the stages; leave out one of them"
        )
    given: dict[str, Any] = {
        "stages": 0 if freeze else stages,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "head_lr": head_lr,
        "layer_decay": layer_decay,
        "weight_decay": weight_decay,
        "warmup_epochs": warmup_epochs,
        "size": size,
        "min_crop": min_crop,
        "randaugment": randaugment,
        "mixup": mixup,
        "cutmix": cutmix,
        "label_smoothing": label_smoothing,
        "patience": patience,
        "precision": precision,
        "seed": seed,
    }
    settings = dataclasses.replace(named(preset), **{k: v for k, v in given.items() if v is not None})

    def tell(epoch: Epoch) -> None:
        held = "" if epoch.held_out is None else f", held out {100 * epoch.held_out:.1f} %"
        if not quiet:
            typer.echo(
                f"epoch {epoch.number}/{epoch.epochs}: loss {epoch.loss:.4f}{held}, {epoch.seconds:.1f} s", err=True
            )

    try:
        made = run(
            train,
            model or registry.PACKAGE_ENCODER,
            output,
            test,
            settings=settings,
            metric=metric,
            resume=resume,
            device=device,
            workers=workers,
            on_epoch=tell,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; finished epochs are kept, and the same command with --resume goes on", err=True)
        raise typer.Exit(130) from None
    score = made.score
    if as_json:
        facts = {"classes": len(made.classifier.classes), "score": score and score.to_dict(), "failures": made.failures}
        typer.echo(json.dumps({"output": str(output), **facts}))
    else:
        typer.echo(f"{output}: {len(made.classifier.classes)} classes; next: sslzoo predict {output} IMAGES")
        if score is not None:
            typer.echo(f"{100 * score.value:.1f} ± {100 * score.interval():.1f}  {score.protocol}")
            if (count := len(score.items)) < FEW_TESTS:
                typer.echo(f"the interval is wide: there are {count} test images; some 400 bring it to ± 5", err=True)
    for kind, failures in made.failures.items():
        for id_, reason in failures.items():
            typer.echo(one_line(f"{id_} ({kind}): {reason}"), err=True)
    if any(made.failures.values()):
        raise typer.Exit(3)


def predict(
    folder: Annotated[Path, typer.Argument(metavar="CLASSIFIER", help="A folder that finetune has written.")],
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Images, as embed takes them, or embeddings made with -m CLASSIFIER.")
    ],
    top: Annotated[int, typer.Option("-k", "--top", min=1, help="So many classes of each image.")] = 1,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the likeliest classes of images with their probabilities."""
    from sslzoo.embeddings import storable
    from sslzoo.transfer.predict import predict as run

    found = run(source, folder, top=top, device=device, precision=precision, workers=workers, progress=not quiet)
    rows = zip(found.ids, found.classes, found.probabilities.tolist(), strict=True)
    if as_json:
        lines = [
            {"id": id_, "classes": [{"class": c, "probability": p} for c, p in zip(names, values, strict=True)]}
            for id_, names, values in rows
        ]
        typer.echo(json.dumps(lines, indent=2))
    else:
        for id_, names, values in rows:
            typer.echo(
                storable("\t".join([one_line(id_), *(f"{c} {p:.4f}" for c, p in zip(names, values, strict=True))]))
            )
    for id_, reason in found.failures:
        typer.echo(one_line(f"{id_}: {reason}"), err=True)
    if found.failures:
        raise typer.Exit(3)
