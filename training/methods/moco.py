"""MoCo v1 (He et al., arXiv:1911.05722) and v2 (Chen et al., arXiv:2003.04297): a query finds its key among a queue of others.

The keys come from an encoder that follows the trained one slowly, so that keys of many batches ago still compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed, norms
from training.heads import mlp
from training.methods.base import Loss, Method, follow, frozen_copy, in_fp32


@in_fp32
def info_nce(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Equation 1 of v1: q `[n, d]` is classified among its key in k `[n, d]` and the queue's `[K, d]`; all of unit length."""
    positive = (q * k).sum(1, keepdim=True)  # [n, 1]
    logits = torch.cat([positive, q @ queue.T], 1) / temperature  # [n, 1 + K]
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


class MoCo(Method):
    """Version 2: a two-layer head and temperature 0.2 (v2, section 3), and stronger augmentation.

    Keys are computed in a random order of the batch, so that BN's statistics don't tell which key belongs to which
    query (v1, section 3.3): across processes, or within `splits` parts of the batch on a single one. `shuffle` turns
    that off; `symmetric` lets each view be the query once and adds the two losses (the authors' CIFAR-10 demo).
    """

    paper = "arXiv:2003.04297"
    own_norms = True  # statistics of all processes would undo the shuffle (v1, section 3.3)

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        *,
        head_layers: int = 2,
        projection: int = 128,
        temperature: float = 0.2,
        momentum: float = 0.999,
        queue: int = 65536,
        splits: int = 1,
        shuffle: bool = True,
        symmetric: bool = False,
    ) -> None:
        super().__init__(backbone, dim)
        if splits > 1:
            norms.split(self.backbone, splits)
        self.projector = mlp([dim] * head_layers + [projection], hidden_norm=False, bias=True)
        self.key_encoder = frozen_copy(self.backbone, self.projector)
        self.temperature, self.momentum, self.symmetric = temperature, momentum, symmetric
        self.shuffle, self.splits = shuffle, splits
        self.register_buffer("queue", F.normalize(torch.randn(queue, projection), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    queue: Tensor
    pointer: Tensor

    def loss(self, views: Sequence[Tensor], progress: float) -> Loss:
        queue = self.queue.clone()  # the gradient needs the queue as it was before the new keys enter
        losses, new_keys = [], []
        for query, key in [(0, 1), (1, 0)] if self.symmetric else [(0, 1)]:
            q = F.normalize(self.projector(self.backbone(views[query])).float(), dim=1)
            keys = self.keys(views[key])
            k = keys.chunk(distributed.world())[distributed.rank()]
            losses.append(info_nce(q, k, queue, temperature=self.temperature))
            new_keys.append(keys)
        self.enqueue(torch.cat(new_keys))
        return torch.stack(losses).sum(), {"z": q.detach()}

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        """Unit keys `[world * n, d]` of all processes' images, in the images' order."""
        images = distributed.gather(images)
        order = torch.arange(len(images), device=images.device)
        if self.shuffle:  # the loop seeds every process alike, so they all draw the same order
            order = torch.randperm(len(images), device=images.device)
        mine = images[order.chunk(distributed.world())[distributed.rank()]]
        k = self.key_encoder(mine.contiguous(memory_format=torch.channels_last))
        return distributed.gather(F.normalize(k.float(), dim=1))[order.argsort()]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """The newest keys replace the oldest; the pointer stays on the device, so nothing waits for it."""
        keys = keys[-len(self.queue) :]
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys)
        self.pointer.add_(len(keys)).remainder_(len(self.queue))

    def after_step(self, progress: float) -> None:
        # Algorithm 1 moves the key encoder just before it computes the next keys: the same sequence, since both
        # encoders begin equal, and once per step also where gradients are accumulated.
        follow(self.key_encoder, (self.backbone, self.projector), self.momentum)


class MoCoV1(MoCo):
    """Version 1: a linear head and temperature 0.07 (v1, section 3.3)."""

    paper = "arXiv:1911.05722"

    def __init__(
        self, backbone: nn.Module, dim: int, *, head_layers: int = 1, temperature: float = 0.07, **options: Any
    ) -> None:
        super().__init__(backbone, dim, head_layers=head_layers, temperature=temperature, **options)
