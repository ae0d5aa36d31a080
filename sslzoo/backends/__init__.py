"""Who runs the forward pass: torch is the definition, and raw pixels stand beside it as a baseline.

A back end maps uint8 batches `[n, size, size, 3]` to float32 vectors `[n, dim]` and knows the space they live in.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sslzoo import registry
from sslzoo.spec import EncoderSpec, Geometry, Preprocess, space_id


class Backend(Protocol):
    """A forward pass with the encoder it belongs to."""

    @property
    def spec(self) -> EncoderSpec: ...
    @property
    def weights(self) -> str: ...
    @property
    def space(self) -> str: ...
    @property
    def precision(self) -> str: ...
    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]: ...


PIXELS = EncoderSpec(
    name="pixels-32",
    method="raw pixels",
    backbone="none",
    dim=3072,
    preprocess=Preprocess(resize=32, size=32),
    license="CC0-1.0",
    data_terms="none: no data was used",
)


class PixelsBackend:
    """The baseline without any network: the image at 32 px, normalised and flattened."""

    spec = PIXELS
    weights = "none"
    precision = "fp32"
    space = space_id(weights, PIXELS.preprocess, Geometry())

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, std = (np.asarray(v, np.float32) for v in (PIXELS.preprocess.mean, PIXELS.preprocess.std))
        x = (batch.astype(np.float32) / np.float32(255) - mean) / std
        return x.reshape(len(batch), -1)


def open_backend(model: str | EncoderSpec | Any, *, device: str = "auto", precision: str = "fp32") -> Backend:
    """The back end of an encoder given by name, by spec, or as an Encoder in memory (with its present weights)."""
    if model == PIXELS.name or model is PIXELS:
        return PixelsBackend()
    from sslzoo.backends.torch_backend import TorchBackend

    if isinstance(model, str | EncoderSpec):
        spec = registry.resolve(model) if isinstance(model, str) else model
        return TorchBackend.from_spec(spec, device=device, precision=precision)
    return TorchBackend(model.backbone, model.spec, precision=precision)
