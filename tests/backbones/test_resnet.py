"""Our ResNets against torchvision's: the same parameter names, and equal features at equal weights."""

import pytest
import torch
import torchvision
from torch import nn

from sslzoo import backbones
from sslzoo.errors import InputError


def randomised(network, seed=0):
    """Weights and BN statistics drawn at random, so that nothing is left at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 1 if value.ndim == 1 else (2 / value[0].numel()) ** 0.5, generator=generator)
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_equals_torchvision(name):
    theirs = randomised(torchvision.models.get_model(name, weights=None))
    theirs.fc = nn.Identity()
    ours = backbones.build(name).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 75, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    assert ours.dim == (512 if name in ("resnet18", "resnet34") else 2048)


def test_maps_of_each_stage_equal_torchvision():
    theirs = randomised(torchvision.models.resnet50(weights=None))
    ours = backbones.build("resnet50").eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        maps = ours.forward_maps(x, ["stem", "layer1", "layer2", "layer3", "layer4"])
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        torch.testing.assert_close(maps["stem"], y)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            y = getattr(theirs, name)(y)
            torch.testing.assert_close(maps[name], y)
    assert list(ours.forward_maps(x, ["layer2", "stem"])) == ["layer2", "stem"]
    with pytest.raises(InputError, match=r"no stage layer9.*layer4"):
        ours.forward_maps(x, ["layer9"])


@pytest.mark.parametrize("width", [1, 2, 4, 5])
def test_widths_multiply_every_channel(width):
    name = "resnet18" + (f"w{width}" if width > 1 else "")
    network = backbones.build(name)
    shapes = {k: v.shape for k, v in backbones.build("resnet18").state_dict().items() if v.ndim == 4}
    for key, value in network.state_dict().items():
        if value.ndim == 4:
            out, inputs, *kernel = shapes[key]
            assert value.shape == (out * width, inputs if key == "conv1.weight" else inputs * width, *kernel)
    assert network.dim == 512 * width


def test_resnet50_twice_as_wide_has_simclrs_parameter_count():
    # SimCLR paper, table B.4 / section 4: ResNet-50 (2x) has 94 M parameters with its head; the encoder alone 93.9 M
    count = sum(p.numel() for p in backbones.build("resnet50w2").parameters())
    assert round(count / 1e6, 1) == 93.9


def test_cifar_stem_keeps_the_resolution():
    network = backbones.build("resnet18", stem="cifar").eval()
    maps = network.forward_maps(torch.zeros(1, 3, 32, 32), ["stem", "layer1", "layer4"])
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(64, 32, 32), (64, 32, 32), (512, 4, 4)]
    assert network.conv1.weight.shape == (64, 3, 3, 3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_makes_every_block_the_identity_on_its_shortcut(name):
    network = backbones.build(name, zero_init_residual=True).eval()
    block = network.layer1[1]
    x = torch.rand(1, network.layer1[0].conv1.in_channels * (1 if name == "resnet18" else 4), 5, 5)
    torch.testing.assert_close(block(x), x)
    last = "bn2" if name == "resnet18" else "bn3"
    assert all(bool((m.weight == 0).all()) for n, m in network.named_modules() if n.endswith(last) and n != "bn1")


def test_batch_norm_epsilon():
    network = backbones.build("resnet18", bn_eps=1.001e-5)
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {1.001e-5}


def test_an_unknown_backbone_is_refused():
    with pytest.raises(InputError, match=r"vit.*resnet18"):
        backbones.build("vit")
