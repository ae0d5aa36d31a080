"""Batch normalisation over more or less than one process's batch: synchronised across processes, or split within one.

Both keep nn.BatchNorm's parameters, buffers and their names, so a checkpoint doesn't tell them apart; in eval mode they
are plain batch normalisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from training import distributed


class SplitNorm(_BatchNorm):
    """Statistics of each of `splits` parts of the batch by itself, as on so many GPUs without synchronisation.

    MoCo on one device (arXiv:1911.05722, section 3.3, and the authors' CIFAR-10 demo, which splits in 8). The running
    statistics move once, towards the mean of the parts' statistics.
    """

    splits = 8

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        means = [self.running_mean.clone() for _ in range(self.splits)]
        variances = [self.running_var.clone() for _ in range(self.splits)]
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, self.momentum or 0.1, self.eps)
            for part, mean, variance in zip(x.tensor_split(self.splits), means, variances, strict=True)
        ]
        with torch.no_grad():
            self.running_mean.copy_(torch.stack(means).mean(0))
            self.running_var.copy_(torch.stack(variances).mean(0))
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return torch.cat(parts)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""


class SyncNorm(_BatchNorm):
    """Statistics over the batches of all processes, for CPUs; torch's SyncBatchNorm takes CUDA tensors only.

    Every process must bring equally many samples, which the loop guarantees.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.world() == 1:
            return super().forward(x)
        across = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        x32, world = x.float(), distributed.world()
        mean = distributed.total(x32.mean(across)) / world
        centred = x32 - mean.view(shape)
        variance = distributed.total(centred.square().mean(across)) / world
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        with torch.no_grad():
            n = x.numel() // x.shape[1] * world
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum or 0.1)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum or 0.1)
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return y.to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""


def split(module: nn.Module, splits: int) -> None:
    """Makes every batch normalisation inside `module` normalise `splits` parts of the batch separately."""
    for norm in _replace(module, SplitNorm):
        norm.splits = splits  # type: ignore[assignment]


def synchronize(module: nn.Module, device: str) -> None:
    """Makes every batch normalisation inside `module` use the statistics of all processes."""
    if torch.device(device).type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    else:
        _replace(module, SyncNorm)


def _replace(module: nn.Module, kind: type[_BatchNorm]) -> list[nn.Module]:
    replaced: list[nn.Module] = []
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            new = kind(child.num_features, child.eps, child.momentum, child.affine)
            # the same tensors, not copies: optimisers and targets may hold them already
            for key, value in [*child.named_parameters(), *child.named_buffers()]:
                setattr(new, key, value)
            setattr(module, name, new.train(child.training))
            replaced.append(new)
        else:
            replaced += _replace(child, kind)
    return replaced
