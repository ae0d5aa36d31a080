"""ResNet encoders (He et al., arXiv:1512.03385) with torchvision's parameter names, without the classifier.

Differences from torchvision, all opt-in: `width` multiplies every channel count (the "2x" of SimCLR and SwAV, unlike
torchvision's `wide_resnet`, which widens only the bottleneck), the CIFAR stem (3x3, stride 1, no max-pool) of SimCLR's
appendix B.9, and TensorFlow's SAME padding, which puts the odd pixel of a strided layer after the map, not before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from sslzoo.architectures import RESNETS
from sslzoo.errors import InputError

STAGES = ("layer1", "layer2", "layer3", "layer4")


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around a map `[n, c, h, w]` as TensorFlow's SAME has them: what is needed, the odd one at bottom and right."""
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):  # functional.pad starts from the last dimension
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)


class SameConv2d(nn.Conv2d):
    """A convolution with SAME padding, which depends on the size of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size[0], self.stride[0]))


class SameMaxPool2d(nn.MaxPool2d):
    """A 3x3 max-pool of stride 2 with SAME padding; zeros change nothing, since its input comes from a ReLU."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, 3, 2))  # type: ignore[no-any-return]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, same: bool = False) -> nn.Conv2d:
    if same:
        return SameConv2d(inputs, outputs, kernel, stride, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the block of ResNet-18 and -34."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, eps: float, same: bool
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 3, stride, same=same)
        self.bn1 = nn.BatchNorm2d(planes, eps)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes, eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.last_norm = "bn2"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut, the stride in the 3x3 as in torchvision; ResNet-50 and up."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, eps: float, same: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, eps)
        self.conv2 = _conv(planes, planes, 3, stride, same=same)
        self.bn2 = nn.BatchNorm2d(planes, eps)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion, eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.last_norm = "bn3"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A ResNet that maps normalised images `[n, 3, h, w]` to pooled features `[n, dim]`.

    `stem` and `padding` are those of `spec.Geometry`. `zero_init_residual` starts every block as the identity (Goyal et
    al., arXiv:1706.02677, section 5.1), for training.
    """

    def __init__(
        self,
        architecture: str = "resnet50",
        *,
        width: int = 1,
        stem: str = "imagenet",
        padding: str = "torchvision",
        bn_eps: float = 1e-5,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        bottleneck, depths = RESNETS[architecture]
        block = Bottleneck if bottleneck else BasicBlock
        channels = 64 * width
        same = padding == "same"
        if stem == "imagenet":
            self.conv1 = _conv(3, channels, 7, 2, same=same)
            pool = nn.MaxPool2d(3, 2, padding=1) if padding == "torchvision" else SameMaxPool2d()
            self.maxpool: nn.Module = pool
        else:
            self.conv1 = nn.Conv2d(3, channels, 3, padding=2 if stem == "cifar-pad2" else 1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(channels, bn_eps)
        self.relu = nn.ReLU(inplace=True)

        inputs = channels
        for stage, (name, depth) in enumerate(zip(STAGES, depths, strict=True)):
            planes = channels * 2**stage
            blocks: list[nn.Module] = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                downsample = None
                if stride != 1 or inputs != planes * block.expansion:
                    downsample = nn.Sequential(
                        nn.Conv2d(inputs, planes * block.expansion, 1, stride, bias=False),
                        nn.BatchNorm2d(planes * block.expansion, bn_eps),
                    )
                blocks.append(block(inputs, planes, stride, downsample, bn_eps, same))
                inputs = planes * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.dim = inputs

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    nn.init.zeros_(module.get_submodule(module.last_norm).weight)  # type: ignore[arg-type]

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in STAGES:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))  # [n, dim]

    def forward_maps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Feature maps `[n, c, h, w]` by stage name ("stem", "layer1" … "layer4"), computing no further than needed."""
        known = ("stem", *STAGES)
        if unknown := [name for name in layers if name not in known]:
            raise InputError(f"no stage {', '.join(unknown)}; there are {', '.join(known)}")
        maps: dict[str, Tensor] = {}
        for name in known:
            x = self.stem(x) if name == "stem" else self.get_submodule(name)(x)
            if name in layers:
                maps[name] = x
            if len(maps) == len(set(layers)):
                break
        return {name: maps[name] for name in layers}
