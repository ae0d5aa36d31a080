"""What the loop asks of a method: a loss over views, and what moves after a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = tuple[Tensor, dict[str, Tensor]]


class Method(nn.Module):
    """A self-supervised method around a backbone; the backbone is the only part that is exported.

    `loss` gets one batch of images per view, the full-size views first, and the run's progress in [0, 1); it returns a
    scalar and a few detached scalars for the log. `after_step` moves what no gradient moves (a target network, say).
    """

    paper = ""  # arXiv number
    views: int | None = 2  # how many of an image it takes; None: two or more, the first two of one size
    own_norms = False  # whether BN's statistics must stay each process's own

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = dim

    def loss(self, views: Sequence[Tensor], progress: float) -> Loss:
        raise NotImplementedError

    def forward(self, views: Sequence[Tensor], progress: float) -> Loss:
        """The loss under the name by which DistributedDataParallel calls it."""
        return self.loss(views, progress)

    def after_step(self, progress: float) -> None:
        """Nothing moves after a step unless a method says so."""

    def constant_lr(self) -> Sequence[nn.Module]:
        """The parts whose learning rate stays at its base value."""
        return ()


def in_fp32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that computes in fp32 also where autocast would take bf16: 1/temperature magnifies rounding."""

    @wraps(function)
    def exact(*tensors: Tensor, **options: Any) -> Tensor:
        device = tensors[0].device.type
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):  # shapes alone have no autocast
            return function(*(t.float() for t in tensors), **options)

    return exact


def frozen_copy(*modules: nn.Module) -> nn.Sequential:
    """The modules one after the other as a network of its own, which no gradient moves and `follow` does."""
    return copy.deepcopy(nn.Sequential(*modules)).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, online: Iterable[nn.Module], momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * online, for parameters only: the target's BN keeps its own statistics.

    The weights are fp32 whatever the forward pass computes in: in bf16 most of these steps would round to nothing.
    """
    sources = [p.data for module in online for p in module.parameters()]
    torch._foreach_lerp_([p.data for p in target.parameters()], sources, 1 - momentum)


@torch.no_grad()
def collapse(z: Tensor) -> dict[str, Tensor]:
    """Two signs of collapse on outputs z `[n, d]`: `std` and `rank`.

    `std` is the mean over channels of the standard deviation of z/|z|, times √d: about 1 when the outputs spread over
    the sphere, 0 when all are one point (SimSiam, arXiv:2011.10566, section 4.1). `rank` is the effective rank of z,
    the exponential of the entropy of its normalised singular values (Roy and Vetterli 2007), which also shows outputs
    that have shrunk to a few directions.
    """
    z = F.normalize(z.detach().float(), dim=1)
    std = z.std(0).mean() * z.shape[1] ** 0.5
    singular = torch.linalg.svdvals(z - z.mean(0))
    p = singular / singular.sum().clamp_min(1e-12)
    rank = torch.exp(-(p * p.clamp_min(1e-12).log()).sum())
    return {"std": std, "rank": rank}
