"""Losses against the papers' formulas, written out plainly."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sslzoo.errors import InputError
from training.heads import mlp
from training.methods.base import collapse
from training.methods.simclr import SimCLR, nt_xent
from training.methods.simsiam import SimSiam, cross_entropy, negative_cosine


class Pool(nn.Module):
    """A backbone for tests: the mean colour, doubled to four numbers."""

    def forward(self, x):
        return F.pad(x.mean((2, 3)), (0, 1), value=1.0)


def test_nt_xent_is_equation_1():
    n, temperature = 5, 0.3
    z = torch.randn(2 * n, 7, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)

        def similarity(a, b):
            return float(z[a] @ z[b] / (z[a].norm() * z[b].norm())) / temperature

        others = [math.exp(similarity(i, k)) for k in range(2 * n) if k != i]
        total += -math.log(math.exp(similarity(i, j)) / sum(others))
    assert nt_xent(z, temperature=temperature).item() == pytest.approx(total / (2 * n), rel=1e-5)


def test_nt_xent_of_perfectly_separated_pairs_is_nearly_zero():
    z = torch.eye(6).repeat(2, 1)
    assert nt_xent(z, temperature=0.05).item() < 1e-6
    assert nt_xent(torch.ones(12, 4), temperature=0.5).item() == pytest.approx(math.log(11))  # all alike: one of 2n-1


def test_nt_xent_is_fp32_under_autocast():
    z = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent(z, temperature=0.1), nt_xent(z.clone(), temperature=0.1))
        half = nt_xent(z, temperature=0.1)
    assert torch.equal(half, nt_xent(z, temperature=0.1))


def test_simsiam_is_equation_1():
    p, z = torch.randn(4, 6), torch.randn(4, 6)
    expected = -sum(float(p[i] @ z[i] / (p[i].norm() * z[i].norm())) for i in range(4)) / 4
    assert negative_cosine(p, z).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_similarity_by_hand():
    p, z = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert cross_entropy(p, z).item() == pytest.approx(-0.5 * math.log(0.75) - 0.5 * math.log(0.25), rel=1e-6)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_the_stop_gradient(stop_gradient):
    """With it, the projector learns only through the predictor: a predictor of zeros passes nothing on."""
    torch.manual_seed(0)
    method = SimSiam(Pool(), 4, projection=8, prediction=4, stop_gradient=stop_gradient)
    nn.init.zeros_(method.predictor[-1].weight)
    loss, _ = method.loss([torch.rand(6, 3, 4, 4), torch.rand(6, 3, 4, 4)], 0.0)
    loss.backward()
    assert (method.projector[0].weight.grad.abs().sum() == 0) == stop_gradient


def test_simsiam_ablations():
    views = [torch.rand(6, 3, 4, 4), torch.rand(6, 3, 4, 4)]
    one_way = SimSiam(Pool(), 4, projection=8, prediction=4, symmetric=False).eval()
    z2 = one_way.projector(one_way.backbone(views[1]))
    p1 = one_way.predictor(one_way.projector(one_way.backbone(views[0])))
    torch.testing.assert_close(one_way.loss(views, 0.0)[0], negative_cosine(p1, z2))
    assert isinstance(SimSiam(Pool(), 4, projection=8, predictor=False).predictor, nn.Identity)
    counts = {}
    for norm in ("none", "hidden", "default", "all"):
        method = SimSiam(Pool(), 4, projection=8, prediction=4, norm=norm)
        counts[norm] = sum(isinstance(m, nn.BatchNorm1d) for m in method.modules())
    assert counts == {"none": 0, "hidden": 3, "default": 4, "all": 5}  # table 3
    with pytest.raises(InputError, match="use none, hidden, default, all"):
        SimSiam(Pool(), 4, norm="layer")
    with pytest.raises(InputError, match="use cosine or cross-entropy"):
        SimSiam(Pool(), 4, similarity="dot")


def test_simsiam_is_symmetric_and_lies_in_minus_one_to_one():
    torch.manual_seed(0)
    method = SimSiam(Pool(), 4, projection=8, prediction=4).eval()
    a, b = torch.rand(6, 3, 4, 4), torch.rand(6, 3, 4, 4)
    one, two = method.loss([a, b], 0.0)[0], method.loss([b, a], 0.0)[0]
    torch.testing.assert_close(one, two)
    assert -1 <= one.item() <= 1


def test_simsiam_heads_are_the_papers():
    method = SimSiam(nn.Identity(), 2048)
    linear = [tuple(m.weight.shape) for m in method.projector if isinstance(m, nn.Linear)]
    assert linear == [(2048, 2048)] * 3
    assert [tuple(m.weight.shape) for m in method.predictor if isinstance(m, nn.Linear)] == [(512, 2048), (2048, 512)]
    assert not method.projector[
        -1
    ].affine  # BN without scale and shift ends the projector (section 4, "Baseline settings")
    assert isinstance(method.predictor[-1], nn.Linear)  # no BN on the predictor's output
    assert method.predictor[-1].bias is not None
    assert list(method.constant_lr()) == [method.predictor]


def test_simclr_gives_both_views_the_same_treatment():
    torch.manual_seed(0)
    method = SimCLR(Pool(), 4, hidden=8, projection=4).eval()
    views = [torch.rand(5, 3, 4, 4), torch.rand(5, 3, 4, 4)]
    torch.testing.assert_close(method.loss(views, 0.0)[0], method.loss(views[::-1], 0.0)[0])


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, "Linear BatchNorm1d ReLU Linear"),
        ({"out_norm": True}, "Linear BatchNorm1d ReLU Linear BatchNorm1d"),
        ({"hidden_norm": False}, "Linear ReLU Linear"),
    ],
)
def test_heads(options, kinds):
    head = mlp([4, 8, 2], **options)
    assert " ".join(type(m).__name__ for m in head) == kinds
    assert (head[0].bias is None) == (options.get("hidden_norm", True))


def test_collapse_monitor():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(4000, 16, generator=generator)
    signs = collapse(spread)
    assert float(signs["std"]) == pytest.approx(1, abs=0.03)
    assert float(signs["rank"]) > 15.5
    point = torch.ones(100, 16) + 1e-4 * torch.randn(100, 16, generator=generator)
    assert float(collapse(point)["std"]) < 0.01
    line = torch.randn(1000, 1, generator=generator) * torch.ones(1, 16)
    assert float(collapse(line)["rank"]) < 1.1  # spread, but along one direction only
