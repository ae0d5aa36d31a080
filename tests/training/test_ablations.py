"""Every ablation is one flag that changes what is learned, and what it changes is what the paper means."""

import pytest
import torch

from benchmarks import ablations, gratings
from training import engine
from training.methods.byol import distance
from training.methods.simsiam import cross_entropy, negative_cosine

IMAGES = gratings.gratings(128, 0)[0]


def learned(method, changes):
    """The weights after the first epoch, of two steps, as the script would run it."""
    options = {key.removeprefix(ablations.OPTION): v for key, v in changes.items() if key.startswith(ablations.OPTION)}
    network = gratings.build(gratings.settings(method, options, epochs=1, warmup_epochs=0.0))
    for _ in engine.train(network, IMAGES, gratings.settings(method, options, epochs=1, warmup_epochs=0.0)):
        pass
    return network.state_dict()


@pytest.mark.parametrize(
    ("method", "changes"),
    [pair for pair in ablations.ABLATIONS if any(key.startswith(ablations.OPTION) for key in pair[1])],
    ids=lambda value: (
        value if isinstance(value, str) else "-".join(f"{k.split('.')[-1]}={v}" for k, v in value.items())
    ),
)
def test_a_flag_changes_what_is_learned(method, changes):
    plain, changed = learned(method, {}), learned(method, changes)
    assert not torch.equal(plain["backbone.0.weight"], changed["backbone.0.weight"])
    assert all(value.isfinite().all() for value in changed.values())


def views():
    return [torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


def network(method, **options):
    return gratings.build(gratings.settings(method, options)).eval()


def outputs(net, x):
    z = net.projector(net.backbone(x))
    return net.predictor(z), z


def test_simsiam_with_the_cross_entropy_similarity():
    net, (a, b) = network("simsiam", similarity="cross-entropy"), views()
    (p1, z1), (p2, z2) = outputs(net, a), outputs(net, b)
    torch.testing.assert_close(net.loss([a, b], 0.0)[0], (cross_entropy(p1, z2) + cross_entropy(p2, z1)) / 2)


def test_simsiam_without_predictor_compares_the_projections():
    net, (a, b) = network("simsiam", predictor=False), views()
    z1, z2 = outputs(net, a)[1], outputs(net, b)[1]
    torch.testing.assert_close(net.loss([a, b], 0.0)[0], negative_cosine(z1, z2))
    assert not list(net.predictor.parameters())


def test_byol_without_predictor_compares_with_the_target_directly():
    net, (a, b) = network("byol", predictor=False), views()
    z1, z2 = outputs(net, a)[1], outputs(net, b)[1]
    torch.testing.assert_close(net.loss([a, b], 0.0)[0], distance(z1, net.target(b)) + distance(z2, net.target(a)))


@pytest.mark.parametrize(("tau", "follows"), [(1.0, False), (0.0, True)])
def test_byols_target_never_moves_or_is_the_online_network(tau, follows):
    changed = learned("byol", {"method_options.tau": tau, "method_options.tau_final": tau})
    start = gratings.build(gratings.settings("byol")).state_dict()
    online, target = changed["backbone.0.weight"], changed["target.0.0.weight"]
    assert torch.equal(target, online if follows else start["backbone.0.weight"])
    assert not torch.equal(online, start["backbone.0.weight"])
