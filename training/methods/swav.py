"""SwAV (Caron et al., arXiv:2006.09882): predict from one view the cluster that another view of the image is assigned to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.heads import mlp
from training.methods.base import Loss, Method, in_fp32


@in_fp32
@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments `[n, K]` of n samples to K prototypes, each row summing to 1 and all prototypes used alike.

    Equation 3 by the Sinkhorn-Knopp iterations of appendix A.1, over the samples of all processes.
    """
    q = torch.exp(scores / epsilon)  # at most e^20 at epsilon 0.05, since scores are cosines
    samples, prototypes = len(q) * distributed.world(), q.shape[1]
    q = q / distributed.total(q.sum())
    for _ in range(iterations):
        q = q / distributed.total(q.sum(0)) / prototypes
        q = q / q.sum(1, keepdim=True) / samples
    return q * samples


@in_fp32
def swapped_prediction(scores: Tensor, codes: Tensor, *, temperature: float) -> Tensor:
    """Equation 2's ℓ: the cross-entropy between the codes `[n, K]` of one view and the scores `[n, K]` of another."""
    return -(codes * F.log_softmax(scores / temperature, dim=1)).sum(1).mean()


class SwAV(Method):
    """The first two views are assigned to prototypes, every view predicts them.

    `queue` older embeddings per process join the assignment from `queue_from` on, once there are as many, for batches
    smaller than a few times the number of prototypes (section 4.3). Until `freeze_until` the prototypes don't learn. Both
    are shares of the run.
    """

    paper = "arXiv:2006.09882"
    views = None

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        *,
        hidden: int = 2048,
        projection: int = 128,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 0,
        queue_from: float = 0.0,
        freeze_until: float = 0.0,
    ) -> None:
        super().__init__(backbone, dim)
        # the authors' head has biases, also before its BN, where they do nothing
        self.projector = mlp([dim, hidden, projection], bias=True)
        self.prototypes = nn.Linear(projection, prototypes, bias=False)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_from, self.freeze_until = queue_from, freeze_until
        # every process holds the queues of all, so that a checkpoint written by one is whole
        self.register_buffer("queue", torch.zeros(2, distributed.world(), queue, projection))
        self.after_step(0.0)

    queue: Tensor

    def loss(self, views: Sequence[Tensor], progress: float) -> Loss:
        n = len(views[0])
        groups = [torch.cat(list(group)) for _, group in groupby(views, key=lambda view: view.shape[-1])]
        features = torch.cat([self.backbone(group) for group in groups])
        z = F.normalize(self.projector(features).float(), dim=1)  # [crops * n, projection]
        weight = self.prototypes.weight
        frozen = progress < self.freeze_until
        scores = score(z, weight.detach() if frozen else weight)
        crops = scores.chunk(len(views))

        losses = []
        for i in range(2):
            scored = crops[i].detach()
            codes = sinkhorn(scored, epsilon=self.epsilon, iterations=self.iterations)
            if length := self.queue.shape[2]:
                if progress >= self.queue_from:
                    older = self.queue[i, distributed.rank()]
                    pool = torch.cat([scored, score(older, weight.detach())])
                    wider = sinkhorn(pool, epsilon=self.epsilon, iterations=self.iterations)[:n]
                    # only a full queue counts, as in the authors' code; told on the device, so that nothing waits
                    codes = torch.where(older[-1].any(), wider, codes)
                # filled from the start, so that it is full when its time comes
                newest = distributed.gather(z[i * n : (i + 1) * n].detach()).view(distributed.world(), n, -1)
                self.queue[i] = torch.cat([newest, self.queue[i]], dim=1)[:, :length]
            others = [swapped_prediction(c, codes, temperature=self.temperature) for j, c in enumerate(crops) if j != i]
            losses.append(torch.stack(others).mean())
        loss = torch.stack(losses).mean()
        if frozen:
            loss = loss + 0 * weight.sum()  # a gradient of zero: DDP stops at a parameter that has none
        return loss, {"z": z[:n].detach()}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Prototypes have unit length in every forward pass (section 3.1)."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))


@in_fp32
def score(z: Tensor, prototypes: Tensor) -> Tensor:
    """The cosines `[n, K]` of embeddings and prototypes."""
    return z @ prototypes.T
