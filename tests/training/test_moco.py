"""MoCo's queue, key encoder and shuffle."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training import norms
from training.methods import MoCo, MoCoV1
from training.methods.base import follow, frozen_copy
from training.methods.moco import info_nce


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


class Flat(nn.Module):
    """A backbone without BN: the image's pixels, linearly."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 6)

    def forward(self, x):
        return self.linear(x.flatten(1))


def images(n, seed=0):
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_info_nce_is_equation_1():
    q, k, queue = unit(3, 5), unit(3, 5, seed=1), unit(7, 5, seed=2)
    expected = 0.0
    for i in range(3):
        positive = math.exp(float(q[i] @ k[i]) / 0.2)
        negatives = sum(math.exp(float(q[i] @ queue[j]) / 0.2) for j in range(7))
        expected -= math.log(positive / (positive + negatives)) / 3
    assert info_nce(q, k, queue, temperature=0.2).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_fp32_under_autocast():
    q, k, queue = unit(8, 32), unit(8, 32, seed=1), unit(64, 32, seed=2)
    plain = info_nce(q, k, queue, temperature=0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(q, k, queue, temperature=0.07), plain)


def test_the_newest_keys_replace_the_oldest_and_the_queue_wraps_around():
    method = MoCo(Flat(), 6, projection=4, queue=5)
    first = method.queue.clone()
    method.enqueue(torch.full((3, 4), 1.0))
    torch.testing.assert_close(method.queue[3:], first[3:])
    method.enqueue(torch.stack([torch.full((4,), float(v)) for v in (2, 3, 4)]))
    assert method.queue[:, 0].tolist() == [4, 1, 1, 2, 3]
    assert method.pointer.item() == 1
    method.enqueue(torch.stack([torch.full((4,), float(v)) for v in range(10, 17)]))  # more than the queue holds
    assert sorted(method.queue[:, 0].tolist()) == [12, 13, 14, 15, 16]


def test_the_queue_is_used_before_the_new_keys_enter():
    torch.manual_seed(0)
    method = MoCo(Flat(), 6, projection=4, queue=8)
    before = method.queue.clone()
    a, b = images(4), images(4, 1)
    q = F.normalize(method.projector(method.backbone(a)), dim=1)
    k = F.normalize(method.key_encoder(b), dim=1)
    loss, _ = method.loss([a, b], 0.0)
    torch.testing.assert_close(loss, info_nce(q, k, before, temperature=0.2))
    torch.testing.assert_close(method.queue[:4], k)


def test_symmetric_adds_both_directions():
    torch.manual_seed(0)
    method = MoCo(Flat(), 6, projection=4, queue=8, symmetric=True)
    queue = method.queue.clone()
    a, b = images(4), images(4, 1)
    losses = []
    for query, key in ((a, b), (b, a)):
        q, k = F.normalize(method.projector(method.backbone(query)), dim=1), F.normalize(method.key_encoder(key), dim=1)
        losses.append(info_nce(q, k, queue, temperature=0.2))
    torch.testing.assert_close(method.loss([a, b], 0.0)[0], losses[0] + losses[1])


def test_moving_the_key_encoder_after_a_step_is_algorithm_1():
    """Algorithm 1 moves it before the keys are computed; written out here with plain tensors."""
    torch.manual_seed(0)
    method = MoCo(Flat(), 6, projection=4, queue=8, momentum=0.9)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    slow = [p.detach().clone() for p in (*method.backbone.parameters(), *method.projector.parameters())]
    for step in range(3):
        online = [p.detach() for p in (*method.backbone.parameters(), *method.projector.parameters())]
        slow = [0.9 * s + 0.1 * p for s, p in zip(slow, online, strict=True)]
        for s, p in zip(slow, method.key_encoder.parameters(), strict=True):
            torch.testing.assert_close(p, s)  # the keys of this step come from these weights
        loss, _ = method.loss([images(4, step), images(4, 10 + step)], 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(0.0)
    assert all(p.grad is None for p in method.key_encoder.parameters())


def test_the_slow_copy_moves_where_bf16_would_stand_still():
    torch.manual_seed(0)
    online, target = nn.Linear(64, 64), nn.Linear(64, 64)
    target.load_state_dict({k: v * 1.1 for k, v in online.state_dict().items()})  # a gap of a tenth of the weight
    before, bf16 = target.weight.detach().clone(), target.weight.detach().bfloat16()
    moved_bf16 = torch.lerp(bf16, online.weight.detach().bfloat16(), 0.001) != bf16
    with torch.autocast("cpu", torch.bfloat16):
        follow(target, [online], 0.999)
    torch.testing.assert_close(target.weight.detach(), 0.999 * before + 0.001 * online.weight.detach())
    assert (target.weight != before).float().mean() > 0.99
    assert moved_bf16.float().mean() < 0.05


def test_keys_come_back_in_the_images_order():
    torch.manual_seed(0)
    method = MoCo(Flat(), 6, projection=4, queue=8)
    x = images(9)
    torch.testing.assert_close(method.keys(x), F.normalize(method.key_encoder(x), dim=1))


def test_shuffling_mixes_the_parts_that_bn_sees():
    """Two halves of very different brightness: in order, each half has statistics of its own."""

    def keys(shuffle):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6))
        method = MoCo(backbone, 6, projection=4, queue=8, splits=2, shuffle=shuffle)
        halves = torch.cat([images(32), 20 + images(32, 1)])
        return method.keys(halves), method.key_encoder, halves

    ordered, encoder, x = keys(shuffle=False)
    plain = torch.cat(
        [encoder(x[:32]), encoder(x[32:])]
    )  # each call splits again; so compare with whole-part statistics
    assert ordered.shape == plain.shape
    mixed, _, _ = keys(shuffle=True)
    gap = [float((k[:32].mean(0) - k[32:].mean(0)).norm()) for k in (ordered, mixed)]
    assert gap[0] < 0.5 * gap[1]  # in order BN takes the brightness away, mixed it can't


@pytest.mark.parametrize("shape", [(8, 3, 5, 5), (8, 3)])
def test_split_norm_is_bn_of_each_part(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    plain = nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(3)
    nn.init.normal_(plain.weight)
    split = nn.Sequential(plain)
    norms.split(split, 4)
    names = list(split.state_dict())
    assert names == [f"0.{name}" for name in plain.state_dict()]
    y = split(x)
    means = []
    for i in range(4):
        torch.testing.assert_close(y[2 * i : 2 * i + 2], plain.train()(x[2 * i : 2 * i + 2]))
        means.append(x[2 * i : 2 * i + 2].transpose(0, 1).flatten(1).mean(1))
    fresh = nn.Sequential(nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(3))
    norms.split(fresh, 4)
    fresh(x)
    torch.testing.assert_close(fresh[0].running_mean, 0.1 * torch.stack(means).mean(0))
    fresh.eval()
    torch.testing.assert_close(fresh(x), nn.functional.batch_norm(x, fresh[0].running_mean, fresh[0].running_var))


def test_versions_have_the_papers_heads():
    def linear(method):
        return [tuple(m.weight.shape) for m in method.projector if isinstance(m, nn.Linear)]

    v1, v2 = MoCoV1(nn.Identity(), 2048, queue=16), MoCo(nn.Identity(), 2048, queue=16)
    assert linear(v1) == [(128, 2048)] and v1.temperature == 0.07
    assert linear(v2) == [(2048, 2048), (128, 2048)] and v2.temperature == 0.2
    assert not any(isinstance(m, nn.BatchNorm1d) for m in v2.projector)


def test_a_frozen_copy_shares_nothing():
    online = nn.Linear(2, 2)
    copy = frozen_copy(online)
    nn.init.zeros_(online.weight)
    assert copy[0].weight.abs().sum() > 0 and not copy[0].weight.requires_grad
