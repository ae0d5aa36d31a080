"""BYOL's target network and its schedule."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.methods import BYOL
from training.methods.byol import distance, target_rate


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6))


def images(n, seed=0):
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_equation_2():
    p, z = torch.randn(5, 4), torch.randn(5, 4)
    expected = sum(float((p[i] / p[i].norm() - z[i] / z[i].norm()).square().sum()) for i in range(5)) / 5
    assert distance(p, z).item() == pytest.approx(expected, rel=1e-5)


def test_tau_goes_from_its_base_to_one():
    assert target_rate(0.0, tau=0.996, final=1.0) == pytest.approx(0.996)
    assert target_rate(0.5, tau=0.996, final=1.0) == pytest.approx(0.998)
    assert target_rate(1.0, tau=0.996, final=1.0) == 1.0
    assert target_rate(0.3, tau=0.0, final=0.0) == 0.0


def test_the_target_has_batch_statistics_of_its_own():
    method = BYOL(backbone(), 6, hidden=8, projection=4).train()
    for p in method.backbone.parameters():
        nn.init.normal_(p)  # now the online network is another one
    before = [p.detach().clone() for p in method.target.parameters()]
    a, b = images(8), images(8, 1)
    loss, _ = method.loss([a, b], 0.0)
    loss.backward()
    online, target = method.backbone[2].running_mean, method.target[0][2].running_mean
    assert not torch.allclose(online, target)
    mean = sum(0.9 ** (1 - i) * 0.1 * method.target[0][:2](x).mean(0) for i, x in enumerate((a, b)))
    torch.testing.assert_close(target, mean)
    assert all(p.grad is None for p in method.target.parameters())
    assert all(torch.equal(p, q) for p, q in zip(method.target.parameters(), before, strict=True))


def test_the_loss_is_the_sum_of_both_directions():
    method = BYOL(backbone(), 6, hidden=8, projection=4).eval()
    a, b = images(8), images(8, 1)

    def predict(x):
        return method.predictor(method.projector(method.backbone(x)))

    expected = sum((2 - 2 * F.cosine_similarity(predict(x), method.target(y))).mean() for x, y in ((a, b), (b, a)))
    torch.testing.assert_close(method.loss([a, b], 0.0)[0], expected)


@pytest.mark.parametrize("tau", [0.0, 0.75, 1.0])
def test_the_target_follows(tau):
    method = BYOL(backbone(), 6, hidden=8, projection=4, tau=tau, tau_final=tau)
    before = [p.detach().clone() for p in method.target.parameters()]
    online = [*method.backbone.parameters(), *method.projector.parameters()]
    for p in online:
        nn.init.normal_(p)
    statistics = method.target[0][2].running_mean.clone()
    method.after_step(0.5)
    for target, old, new in zip(method.target.parameters(), before, online, strict=True):
        torch.testing.assert_close(target, tau * old + (1 - tau) * new)
    assert torch.equal(method.target[0][2].running_mean, statistics)


def test_heads_are_the_authors():
    method = BYOL(nn.Identity(), 2048)
    kinds = [type(m).__name__ for m in (*method.projector, *method.predictor)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"] * 2
    assert method.projector[-1].bias is None
    assert [tuple(m.weight.shape) for m in (*method.projector, *method.predictor) if isinstance(m, nn.Linear)] == [
        (4096, 2048),
        (256, 4096),
        (4096, 256),
        (256, 4096),
    ]


def test_without_predictor():
    assert isinstance(BYOL(nn.Identity(), 4, hidden=8, projection=4, predictor=False).predictor, nn.Identity)
