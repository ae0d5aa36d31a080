"""SAME padding against a direct computation in numpy, and the whole network against torchvision's layers on padded maps."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from sslzoo import backbones
from sslzoo.backbones.resnet import SameConv2d, SameMaxPool2d
from tests.backbones.test_resnet import randomised


def direct(x, kernel, stride, reduce, outside):
    """SAME by its definition: ceil(n / stride) outputs, window i starts at i * stride - floor(total padding / 2)."""
    n = x.shape[-1]
    outputs = -(-n // stride)
    before = max((outputs - 1) * stride + kernel - n, 0) // 2
    result = np.empty((outputs, outputs))
    for i in range(outputs):
        for j in range(outputs):
            window = np.full((kernel, kernel), outside)
            for a in range(kernel):
                for b in range(kernel):
                    y, z = i * stride - before + a, j * stride - before + b
                    if 0 <= y < n and 0 <= z < n:
                        window[a, b] = x[y, z]
            result[i, j] = reduce(window)
    return result


@pytest.mark.parametrize("size", [7, 8, 15, 16])
@pytest.mark.parametrize("kernel", [3, 7])
def test_a_strided_convolution(size, kernel):
    rng = np.random.default_rng(size)
    x, weight = rng.normal(size=(size, size)), rng.normal(size=(kernel, kernel))
    conv = SameConv2d(1, 1, kernel, 2, bias=False).double()
    conv.weight.data[0, 0] = torch.tensor(weight)
    expected = direct(x, kernel, 2, lambda window: (window * weight).sum(), 0.0)
    np.testing.assert_allclose(conv(torch.tensor(x)[None, None])[0, 0].detach(), expected)


@pytest.mark.parametrize("size", [7, 8, 15, 16])
def test_a_strided_pool(size):
    x = np.maximum(np.random.default_rng(size).normal(size=(size, size)), 0)  # after a ReLU
    found = SameMaxPool2d()(torch.tensor(x)[None, None])[0, 0]
    np.testing.assert_allclose(found, direct(x, 3, 2, np.max, -np.inf))


def test_the_pads_of_the_usual_sizes():
    # 224, k7 s2 -> 112 with (2, 3); 112, k3 s2 -> 56 with (0, 1): the table of TensorFlow's padding notes
    edge = torch.zeros(1, 1, 224, 224)
    edge[0, 0, 0, 0] = 1
    conv = SameConv2d(1, 1, 7, 2, bias=False)
    conv.weight.data.copy_(torch.arange(49.0).reshape(1, 1, 7, 7))
    assert conv(edge).shape[-1] == 112
    assert conv(edge)[0, 0, 0, 0] == 2 * 7 + 2  # the first pixel stands 2 rows and 2 columns into the window
    pool = SameMaxPool2d()(torch.arange(112.0 * 112).reshape(1, 1, 112, 112))
    assert pool.shape[-1] == 56
    assert pool[0, 0, 0, 0] == 2 * 112 + 2  # rows and columns 0 to 2: nothing before


def theirs_with_same(network, x, *, everywhere):
    """torchvision's ResNet-50, its strided layers run on maps padded by hand for even sizes."""

    def conv(layer, y, before, after):
        return functional.conv2d(functional.pad(y, (before, after, before, after)), layer.weight, stride=layer.stride)

    y = conv(network.conv1, x, 2, 3) if everywhere else network.conv1(x)
    y = functional.pad(network.bn1(y).relu(), (0, 1, 0, 1), value=-torch.inf)
    y = functional.max_pool2d(y, 3, 2)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            out = block.bn1(block.conv1(y)).relu()
            strided = block.conv2.stride == (2, 2)
            out = conv(block.conv2, out, 0, 1) if strided and everywhere else block.conv2(out)
            out = block.bn3(block.conv3(block.bn2(out).relu()))
            y = (out + (block.downsample(y) if block.downsample else y)).relu()
    return y.mean((2, 3))


@pytest.mark.parametrize(("padding", "everywhere"), [("same", True), ("same-pool", False)])
def test_the_whole_network(padding, everywhere):
    theirs = randomised(torchvision.models.resnet50(weights=None))
    ours = backbones.build("resnet50", padding=padding).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs_with_same(theirs, x, everywhere=everywhere)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(backbones.build("resnet50").eval()(x), expected, rtol=1e-2)


def test_torchvisions_padding_is_the_default():
    assert not any(isinstance(m, SameConv2d | SameMaxPool2d) for m in backbones.build("resnet50").modules())
    assert backbones.build("resnet18", stem="cifar-pad2").conv1.padding == (2, 2)


def test_solo_learns_stem_enlarges_the_map_by_two_pixels():
    maps = backbones.build("resnet18", stem="cifar-pad2").eval().forward_maps(torch.zeros(1, 3, 32, 32), ["stem"])
    assert maps["stem"].shape[2:] == (34, 34)


def test_resnet200_is_the_papers():
    # table 5 of arXiv:1603.05027: 3 + 24 + 36 + 3 blocks of 3 layers, the stem and the classifier make 200
    network = backbones.build("resnet200")
    blocks = sum(len(network.get_submodule(stage)) for stage in backbones.STAGES)
    assert 3 * blocks + 2 == 200
    assert isinstance(network.conv1, nn.Conv2d)
