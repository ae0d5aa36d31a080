"""SwAV's assignments, queue and prototypes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.methods import SwAV
from training.methods.swav import sinkhorn, swapped_prediction


class Pool(nn.Module):
    """Mean colour, so that views of any size will do."""

    def forward(self, x):
        return x.mean((2, 3))


def method(**options):
    torch.manual_seed(0)
    return SwAV(Pool(), 3, **{"hidden": 16, "projection": 8, "prototypes": 5} | options)


def images(n, size=4, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_sinkhorn_uses_all_prototypes_alike():
    scores = torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scores[:, 0] += 0.3  # everybody's favourite
    q = sinkhorn(scores, epsilon=0.5, iterations=50)
    torch.testing.assert_close(q.sum(1), torch.ones(40))
    torch.testing.assert_close(q.sum(0), torch.full((5,), 8.0), rtol=1e-4, atol=0)


def test_sinkhorn_is_the_papers_iteration_in_double_precision():
    scores = torch.rand(12, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1
    q = np.exp(scores.double().numpy() / 0.05).T  # [prototypes, samples], as in appendix A
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * 7
        q /= q.sum(0, keepdims=True) * 12
    ours = sinkhorn(scores, epsilon=0.05, iterations=3)
    np.testing.assert_allclose(ours.numpy(), (q * 12).T, rtol=2e-4, atol=1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sinkhorn(scores, epsilon=0.05, iterations=3), ours)


def test_swapped_prediction_by_hand():
    # softmax of (ln 3, 0) is (3/4, 1/4)
    loss = swapped_prediction(torch.tensor([[np.log(3.0), 0.0]]), torch.tensor([[0.5, 0.5]]), temperature=1.0)
    assert loss.item() == pytest.approx(-(0.5 * np.log(0.75) + 0.5 * np.log(0.25)), rel=1e-6)


def test_multi_crop_averages_over_all_other_crops():
    m = method().eval()
    views = [images(6), images(6, seed=1), images(6, 2, 2), images(6, 2, 3)]
    scores = [F.normalize(m.projector(m.backbone(v)), dim=1) @ m.prototypes.weight.T for v in views]
    expected = 0.0
    for i in (0, 1):
        codes = sinkhorn(scores[i].detach(), epsilon=0.05, iterations=3)
        others = [swapped_prediction(scores[j], codes, temperature=0.1) for j in range(4) if j != i]
        expected = expected + sum(others) / 3 / 2
    torch.testing.assert_close(m.loss(views, 0.0)[0], expected)


def test_the_queue_joins_the_assignment_from_its_point_on():
    m = method(queue=6, queue_from=0.5).eval()
    views = [images(4), images(4, seed=1)]
    without = method().eval().loss(views, 0.0)[0]
    torch.testing.assert_close(m.loss(views, 0.49)[0], without)
    z = F.normalize(m.projector(m.backbone(views[0])), dim=1)
    torch.testing.assert_close(m.queue[0, 0, :4], z)  # filled already
    m.loss(views, 0.49)
    torch.testing.assert_close(m.queue[0, 0], torch.cat([z, z[:2]]))  # newest first
    assert not torch.allclose(m.loss(views, 0.5)[0], without)


def test_a_queue_that_is_not_full_yet_takes_no_part():
    """Its empty places would be samples without a direction; the authors' code waits until the last one is taken."""
    m, without = method(queue=6).eval(), method().eval()
    views = [images(4), images(4, seed=1)]
    expected = without.loss(views, 0.0)[0]
    assert m.loss(views, 0.0)[0] == expected  # empty
    assert m.loss(views, 0.0)[0] == expected  # four of six
    queued = m.queue[:, 0].clone()
    z = [F.normalize(m.projector(m.backbone(view)), dim=1) for view in views]
    scores = [torch.cat([z[i], queued[i]]).detach() @ m.prototypes.weight.T for i in range(2)]
    codes = [sinkhorn(s, epsilon=0.05, iterations=3)[:4] for s in scores]
    swapped = [swapped_prediction(scores[1 - i][:4], codes[i], temperature=0.1) for i in range(2)]
    torch.testing.assert_close(m.loss(views, 0.0)[0], sum(swapped) / 2)  # full


def test_frozen_prototypes_get_a_gradient_of_zero():
    for progress, frozen in ((0.0, True), (0.2, False)):
        m = method(freeze_until=0.1)
        loss, _ = m.loss([images(6), images(6, seed=1)], progress)
        loss.backward()
        assert m.prototypes.weight.grad is not None
        assert (m.prototypes.weight.grad == 0).all() == frozen
        assert m.projector[0].weight.grad.abs().sum() > 0


def test_prototypes_have_unit_length_before_every_forward_pass():
    m = method()
    torch.testing.assert_close(m.prototypes.weight.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        m.prototypes.weight.mul_(3)
    m.after_step(0.0)
    torch.testing.assert_close(m.prototypes.weight.norm(dim=1), torch.ones(5))
