"""Classifier: an Encoder with a linear layer over its pooled features, for fine-tuning and prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslzoo import hub, registry
from sslzoo.backends import torch_backend
from sslzoo.encoder import Encoder
from sslzoo.errors import OutputExists
from sslzoo.spec import EncoderSpec
from sslzoo.transfer import folder as folders


class Classifier(nn.Module):
    """Maps normalised images `[n, 3, h, w]` to logits `[n, classes]`. The new layer starts as the papers' probes: N(0, 0.01²)."""

    def __init__(self, encoder: Encoder, classes: Sequence[str], *, seed: int = 0) -> None:
        super().__init__()
        self.encoder, self.classes = encoder, tuple(classes)
        device = next(encoder.parameters()).device
        weight = torch.randn(len(classes), encoder.dim, generator=torch.Generator().manual_seed(seed))
        self.fc = nn.Linear(encoder.dim, len(classes), device=device)
        with torch.no_grad():
            self.fc.weight.copy_(0.01 * weight)
            self.fc.bias.zero_()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto") -> Classifier:
        """The classifier in a classifier folder, in evaluation mode; raises InputError when it isn't one."""
        classes = folders.read_classes(folder)
        self = cls(Encoder.from_pretrained(folder, device=device), classes)
        weight, bias = folders.read_head(folder)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor(weight))
            self.fc.bias.copy_(torch.tensor(bias))
        return self.eval()

    def save_pretrained(self, folder: str | Path, run: Mapping[str, Any] | None = None) -> EncoderSpec:
        """Writes a classifier folder and returns the spec of the encoder in it; `run` is told in its config.

        Raises OutputExists where there is one.
        """
        if (Path(folder) / hub.CONFIG).exists():
            raise OutputExists(f"{folder} already exists; remove it or choose another output")
        spec = dataclasses.replace(
            self.encoder.spec, checkpoints=(), head=None, scores=(), canary=None, verified="none", default=False
        )
        state = self.encoder.backbone.state_dict() | {
            f"fc.{name}": value for name, value in self.fc.state_dict().items()
        }
        tensors = {name: value.detach().cpu().numpy() for name, value in state.items() if value.is_floating_point()}
        return folders.write(Path(folder), spec, tensors, self.classes, run or {})

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(x))  # type: ignore[no-any-return]


def spec_of(model: str | EncoderSpec | Encoder) -> EncoderSpec:
    """What is known of an encoder that is given by name, by spec, or as it is."""
    if isinstance(model, Encoder):
        return model.spec
    return registry.resolve(model) if isinstance(model, str) else model


def fresh(
    model: str | EncoderSpec | Encoder, classes: Sequence[str], *, device: str = "auto", seed: int = 0
) -> Classifier:
    """A classifier over an encoder, given by name, by spec, or as it is; `seed` is that of the new layer."""
    if not isinstance(model, Encoder):
        model = Encoder.from_spec(spec_of(model), device=device)
    return Classifier(model.to(torch_backend.pick_device(device)), classes, seed=seed)
