"""Model cards as the Hub reads them: the head of metadata with the scores, the text of a converted encoder's card, benchmarks."""

from __future__ import annotations

import json
import re

from sslzoo.spec import EncoderSpec, ReportedScore

# Data sets by the beginning of the names that specs give them, and where they lie on the Hub.
DATASETS = {
    "ImageNet-1k": "ILSVRC/imagenet-1k",
    "Tiny-ImageNet": "zh-plus/tiny-imagenet",
    "CIFAR-100": "uoft-cs/cifar100",
    "CIFAR-10": "uoft-cs/cifar10",
    "Imagenette": "frgfm/imagenette",
    "Caltech-101": "flwrlabs/caltech101",
    "Fashion-MNIST": "zalando-datasets/fashion_mnist",
    "STL-10": "tanganke/stl10",
}
HERE = 'sslzoo.load("local-dir:.")'  # how a card loads the folder that it lies in; `push` writes the repository's name


def metadata(spec: EncoderSpec) -> str:
    """The YAML between the two lines of dashes: library, task, license, tags, data sets, metrics, scores."""
    lines = [
        "library_name: sslzoo",
        "pipeline_tag: image-feature-extraction",
        f"license: {spec.license.lower() or 'unknown'}",
        "tags:",
        *(f"- {tag}" for tag in ("self-supervised-learning", spec.method, spec.backbone, "image-embeddings")),
    ]
    if spec.paper.startswith("arXiv:"):
        lines.append(f"- arxiv:{spec.paper.removeprefix('arXiv:')}")
    if trained_on := _dataset(spec.trained_on):  # the Hub shows these as what a model was trained on
        lines += ["datasets:", f"- {trained_on}"]
    if spec.scores:
        entry = {"name": spec.name, "results": [_result(spec, score) for score in spec.scores]}
        # JSON is YAML
        lines += ["metrics:", "- accuracy", "model-index:", f"- {json.dumps(entry, ensure_ascii=False)}"]
    return "---\n" + "\n".join(lines) + "\n---\n"


def card(spec: EncoderSpec) -> str:
    """A model card for an encoder that sslzoo converted or saved: license, origin, preprocessing, scores, and code."""
    p = spec.preprocess
    origin = "".join(
        f"\nConverted from {c.url or 'a file'} ({c.format}, {c.hash or 'no hash'})." for c in spec.checkpoints
    )
    rows = [
        f"| {s.dataset} | {s.metric} | {100 * s.value:.1f} | {s.protocol}{f'; {s.source}' if s.source else ''} |"
        for s in spec.scores
    ]
    table = "\n".join(["| data | metric | % | protocol and source |", "|---|---|---|---|", *rows])
    return f"""{metadata(spec)}
# {spec.name}

A {spec.backbone} image encoder, pretrained by {spec.method} {spec.paper} on {spec.trained_on or "data that is not stated"}.
It maps a photo to {spec.dim} numbers.{origin}

{example(spec, HERE)}
License of the weights: **{spec.license or "not stated"}**. {spec.license_note}
Data terms: {spec.data_terms or "not stated"}

Preprocessing: short side to {p.resize} px ({p.interpolation}), centre {p.size} px, values in [0, 1], minus {p.mean}, divided by
{p.std}. {spec.note}

## Scores

{table if rows else "Not measured."}
"""


def example(spec: EncoderSpec, load: str) -> str:
    """The card's code, with the expression that loads the encoder."""
    return f"""```python
import sslzoo

encoder = {load}
vectors = encoder.encode(["a.jpg", "b.jpg"])  # float32 [2, {spec.dim}], not normalised
```
"""


def benchmark_results(spec: EncoderSpec) -> dict[str, str]:
    """The scores on the Hub's registered benchmarks: file names below the repository, and their YAML.

    https://huggingface.co/docs/hub/eval-results; one file a score, since a benchmark shows one value a file.
    """
    files = {}
    for score in spec.scores:
        if not score.benchmark:
            continue
        dataset, _, task = score.benchmark.partition(":")
        entry = {
            "dataset": {"id": dataset, "task_id": task},
            "value": round(100 * score.value, 2),
            "notes": score.protocol,
        }
        name = re.sub(r"[^a-z0-9]+", "_", f"{task} {score.metric}".lower())
        while f".eval_results/{name}.yaml" in files:
            name += "_2"
        files[f".eval_results/{name}.yaml"] = f"- {json.dumps(entry, ensure_ascii=False)}\n"
    return files


def _result(spec: EncoderSpec, score: ReportedScore) -> dict[str, object]:
    """One entry of `model-index`."""
    dataset = {"name": score.dataset, "type": _dataset(score.dataset) or re.sub(r"\W+", "-", score.dataset).lower()}
    source = {"source": {"name": score.source, "url": spec.checkpoints[0].url}} if spec.checkpoints else {}
    name = score.protocol if score.protocol.startswith(score.metric) else f"{score.metric}: {score.protocol}"
    return {
        "task": {"type": "image-classification"},
        "dataset": dataset,
        "metrics": [{"type": "accuracy", "value": round(100 * score.value, 2), "name": name}],
        **source,
    }


def _dataset(name: str) -> str:
    """The Hub's name of a data set, empty where it isn't known."""
    plain = re.sub("[-_]", "", name.lower())
    return next((hub for start, hub in DATASETS.items() if plain.startswith(start.lower().replace("-", ""))), "")
