"""The networks behind the encoders: `build(name)` gives a headless network whose forward is `[n, 3, h, w] -> [n, dim]`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sslzoo.architectures import RESNETS, WIDTHS
from sslzoo.backbones.resnet import STAGES, ResNet
from sslzoo.errors import InputError

__all__ = ["BACKBONES", "STAGES", "ResNet", "build"]

# "resnet50", and "resnet50w2" for doubled channels: every key is a name that an EncoderSpec may carry.
BACKBONES: dict[str, Callable[..., ResNet]] = {
    architecture + (f"w{width}" if width > 1 else ""): partial(ResNet, architecture, width=width)
    for architecture in RESNETS
    for width in WIDTHS
}


def build(
    name: str,
    *,
    stem: str = "imagenet",
    padding: str = "torchvision",
    bn_eps: float = 1e-5,
    zero_init_residual: bool = False,
) -> ResNet:
    """A freshly initialised backbone (`stem`, `padding`, `bn_eps`: see `spec.Geometry`).

    Raises InputError for a name that isn't in `BACKBONES`.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}; there are: {', '.join(BACKBONES)}")
    return BACKBONES[name](stem=stem, padding=padding, bn_eps=bn_eps, zero_init_residual=zero_init_residual)
