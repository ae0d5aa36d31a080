"""Model folders: `model.safetensors` (or its shards), `config.json` (an EncoderSpec) and `README.md` (the card).

The weights' sha256 is checked whenever they are opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError, OutputExists, WeightsError
from sslzoo.spec import EncoderSpec

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
CARD = "README.md"

Tensors = Mapping[str, NDArray[Any]]


def read_config(folder: Path) -> EncoderSpec:
    """The encoder that a model folder describes; its only source is the folder itself."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not a model folder: it has no {CONFIG}; see: sslzoo models")
    try:
        spec = EncoderSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); get the model folder again") from None
    return dataclasses.replace(spec, sources=(f"local-dir:{folder}",))


def read_weights(folder: Path, spec: EncoderSpec) -> dict[str, NDArray[Any]]:
    """The tensors of a model folder by name; raises WeightsError when the files aren't the ones that the spec pins."""
    import safetensors
    from safetensors.numpy import load_file

    if not spec.sha256:
        raise WeightsError(
            f"{spec.name} states no sha256 for {folder / WEIGHTS}; write the model folder again to pin it"
        )
    if (actual := weights_sha256(folder)) != spec.sha256:
        raise WeightsError(
            f"{folder / WEIGHTS} is damaged or was exchanged: its sha256 is {actual[:16]}… and {spec.name} has "
            f"{spec.sha256[:16]}…; get the model folder (or reinstall sslzoo) again"
        )
    try:
        return {name: value for path in weight_files(folder) for name, value in load_file(path).items()}
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{folder / WEIGHTS} can't be read ({error}); get the model folder again") from None


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: `model.safetensors`, or the shards that the Hub's index file names; else none."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    if wrong := [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name)]:
        raise WeightsError(f"{folder / INDEX} names {wrong[0]}, which is no file beside it; get the model folder again")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise WeightsError(f"{folder} lacks {missing[0]}; get the model folder again")
    return [folder / name for name in names]


def weights_sha256(folder: Path) -> str:
    """The sha256 of `model.safetensors`; of shards, that of their hexadecimal sha256 sums, one a line, by file name."""
    sums = [sha256(path) for path in weight_files(folder)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(f"{s}\n" for s in sums).encode()).hexdigest()


def write(folder: Path, spec: EncoderSpec, tensors: Tensors, card: str) -> EncoderSpec:
    """Writes a model folder and returns its spec with hash and size; raises OutputExists rather than replace anything."""
    from safetensors.numpy import save_file

    if folder.exists():
        raise OutputExists(f"{folder} already exists; remove it or choose another output")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})  # one entry: the order of more isn't stable
    path = temporary / WEIGHTS
    path.chmod(0o644)  # safetensors makes it readable for its owner only
    spec = dataclasses.replace(spec, sources=(), sha256=sha256(path), size_bytes=path.stat().st_size)
    (temporary / CONFIG).write_text(spec.to_json(), encoding="utf-8")
    (temporary / CARD).write_text(card, encoding="utf-8")
    os.replace(temporary, folder)
    return spec


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tensors: Tensors) -> str:
    """A hash of the weights themselves, whatever file or precision holds them: names, shapes and values as fp32.

    Integer tensors (BN's batch counters) have no part in a forward pass and are left out.
    """
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if np.issubdtype(value.dtype, np.floating):
            hashed.update(f"{name}{value.shape}".encode())
            hashed.update(np.ascontiguousarray(value, np.float32).data)
    return hashed.hexdigest()


def card(spec: EncoderSpec) -> str:
    """A model card for an encoder that sslzoo converted or saved: license, origin, preprocessing, scores, and code."""
    p = spec.preprocess
    origin = "".join(
        f"\nConverted from {c.url or 'a file'} ({c.format}, {c.hash or 'no hash'})." for c in spec.checkpoints
    )
    scores = "".join(
        f"\n| {s.dataset} | {s.metric} | {100 * s.value:.1f} | {s.protocol}; {s.source} |" for s in spec.scores
    )
    table = (
        f"\n\n| data | metric | % | protocol and source |\n|---|---|---|---|{scores}" if scores else " Not measured."
    )
    return f"""---
library_name: sslzoo
pipeline_tag: image-feature-extraction
license: {spec.license.lower() or "unknown"}
tags:
- self-supervised-learning
- {spec.method}
- {spec.backbone}
- image-embeddings
{_model_index(spec)}---

# {spec.name}

A {spec.backbone} image encoder, pretrained by {spec.method} {spec.paper} on {spec.trained_on or "data that is not stated"}.
It maps a photo to {spec.dim} numbers.{origin}

```python
import sslzoo

encoder = sslzoo.load("local-dir:.")  # this folder
vectors = encoder.encode(["a.jpg", "b.jpg"])  # float32 [2, {spec.dim}], not normalised
```

License of the weights: **{spec.license or "not stated"}**. {spec.license_note}
Data terms: {spec.data_terms or "not stated"}

Preprocessing: short side to {p.resize} px ({p.interpolation}), centre {p.size} px, values in [0, 1], minus {p.mean}, divided by
{p.std}. {spec.note}

## Scores
{table}
"""


def _model_index(spec: EncoderSpec) -> str:
    """The scores as the Hub reads them from a card's head; empty without scores."""
    if not spec.scores:
        return ""
    entry = {
        "name": spec.name,
        "results": [
            {
                "task": {"type": "image-feature-extraction"},
                "dataset": {"name": s.dataset, "type": re.sub(r"[^a-z0-9]+", "-", s.dataset.lower()).strip("-")},
                "metrics": [{"type": s.metric, "value": round(100 * s.value, 2), "name": s.protocol}],
                **({"source": {"name": s.source, "url": spec.checkpoints[0].url}} if spec.checkpoints else {}),
            }
            for s in spec.scores
        ],
    }
    return f"model-index:\n- {json.dumps(entry, ensure_ascii=False)}\n"  # JSON is YAML
