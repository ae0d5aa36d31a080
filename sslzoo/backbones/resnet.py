"""ResNet encoders (He et al., arXiv:1512.03385) with torchvision's parameter names, without the classifier.

Differences from torchvision, all opt-in: `width` multiplies every channel count (the "2x" of SimCLR and SwAV, unlike
torchvision's `wide_resnet`, which widens only the bottleneck), and the CIFAR stem (3x3, stride 1, no max-pool) of
SimCLR's appendix B.9.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

STAGES = ("layer1", "layer2", "layer3", "layer4")


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the block of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, eps: float) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes, eps)
        self.conv2 = _conv3x3(planes, planes)
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

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, eps)
        self.conv2 = _conv3x3(planes, planes, stride)
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


ARCHITECTURES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
WIDTHS = (1, 2, 4, 5)


class ResNet(nn.Module):
    """A ResNet that maps normalised images `[n, 3, h, w]` to pooled features `[n, dim]`.

    `stem` is "imagenet" (7x7 stride 2 and max-pool) or "cifar" (3x3 stride 1, no pool). `zero_init_residual` starts
    every block as the identity (Goyal et al., arXiv:1706.02677, section 5.1), for training.
    """

    def __init__(
        self,
        architecture: str = "resnet50",
        *,
        width: int = 1,
        stem: str = "imagenet",
        bn_eps: float = 1e-5,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        block, depths = ARCHITECTURES[architecture]
        channels = 64 * width
        if stem == "cifar":
            self.conv1 = _conv3x3(3, channels)
        else:
            self.conv1 = nn.Conv2d(3, channels, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, bn_eps)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)

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
                blocks.append(block(inputs, planes, stride, downsample, bn_eps))
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
            raise ValueError(f"no stage {', '.join(unknown)}; there are {', '.join(known)}")
        maps: dict[str, Tensor] = {}
        for name in known:
            x = self.stem(x) if name == "stem" else self.get_submodule(name)(x)
            if name in layers:
                maps[name] = x
            if len(maps) == len(set(layers)):
                break
        return {name: maps[name] for name in layers}
