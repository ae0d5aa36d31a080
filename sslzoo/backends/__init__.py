"""Who runs the forward pass: torch is the definition, and raw pixels stand beside it as a baseline.

A back end maps uint8 batches `[n, size, size, 3]` to float32 vectors `[n, dim]` and knows the space they live in.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo import registry
from sslzoo.backends import allocator
from sslzoo.backends.backend import Backend, Immediate
from sslzoo.backends.precision import TRUSTED, bf16_cosine
from sslzoo.errors import InputError, MissingExtra
from sslzoo.spec import EncoderSpec, Geometry, Preprocess, space_id

Samples = Callable[[Preprocess], NDArray[np.uint8]]

PIXELS = EncoderSpec(
    name="pixels-32",
    method="raw pixels",
    backbone="none",
    dim=3072,
    preprocess=Preprocess(resize=32, size=32),
    license="CC0-1.0",
    data_terms="none: no data was used",
)


class PixelsBackend(Immediate):
    """The baseline without any network: the image at 32 px, normalised and flattened."""

    spec = PIXELS
    weights = "none"
    precision = "fp32"
    engine = "numpy"
    files: tuple[Path, ...] = ()
    agreement: Mapping[str, float] = {}
    space = space_id(weights, PIXELS.preprocess, Geometry())

    def native_bf16(self) -> bool:
        """Never asked: there is nothing to speed up."""
        return False

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, std = (np.asarray(v, np.float32) for v in (PIXELS.preprocess.mean, PIXELS.preprocess.std))
        x = (batch.astype(np.float32) / np.float32(255) - mean) / std
        return x.reshape(len(batch), -1)


def open_backend(
    model: str | EncoderSpec | Any,
    *,
    device: str = "auto",
    precision: str = "fp32",
    backend: str = "auto",
    int8: Path | Samples | None = None,
    compiled: bool = False,
) -> Backend:
    """The back end of an encoder given by name, by spec, or as an Encoder in memory (with its present weights: torch).

    "auto" takes OpenVINO where it is installed, the weights come from a file, and no GPU is in reach; then torch isn't
    imported at all. `precision` "auto" takes bf16 where the processor computes it natively and it was found to give the
    same vectors (see `precision`). `compiled` runs torch's network through torch.compile. "int8" is OpenVINO's; `int8` is
    the folder of its quantised graph, or gives images (uint8 `[n, size, size, 3]` for the preprocessing it is called with)
    to calibrate a new one on.
    """
    if backend not in ("auto", "torch", "openvino"):
        raise InputError(f"backend is {backend!r}; use auto, torch or openvino")
    if (isinstance(model, str) and model == PIXELS.name) or model is PIXELS:
        return PixelsBackend()
    if precision == "int8":
        return _int8(model, backend, int8)
    if not isinstance(model, str | EncoderSpec):
        return _trusted(_torch(model, device, compiled=compiled), precision)
    spec = registry.resolve(model) if isinstance(model, str) else model
    from_file = _from_file(spec)
    if backend == "openvino" and not from_file:
        raise InputError(f"{spec.name} has its weights from torch's generator; use --backend torch")
    if backend == "openvino" or (
        backend == "auto" and from_file and not compiled and _prefers_openvino(device, precision)
    ):
        from sslzoo.backends.openvino_backend import OpenVinoBackend

        return _trusted(lambda p: OpenVinoBackend(spec, precision=p), precision)
    return _trusted(_torch(spec, device, compiled=compiled), precision)


def _from_file(spec: EncoderSpec) -> bool:
    return not spec.sources or not spec.sources[0].startswith("random:")


def _int8(model: str | EncoderSpec | Any, backend: str, int8: Path | Samples | None) -> Backend:
    spec = registry.resolve(model) if isinstance(model, str) else model
    if backend == "torch" or not isinstance(spec, EncoderSpec) or not _from_file(spec):
        raise InputError("int8 is computed by OpenVINO from a weight file; use --backend openvino and a model by name")
    from sslzoo.backends.int8_backend import Int8Backend, calibrated
    from sslzoo.backends.openvino_backend import import_openvino

    try:
        import_openvino()
    except MissingExtra:
        raise MissingExtra("int8 needs OpenVINO and NNCF; pip install 'sslzoo[int8]'") from None
    if isinstance(int8, Path):
        return Int8Backend(spec, int8)
    if int8 is None:
        raise InputError("int8 is calibrated on the images that it embeds; give a folder of them, or use fp32")
    return calibrated(spec, lambda: int8(spec.preprocess))


def _torch(model: EncoderSpec | Any, device: str, *, compiled: bool) -> Callable[[str], Backend]:
    """Makes torch back ends in any precision from one network in memory."""
    from sslzoo.backends.torch_backend import FoldedTorchBackend, load_backbone, pick_device

    if allocator.own_process:
        allocator.keep_freed_memory()
    if isinstance(model, EncoderSpec):
        backbone, spec = load_backbone(model).to(pick_device(device)), model
    else:
        backbone, spec = model.backbone, model.spec
    return lambda precision: FoldedTorchBackend(backbone, spec, precision=precision, compiled=compiled)


def _trusted(make: Callable[[str], Backend], precision: str) -> Backend:
    """The back end in that precision; for "auto" in bf16 if it is native and close enough, else in fp32."""
    if precision != "auto":
        return make(precision)
    full = make("fp32")
    if not full.native_bf16():
        return full
    low = make("bf16")
    runs = {"fp32": full, "bf16": low}
    cosine = bf16_cosine(full.space, full.engine, full.spec.preprocess, runs.__getitem__)
    return low if cosine >= TRUSTED else full


def _prefers_openvino(device: str, precision: str) -> bool:
    gpu = shutil.which("nvidia-smi") is not None or sys.platform == "darwin"  # told without importing torch
    wanted = device == "cpu" or (device == "auto" and not gpu)
    return wanted and precision != "fp16" and importlib.util.find_spec("openvino") is not None
