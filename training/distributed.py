"""The few collective operations that training over several processes needs; in a single process each is the identity."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def start() -> None:
    """Joins the processes that `torchrun` has started; does nothing in a process of its own."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1 and not dist.is_initialized():
        # both, so that a flag on the CPU can be exchanged without waiting for the GPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def end() -> None:
    """Leaves the group that `start` joined.

    gloo's threads outlive the group, since DDP holds on to it, and torch has no call that waits for them. One that has yet
    to let go of the last tensor, for which it needs the interpreter's lock, aborts a process that is ending: hence the pause.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(0.1)


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world() > 1 else 0


def parallel(module: nn.Module) -> nn.Module:
    """The module with its gradients averaged over the processes.

    Buffers are not exchanged: they are equal in all processes (a queue holds everyone's), or nothing depends on them (BN's
    running statistics where BN is not synchronised).
    """
    if world() == 1:
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # recent versions want a new name, which older ones don't know
        return DistributedDataParallel(module, broadcast_buffers=False)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all of them stop at the same step."""
    if world() == 1:
        return flag
    value = torch.tensor(int(flag))
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value)


def local_world() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world() > 1 else 1


def join(values: list[T]) -> list[T]:
    """The lists of all processes one after the other, in every process."""
    if world() == 1:
        return values
    lists: list[list[T]] = [[] for _ in range(world())]
    dist.all_gather_object(lists, values)
    return [value for each in lists for value in each]


def gather(x: Tensor) -> Tensor:
    """The rows of all processes `[world * n, …]`, in the order of their ranks; gradients flow back to every process."""
    return _Gather.apply(x) if world() > 1 else x


def total(x: Tensor) -> Tensor:
    """The sum over the processes, with gradient."""
    return _Total.apply(x) if world() > 1 else x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)  # every process's loss saw this process's rows
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient
