"""The learning-rate schedule as a pure function of progress, and the optimiser's parameter groups."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.methods.base import Method
from training.recipe import Recipe


def learning_rate(progress: float, *, base: float, warmup: float, final: float = 0.0) -> float:
    """Linear warm-up over the share `warmup` of the run, then half a cosine down to `final`; `progress` is in [0, 1].

    Cosine decay: Loshchilov and Hutter, arXiv:1608.03983; the linear warm-up: Goyal et al., arXiv:1706.02677.
    """
    if progress < warmup:
        return base * progress / warmup
    phase = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
    return final + (base - final) * 0.5 * (1 + math.cos(math.pi * phase))


def parameter_groups(method: Method, weight_decay: float, *, decay_norms: bool) -> list[dict[str, object]]:
    """Trained parameters in up to four groups: with or without decay, with a scheduled or a constant learning rate.

    What is left out of the decay is told by dimension (vectors: biases and BN), not by name, which misses the BN of a
    head; SimCLR and BYOL leave those out, MoCo and SimSiam decay everything (`decay_norms`).
    """
    constant = {id(p) for module in method.constant_lr() for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in method.parameters():
        if p.requires_grad:
            groups.setdefault((p.ndim > 1 or decay_norms, id(p) in constant), []).append(p)
    return [
        {"params": params, "weight_decay": weight_decay if decayed else 0.0, "constant_lr": is_constant}
        for (decayed, is_constant), params in groups.items()
    ]


def build(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum over the method's groups; the loop sets the learning rate before every step."""
    groups = parameter_groups(method, recipe.weight_decay, decay_norms=recipe.decay_norms)
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=False, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> float:
    """Writes this step's rate into every group and returns the scheduled one."""
    base = recipe.learning_rate
    rate = learning_rate(progress, base=base, warmup=recipe.warmup_epochs / recipe.epochs, final=recipe.final_lr)
    for group in optimizer.param_groups:
        group["lr"] = base if group["constant_lr"] else rate
    return rate
