"""A recipe's optimiser: its parameter groups, and the learning rate of every step."""

from __future__ import annotations

import torch
from torch import nn

from sslzoo.optim import LARS, learning_rate
from training.methods.base import Method
from training.recipe import Recipe


def parameter_groups(method: Method, weight_decay: float, *, decay_norms: bool) -> list[dict[str, object]]:
    """Trained parameters in up to four groups: with or without decay, with a scheduled or a constant learning rate.

    What is left out of the decay and of LARS's scaling is told by dimension (vectors: biases and BN), not by name,
    which misses the BN of a head; SimCLR and BYOL leave those out, MoCo, SimSiam and SwAV nothing (`decay_norms`).
    """
    constant = {id(p) for module in method.constant_lr() for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in method.parameters():
        if p.requires_grad:
            groups.setdefault((p.ndim > 1 or decay_norms, id(p) in constant), []).append(p)
    return [
        {"params": params, "weight_decay": weight_decay if full else 0.0, "adapt": full, "constant_lr": is_constant}
        for (full, is_constant), params in groups.items()
    ]


def build(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the method's groups; the loop sets the learning rate before every step."""
    groups = parameter_groups(method, recipe.weight_decay, decay_norms=recipe.decay_norms)
    if recipe.optimizer == "lars":
        return LARS(groups, momentum=recipe.momentum)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, foreach=True)
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=False, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> float:
    """Writes this step's rate into every group and returns the scheduled one."""
    base = recipe.learning_rate
    warmup = recipe.warmup_epochs / recipe.epochs
    rate = learning_rate(
        progress, base=base, warmup=warmup, start=recipe.start_lr, final=recipe.final_lr, steps=recipe.lr_steps
    )
    for group in optimizer.param_groups:
        group["lr"] = base if group["constant_lr"] else rate
    return rate
