"""Methods learn: on pictures whose class is a texture, kNN on what a tiny network learned beats the network it began as."""

import pytest

from benchmarks.gratings import SETTINGS, accuracy, build, features, gratings, settings
from training import engine


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "simclr" else pytest.mark.slow) for name in SETTINGS]
)
def test_it_learns(method):
    train, test = gratings(1024, 0), gratings(400, 1)
    bank = (train[0][:100], train[1][:100])
    recipe = settings(method)
    network = build(recipe)
    pixels = accuracy(lambda images: images.flatten(1).float().numpy() - 127, bank, test)
    random = accuracy(features(network), bank, test)
    assert max(pixels, random) < 0.42
    for _ in engine.train(network, train[0], recipe):
        pass
    assert accuracy(features(network), bank, test) > random + 0.2


def test_without_the_stop_gradient_simsiam_collapses_and_the_alarm_is_raised():
    """Section 4.1 of the paper: the loss goes to -1 and the spread to 0. BN on the output, left out here, delays it."""
    train, _ = gratings(512, 0)
    last = {}
    for stop_gradient in (True, False):
        recipe = settings("simsiam", {"stop_gradient": stop_gradient, "norm": "hidden"}, epochs=4, lr_per_256=0.03)
        *_, last[stop_gradient] = engine.train(build(recipe), train, recipe)
    assert last[True].std > 0.4 and not last[True].collapsed
    assert last[False].loss < -0.99 and last[False].std < 0.06 and last[False].collapsed
