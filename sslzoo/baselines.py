"""Encoders' scores on labelled images, with the same networks at random weights (and the raw pixels) beside them."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sslzoo import hub, registry
from sslzoo.backends import PIXELS
from sslzoo.embeddings import Embeddings, is_embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.heads import head_top1
from sslzoo.evaluate.knn import PROTOCOLS, knn
from sslzoo.evaluate.linear import few_labels, linear
from sslzoo.evaluate.report import Report
from sslzoo.evaluate.score import Score, features_of, require_classes
from sslzoo.images.discover import Source, Summary, class_names, open_source, state
from sslzoo.images.sources.archive import ZipReader
from sslzoo.images.sources.folder import FolderReader, FoldersReader, RemoteFolderReader
from sslzoo.labelled import LabelledSet
from sslzoo.pipeline.job import describe
from sslzoo.pipeline.run import embed
from sslzoo.spec import EncoderSpec

Evaluate = Callable[[Embeddings, Embeddings | None], list[Score]]

WALKED = (FolderReader, FoldersReader, RemoteFolderReader, ZipReader)  # which list their images without reading them


def sets(
    train: Source, test: Source | None, model: str | EncoderSpec | None = None, **options: Any
) -> Iterator[tuple[str, Embeddings, Embeddings | None]]:
    """Encoder name and vectors of both sets: of the encoder, its random twin and raw pixels, all on the same images.

    Two embeddings folders are themselves the only vectors. `options` go to `embed` (device, precision, progress …).
    """
    given = [isinstance(s, str | Path) and is_embeddings(s) for s in (train, train if test is None else test)]
    if any(given):
        if not all(given):
            raise InputError("TRAIN and TEST must both be images, or both embeddings folders")
        bank = Embeddings.open(train)
        if model is not None:
            raise InputError(
                f"{train} holds vectors that {bank.model} has made; leave out -m/--model, or name the images instead"
            )
        yield bank.model, bank, None if test is None else Embeddings.open(test)
        return
    spec = model if isinstance(model, EncoderSpec) else registry.resolve(model or registry.PACKAGE_ENCODER)
    for each in {s.name: s for s in (spec, registry.random_twin(spec), PIXELS)}.values():
        yield each.name, *_both(train, test, each, options)


def _both(
    train: Source, test: Source | None, spec: EncoderSpec, options: Mapping[str, Any]
) -> tuple[Embeddings, Embeddings | None]:
    """The vectors of both sets, in one space."""
    options = _possible(spec, options)
    if test is None or options.get("precision") != "int8":
        return embed(train, spec, **options), None if test is None else embed(test, spec, **options)
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # the graph that was calibrated on the training images is read from there
        place = Path(folder) / "train.emb"
        kept = embed(train, spec, place, **options)
        manifest = kept.manifest | {"failures": kept.failures}
        bank = Embeddings(
            kept.vectors, kept.ids, space=kept.space, model=kept.model, labels=kept.labels, manifest=manifest
        )
        return bank, embed(test, spec, int8=place, **options)


def _possible(spec: EncoderSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `embed` for an encoder: int8 is made from a weight file, and random weights and pixels have none."""
    beside = spec is PIXELS or spec.method == "random"
    return {**options, "precision": "fp32"} if beside and options.get("precision") == "int8" else dict(options)


def table(
    evaluate: Evaluate, train: Source, test: Source | None, model: str | EncoderSpec | None = None, **options: Any
) -> dict[str, list[Score]]:
    """Scores by encoder name, of the encoders of `sets`; images without labels are refused before any is embedded."""
    for source in (train, test):
        if source is not None and not (isinstance(source, str | Path) and is_embeddings(source)):
            _require_labels(source, several=source is train)
    return {name: evaluate(bank, probes) for name, bank, probes in sets(train, test, model, **options)}


def _require_labels(source: Source, *, several: bool) -> None:
    """Raises InputError for an image without a label, or one class where there must be several, as far as is soon told."""
    reader, labels = open_source(source), set[str]()
    walked = isinstance(reader, WALKED)
    for item in itertools.islice(reader.items(Summary()), None if walked else 1):
        if item.label is None:
            raise InputError(
                f"{source} has images without a label, the first is {item.id}; give one folder a class, or a 'label' column"
            )
        labels.add(str(item.label))
    if walked and several:
        require_classes(str(source), labels)


def knn_table(
    train: Source,
    test: Source | None = None,
    model: str | EncoderSpec | None = None,
    protocols: Sequence[tuple[int, float]] = PROTOCOLS,
    **options: Any,
) -> dict[str, list[Score]]:
    """kNN scores by encoder name; without `test` they are leave-one-out. With precision bf16 the neighbours are bf16's too."""
    device, precision = options.get("device", "auto"), "bf16" if options.get("precision") == "bf16" else "fp32"
    return table(
        lambda bank, probes: knn(bank, probes, protocols, device=device, precision=precision),
        train,
        test,
        model,
        **options,
    )


def head_table(data: Source, model: str | EncoderSpec, **options: Any) -> dict[str, Score]:
    """Top-1 of the authors' linear classifier by encoder name: on the encoder's features, and on its random twin's.

    `data` holds labelled ImageNet-1k images (see `evaluate.heads.class_numbers`); `options` go to `embed`. Raises
    WeightsError where no classifier was published.
    """
    spec = model if isinstance(model, EncoderSpec) else registry.resolve(model)
    head = hub.read_head(spec)
    names = class_names(data)
    return {
        each.name: head_top1(embed(data, each, **_possible(each, options)), head, names)
        for each in (spec, registry.random_twin(spec))
    }


def report(
    sets: Sequence[LabelledSet],
    models: Sequence[str | EncoderSpec],
    folder: str | Path,
    *,
    probes: Sequence[str] = ("knn", "linear"),
    shots: Sequence[int] = (),
    shares: Sequence[float] = (),
    **options: Any,
) -> Report:
    """The scores of several encoders on several sets, those of their random twins always among them.

    The first model is the one that the others are compared with. Vectors are kept below `folder`, under a name for the state
    of images and encoder, so that the same call goes on where an earlier one stopped, or with one more encoder. `shots` and
    `shares` add probes with few labels, but on sets with several labels an image. `options` go to `embed` (device,
    precision, batch_size, progress …). A set that can't be judged is left out and named with the reason; raises InputError
    where that is so of all.
    """
    if unknown := [probe for probe in probes if probe not in ("knn", "linear")]:
        raise InputError(f"there is no probe {unknown[0]!r}; use knn or linear")
    if (shots or shares) and "linear" not in probes:
        raise InputError("few labels (--shots, --share) are of the linear probe; add --probe linear")
    names = [each.name for each in sets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two of the sets are called {twice[0]}; rename a folder, or make a report of each")
    specs = _with_twins([m if isinstance(m, EncoderSpec) else registry.resolve(m) for m in models])
    scores: dict[str, dict[str, dict[str, Score]]] = {}
    features: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for each in sets:
        try:
            states = [f"{describe(source)} {state(source)}" for source in (each.train, each.test)]
            found = {
                name: _judged(each, states, spec, folder, name, probes, shots, shares, options)
                for name, spec in specs.items()
            }
        except InputError as error:
            left_out[each.name] = str(error)
            if len(left_out) == len(sets):
                raise
            continue
        for name, (made, by_probe) in found.items():
            features[name] = made
            for probe, score in by_probe.items():
                scores.setdefault(probe, {}).setdefault(each.name, {})[name] = score
    return Report(scores, features, next(iter(specs)), left_out)


def _judged(
    each: LabelledSet,
    states: list[str],
    spec: EncoderSpec,
    folder: str | Path,
    name: str,
    probes: Sequence[str],
    shots: Sequence[int],
    shares: Sequence[float],
    options: Mapping[str, Any],
) -> tuple[str, dict[str, Score]]:
    """How an encoder's features came about, and its scores by probe on a set whose two parts are in these states."""
    if each.metric == "mAP11" and "linear" not in probes:
        raise InputError(f"{each.name} has several labels an image, which kNN can't vote on; add --probe linear")
    options = _possible(spec, options)
    encoder = [spec.sha256, spec.sources, spec.preprocess.to_dict(), spec.geometry.to_dict(), options.get("precision")]
    place = Path(folder) / "vectors" / each.name / re.sub(r"[^\w.-]", "_", name)
    # int8 takes the graph that was calibrated on the training images for the test images too
    known = [states[:1], states if options.get("precision") == "int8" else states[1:]]
    train, test = (
        place / f"{part}-{hashlib.sha256(json.dumps([encoder, of]).encode()).hexdigest()[:12]}.emb"
        for part, of in zip(("train", "test"), known, strict=True)
    )
    bank = embed(each.train, spec, train, resume=True, **options)
    probed = embed(each.test, spec, test, resume=True, int8=train, **options)
    device = str(options.get("device", "auto"))
    return f"{spec.backbone}, {features_of(bank)}", _probes(each, bank, probed, probes, shots, shares, device)


def _with_twins(specs: Sequence[EncoderSpec]) -> dict[str, EncoderSpec]:
    """The encoders by name, and once each of the networks among them (with its preprocessing) at random weights."""
    named = {spec.name: spec for spec in specs}
    if len(named) < len(specs):
        raise InputError(
            f"two of the encoders have one name ({', '.join(s.name for s in specs)}); rename a model folder"
        )
    for spec in specs:
        twin = registry.random_twin(spec)
        if twin not in named.values():
            named[twin.name if twin.name not in named else f"{twin.name} like {spec.name}"] = twin
    return named


def _probes(
    each: LabelledSet,
    bank: Embeddings,
    probed: Embeddings,
    probes: Sequence[str],
    shots: Sequence[int],
    shares: Sequence[float],
    device: str,
) -> dict[str, Score]:
    scores = {}
    if "knn" in probes and each.metric != "mAP11":
        for (k, temperature), score in zip(PROTOCOLS, knn(bank, probed, device=device), strict=True):
            scores[f"kNN, top-1, k={k}, T={temperature}"] = score
    if "linear" in probes:
        options: Mapping[str, Any] = {"metric": each.metric, "device": device}
        scores[f"linear, {each.metric}"] = linear(bank, probed, held_out=each.held_out, **options)
        if each.metric == "mAP11":  # few labels are drawn class by class
            return scores
        for n in shots:
            scores[f"linear, {each.metric}, {n} images a class"] = few_labels(bank, probed, shots=n, **options)
        for share in shares:
            scores[f"linear, {each.metric}, {100 * share:g} % of labels"] = few_labels(
                bank, probed, share=share, **options
            )
    return scores
