"""The ResNets by name as plain numbers: depths, and the name and shape of every parameter, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sslzoo.errors import InputError, WeightsError
from sslzoo.spec import EncoderSpec, feature_dim

# by name: whether its blocks are bottlenecks, and the blocks of each stage (He et al., arXiv:1512.03385, table 1)
RESNETS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
    "resnet200": (True, (3, 24, 36, 3)),  # He et al., arXiv:1603.05027, table 5
}
WIDTHS = (1, 2, 4, 5)


def shapes(backbone: str, stem: str = "imagenet") -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and BN statistic of a ResNet, by torchvision's names."""
    return dict(_shapes(backbone, stem))


def _shapes(backbone: str, stem: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    architecture, _, width = backbone.partition("w")
    bottleneck, depths = RESNETS[architecture]
    channels = inputs = 64 * int(width or 1)

    def convolution(
        conv: str, norm: str, outputs: int, inputs: int, kernel: int
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{conv}.weight", (outputs, inputs, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{norm}.{part}", (outputs,)

    yield from convolution("conv1", "bn1", channels, 3, 7 if stem == "imagenet" else 3)
    for stage, depth in enumerate(depths):
        planes = channels * 2**stage
        outputs = planes * 4 if bottleneck else planes
        for i in range(depth):
            name = f"layer{stage + 1}.{i}"
            kernels = (1, 3, 1) if bottleneck else (3, 3)
            sizes = (inputs, *[planes] * (len(kernels) - 1), outputs)
            for j, kernel in enumerate(kernels):
                yield from convolution(f"{name}.conv{j + 1}", f"{name}.bn{j + 1}", sizes[j + 1], sizes[j], kernel)
            if i == 0 and (stage or inputs != outputs):
                yield from convolution(f"{name}.downsample.0", f"{name}.downsample.1", outputs, inputs, 1)
            inputs = outputs


def check(spec: EncoderSpec, tensors: Mapping[str, Any]) -> None:
    """Raises InputError or WeightsError where the tensors don't make the network, or the features, that the spec names."""
    architecture, _, width = spec.backbone.partition("w")
    if architecture not in RESNETS or int(width or 1) not in WIDTHS:
        raise InputError(
            f"{spec.name} has the backbone {spec.backbone!r}, which is unknown; there are: {', '.join(RESNETS)}"
        )
    if spec.dim != feature_dim(spec.backbone):
        raise WeightsError(
            f"{spec.name} states dim {spec.dim}, and a {spec.backbone} has {feature_dim(spec.backbone)}; correct its config.json"
        )
    wanted = shapes(spec.backbone, spec.geometry.stem)
    found = {name: tuple(v.shape) for name, v in tensors.items() if not np.issubdtype(v.dtype, np.integer)}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise WeightsError(
            f"the weights of {spec.name} don't fit a {spec.backbone}: {len(wrong)} names or shapes differ, {wrong[0]} first; "
            "correct its config.json or get the model folder again"
        )
