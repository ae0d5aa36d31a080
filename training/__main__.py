"""`python -m training RECIPE --data PATH`: train, stop, resume, and export the encoder as a model folder."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from sslzoo import hub, registry
from sslzoo.backends.allocator import keep_freed_memory
from sslzoo.backends.torch_backend import pick_device
from sslzoo.encoder import Encoder
from sslzoo.errors import InputError, SslzooError
from sslzoo.spec import EncoderSpec
from training import checkpoint, cost, data, distributed, engine, recipe
from training.facts import record, start_facts, starts
from training.judge import IMAGES, load_data
from training.methods import MoCo

NOT_STATED = "not stated"
MODEL = "model"  # in a run folder: the encoder as of the last stop
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n}/{total}{postfix}"
FEW_STEPS = 300  # chosen, not measured: nine steps on 200 photos gave look-alikes that were none
LOWER = "try a lower rate (--set lr_per_256=…), milder views or a larger batch"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Train encoders without labels, and publish them. `python -m training RECIPE …` is short for `… run RECIPE …`.",
)


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe in training/recipes, or a TOML file.")],
    data_path: Annotated[
        str, typer.Option("--data", help="A folder of images, or of Parquet files with train and test splits.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder; by default runs/RECIPE.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop cleanly after so many minutes, ready to --resume.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run folder's checkpoint.")] = False,
    init: Annotated[
        str, typer.Option(metavar="MODEL", help="Start from an encoder's weights, by name or folder.")
    ] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")] = "cuda"
    if torch.cuda.is_available()
    else "cpu",
) -> None:
    """Train an encoder without labels. Ctrl-C, SIGTERM and --max-minutes leave a checkpoint for --resume.

    The run folder's `model` is the encoder, written at every such stop. Under torchrun each process takes a part of every batch.

    Exit codes: 0 finished, 1 failed, 2 usage, 3 finished but some images were left out, 75 stopped before the end.
    Under torchrun, which takes any other code for a crash, a stop is 0 too.
    """
    device = str(pick_device(device))
    settings = recipe.load(name, overrides or [])
    stages = cost.stages(settings)
    distributed.start()
    if device == "cuda" and distributed.world() > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    out = output or Path("runs") / settings.name
    if not_folder := [path for path in (out, *out.parents) if path.exists() and not path.is_dir()]:
        raise InputError(f"{not_folder[0]} is a file, and the run wants a folder; choose another --output")
    if (out / checkpoint.FILE).exists() and not resume:
        raise InputError(f"{out} holds a run already; add --resume to continue it, or choose another --output")
    resumed = resume and (out / checkpoint.FILE).exists()
    if not resumed:
        require_free(out)
    require_outside(out, data_path)
    if resumed:  # before the images are read, so that a --set which is missing is what is told
        checkpoint.require_recipe(out, checkpoint.read(out / checkpoint.FILE, facts=True), settings)
    if resume and not resumed and not distributed.rank():
        typer.echo(f"{out} holds no run yet; this one begins anew", err=True)
    start = registry.resolve(init) if init and not resumed else None
    if start:
        require_alike(start, settings)
    if (world := distributed.world()) > 1 and not distributed.rank():
        typer.echo(f"reading {data_path} in {world} processes", err=True)
    train_set, judge = load_data(data_path, settings, out / IMAGES if resume else None)
    engine.require_batch(train_set, settings)
    weights = Encoder.from_spec(start, device="cpu").backbone.state_dict() if start else None
    method = engine.build(settings, weights)
    began, stop = time.monotonic(), stop_condition(max_minutes)
    begun = {} if resumed else initial_facts(start)
    run = engine.train(method, train_set, settings, out=out, resume=resume, device=device, stop=stop)
    steps = settings.steps(len(train_set))
    # torchrun takes any code but 0 for a crash, also with one process
    alone, told = world == 1 and "TORCHELASTIC_RUN_ID" not in os.environ, 0
    model, vectors = shlex.quote(str(out / MODEL)), shlex.quote(f"{out.resolve().name}.emb")
    use = f"sslzoo embed {shlex.quote(data_path)} -m {model} -o {vectors}"
    if distributed.rank():  # one process writes, logs and judges for all
        for _ in run:
            told = tell_lost(train_set, told)
        end(train_set)
        return
    # nothing is written before the loop has accepted recipe, images and checkpoint
    wait = "; the first report takes half a minute" if steps >= FEW_STEPS else ""
    typer.echo(f"{settings.name}: {len(train_set)} images, {steps} steps{wait}", err=True)
    if steps < FEW_STEPS and not init and not resumed:
        enough = math.ceil(settings.epochs * FEW_STEPS / steps)
        typer.echo(
            f"{steps} steps are too few to teach an encoder much; with --set epochs={enough} there are {FEW_STEPS}, and"
            " --init simclr-r18 begins with the encoder inside the package",
            err=True,
        )
    if isinstance(method, MoCo) and method.shuffle and method.splits == distributed.world() == 1:
        typer.echo(
            "BN sees whole batches of queries and of keys, which the papers avoid: they shuffle the keys over 8 GPUs, and "
            "one device does as much with --set method_options.splits=8",
            err=True,
        )
    first = next(run, None)
    if first is None:
        end(train_set)
        if checkpoint.finished(out):
            write_model(out, settings)  # a kill may have left that of an earlier stop
            typer.echo(f"{out} is finished already; next: {use}")
            if alone and train_set.failures:
                raise typer.Exit(checkpoint.LEFT_OUT)
        else:
            record(out / checkpoint.FACTS, begun)
            typer.echo(f"{out}: stopped after 0.0 minutes; next: the same command with --resume")
            raise typer.Exit(checkpoint.UNFINISHED if alone else 0)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.toml").write_text(settings.to_toml(), encoding="utf-8")
    record(out / IMAGES, data.summary(train_set))
    facts = start_facts(device, settings, len(train_set)) | {"processes": distributed.world()} | begun
    peak = cost.peak_flops(device, bf16=bool(facts["bf16"])) * distributed.world()
    costs = cost.Cost(stages, peak)
    facts |= {"flops_per_image": stages[-1][1], "peak_flops": peak}
    record(out / checkpoint.FACTS, facts | {"starts": starts(out / checkpoint.FACTS, first.since, facts)})
    lines = keep_log(out / checkpoint.LOG, first.since)
    before = lines[-1]["minutes"] if lines else 0.0
    per_epoch = len(train_set) // settings.batch_size * settings.batch_size
    with (
        (out / checkpoint.LOG).open("a", encoding="utf-8") as log,
        tqdm(desc=settings.name, total=steps, bar_format=BAR) as bar,
    ):
        for p in itertools.chain([first], run):
            line = asdict(p) | {"mfu": costs.mfu(p)}
            bar.n = p.step
            left = tqdm.format_interval(costs.seconds_left(p, settings.batch_size))
            speed = f"{p.images_per_second:.0f} img/s, MFU {100 * line['mfu']:.0f} %, {left} left"
            bar.set_postfix_str(f"loss {p.loss:.3f}, std {p.std:.2f}, rank {p.rank:.0f}, {speed}")
            if p.epoch.is_integer() or p.done:
                line["knn"] = judge(method)
                scores = "".join(f", {protocol} {value:.4f}" for protocol, value in line["knn"].items())
                tqdm.write(f"epoch {p.epoch:.0f}: loss {p.loss:.3f}{scores}", file=sys.stderr)
                if p.collapsed:
                    tqdm.write(f"the outputs have collapsed (std {p.std:.2f}, healthy: about 1); {LOWER}", sys.stderr)
            line["minutes"] = round(before + (time.monotonic() - began) / 60, 2)
            log.write(json.dumps(line) + "\n")
            log.flush()
            lines.append(line)
            # at every report, so that a killed run's is right too
            spent = cost.summary(lines, per_epoch) | {"peak_memory_bytes": cost.peak_memory(device)}
            record(out / checkpoint.FACTS, spent)
            if (lost := tell_lost(train_set, told)) > told:
                record(out / IMAGES, data.summary(train_set))
                told = lost
    minutes = (time.monotonic() - began) / 60
    if end(train_set) > told:
        record(out / IMAGES, data.summary(train_set))
    write_model(out, settings)
    done, then = "finished", use
    if not p.done:
        done, then = "stopped", f"the same command with --resume, or {use}"
    typer.echo(f"{out}: {done} after {minutes:.1f} minutes; next: {then}")
    if alone and not p.done:
        raise typer.Exit(checkpoint.UNFINISHED)
    if alone and (train_set.failures or told):
        raise typer.Exit(checkpoint.LEFT_OUT)


Name = Annotated[str, typer.Option(help="The encoder's name; by default METHOD-BACKBONE.FOLDER.")]
NO_DATA = "a data set that is not stated"
License = Annotated[str, typer.Option(help="License of the weights by its id on the Hub, such as cc-by-nc-4.0.")]
TrainedOn = Annotated[str, typer.Option(help="What the images were.")]
DataTerms = Annotated[str, typer.Option(help="Under which terms the images stand.")]
Note = Annotated[
    str,
    typer.Option(
        metavar="TEXT", help="What else the card should say: what the encoder hasn't seen, what it was judged on."
    ),
]
ScoreOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FOLDER",
        help="Judge the result on train/val Parquet; NAME@ORG/DATASET:TASK for a benchmark of the Hub.",
    ),
]
ShardSize = Annotated[str, typer.Option(metavar="15MB", help="Split the weights into files of at most this size.")]


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder with a checkpoint, or a model folder to write anew.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    name: Name = "",
    license: License = NOT_STATED,
    trained_on: TrainedOn = NO_DATA,
    data_terms: DataTerms = NOT_STATED,
    note: Note = "",
    score: ScoreOn = None,
    shard_size: ShardSize = "",
) -> None:
    """Write a run's encoder as a model folder: model.safetensors, config.json and a card.

    Of a model folder the shards are joined into one file, or made with --shard-size.
    """
    from training import export as exporting

    if (source / hub.CONFIG).is_file():
        require_untouched(
            source, name=name, license=license, trained_on=trained_on, data_terms=data_terms, note=note, score=score
        )
        spec = exporting.repack(source, output, shard_size=shard_size)
    else:
        provenance = exporting.Provenance(trained_on, data_terms, license, note)
        spec = exporting.export(
            source, output, name=name, provenance=provenance, scores=data_sets(score), shard_size=shard_size
        )
    typer.echo(
        f"{output}: {spec.name}, {spec.size_bytes / 1e6:.1f} MB; next: sslzoo embed PHOTOS -m {shlex.quote(str(output))}"
    )
    tell_scores(spec)


@app.command("score")
def judge_anew(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model folder, as export has written it.")],
    score: ScoreOn = None,
) -> None:
    """Judge a model folder anew and write the scores into its config.json and card; weights and other scores stay."""
    from training import export as exporting

    if not score:
        raise typer.BadParameter("say on what to judge it: --score NAME=FOLDER")
    spec = exporting.rescore(folder, data_sets(score))
    next_ = f"; next: python -m training register {shlex.quote(str(folder))}" if spec.name in registry.known() else ""
    typer.echo(f"{folder}: {len(spec.scores)} scores{next_}")
    tell_scores(spec)


@app.command()
def register(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="hub_cards/NAME, as export has written it.")],
) -> None:
    """Write a folder of hub_cards into sslzoo/zoo, so that a checkout loads it by name."""
    from training import publish as publishing

    typer.echo(publishing.register(folder))


@app.command()
def publish(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="RUN|FOLDER", help="A model folder, or a run to export into hub_cards first."),
    ] = None,
    repo: Annotated[str, typer.Option(metavar="ORG/NAME", help="The repository on the Hub.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Every folder of hub_cards, and the Space in app.")] = False,
    namespace: Annotated[
        str, typer.Option(metavar="ORG", help="Whose repositories they become, each under its encoder's name.")
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, upload nothing.")] = False,
    name: Name = "",
    license: License = NOT_STATED,
    trained_on: TrainedOn = NO_DATA,
    data_terms: DataTerms = NOT_STATED,
    note: Note = "",
    score: ScoreOn = None,
    shard_size: ShardSize = "",
) -> None:
    """Push model folders to the Hugging Face Hub and write their revisions into sslzoo/zoo; a run is exported first."""
    from training import publish as publishing

    if every != (source is None) or bool(repo) == bool(namespace) or (every and repo):
        raise typer.BadParameter("give RUN or FOLDER with --repo or --namespace, or --all with --namespace")
    if source is None:
        for line in publishing.publish_all(namespace, private=private, dry_run=dry_run):
            typer.echo(line)
        return
    told: dict[str, Any] = {"name": name, "license": license, "trained_on": trained_on, "data_terms": data_terms}
    told |= {"note": note, "score": score, "shard_size": shard_size}
    with contextlib.ExitStack() as stack:
        folder = source
        if (source / hub.CONFIG).is_file():
            require_untouched(source, **told)
        else:
            checkpoint.require(source)
            if license == NOT_STATED:
                raise InputError(f"{source} states no license; add --license with an id such as cc-by-nc-4.0")
            folder = publishing.CARDS / (name or publishing.name_of(source))
            if folder.exists():
                raise InputError(f"{folder} is there already; publish that folder, or add --name NAME")
            if dry_run:  # leaves nothing behind
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / folder.name
            export(source, folder, **told)
        for line in publishing.publish(folder, repo or f"{namespace}/{folder.name}", private=private, dry_run=dry_run):
            typer.echo(line)


def data_sets(told: list[str] | None) -> dict[str, Path]:
    """The folders of --score by their names; raises InputError for one without a name."""
    if bare := [item for item in told or [] if "=" not in item]:
        raise InputError(f"--score {bare[0]!r} has no '='; write --score NAME=FOLDER")
    return {key: Path(value) for key, _, value in (item.partition("=") for item in told or [])}


def tell_scores(spec: EncoderSpec) -> None:
    """Prints an encoder's scores, one a line."""
    for s in spec.scores:
        name = s.dataset.partition(" (")[0]
        typer.echo(f"{name}: {s.value:.4f} (random weights {s.random_weights}, pixels {s.raw_pixels}) {s.protocol}")


def require_untouched(folder: Path, **given: str | list[str] | None) -> None:
    """Raises InputError when a model folder, whose card is written, is to be given what only the export of a run takes."""
    if changed := [option for option, value in given.items() if value not in (None, [], "", NOT_STATED, NO_DATA)]:
        option = f"--{changed[0].replace('_', '-')}"
        raise InputError(f"{folder} is a model folder, which keeps its card; leave out {option}, or name the run")


def tell_lost(images: data.Images, told: int) -> int:
    """Says which files have gone since so many were told, and how many there are now."""
    lost = list(images.lost.values()) if isinstance(images, data.Stream) else []
    for name, reason in lost[told:]:
        message = f"lost {name}: {reason}; another image of its batch is taken twice in its place"
        tqdm.write(message, file=sys.stderr)
    return len(lost)


def end(images: data.Images) -> int:
    """Leaves the group of processes with what each of them has lost in the first one's list; how many that are."""
    if not isinstance(images, data.Stream):
        distributed.end()
        return 0
    images.lost = dict(distributed.join(list(images.lost.items())))
    distributed.end()
    return len(images.lost)


def require_free(out: Path) -> None:
    """Raises InputError where a run that begins would overwrite an encoder, or what no run has written."""
    ours = (out / "recipe.toml").is_file()  # of one that diverged before its first checkpoint
    names = (MODEL,) if ours else (MODEL, checkpoint.LOG, checkpoint.FACTS, IMAGES)
    if found := [out / name for name in names if (out / name).exists()]:
        raise InputError(
            f"{found[0]} is there, and no checkpoint to go on from; choose another --output, or move it away"
        )


def require_outside(out: Path, data_path: str) -> None:
    """Raises InputError for a run folder among the images, where the pictures of its card would be taken for some."""
    source, _ = data.splits(data_path)
    if isinstance(source, str | Path) and out.resolve().is_relative_to(Path(source).resolve()):
        raise InputError(f"{out} lies inside {source}, whose images it learns from; choose an --output outside")


def keep_log(log: Path, step: int) -> list[dict[str, Any]]:
    """Leaves, and returns, the lines of earlier starts up to a step: what they did after their checkpoint is done again."""
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError):  # a line that a kill cut off
            kept += [told] if (told := json.loads(line))["step"] <= step else []
    log.write_text("".join(json.dumps(told) + "\n" for told in kept), encoding="utf-8")
    return kept


def write_model(out: Path, settings: recipe.Recipe) -> None:
    """The encoder as a model folder inside the run folder, without scores or claims; `export` adds those."""
    from training import export as exporting

    shutil.rmtree(out / MODEL, ignore_errors=True)
    # the recipe's own name is that of weights that were published
    name = f"{settings.name}_mine" if out.name == settings.name else exporting.own_name(settings, out)
    exporting.export(out, out / MODEL, name=name)


def require_alike(spec: EncoderSpec, settings: recipe.Recipe) -> None:
    """Raises InputError, before its weights are fetched, where training would compute something else than this encoder does."""
    numbers = {"mean": list(spec.preprocess.mean), "std": list(spec.preprocess.std)}
    theirs = {"backbone": spec.backbone} | asdict(spec.geometry) | numbers
    ours = json.loads(json.dumps(settings.to_dict()))  # lists, as a recipe has them
    if wanted := [f"--set '{key}={value}'" for key, value in theirs.items() if ours[key] != value]:
        raise InputError(f"the recipe does not compute as {spec.name} does; add {' '.join(wanted)}")


def initial_facts(spec: EncoderSpec | None) -> dict[str, object]:
    """What a run began from, which decides the terms of what it makes."""
    if spec is None:
        return {"init": ""}
    terms = {"init_license": spec.license, "init_data_terms": spec.data_terms}
    return {"init": spec.name, "init_sha256": spec.sha256, **terms}


def stop_condition(max_minutes: float | None) -> Callable[[], bool]:
    """True once the time is up or the process was asked to end (Ctrl-C, SIGTERM); the loop then saves and returns."""
    asked: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:  # SIGTERM may come from the service manager and from torchrun
            raise KeyboardInterrupt  # the second time: at once
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    end = time.monotonic() + max_minutes * 60 if max_minutes is not None else float("inf")
    return lambda: bool(asked) or time.monotonic() > end


def main() -> None:
    """The command line; errors that are meant for people print as one line."""
    keep_freed_memory()
    arguments = sys.argv[1:]
    if arguments and arguments[0] not in ("run", "export", "score", "register", "publish", "--help"):
        arguments = ["run", *arguments]  # `python -m training RECIPE` is the common case
    try:
        app(arguments, prog_name="python -m training")
    except SslzooError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
