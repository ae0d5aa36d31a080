import math

import pytest
import torch

from training import engine, optim
from training.methods.simsiam import SimSiam


def test_schedule_at_its_corners():
    def rate(progress):
        return optim.learning_rate(progress, base=2.0, warmup=0.1, final=0.2)

    assert rate(0.0) == 0.0
    assert rate(0.05) == pytest.approx(1.0)
    assert rate(0.1) == pytest.approx(2.0)
    assert rate(0.55) == pytest.approx(1.1)  # half of the cosine: the mean of peak and end
    assert rate(1.0) == pytest.approx(0.2)
    assert optim.learning_rate(0.25, base=1.0, warmup=0.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("decay_norms", [True, False])
def test_what_is_decayed_is_told_by_dimension(tiny, decay_norms):
    method = engine.build(tiny(decay_norms=decay_norms, weight_decay=0.01))
    groups = optim.parameter_groups(method, 0.01, decay_norms=decay_norms)
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    trained = [p for p in method.parameters() if p.requires_grad]  # all but the shift of the head's last BN
    assert len(decay) == len(trained) == len(list(method.parameters())) - 1
    for p in trained:
        assert decay[id(p)] == (0.01 if p.ndim > 1 or decay_norms else 0.0)


def test_the_predictors_rate_stays_constant(tiny):
    settings = tiny("simsiam", epochs=10, warmup_epochs=0.0)
    method = SimSiam(torch.nn.Linear(4, 8), 8, projection=8, prediction=4)
    optimizer = optim.build(method, settings)
    predictor = {id(p) for p in method.predictor.parameters()}
    for progress in (0.0, 0.5, 0.999):
        scheduled = optim.set_learning_rate(optimizer, settings, progress)
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert group["lr"] == (settings.learning_rate if id(p) in predictor else scheduled)
    assert scheduled < 1e-4 * settings.learning_rate


def test_frozen_parameters_are_left_out(tiny):
    method = engine.build(tiny())
    method.backbone.conv1.weight.requires_grad_(False)
    groups = optim.parameter_groups(method, 0.0, decay_norms=True)
    assert id(method.backbone.conv1.weight) not in {id(p) for g in groups for p in g["params"]}


def test_warmup_from_a_start_and_steps_instead_of_the_cosine():
    assert optim.learning_rate(0.05, base=4.8, warmup=0.1, start=0.3) == pytest.approx(2.55)
    rates = [optim.learning_rate(p, base=0.03, warmup=0.0, steps=(0.6, 0.8)) for p in (0.0, 0.59, 0.6, 0.8, 0.99)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.0003, 0.0003])


def test_lars_by_hand():
    w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    b = torch.nn.Parameter(torch.tensor([1.0]))
    groups = [
        {"params": [w], "weight_decay": 0.5, "adapt": True},
        {"params": [b], "weight_decay": 0.0, "adapt": False},
    ]
    lars = optim.LARS(groups, lr=2.0, momentum=0.9, trust=0.01)
    w.grad, b.grad = torch.tensor([[-1.5, 6.0]]), torch.tensor([0.25])
    lars.step()
    # u = g + w/2 = (0, 8), |w| = 5, trust |w| / |u| = 0.05/8, so v = (0, 0.05)
    torch.testing.assert_close(w.detach(), torch.tensor([[3.0, 3.9]]))
    assert b.item() == 0.5  # plain SGD
    w.grad, b.grad = -0.5 * w.detach(), torch.tensor([0.0])  # u = 0: not scaled, momentum goes on
    lars.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[3.0, 3.81]]))
    assert b.item() == pytest.approx(0.5 - 2 * 0.9 * 0.25)


def test_lars_does_not_scale_what_is_zero():
    w = torch.nn.Parameter(torch.zeros(2, 2))
    lars = optim.LARS([w], lr=0.1)
    w.grad = torch.ones(2, 2)
    lars.step()
    torch.testing.assert_close(w.detach(), torch.full((2, 2), -0.1))


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("lars", "LARS"), ("adamw", "AdamW")])
def test_the_recipe_names_the_optimiser(tiny, name, kind):
    settings = tiny(optimizer=name, decay_norms=False)
    optimizer = optim.build(engine.build(settings), settings)
    assert type(optimizer).__name__ == kind
    adaptive = {p.ndim > 1: group["adapt"] for group in optimizer.param_groups for p in group["params"]}
    assert adaptive == {True: True, False: False}
