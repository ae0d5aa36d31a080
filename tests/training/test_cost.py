"""FLOPs by hand, MFU and the time that is left."""

import pytest

from training import cost
from training.engine import Progress


@pytest.mark.usefixtures("tiny_net")
def test_flops_by_hand(tiny):
    """Multiplications of the three convolutions at 8 and 16 px, the head's and the similarities', each with an addition."""

    def per_image(first, others, batch):
        head = 64 * 32 + 32 * 16
        # forward, gradient of the weights, gradient of the inputs; the images want no gradient
        view = 2 * first + 3 * others + 3 * head
        similarities = 3 * (2 * batch) ** 2 * 16
        return 2 * (2 * view + similarities / batch)

    small = per_image(4 * 4 * 16 * 27, 2 * 2 * 32 * 144 + 64 * 288, batch=10)
    large = per_image(8 * 8 * 16 * 27, 4 * 4 * 32 * 144 + 2 * 2 * 64 * 288, batch=10)
    assert cost.stages(tiny()) == [(0.0, small), (0.6, large)]


@pytest.mark.parametrize(
    ("name", "gflops"),
    [
        (
            "simsiam-r18.cifar10",
            2 * 3.37,
        ),  # ResNet-18 with the CIFAR stem: 0.555 G multiply-adds forward, 3.37 GFLOP with head
        ("byol-r18.cifar10", 2 * (3.37 + 1.11)),  # and the target's forward pass
    ],
)
def test_flops_of_known_networks(name, gflops):
    from training import recipe

    assert cost.stages(recipe.load(name))[0][1] == pytest.approx(gflops * 1e9, rel=0.01)


def report(step, speed=10.0, seconds=1.0):
    return Progress(step - 1, step, 100, step / 10, 0.0, 1.0, 1.0, 0.1, speed, seconds, done=False)


def test_utilisation_and_time_left():
    costs = cost.Cost([(0.0, 4.0), (0.7, 8.0)], peak=160.0)
    assert costs.mfu(report(70)) == 10 * 4 / 160  # the step before was still a small one
    assert costs.mfu(report(71)) == 10 * 8 / 160
    # 40 steps of 4 FLOP and 30 of 8, two images each, at 40 FLOP/s; then 20 of 8 at 80
    assert costs.seconds_left(report(30), batch=2) == (40 * 4 + 30 * 8) * 2 / 40
    assert costs.seconds_left(report(80), batch=2) == 20 * 8 * 2 / 80
    assert costs.seconds_left(report(100), batch=2) == 0


def test_a_runs_means():
    lines = [{"seconds": 1.0, "images_per_second": 10.0, "mfu": 0.1, "minutes": 0.1}]
    lines += [{"seconds": 2.0, "images_per_second": 40.0, "mfu": 0.4, "minutes": 0.34}]
    facts = cost.summary(lines, 180)
    assert facts["images_per_second"] == 30  # 10 and 80 images in three seconds
    assert facts["seconds_per_epoch"] == 6
    assert facts["mfu"] == pytest.approx(0.3)
    assert facts["minutes"] == 0.3


def test_the_peak_is_above_what_any_step_reaches():
    assert cost.peak_flops("cpu", bf16=False) > 1e9
