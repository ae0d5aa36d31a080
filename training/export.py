"""From a run's checkpoint to a model folder: fp16 weights, config.json with measured scores, a picture and a card."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import torch
from numpy.typing import NDArray

from sslzoo import hub, registry
from sslzoo.baselines import table
from sslzoo.embeddings import Embeddings
from sslzoo.encoder import Encoder
from sslzoo.errors import InputError
from sslzoo.evaluate.knn import knn
from sslzoo.evaluate.linear import linear
from sslzoo.evaluate.score import Score, compare
from sslzoo.images import discover
from sslzoo.spec import EncoderSpec, ReportedScore, feature_dim
from sslzoo.verify import canary_of
from training import checkpoint, recipe
from training.methods import METHODS
from training.picture import curve, neighbours

CARD = Path(__file__).parent / "card.md"
PICTURE, CURVE = "neighbours.jpg", "curve.png"
DRAWN = "\n![Loss, spread and effective rank over the epochs](curve.png)\n"
SIGNS = """
At the last report the loss is {loss:.3f}, and the projections of the last batch of {batch} have a standard deviation times √d of
{std:.2f} (1: spread over the sphere, 0: collapsed) and an effective rank of {rank:.0f}, which depends on batch and projection.
"""
# a card: its metadata, the text up to the table of scores, the table, the rest
WRITTEN = re.compile(
    r"---\n.*?\n---\n(?P<text>.*?\n## Scores\n.*?\n\n)(?:Not measured\.\n|(?:\|[^\n]*\n)+)(?P<rest>\n.*)", re.S
)


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a run can't know by itself and a card must say."""

    trained_on: str = "a data set that is not stated"
    data_terms: str = "not stated"
    license: str = "not stated"
    note: str = ""


def export(
    run: Path,
    folder: Path,
    *,
    name: str = "",
    provenance: Provenance | None = None,
    scores: Mapping[str, Path] | None = None,
    shard_size: str = "",
) -> EncoderSpec:
    """Writes the encoder of a run as a model folder and returns its spec.

    `scores` names labelled data sets, each a folder with train and val (or test) Parquet files, on which the file that
    was written is judged beside random weights and raw pixels; "NAME@ORG/DATASET:TASK" names it as a benchmark of the
    Hub too. With `shard_size` ("15MB") the weights lie in files of at most that size. Raises InputError when the run has
    no checkpoint, and OutputExists when the folder is there.
    """
    path = checkpoint.require(run)
    provenance = provenance or Provenance()
    license = hub.license_id(provenance.license)
    for data in (scores or {}).values():
        splits(data)  # refused before anything is written
    state = checkpoint.read(path)
    settings = recipe.from_dict(state["recipe"])
    path = run / checkpoint.FACTS
    facts = json.loads(path.read_text()) if path.is_file() else {}
    name = name or own_name(settings, folder)
    if facts.get("init"):
        provenance = continued(provenance, facts, name)
    spec = EncoderSpec(
        name=name,
        method=settings.method,
        backbone=settings.backbone,
        dim=feature_dim(settings.backbone),
        preprocess=settings.preprocess,
        geometry=settings.geometry,
        license=license,
        data_terms=provenance.data_terms,
        trained_on=provenance.trained_on,
        epochs=round(state["step"] / (state["images"] // settings.batch_size), 2),
        recipe=settings.name,
        commit=facts.get("commit", ""),
        paper=METHODS[settings.method].paper,
        note=provenance.note,
    )
    tensors = half({k.removeprefix("backbone."): v for k, v in state["method"].items() if k.startswith("backbone.")})
    log = read_log(run / checkpoint.LOG)
    facts |= {"changed": "".join(f", with {change}" for change in recipe.changes(settings))}
    with hub.new_folder(folder) as made:  # complete, or not there
        spec = hub.fill(made, spec, tensors, card="", shard_size=shard_size)
        spec = dataclasses.replace(spec, sources=(f"local-dir:{made}",))
        canary = canary_of(Encoder.from_spec(spec, device="cpu"))
        spec = dataclasses.replace(spec, canary=canary, scores=tuple(measure(spec, scores or {})))
        credits = neighbours(spec, made / PICTURE)
        batch = settings.batch_size // (facts.get("processes", 1) * settings.accumulate)
        signs = SIGNS.format(**log[-1], batch=batch) + sizes(settings) if log else ""
        if log and curve(log, made / CURVE):
            signs = DRAWN + signs
        spec = dataclasses.replace(spec, sources=())
        hub.write_texts(made, spec, render_card(spec, facts, credits, signs))
        for record in (checkpoint.FACTS, checkpoint.LOG):
            if (run / record).is_file():
                shutil.copy(run / record, made / record)
        (made / "recipe.toml").write_text(settings.to_toml(), encoding="utf-8")
    return dataclasses.replace(spec, sources=(f"local-dir:{folder}",))


def continued(provenance: Provenance, facts: Mapping[str, Any], name: str) -> Provenance:
    """With what the run of encoder `name` began from; terms that are the same for that, and for what it began from, once."""
    sha256 = facts.get("init_sha256", "")
    began = "an earlier state of this encoder" if facts["init"] == name else facts["init"]
    began += f" (sha256 {sha256[:8]}…)" if sha256 else ""
    whose = f"{began}, whose weights are {facts.get('init_license', 'not stated')}"
    ours, theirs = provenance.data_terms, str(facts.get("init_data_terms", "not stated"))
    alike = f"{ours}; the same for "
    if theirs == ours:
        terms = f"{alike}{whose}"
    elif theirs.startswith(alike):
        terms = f"{alike}{whose}, and {theirs.removeprefix(alike)}"
    else:
        terms = f"{ours}; for {whose}: {theirs}"
    trained_on = f"{provenance.trained_on}, beginning with the weights of {began}"
    return dataclasses.replace(provenance, trained_on=trained_on, data_terms=terms)


def sizes(settings: recipe.Recipe) -> str:
    """A card's sentence on the picture sizes of a run, nothing where there was one: the loss jumps where they change."""
    stages = [(start, settings.view_size(settings.views[0], start)) for start, _ in settings.progressive]
    later = "".join(f", {size} px after {100 * start:g} % of the steps" for start, size in stages[1:])
    return f"Views had {stages[0][1]} px at first{later}; where the size changes the curves jump.\n" if later else ""


def own_name(settings: recipe.Recipe, folder: Path) -> str:
    """A name for what a user trained: never the recipe's own, which is that of another set of weights."""
    stem = settings.name.partition(".")[0]
    return folder.name if folder.name.startswith(f"{stem}.") else f"{stem}.{folder.name}"


def repack(model: Path, folder: Path, *, shard_size: str = "") -> EncoderSpec:
    """Writes a model folder anew with its weights in one file, or with `shard_size` in files of at most that size.

    Tensors, card, scores and everything else stay as they are; the sha256 in `config.json` becomes that of the new files. Where
    there is no card, one is written.
    """
    spec = hub.read_config(model)
    written = model / hub.CARD
    # what `load` fetched from the Hub has none
    card = written.read_text(encoding="utf-8") if written.is_file() else hub.card(spec)
    head = hub.read_head(spec) if (model / hub.HEAD).is_file() else None
    anew = hub.write(folder, spec, hub.read(spec), card, head=head, shard_size=shard_size)
    for path in model.iterdir():
        if path.is_file() and ".safetensors" not in path.name and not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return anew


def rescore(model: Path, data: Mapping[str, Path]) -> EncoderSpec:
    """Judges anew a model folder that `export` wrote; config.json and card get the scores, and all else stays.

    So do scores on other data sets. Raises InputError, and writes nothing, where a data set lacks a split, and where the card
    isn't as `export` writes it.
    """
    for folder in data.values():
        splits(folder)
    spec, path = hub.read_config(model), model / hub.CARD
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = WRITTEN.fullmatch(card)
    if found is None:
        raise InputError(f"{path} is not a card as export writes it; export the run anew")
    named = [name.partition("@")[0] for name in data]
    kept = [score for score in spec.scores if score.dataset.partition(" (")[0] not in named]
    anew = dataclasses.replace(spec, scores=(*kept, *measure(spec, data)))
    card = f"{hub.metadata(anew)}{found['text']}{score_table(anew)}\n{found['rest']}"
    hub.write_texts(model, dataclasses.replace(anew, sources=()), card)
    for name in hub.benchmark_results(spec).keys() - hub.benchmark_results(anew):
        (model / name).unlink(missing_ok=True)
    return anew


def half(state: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """Weights in fp16; BN's vectors, whose variances could leave fp16's range, stay fp32; its batch counters are dropped."""
    return {
        name: (value.half() if value.ndim > 1 else value).numpy()
        for name, value in state.items()
        if value.is_floating_point()
    }


def splits(folder: Path) -> tuple[list[Path], list[Path]]:
    """The Parquet files of a data set's train and val (or test) splits; raises InputError where one is missing."""
    train, test = discover.split(folder, "train"), discover.split(folder, "val", "test")
    if not train or not test:
        raise InputError(f"{folder} needs train.parquet and val.parquet (or test.parquet) to be scored on")
    return train, test


def _judge(bank: Embeddings, probes: Embeddings | None) -> list[Score]:
    assert probes is not None  # `splits` gives both
    return [*knn(bank, probes), linear(bank, probes)]


def measure(spec: EncoderSpec, data: Mapping[str, Path]) -> list[ReportedScore]:
    """kNN and linear scores on labelled data sets, with random weights and raw pixels beside them."""
    reported = []
    for name, folder in data.items():
        name, _, benchmark = name.partition("@")
        train, test = splits(folder)
        ours, random, pixels = table(_judge, train, test, spec, device="cpu", precision="fp32").values()
        hashes = ", ".join(f"{path.name} {hub.sha256(path)[:8]}" for path in (*train, *test))
        for score, baseline, raw in zip(ours, random, pixels, strict=True):
            dataset = f"{name} (sha256 of {hashes})"
            reported.append(
                ReportedScore(
                    dataset,
                    metric=score.protocol.partition("@")[0],
                    protocol=score.protocol,
                    value=round(score.value, 4),
                    interval=round(score.interval(), 6),
                    random_weights=round(baseline.value, 4),
                    raw_pixels=round(raw.value, 4),
                    gain_interval=round(compare(score, baseline).interval, 6),
                    source="measured on this file",
                    benchmark=benchmark,
                )
            )
    return reported


def read_log(path: Path) -> list[dict[str, Any]]:
    """A run's reports, in order; none where there is no log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def score_table(spec: EncoderSpec) -> str:
    """The card's table of scores."""
    if not spec.scores:
        return "Not measured."
    rows = [
        "| data | protocol | this encoder | random weights | gain over them | raw pixels |",
        "|---|---|---|---|---|---|",
    ]
    for s in spec.scores:
        ours, interval, random, gain, pixels = (
            100 * (value or 0) for value in (s.value, s.interval, s.random_weights, s.gain_interval, s.raw_pixels)
        )
        rows.append(
            f"| {s.dataset} | {s.protocol} | **{ours:.1f}** ± {interval:.1f} | {random:.1f} | {ours - random:+.1f} ± {gain:.1f} |"
            f" {pixels:.1f} |"
        )
    return "\n".join(rows)


def without_files(card: str) -> str:
    """A card that `export` wrote, for a folder that has weights and config alone, as the one inside the package."""
    card = re.sub(rf"!\[[^\n]*\]\({PICTURE}\)\n.*?(?=## )", "", card, flags=re.S).replace(DRAWN, "")
    return card.replace(
        "the run's log in `log.jsonl`.", "the run's log in `log.jsonl`, both in the project's `hub_cards`."
    )


def render_card(spec: EncoderSpec, facts: Mapping[str, Any], credits: str, signs: str) -> str:
    """The model card, from the template, what is known, who took the photos of its picture, and the signs of its training."""
    known = registry.known().get(spec.name)
    load = f'sslzoo.load("{spec.name}")' if known is not None and known.sha256 == spec.sha256 else hub.HERE
    values = spec.to_dict() | spec.preprocess.to_dict() | dict(facts)
    defaults = dict.fromkeys(("processor", "torch", "images", "minutes"), "?")
    remark = f" {facts['remark']}" if "remark" in facts else ""
    if len(facts.get("starts", [])) > 1:
        remark = f" It went on with other code, torch, threads or on another machine: see `run.json`.{remark}"
    threads = facts.get("threads", "?")
    processes = facts.get("processes", 1)
    part = f"{processes} processes of " if processes > 1 else ""
    values |= {"threads": f"{part}{threads} thread{'s' * (threads != 1)}"}
    if isinstance(facts.get("images"), int):
        values |= {"images": f"{facts['images']:,}"}
    values |= {"note": f" {spec.note}" if spec.note else ""}
    values |= {"signs": signs, "remark": remark, "epochs": f"{spec.epochs:g}" if spec.epochs else "?"}
    values |= {
        "metadata": hub.metadata(spec),
        "example": hub.example(spec, load),
        "credits": credits,
        "scores": score_table(spec),
    }
    return Template(CARD.read_text(encoding="utf-8")).substitute(defaults | values)
