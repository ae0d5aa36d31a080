"""Convolutions on small maps against torch's own."""

import pytest
import torch
from torch import nn

from sslzoo import backbones
from training import small_maps


@pytest.mark.parametrize(
    ("size", "stride"), [((1, 1), 1), ((2, 2), 1), ((2, 1), 1), ((3, 3), 2), ((4, 4), 2), ((4, 3), 2)]
)
def test_output_and_gradients_equal_torchs(size, stride):
    torch.manual_seed(0)
    theirs = nn.Conv2d(5, 7, 3, stride, padding=1, bias=False).double()
    ours = nn.Sequential(nn.Conv2d(5, 7, 3, stride, padding=1, bias=False).double())
    ours.load_state_dict({"0.weight": theirs.weight.detach()})
    small_maps.use(ours)
    x = torch.randn(3, 5, *size, dtype=torch.double)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn(theirs(x).shape, dtype=torch.double)
    theirs(a).backward(upstream)
    out = ours(b)
    assert type(out.grad_fn).__name__ == "_ConvolutionBackward"
    out.backward(upstream)
    torch.testing.assert_close(out, theirs(x))
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(ours[0].weight.grad, theirs.weight.grad)


def test_larger_maps_and_other_convolutions_stay_torchs():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 3))
    small_maps.use(net)
    assert [type(layer) for layer in net] == [small_maps.SmallMapConv2d, nn.Conv2d, nn.Conv2d]
    assert type(net[0](torch.randn(2, 3, 3, 3)).grad_fn).__name__ == "ConvolutionBackward0"


def test_a_whole_network_trains_alike():
    torch.manual_seed(0)
    plain = backbones.build("resnet18")
    fast = backbones.build("resnet18")
    fast.load_state_dict(plain.state_dict())
    names = list(fast.state_dict())
    small_maps.use(fast)
    assert list(fast.state_dict()) == names
    x = torch.randn(4, 3, 40, 40)
    for network in (plain, fast):
        network(x).square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=2e-3, atol=2e-3 * p.grad.abs().max().item() + 1e-6, msg=name)
