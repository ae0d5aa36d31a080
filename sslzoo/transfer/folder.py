"""The classifier folder: a model folder whose weights have `fc.weight` and `fc.bias` beside the encoder's, and timm's config.

`model.safetensors` has torchvision's names, so torchvision's and timm's ResNets load it whole; `config.json` is what timm
reads from a `local-dir:` or `hf-hub:`, with the encoder and the run under "sslzoo". Of a network that timm lacks it names the
classes alone, so that timm refuses it. `sslzoo.load` takes the encoder out.
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
from sslzoo.errors import InputError, WeightsError
from sslzoo.hub.folder import save
from sslzoo.spec import EncoderSpec, timm_config

CHECKPOINT = "checkpoint.pt"
UNFINISHED = f"{CHECKPOINT}.tmp"  # a checkpoint that is being written
ESCAPE = "backslashreplace"  # file and class names that aren't UTF-8 become \udcff, which is JSON's own escape
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
    (folder / hub.CARD).write_text(_card(spec, classes, run), encoding="utf-8", errors=ESCAPE)
    described = timm_config(spec, classes) if spec.plain else {"label_names": list(classes)}
    config = described | {"sslzoo": {"encoder": spec.to_dict(), "run": dict(run)}}
    temporary = folder / f"{hub.CONFIG}.tmp"
    temporary.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors=ESCAPE)
    temporary.replace(folder / hub.CONFIG)
    return dataclasses.replace(spec, sources=(f"local-dir:{folder.absolute()}",))


def read_classes(folder: str | Path) -> list[str]:
    """The class names in the order of the logits; raises InputError when it isn't a classifier folder."""
    path = Path(folder) / hub.CONFIG
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["label_names"]]
    except (OSError, ValueError, KeyError, TypeError):
        if begun(Path(folder)):
            raise InputError(
                f"{folder} holds a fine-tuning that was interrupted; give its command again, with --resume"
            ) from None
        raise InputError(
            f"{folder} is not a classifier folder; make one with: sslzoo finetune IMAGES -m {folder} -o NEW"
            if (Path(folder) / hub.CONFIG).is_file()
            else f"{folder} is not a classifier folder; make one with: sslzoo finetune IMAGES -o {folder}"
        ) from None


def begun(folder: Path) -> bool:
    """Whether a run has left, or begun, a checkpoint there."""
    return any((folder / name).exists() for name in (CHECKPOINT, UNFINISHED))


def read_run(folder: str | Path) -> dict[str, Any]:
    """What `write` was told of the run; raises InputError when it isn't a classifier folder."""
    try:
        run: dict[str, Any] = json.loads((Path(folder) / hub.CONFIG).read_text(encoding="utf-8"))["sslzoo"]["run"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder} exists and is not a classifier folder; choose another -o") from None
    return run


def read_head(folder: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The classifier's weight `[classes, dim]` and bias `[classes]`; raises WeightsError when they can't be read."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / hub.WEIGHTS
    try:
        with safe_open(path, "numpy") as file:
            weight, bias = (file.get_tensor(name) for name in HEAD)
    except (SafetensorError, FileNotFoundError) as error:
        raise WeightsError(
            f"{path} can't be read ({error}); copy the folder again, or make it anew with: sslzoo finetune IMAGES -o NEW"
        ) from None
    return weight, bias


def _card(spec: EncoderSpec, classes: Sequence[str], run: Mapping[str, Any]) -> str:
    scores = "".join(
        f"- {100 * s['value']:.1f} ± {100 * s['interval95']:.1f} %: {s['protocol']}\n" for s in run.get("scores", ())
    )
    timm = ', or `timm.create_model("local-dir:FOLDER", pretrained=True)`' if spec.plain else ""
    return f"""---
library_name: sslzoo
pipeline_tag: image-classification
license: {spec.license.lower() or "unknown"}
---

# {spec.name}

A {spec.backbone} that tells {len(classes)} classes apart: {", ".join(classes[:20])}{" …" if len(classes) > 20 else ""}.
{spec.note}

{scores}
`sslzoo predict FOLDER IMAGES`{timm}. License of the weights it began
from: **{spec.license or "not stated"}**. {spec.license_note} Data terms: {spec.data_terms or "not stated"}.
"""
