"""The forward pass in torch, in fp32 unless asked: the definition that every other back end is tested against."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from sslzoo import backbones, hub
from sslzoo.backends.backend import Immediate
from sslzoo.backends.processor import native_bf16
from sslzoo.errors import InputError
from sslzoo.spec import EncoderSpec, space_id

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchBackend(Immediate):
    """Runs a backbone on uint8 batches, always in evaluation mode and always with the backbone's present weights."""

    engine = "torch"
    files: tuple[Path, ...] = ()
    agreement: Mapping[str, float] = {}

    def __init__(self, backbone: nn.Module, spec: EncoderSpec, *, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}; use {', '.join(PRECISIONS)}")
        self.backbone, self.spec, self.precision = backbone, spec, precision

    @cached_property
    def weights(self) -> str:
        """The digest of the weights (see `hub.digest`)."""
        return digest(self.backbone)

    @property
    def space(self) -> str:
        """The space of the vectors."""
        return space_id(self.weights, self.spec.preprocess, self.spec.geometry)

    def native_bf16(self) -> bool:
        """Whether the device computes bf16 in hardware."""
        return native_bf16(next(self.backbone.parameters()).device)

    @torch.inference_mode()
    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        device = next(self.backbone.parameters()).device
        x = normalize(torch.from_numpy(batch).to(device), self.spec)
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.autocast(device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"):
                return self.backbone(x).float().cpu().numpy()  # type: ignore[no-any-return]
        finally:
            self.backbone.train(training)


class FoldedTorchBackend(TorchBackend):
    """The same for many images: a copy of the network as it is now, made for speed when it is first called.

    BN is folded into the convolutions, the weights are channels last and in the precision asked for. On a GPU a batch is
    copied and computed while the next is made ready; one that doesn't fit in its memory is halved until it does, and so
    are those after it.
    """

    def __init__(
        self, backbone: nn.Module, spec: EncoderSpec, *, precision: str = "fp32", compiled: bool = False
    ) -> None:
        super().__init__(backbone, spec, precision=precision)
        self.compiled = compiled
        self.device = next(backbone.parameters()).device
        self.batch_size = 256 if self.device.type == "cuda" else 16
        self.fits = sys.maxsize  # images that the device's memory holds at once, as far as is known

    @cached_property
    def _network(self) -> nn.Module:
        network = fold_norms(self.backbone)
        network = network.to(PRECISIONS[self.precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch.compile(network) if self.compiled else network  # type: ignore[return-value]

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.begin(batch)()

    def begin(self, batch: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Starts a batch; where the device works on its own (a GPU), the result waits for it."""
        size = min(self.fits, len(batch))
        try:
            begun = [self._forward(batch[i : i + size]) for i in range(0, len(batch), size)]
        except torch.OutOfMemoryError:
            if size == 1:
                raise InputError(f"{self.device} has not enough memory for one image; use --device cpu") from None
            self.fits = (size + 1) // 2
        else:
            return lambda: np.concatenate([on_host() for on_host in begun])
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self.begin(batch)

    @torch.inference_mode()
    def _forward(self, batch: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        x = normalize(to_device(batch, self.device), self.spec)
        return to_host(self._network(x.to(PRECISIONS[self.precision])).float())


def to_device(batch: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The batch on a device; to a GPU it is copied from pinned memory, without waiting."""
    x = torch.from_numpy(batch)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def to_host(vectors: Tensor) -> Callable[[], NDArray[np.float32]]:
    """Starts copying vectors from a device; calling the result waits for the copy and gives it."""
    if vectors.device.type != "cuda":
        return vectors.cpu().numpy
    host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    host.copy_(vectors, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()

    def wait() -> NDArray[np.float32]:
        done.synchronize()
        return host.numpy()

    return wait


def fold_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode with each BN layer folded into the convolution before it."""
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        for before, name in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")):  # torchvision's names
            conv, norm = getattr(module, before, None), getattr(module, name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, before, fuse_conv_bn_eval(conv, norm))
                setattr(module, name, nn.Identity())
    return folded


def normalize(batch: Tensor, spec: EncoderSpec) -> Tensor:
    """uint8 `[n, h, w, 3]` to the network's input, float32 `[n, 3, h, w]`, channels last in memory."""
    mean = torch.tensor(spec.preprocess.mean, device=batch.device)
    std = torch.tensor(spec.preprocess.std, device=batch.device)
    return ((batch / 255 - mean) / std).permute(0, 3, 1, 2)


def load_backbone(spec: EncoderSpec) -> nn.Module:
    """The backbone of a known encoder with its weights, in evaluation mode.

    Raises WeightsError when the file's names or shapes don't fit the network exactly: nothing is left at random.
    """
    kind, _, seed = (spec.sources or ("",))[0].partition(":")
    if kind == "random":
        return _build(spec, int(seed)).eval()
    tensors = {name: torch.from_numpy(value) for name, value in hub.read(spec).items()}
    backbone = _build(spec)
    backbone.load_state_dict(tensors, strict=False)  # complete but for BN's batch counters: `hub.read` has compared
    return backbone.eval()


class _FirstWeights(TorchFunctionMode):
    """Within it, networks are built without torch's global generator: it is the caller's, and other threads draw from it.

    Their first weights are those that `torch.manual_seed(seed)` would give; without a seed they are not drawn at all.
    """

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "generator" not in kwargs:
            return func(*args, **kwargs)
        if self.generator is None:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs | {"generator": self.generator})


def _build(spec: EncoderSpec, seed: int | None = None) -> nn.Module:
    with torch.device("cpu"), _FirstWeights(seed):
        return backbones.build(spec.backbone, **spec.geometry.to_dict())


def digest(backbone: nn.Module) -> str:
    """The digest of a network's present weights: equal to that of the file that it was loaded from."""
    return hub.digest(
        {
            name: value.detach().float().cpu().numpy()
            for name, value in backbone.state_dict().items()
            if value.is_floating_point()
        }
    )


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" is a CUDA GPU, else Apple's, else the CPU; raises InputError for a device that isn't there."""
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} can't be used ({str(error).splitlines()[0]}); use --device auto, cpu, cuda, cuda:1 … or mps"
        ) from None
    return chosen
