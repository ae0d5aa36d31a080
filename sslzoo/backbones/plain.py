"""A backbone as torchvision's own `ResNet`, for code that knows no other; its classifier is the identity."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from sslzoo.architectures import RESNETS
from sslzoo.errors import InputError
from sslzoo.spec import EncoderSpec

if TYPE_CHECKING:
    from torchvision.models import ResNet as TorchvisionResNet

    from sslzoo.backbones.resnet import ResNet

BN_EPS = 1e-5  # torchvision's and timm's


def require_plain(spec: EncoderSpec) -> None:
    """Raises InputError for a network that torchvision's `ResNet` can't compute: doubled channels, or SAME padding."""
    cause = ""
    if "w" in spec.backbone:
        cause = f"is a {spec.backbone}, with every channel count multiplied"
    elif spec.geometry.padding != "torchvision":
        cause = "pads as TensorFlow does"
    if cause:
        raise InputError(
            f"{spec.name} {cause}, which torchvision's and timm's ResNets don't; type: sslzoo export {spec.name} --format torch"
        )


def as_torchvision(backbone: ResNet) -> TorchvisionResNet:
    """torchvision's network `[n, 3, h, w] -> [n, dim]` with copies of a plain backbone's weights, in its mode and place."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    bottleneck, depths = RESNETS[backbone.architecture]
    norm = partial(nn.BatchNorm2d, eps=backbone.bn1.eps)
    network = ResNet(Bottleneck if bottleneck else BasicBlock, list(depths), norm_layer=norm)
    network.fc = nn.Identity()
    first = backbone.conv1
    if first.kernel_size != (7, 7):  # a CIFAR stem
        network.conv1 = nn.Conv2d(3, 64, 3, padding=int(first.padding[0]), bias=False)
        network.maxpool = nn.Identity()
    network.load_state_dict(backbone.state_dict())
    return network.to(first.weight.device, first.weight.dtype).train(backbone.training)
