"""An encoder as an ONNX graph, built straight from its weights: BN folded, six kinds of operators, any batch size.

Opset 17, since nothing newer is needed: every runtime from ONNX Runtime 1.12 (2022) on reads it. All padding is explicit,
because many converters read no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import MissingExtra
from sslzoo.spec import EncoderSpec

OPSET, IR_VERSION = 17, 8
LIMIT = 2_000_000_000  # bytes: a protobuf holds 2 GiB, larger weights lie in a file of their own


def save(tensors: Mapping[str, NDArray[np.float32]], spec: EncoderSpec, path: Path) -> None:
    """Writes the ResNet of `spec`, from float32 `images` `[n, 3, size, size]` (normalised) to `features` `[n, dim]`.

    Weights beyond `LIMIT` go into `encoder.onnx.data` beside it.
    """
    onnx = _import("onnx")
    graph = _Graph(tensors, spec)
    model = onnx.helper.make_model(
        graph.finish(),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="sslzoo",
        doc_string=f"{spec.name}, license of the weights: {spec.license or 'not stated'}",
    )
    large = sum(value.nbytes for value in tensors.values()) > LIMIT
    onnx.save_model(model, path, save_as_external_data=large, location=f"{path.name}.data")
    onnx.checker.check_model(str(path))  # by its path: of a model in memory it makes one protobuf, weights and all


def runner(path: Path) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """The graph in ONNX Runtime on the CPU."""
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(["features"], {"images": x})[0]


def _import(name: str) -> Any:
    """The one door to onnx and onnxruntime."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra(f"{name} is not installed; pip install 'sslzoo[onnx]'") from None


class _Graph:
    """The nodes so far, and the side of the present map in pixels: with it, every padding is known."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], spec: EncoderSpec) -> None:
        self.onnx = _import("onnx")
        self.tensors, self.spec = tensors, spec
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def finish(self) -> Any:
        """The whole network."""
        size, geometry = self.spec.preprocess.size, self.spec.geometry
        imagenet = geometry.stem == "imagenet"
        extra = 1 if geometry.stem == "cifar-pad2" else 0
        x, size = self.convolution("images", size, "conv1", "bn1", 2 if imagenet else 1, extra=extra)
        if imagenet:
            pads, size = _padding(size, 3, 2, same=geometry.padding != "torchvision")
            x = self.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=pads)
        for stage in (1, 2, 3, 4):
            depth = 0
            while f"layer{stage}.{depth}.conv1.weight" in self.tensors:
                x, size = self.block(x, size, f"layer{stage}.{depth}", 2 if stage > 1 and depth == 0 else 1)
                depth += 1
        self.node("Flatten", [self.node("GlobalAveragePool", [x], "mean")], "features", axis=1)
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        side = self.spec.preprocess.size
        return helper.make_graph(
            self.nodes,
            "encoder",
            [helper.make_tensor_value_info("images", kind, ["n", 3, side, side])],
            [helper.make_tensor_value_info("features", kind, ["n", self.spec.dim])],
            self.constants,
        )

    def block(self, x: str, size: int, name: str, stride: int) -> tuple[str, int]:
        """A residual block; the stride is in the first 3x3 of two, or the middle one of three, as in torchvision."""
        count = 3 if f"{name}.conv3.weight" in self.tensors else 2
        out, after = x, size
        for i in range(1, count + 1):
            step = stride if i == count - 1 else 1
            out, after = self.convolution(out, after, f"{name}.conv{i}", f"{name}.bn{i}", step, relu=i < count)
        if f"{name}.downsample.0.weight" in self.tensors:
            x, _ = self.convolution(x, size, f"{name}.downsample.0", f"{name}.downsample.1", stride, relu=False)
        return self.node("Relu", [self.node("Add", [out, x], f"{name}.sum")], name), after

    def convolution(
        self, x: str, size: int, conv: str, norm: str, stride: int, *, relu: bool = True, extra: int = 0
    ) -> tuple[str, int]:
        """A convolution with its BN folded in."""
        weight = self.tensors[f"{conv}.weight"].astype(np.float64)
        mean, variance, scale, shift = (
            self.tensors[f"{norm}.{part}"].astype(np.float64)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        factor = scale / np.sqrt(variance + self.spec.geometry.bn_eps)
        inputs = [
            x,
            self.constant(f"{conv}.weight", weight * factor[:, None, None, None]),
            self.constant(f"{conv}.bias", shift - mean * factor),
        ]
        kernel = weight.shape[2]
        same = self.spec.geometry.padding == "same" and stride > 1
        pads, size = _padding(size, kernel, stride, same=same, extra=extra)
        out = self.node("Conv", inputs, conv, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        return self.node("Relu", [out], f"{conv}.relu") if relu else out, size

    def constant(self, name: str, values: NDArray[np.float64]) -> str:
        """A tensor of weights, by its name."""
        self.constants.append(self.onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """One operator, by the name of its output."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name


def _padding(size: int, kernel: int, stride: int, *, same: bool, extra: int = 0) -> tuple[list[int], int]:
    """The padding [top, left, bottom, right] of a square map, and its side afterwards; `same` is TensorFlow's."""
    before = after = kernel // 2 + extra
    if same:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
    return [before, before, after, after], (size + before + after - kernel) // stride + 1
