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
    assert len(decay) == len(list(method.parameters()))
    for p in method.parameters():
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
