"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens: torchvision's names, timm's config.

timm reads size, crop and normalisation from it too (`timm.data.resolve_model_data_config`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sslzoo import backbones, hub
from sslzoo.backbones.plain import BN_EPS, as_torchvision, require_plain
from sslzoo.errors import InputError
from sslzoo.spec import EncoderSpec, timm_config


def write(tensors: Mapping[str, NDArray[np.float32]], spec: EncoderSpec, folder: Path) -> None:
    """Writes `model.safetensors` and timm's `config.json`; raises InputError for a network that timm doesn't have."""
    require_plain(spec)
    if spec.geometry.stem != "imagenet":
        raise InputError(
            f"{spec.name} has the {spec.geometry.stem} stem, which timm's {spec.backbone} lacks; use --format onnx or torch"
        )
    # BN adds epsilon to the variance, and timm's is 1e-5: another one goes into the variance itself
    shift = np.float64(spec.geometry.bn_eps - BN_EPS)
    moved = {
        name: (value + shift).astype(np.float32) if name.endswith("running_var") else value
        for name, value in tensors.items()
    }
    hub.save(moved, folder / hub.WEIGHTS)
    (folder / hub.CONFIG).write_text(json.dumps(timm_config(spec), indent=2) + "\n", encoding="utf-8")


def read(folder: Path, spec: EncoderSpec) -> nn.Module:
    """What was written, in torchvision's own network."""
    from safetensors.torch import load_file

    backbone = backbones.build(spec.backbone)
    backbone.load_state_dict(load_file(folder / hub.WEIGHTS), strict=False)
    network: nn.Module = as_torchvision(backbone).eval()
    return network
