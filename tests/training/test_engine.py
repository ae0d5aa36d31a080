"""The loop: exact resume, clean stops, and refusals."""

import pytest
import torch

from sslzoo.errors import InputError
from training import engine


def run(recipe, images, **options):
    method = engine.build(recipe)
    reports = list(engine.train(method, images, recipe, **options))
    return method.state_dict(), reports


def stop_after(steps):
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


@pytest.mark.parametrize("method", ["simclr", "simsiam"])
@pytest.mark.parametrize("steps", [3, 4, 6])  # in the middle of an epoch, at its end, in the second
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tiny, images, tmp_path, method, steps):
    recipe = tiny(method)
    whole, _ = run(recipe, images)
    _, reports = run(recipe, images, out=tmp_path, stop=stop_after(steps))
    assert reports[-1].step == steps and not reports[-1].done
    resumed, reports = run(recipe, images, out=tmp_path, resume=True)
    assert reports[-1].done
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_between_reports_is_not_changed_by_evaluation(tiny, images):
    recipe = tiny()
    plain, _ = run(recipe, images)
    method = engine.build(recipe)
    for _ in engine.train(method, images, recipe):
        method.eval()
        with torch.no_grad():
            method.backbone(torch.randn(4, 3, 16, 16))
        method.train()
    assert all(torch.equal(plain[name], value) for name, value in method.state_dict().items())


def test_the_seed_decides_the_run(tiny, images):
    first, _ = run(tiny(epochs=1), images)
    other, _ = run(tiny(epochs=1, seed=1), images)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_a_checkpoint_of_another_recipe_is_refused(tiny, images, tmp_path):
    run(tiny(epochs=1), images, out=tmp_path)
    with pytest.raises(InputError, match="another epochs"):
        run(tiny(epochs=3), images, out=tmp_path, resume=True)
    with pytest.raises(InputError, match="40 images"):
        run(tiny(epochs=1), images[:30], out=tmp_path, resume=True)


def test_too_few_images_for_a_batch(tiny, images):
    with pytest.raises(InputError, match="--set batch_size"):
        run(tiny(batch_size=64), images)


def test_a_loss_that_is_not_a_number_stops_the_run(tiny, images):
    with pytest.raises(engine.Diverged, match="lr_per_256"):
        run(tiny(lr_per_256=1e30, warmup_epochs=0.0), images)


def test_low_resolution_first_then_full(tiny):
    recipe = tiny()
    view = recipe.views[0]
    assert [recipe.view_size(view, p) for p in (0.0, 0.59, 0.6, 0.99)] == [8, 8, 16, 16]
