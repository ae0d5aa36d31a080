"""SimCLR (Chen et al., arXiv:2002.05709): two views of an image attract, all other images of the batch repel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.heads import mlp
from training.methods.base import Method


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of z `[2n, d]`, whose rows i and i+n are views of one image.

    Equation 1 of the paper: each row is classified among the 2n-1 others, its partner being the right answer.
    Computed in fp32, since 1/temperature magnifies rounding.
    """
    z = F.normalize(z.float(), dim=1)
    similarity = z @ z.T / temperature  # [2n, 2n]
    similarity.fill_diagonal_(-torch.inf)  # a row is not among its own candidates
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(similarity, partner)


class SimCLR(Method):
    """The projection head g is two layers with BN, as in the authors' code (the paper's text has no BN)."""

    paper = "arXiv:2002.05709"

    def __init__(
        self, backbone: nn.Module, dim: int, *, hidden: int = 2048, projection: int = 128, temperature: float = 0.1
    ) -> None:
        super().__init__(backbone, dim)
        self.projector = mlp([dim, hidden, projection], out_norm=True)
        self.temperature = temperature

    def loss(self, views: Sequence[Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.projector(self.backbone(torch.cat(list(views))))  # [2n, projection]
        return nt_xent(z, self.temperature), {"z": z[: len(z) // 2].detach()}
