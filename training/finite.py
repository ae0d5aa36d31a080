"""Where a run first had a value that is not finite: noted on the device in every step, read when a report is made."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Watch:
    """The first step at which each quantity of a step was not finite, in the order in which a step computes them.

    BN's running statistics stand for the layers before them, since they keep whatever came in; then the outputs, the loss,
    and the gradients from the last layer to the first. `steps`, the run's length, means never.
    """

    def __init__(self, method: nn.Module, steps: int, device: str) -> None:
        norms = {
            name: [b for b in layer.buffers(recurse=False) if b.is_floating_point()]
            for name, layer in method.named_modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
        }
        self.statistics = [buffer for buffers in norms.values() for buffer in buffers]
        trained = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
        self.parameters = dict(reversed(trained))
        self.names = [f"what enters {name} (or its running statistics)" for name, b in norms.items() for _ in b]
        self.names += ["the outputs", "the loss", *(f"the gradient of {name} (its norm)" for name in self.parameters)]
        self.first = torch.full((len(self.names),), steps, device=device)

    @torch.no_grad()
    def note(self, step: int, outputs: Tensor, loss: Tensor) -> None:
        """Looks at a step between its backward pass and the optimiser, and waits for nothing."""
        gradients = [p.detach() if p.grad is None else p.grad for p in self.parameters.values()]
        # the largest magnitude of the few numbers of BN, and the 2-norm of the rest, which is quicker
        sizes = [*torch._foreach_norm(self.statistics, math.inf)] if self.statistics else []
        sizes += [outputs.norm(), loss.norm(), *torch._foreach_norm(gradients)]
        good = torch.stack([size.float() for size in sizes]).isfinite()
        self.first = torch.where(good, self.first, self.first.clamp_max(step))

    def earliest(self) -> int:
        """The first step at which anything was not finite; the run's length where all is well."""
        return int(self.first.min())

    def found(self, step: int) -> list[str]:
        """What was first not finite at this step, in order: the first of them is where it began."""
        firsts = zip(self.names, self.first.tolist(), strict=True)
        # BN has two statistics of one name
        return list(dict.fromkeys(name for name, first in firsts if first == step))
