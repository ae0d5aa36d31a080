"""BYOL (Grill et al., arXiv:2006.07733): predict what a slowly following target network says of the other view."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.heads import mlp
from training.methods.base import Loss, Method, follow, frozen_copy, in_fp32


@in_fp32
def distance(p: Tensor, z: Tensor) -> Tensor:
    """Equation 2: the squared distance of the normalised p and z, 2 - 2 cos, the mean over the batch."""
    return (2 - 2 * F.cosine_similarity(p, z, dim=1)).mean()


def target_rate(progress: float, *, tau: float, final: float) -> float:
    """τ of section 3.3: from `tau` at the start to `final` (1 in the paper) at the end, on half a cosine."""
    return final - (final - tau) * (math.cos(math.pi * progress) + 1) / 2


class BYOL(Method):
    """Heads without BN on the output and without bias there, as in the authors' code.

    The target runs in train mode and so has batch statistics of its own; it moves once per optimiser step.
    The ablations (table 5a): `tau` = `tau_final` = 1 never moves the target, 0 makes it the online network;
    `predictor` off (appendix F.2).
    """

    paper = "arXiv:2006.07733"

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        *,
        hidden: int = 4096,
        projection: int = 256,
        tau: float = 0.996,
        tau_final: float = 1.0,
        predictor: bool = True,
    ) -> None:
        super().__init__(backbone, dim)
        self.projector = mlp([dim, hidden, projection])
        self.predictor: nn.Module = mlp([projection, hidden, projection]) if predictor else nn.Identity()
        self.target = frozen_copy(self.backbone, self.projector)
        self.tau, self.tau_final = tau, tau_final

    def loss(self, views: Sequence[Tensor], progress: float) -> Loss:
        z1, z2 = (self.projector(self.backbone(view)) for view in views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        with torch.no_grad():
            t1, t2 = (self.target(view) for view in views)
        return distance(p1, t2) + distance(p2, t1), {"z": z1.detach()}

    def after_step(self, progress: float) -> None:
        tau = target_rate(progress, tau=self.tau, final=self.tau_final)
        follow(self.target, (self.backbone, self.projector), tau)
