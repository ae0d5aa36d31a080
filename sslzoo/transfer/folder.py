"""The classifier folder: a model folder whose weights have `fc.weight` and `fc.bias` beside the encoder's, and timm's config.

`model.safetensors` has torchvision's names, so torchvision's and timm's ResNets load it whole; `config.json` is what timm
reads from a `local-dir:` or `hf-hub:`, with the encoder and the run under "sslzoo". `sslzoo.load` takes the encoder out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo import hub
from sslzoo.errors import InputError
from sslzoo.hub.folder import save
from sslzoo.spec import EncoderSpec, timm_config

CHECKPOINT = "checkpoint.pt"
HEAD = ("fc.weight", "fc.bias")


def write(
    folder: Path,
    spec: EncoderSpec,
    tensors: Mapping[str, NDArray[Any]],
    classes: Sequence[str],
    run: Mapping[str, Any],
) -> EncoderSpec:
    """Writes the folder's files, `config.json` last, and returns the encoder's spec with the file's hash."""
    folder.mkdir(parents=True, exist_ok=True)
    save(tensors, folder / hub.WEIGHTS)
    path = folder / hub.WEIGHTS
    spec = dataclasses.replace(spec, sources=(), sha256=hub.sha256(path), size_bytes=path.stat().st_size)
    (folder / hub.CARD).write_text(_card(spec, classes, run), encoding="utf-8")
    config = timm_config(spec, classes) | {"sslzoo": {"encoder": spec.to_dict(), "run": dict(run)}}
    temporary = folder / f"{hub.CONFIG}.tmp"
    temporary.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / hub.CONFIG)
    return dataclasses.replace(spec, sources=(f"local-dir:{folder}",))


def read_classes(folder: str | Path) -> list[str]:
    """The class names in the order of the logits; raises InputError when it isn't a classifier folder."""
    path = Path(folder) / hub.CONFIG
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["label_names"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder} is not a classifier folder; make one with: sslzoo finetune IMAGES -o {folder}"
        ) from None


def read_head(folder: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The classifier's weight `[classes, dim]` and bias `[classes]`."""
    from safetensors import safe_open

    with safe_open(Path(folder) / hub.WEIGHTS, "numpy") as file:
        weight, bias = (file.get_tensor(name) for name in HEAD)
    return weight, bias


def _card(spec: EncoderSpec, classes: Sequence[str], run: Mapping[str, Any]) -> str:
    scores = "".join(
        f"- {100 * s['value']:.1f} ± {100 * s['interval95']:.1f} %: {s['protocol']}\n" for s in run.get("scores", ())
    )
    return f"""---
library_name: sslzoo
pipeline_tag: image-classification
license: {spec.license.lower() or "unknown"}
---

# {spec.name}

A {spec.backbone} that tells {len(classes)} classes apart: {", ".join(classes[:20])}{" …" if len(classes) > 20 else ""}.
{spec.note}

{scores}
`sslzoo predict FOLDER IMAGES`, or `timm.create_model("local-dir:FOLDER", pretrained=True)`. License of the weights it began
from: **{spec.license or "not stated"}**. {spec.license_note} Data terms: {spec.data_terms or "not stated"}.
"""
