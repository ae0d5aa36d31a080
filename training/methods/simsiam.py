"""SimSiam (Chen and He, arXiv:2011.10566): predict one view from the other; a stop-gradient alone prevents collapse."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from training.heads import mlp
from training.methods.base import Method


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) of equation 1, the mean over the batch; no gradient flows into z."""
    return -F.cosine_similarity(p.float(), z.detach().float(), dim=1).mean()


class SimSiam(Method):
    """`projector_layers` is 3 for ImageNet and 2 for CIFAR (appendix D); the predictor's rate stays constant (table 1c)."""

    paper = "arXiv:2011.10566"

    def __init__(
        self, backbone: nn.Module, dim: int, *, projection: int = 2048, prediction: int = 512, projector_layers: int = 3
    ) -> None:
        super().__init__(backbone, dim)
        self.projector = mlp([dim] + [projection] * projector_layers, out_norm="plain")
        self.predictor = mlp([projection, prediction, projection], bias=True)

    def loss(self, views: Sequence[Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        z1, z2 = (self.projector(self.backbone(view)) for view in views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2, {"z": z1.detach()}

    def constant_lr(self) -> Sequence[nn.Module]:
        return (self.predictor,)
