"""The learning-rate schedule as a pure function of progress, and LARS; for pretraining and for fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch


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
