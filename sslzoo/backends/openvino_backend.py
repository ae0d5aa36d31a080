"""The forward pass in OpenVINO, for CPUs: the graph is built straight from the weights, and torch is never imported.

BN is folded into the convolutions. Where torch is the definition, this is the fast way to the same vectors; a parity test
holds the two together.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslzoo import hub
from sslzoo.backends.allocator import return_freed_memory
from sslzoo.backends.backend import Immediate
from sslzoo.errors import InputError, MissingExtra
from sslzoo.spec import EncoderSpec, space_id
from sslzoo.user_cache import cache_key, keep, user_cache

if TYPE_CHECKING:
    import openvino as ov

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_SOURCE = hashlib.sha256(
    Path(__file__).read_bytes()
).hexdigest()  # a graph that other code built isn't taken from the cache


def import_openvino() -> Any:
    """The one door to OpenVINO; its telemetry, which would look up a host and write to the home folder, is stopped first."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingExtra("the OpenVINO back end is not installed; pip install 'sslzoo[fast]'") from None
    return openvino


def new_core() -> Any:
    """OpenVINO with its CPU plugin loaded, in a thread of its own.

    The plugin gives the thread that loads it a small stack for signal handlers. In the main thread Python's would run on it,
    and with AVX-512's registers to save they can overflow it: SIGTERM then ends in a crash (seen with 2026.4 on an AMD EPYC).
    """
    openvino = import_openvino()

    def load() -> Any:
        core = openvino.Core()
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # a core loads its plugins when they are first asked
        return core

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result()


class OpenVinoBackend(Immediate):
    """Runs an encoder's network on uint8 batches; a batch smaller than one seen before is padded to it.

    The compiled graph is kept in the user's cache, so that the next run neither builds nor compiles it.
    """

    engine = "openvino"
    files: tuple[Path, ...] = ()
    agreement: Mapping[str, float] = {}

    def __init__(self, spec: EncoderSpec, *, precision: str = "fp32", threads: int = 0) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}; OpenVINO computes {', '.join(PRECISIONS)}")
        self.spec, self.precision = spec, precision
        self._core = new_core()
        self._options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time on all cores; decoding runs beside it
            "INFERENCE_NUM_THREADS": threads,  # 0: OpenVINO's choice, one a core
        }
        self.weights = hub.weights_digest(spec)
        self._compiled: dict[int, Any] = {}

    @cached_property
    def space(self) -> str:
        """The space of the vectors: that of the torch back end."""
        return space_id(self.weights, self.spec.preprocess, self.spec.geometry)

    def native_bf16(self) -> bool:
        """Whether the processor computes bf16 in hardware, as OpenVINO sees it."""
        return "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        n = len(batch)
        size = min((known for known in self._compiled if known >= n), default=_rounded(n))
        if size not in self._compiled:
            self._compiled[size] = self._compile(size)
        if size > n:
            batch = np.concatenate([batch, np.zeros((size - n, *batch.shape[1:]), np.uint8)])
        result = self._compiled[size](batch)[0]
        return np.array(result[:n], np.float32)

    def _compile(self, size: int) -> Any:
        """The graph for batches of that size, from the cache where it is there."""
        key = cache_key(self.space, sorted(self._options.items()), size, _SOURCE, engine=self.engine)
        path = user_cache() / "openvino" / f"{key}.blob"
        if (cached := self._from_cache(path)) is not None:
            return cached
        compiled = self._from_graph(size)
        if not keep(path, compiled.export_model().getbuffer()):
            return compiled
        del compiled  # mapped from the file, it takes less memory
        return_freed_memory()
        mapped = self._from_cache(path)
        return self._from_graph(size) if mapped is None else mapped  # not every file system can map

    def _from_graph(self, size: int) -> Any:
        model = self._graph(size)
        return_freed_memory()  # the weights as they were read
        compiled = self._core.compile_model(model, "CPU", self._options)
        del model
        return_freed_memory()
        return compiled

    def _graph(self, size: int) -> ov.Model:
        model = build_graph(hub.read(self.spec), self.spec)
        # a fixed batch lets the plugin choose its kernels once; a dynamic one is slower and chooses per shape
        model.reshape([size, self.spec.preprocess.size, self.spec.preprocess.size, 3])
        return model

    def _from_cache(self, path: Path) -> Any:
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            tensor = import_openvino().Tensor(np.frombuffer(mapped, np.uint8))
            with _letting_go(mapped):
                compiled = self._core.import_model(tensor, "CPU", self._options)
        except (OSError, RuntimeError, ValueError):
            with contextlib.suppress(OSError):
                path.unlink()  # damaged; it is made again
            return None
        return compiled


@contextlib.contextmanager
def _letting_go(mapped: mmap.mmap) -> Iterator[None]:
    """Keeps the pages that are read from a mapped file from piling up: OpenVINO has its own copy in the kernels' layout."""
    if not hasattr(mapped, "madvise"):
        yield
        return
    done = threading.Event()

    def let_go() -> None:
        while not done.wait(0.01):
            mapped.madvise(mmap.MADV_DONTNEED)  # whoever needs a page again gets it from the file
        mapped.madvise(mmap.MADV_DONTNEED)

    thread = threading.Thread(target=let_go)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _rounded(n: int) -> int:
    """A batch size that other short batches share: the next power of two up to 16, above that n itself."""
    return 1 << (n - 1).bit_length() if n <= 16 else n


def build_graph(tensors: hub.Tensors, spec: EncoderSpec) -> ov.Model:
    """The ResNet of `spec` as an OpenVINO model from uint8 `[n, size, size, 3]` to float32 `[n, dim]`.

    Parameter names are torchvision's, and complete: `hub.read` has compared them with the backbone.
    """
    ov = import_openvino()
    import openvino.opset15 as op

    def constant(values: Any) -> Any:
        return op.constant(np.ascontiguousarray(values, np.float32))

    same = spec.geometry.padding == "same"

    def convolution(x: Any, conv: str, norm: str, stride: int, *, relu: bool, extra: int = 0) -> Any:
        weight = np.asarray(tensors[f"{conv}.weight"], np.float32)
        mean, variance, scale, shift = (
            np.asarray(tensors[f"{norm}.{part}"], np.float32)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        factor = scale / np.sqrt(variance + np.float32(spec.geometry.bn_eps))
        pad = [weight.shape[2] // 2 + extra] * 2
        # SAME and symmetric padding differ only where there is a stride
        auto = "SAME_UPPER" if same and stride > 1 else "EXPLICIT"
        x = op.convolution(x, constant(weight * factor[:, None, None, None]), [stride] * 2, pad, pad, [1, 1], auto)
        x = op.add(x, constant((shift - mean * factor)[None, :, None, None]))
        return op.relu(x) if relu else x

    def block(x: Any, name: str, stride: int) -> Any:
        layers = [(f"{name}.conv{i}", f"{name}.bn{i}") for i in (1, 2, 3) if f"{name}.conv{i}.weight" in tensors]
        strided = len(layers) - 2  # torchvision: the first 3x3 carries the stride, which is the middle one of three
        out = x
        for i, (conv, norm) in enumerate(layers):
            out = convolution(out, conv, norm, stride if i == strided else 1, relu=i < len(layers) - 1)
        shortcut = x
        if f"{name}.downsample.0.weight" in tensors:
            shortcut = convolution(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, relu=False)
        return op.relu(op.add(out, shortcut))

    p = spec.preprocess
    images = op.parameter([-1, p.size, p.size, 3], np.uint8, name="images")
    std = np.asarray(p.std, np.float32) * 255
    x = op.multiply(op.convert(images, "f32"), constant(1 / std))
    x = op.subtract(x, constant(np.asarray(p.mean, np.float32) * 255 / std))
    x = op.transpose(x, op.constant(np.array([0, 3, 1, 2])))
    imagenet = spec.geometry.stem == "imagenet"
    extra = 1 if spec.geometry.stem == "cifar-pad2" else 0
    x = convolution(x, "conv1", "bn1", 2 if imagenet else 1, relu=True, extra=extra)
    if imagenet:
        auto = "explicit" if spec.geometry.padding == "torchvision" else "same_upper"
        x = op.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], "floor", auto).output(0)
    for stage in (1, 2, 3, 4):
        depth = 0
        while f"layer{stage}.{depth}.conv1.weight" in tensors:
            x = block(x, f"layer{stage}.{depth}", 2 if stage > 1 and depth == 0 else 1)
            depth += 1
    features = op.reduce_mean(x, op.constant(np.array([2, 3])), False)
    return ov.Model([features], [images], spec.name)
