"""The learning-rate schedule as a pure function of progress, LARS, and the optimiser's parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from training.methods.base import Method
from training.recipe import Recipe


def learning_rate(
    progress: float, *, base: float, warmup: float, start: float = 0.0, final: float = 0.0, steps: Sequence[float] = ()
) -> float:
    """Linear warm-up from `start` over the share `warmup` of the run, then half a cosine down to `final`.

    With `steps` a tenth of the rate remains after each of these shares instead (MoCo v1). `progress` is in [0, 1].
    Cosine decay: Loshchilov and Hutter, arXiv:1608.03983; the linear warm-up: Goyal et al., arXiv:1706.02677.
    """
    if progress < warmup:
        return start + (base - start) * progress / warmup
    if steps:
        return base * 0.1 ** sum(step <= progress for step in steps)
    phase = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
    return final + (base - final) * 0.5 * (1 + math.cos(math.pi * phase))


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled tensor by tensor to the weight's norm (You et al., arXiv:1708.03888).

    u = g + weight_decay * w;  u <- trust * |w| / |u| * u where the group is adaptive;  v <- momentum * v + u;  w <- w - lr * v.
    The norm is of the decayed gradient, as SimCLR's and BYOL's code has it, and trust 0.001 is theirs. A tensor whose
    weight or gradient is zero is not scaled. All norms are fp32 and stay on the device.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.0, *, momentum: float = 0.9, trust: float = 0.001) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = torch._foreach_add([p.grad for p in weights], weights, alpha=group["weight_decay"])
            if group["adapt"]:
                w, u = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, updates))
                scale = torch.where((w > 0) & (u > 0), group["trust"] * w / u, 1.0)
                torch._foreach_mul_(updates, list(scale.unbind()))
            velocities = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates)
            torch._foreach_add_(weights, velocities, alpha=-group["lr"])


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
