"""Encoder: a backbone with its preprocessing and provenance, for embedding, feature maps and anyone's own training loop."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from sslzoo import embeddings, hub, registry
from sslzoo.backbones.plain import as_torchvision, require_plain
from sslzoo.backends import torch_backend
from sslzoo.backends.torch_backend import TorchBackend
from sslzoo.errors import ImageError
from sslzoo.images import preprocess
from sslzoo.images.decode import decode
from sslzoo.images.read import read
from sslzoo.images.sources.memory import as_item
from sslzoo.spec import EncoderSpec

if TYPE_CHECKING:
    from torchvision.models import ResNet as TorchvisionResNet

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor


def load(name: str, *, device: str = "auto", license: str | None = None) -> Encoder:
    """The encoder of that name with its weights, in evaluation mode.

    `name` is what `list_models()` lists, a bare name such as "simsiam-r50", a model folder ("local-dir:PATH"), or
    "random-r18" for seeded random weights. Raises UnknownModel (with suggestions) or WeightsError.
    """
    return Encoder.from_spec(registry.resolve(name, license=license), device=device)


class Encoder(nn.Module):
    """Maps normalised images `[n, 3, h, w]` to pooled features `[n, dim]`, not L2-normalised."""

    def __init__(self, backbone: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec

    @classmethod
    def from_spec(cls, spec: EncoderSpec, *, device: str = "auto") -> Encoder:
        """The encoder that a spec describes, in evaluation mode."""
        return cls(torch_backend.load_backbone(spec), spec).to(torch_backend.pick_device(device)).eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto") -> Encoder:
        """The encoder in a model folder (`model.safetensors`, `config.json`), or in "hf-hub:ORG/REPO[@REVISION]"."""
        is_remote = str(folder).startswith("hf-hub:")
        spec = hub.describe(str(folder)) if is_remote else hub.read_config(Path(folder))
        return cls.from_spec(spec, device=device)

    def save_pretrained(self, folder: str | Path) -> EncoderSpec:
        """Writes the present weights as a model folder, in their own precision, and returns its spec with the new hash.

        Raises OutputExists when the folder is there. Scores and canary are left out when the weights have changed since
        they were measured.
        """
        spec = dataclasses.replace(self.spec, head=None)  # a classifier beside the encoder is no part of it
        changed = (spec.sha256 or spec.checkpoints) and torch_backend.digest(self.backbone) != hub.digest(
            hub.read(spec)
        )
        if changed or spec.method == "random":
            spec = dataclasses.replace(spec, scores=(), canary=None, verified="none")
        tensors = {k: v.detach().cpu().numpy() for k, v in self.backbone.state_dict().items() if v.is_floating_point()}
        return hub.write(Path(folder), spec, tensors, hub.card(spec))

    def push_to_hub(self, repo: str, *, private: bool = False) -> list[str]:
        """Uploads the present weights as a repository of the Hugging Face Hub; returns what was done, line by line."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder)
            return hub.push(folder, repo, private=private).lines

    @property
    def dim(self) -> int:
        """The length of a feature vector."""
        return self.spec.dim

    @property
    def space(self) -> str:
        """The space of this encoder's vectors, from its present weights and preprocessing."""
        return TorchBackend(self.backbone, self.spec).space

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)  # type: ignore[no-any-return]

    def features(self, x: Tensor, layers: Sequence[str] = ("layer4",)) -> dict[str, Tensor]:
        """Feature maps `[n, c, h, w]` by stage ("stem", "layer1" … "layer4") of normalised images `[n, 3, h, w]`."""
        return self.backbone.forward_maps(x, layers)  # type: ignore[operator, no-any-return]

    def transform(self, image: Image.Image) -> Tensor:
        """The network's input for one PIL image, float32 `[3, size, size]`: decoding policy, resize, crop and normalisation."""
        pixels = preprocess.resize_crop(decode(image).image, self.spec.preprocess)
        return torch_backend.normalize(torch.tensor(pixels)[None], self.spec)[0]

    def torchvision(self) -> TorchvisionResNet:
        """torchvision's own `ResNet` with copies of these weights and no classifier, for code that knows no other.

        timm's networks have the same parameter names. Raises InputError where those can't compute this encoder: channels
        multiplied (r50w2), or TensorFlow's padding.
        """
        require_plain(self.spec)
        return as_torchvision(self.backbone)  # type: ignore[arg-type]

    def encode(
        self,
        inputs: ImageInput | Iterable[ImageInput],
        batch_size: int = 32,
        *,
        normalize: bool = False,
        show_progress_bar: bool | None = None,
        precision: str = "fp32",
    ) -> NDArray[np.float32]:
        """Vectors float32 `[n, dim]`, row i for input i; one input alone gives `[1, dim]`.

        Inputs are paths, encoded bytes, PIL images, or uint8 arrays or tensors `[h, w, 3]`, mixed as you like. Raises
        ImageError on the first that can't be read (`sslzoo.embed` skips and lists them instead).
        """
        run = TorchBackend(self.backbone, self.spec, precision=precision)
        items = [as_item(value, i) for i, value in enumerate(_listed(inputs))]
        vectors = np.empty((len(items), self.dim), np.float32)
        batch: list[NDArray[np.uint8]] = []
        quiet = len(items) < 10 * batch_size if show_progress_bar is None else not show_progress_bar
        results = tqdm(read(items, self.spec.preprocess), total=len(items), unit="img", disable=quiet)
        for row, (_, result) in enumerate(results):
            if isinstance(result, ImageError):
                raise result
            batch.append(result[0])
            if len(batch) == batch_size or row == len(items) - 1:
                vectors[row + 1 - len(batch) : row + 1] = run(np.stack(batch))
                batch = []
        return embeddings.normalize(vectors) if normalize else vectors


def _listed(inputs: ImageInput | Iterable[ImageInput]) -> list[Any]:
    if isinstance(inputs, str | Path | bytes | Image.Image) or getattr(inputs, "ndim", 0) == 3:
        return [inputs]
    return list(inputs)
