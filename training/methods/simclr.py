"""SimCLR (Chen et al., arXiv:2002.05709): two views of an image attract, all other images of the batch repel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.distributed import gather
from training.heads import mlp
from training.methods.base import Loss, Method, in_fp32


@in_fp32
def nt_xent(z: Tensor, *, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of z `[2n, d]`, whose rows i and i+n are views of one image.

    Equation 1 of the paper: each row is classified among the 2n-1 others, its partner being the right answer.
    """
    z = F.normalize(z, dim=1)
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
        self.projector[-1].bias.requires_grad_(False)  # no shift on the output, as in the authors' code (model_util.py)
        self.temperature = temperature

    def loss(self, views: Sequence[Tensor], progress: float) -> Loss:
        z1, z2 = self.projector(self.backbone(torch.cat(list(views)))).chunk(2)  # [n, projection] each
        z = torch.cat([gather(z1), gather(z2)])  # the other processes' images repel too (section 2.1, "global BN")
        return nt_xent(z, temperature=self.temperature), {"z": z1.detach()}
