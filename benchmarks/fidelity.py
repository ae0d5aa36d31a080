"""Ours against independent implementations, from equal weights and views: losses, gradients, weights after three steps.

`python -m benchmarks.fidelity` prints the largest differences. The references are lightly's losses, EMA, Sinkhorn, LARS
and schedule (`pip install lightly`), and for MoCo equation 1 written out, since lightly's loss keeps its own queue.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

try:
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss
    from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
    from lightly.models.utils import update_momentum
    from lightly.utils.lars import LARS as LightlyLARS
    from lightly.utils.scheduler import cosine_schedule
except ModuleNotFoundError as error:
    if error.name != "lightly":
        raise
    raise SystemExit("lightly, which this compares with, is not installed: pip install lightly") from None

from sslzoo.optim import LARS, learning_rate
from training.methods import BYOL, MoCo, SimCLR, SimSiam, SwAV
from training.methods.base import follow, frozen_copy
from training.methods.byol import target_rate
from training.methods.swav import sinkhorn

STEPS = 3


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def simclr(m, views):
    z = m.projector(m.backbone(torch.cat(views))).chunk(2)
    return NTXentLoss(m.temperature)(*z)


def simsiam(m, views):
    z1, z2 = (m.projector(m.backbone(v)) for v in views)
    d = NegativeCosineSimilarity()
    return (d(m.predictor(z1), z2.detach()) + d(m.predictor(z2), z1.detach())) / 2


def byol(m, views):
    p = [m.predictor(m.projector(m.backbone(v))) for v in views]
    t = [m.target(v).detach() for v in views]
    d = NegativeCosineSimilarity()
    return 4 + 2 * d(p[0], t[1]) + 2 * d(p[1], t[0])  # |a - b|^2 = 2 - 2 cos, twice


def moco(m, views):
    """Logarithms and exponentials as in equation 1, with the keys entering a plain list."""
    q = F.normalize(m.projector(m.backbone(views[0])), dim=1)
    with torch.no_grad():
        k = F.normalize(m.key_encoder(views[1]), dim=1)
    others = torch.stack(m.list)
    positive = ((q * k).sum(1) / m.temperature).exp()
    loss = -(positive / (positive + (q @ others.T / m.temperature).exp().sum(1))).log().mean()
    m.list = [*m.list[len(k) :], *k]  # oldest first
    return loss


def swav(m, views):
    """Crops of one size go through the backbone together, all of them through one projector, as the authors have it."""
    features = [m.backbone(torch.cat(views[:2]))] + ([m.backbone(torch.cat(views[2:]))] if views[2:] else [])
    z = F.normalize(m.projector(torch.cat(features)), dim=1).chunk(len(views))
    with torch.no_grad():
        m.prototypes.weight.copy_(F.normalize(m.prototypes.weight, dim=1))
    scores = [m.prototypes(x) for x in z]
    return SwaVLoss()(scores[:2], scores[2:])


def ema(m, step):
    tau = 0.99 if isinstance(m, MoCo) else cosine_schedule(step, STEPS + 1, 0.9, 1.0)
    target = m.key_encoder if isinstance(m, MoCo) else m.target
    update_momentum(nn.Sequential(m.backbone, m.projector), target, tau)


METHODS = {
    "simclr": (lambda b: SimCLR(b, 32, hidden=16, projection=8), simclr, "lightly"),
    "mocov2": (lambda b: MoCo(b, 32, projection=8, queue=32, momentum=0.99, shuffle=False), moco, "equation 1"),
    "byol": (lambda b: BYOL(b, 32, hidden=16, projection=8, tau=0.9), byol, "lightly"),
    "simsiam": (lambda b: SimSiam(b, 32, projection=16, prediction=8), simsiam, "lightly"),
    "swav": (lambda b: SwAV(b, 32, hidden=16, projection=8, prototypes=6), swav, "lightly"),
    "swav, 2 + 3 crops": (lambda b: SwAV(b, 32, hidden=16, projection=8, prototypes=6), swav, "lightly"),
}


def compare(name):
    """Largest relative differences of the losses, the first gradients and the final weights."""
    make, reference, _ = METHODS[name]
    torch.manual_seed(0)
    ours = make(network())
    theirs = copy.deepcopy(ours)
    if name == "mocov2":
        theirs.list = list(theirs.queue.clone())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4) for m in (ours, theirs)]
    generator = torch.Generator().manual_seed(1)
    sizes = [12, 12, 8, 8, 8] if "crops" in name else [12, 12]
    batches = [[torch.rand(16, 3, size, size, generator=generator) for size in sizes] for _ in range(STEPS)]
    losses, gradients = [], []
    for step, views in enumerate(batches):
        values = [ours.loss(views, step / STEPS)[0], reference(theirs, views)]
        for value, optimizer in zip(values, optimizers, strict=True):
            optimizer.zero_grad()
            value.backward()
        losses.append(difference([values[0].detach()], [values[1].detach()]))
        if step == 0:
            pairs = [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
            gradients = [pair for pair in pairs if pair[0] is not None]
            first = difference(*zip(*gradients, strict=True))
        for optimizer in optimizers:
            optimizer.step()
        ours.after_step(step / STEPS)
        if name in ("byol", "mocov2"):
            ema(theirs, step)
        elif isinstance(ours, SwAV):
            theirs.after_step(0.0)  # unit prototypes, so that the weights compare
    return {"loss": max(losses), "gradients": first, "weights": difference(ours.parameters(), theirs.parameters())}


def difference(ours, theirs):
    """The norm of the difference of two lists of tensors over the norm of the second."""
    a, b = (torch.cat([t.detach().flatten() for t in tensors]).double() for tensors in (ours, theirs))
    return float((a - b).norm() / b.norm())


def parts():
    """LARS, Sinkhorn and the schedules alone."""
    torch.manual_seed(0)
    scores = torch.rand(24, 6) * 2 - 1
    result = {"Sinkhorn": difference([sinkhorn(scores, epsilon=0.05, iterations=3)], [lightly_sinkhorn(scores)])}
    ours = nn.Linear(5, 4, bias=False)
    theirs = copy.deepcopy(ours)
    # lightly leaves out of the scaling whatever is not decayed, and adds norms where SimCLR's code takes the sum's norm:
    # at this decay the two denominators differ by 1e-9 of themselves
    a = LARS([{"params": ours.parameters(), "weight_decay": 1e-9}], lr=0.3)
    b = LightlyLARS(theirs.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-9)
    for step in range(STEPS):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        for m, o in ((ours, a), (theirs, b)):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    result["LARS"] = difference([ours.weight], [theirs.weight])
    slow = frozen_copy(ours)
    nn.init.normal_(ours.weight)
    also = copy.deepcopy(slow)
    for _ in range(STEPS):
        follow(slow, [ours], 0.996)
        update_momentum(nn.Sequential(ours), also, 0.996)
    result["EMA"] = difference(slow.parameters(), also.parameters())
    rates = [learning_rate(i / 10, base=2.0, warmup=0.0, final=0.1) for i in range(11)]
    result["cosine rate"] = max(abs(r - cosine_schedule(i, 11, 2.0, 0.1)) for i, r in enumerate(rates))
    taus = [target_rate(i / 10, tau=0.99, final=1.0) for i in range(11)]
    result["BYOL's tau"] = max(abs(t - cosine_schedule(i, 11, 0.99, 1.0)) for i, t in enumerate(taus))
    return result


def main():
    print(f"| method | reference | loss | gradients | weights after {STEPS} steps |\n|---|---|---|---|---|")
    for name, (_, _, source) in METHODS.items():
        print(f"| {name} | {source} | " + " | ".join(f"{v:.1e}" for v in compare(name).values()) + " |")
    print("\n| part | largest difference from lightly's |\n|---|---|")
    for name, value in parts().items():
        assert math.isfinite(value)
        print(f"| {name} | {value:.1e} |")


if __name__ == "__main__":
    main()
