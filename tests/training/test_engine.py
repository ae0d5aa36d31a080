"""The loop: exact resume, clean stops, and refusals."""

import dataclasses
import json
import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sslzoo.errors import InputError
from training import checkpoint, engine
from training.methods import METHODS

pytestmark = pytest.mark.usefixtures("tiny_net")


def run(recipe, images, **options):
    method = engine.build(recipe)
    reports = list(engine.train(method, images, recipe, **options))
    return method.state_dict(), reports


def stop_after(steps):
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [3, 4, 6])  # in the middle of an epoch, at its end, in the second
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tiny, images, tmp_path, method, steps):
    recipe = tiny(method)
    whole, _ = run(recipe, images)
    _, reports = run(recipe, images, out=tmp_path, stop=stop_after(steps))
    assert reports[-1].step == steps and not reports[-1].done
    resumed, reports = run(recipe, images, out=tmp_path, resume=True)
    assert reports[-1].done
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_short_epochs_do_not_wait_for_the_disk(tiny, images, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda out, method, optimizer, recipe, step, images: saved.append(step))
    run(tiny(epochs=4), images, out=tmp_path)
    assert saved == [4, 16]  # the first epoch, at once, and the end
    saved.clear()
    run(tiny(epochs=4), images, out=tmp_path, save_seconds=0)
    assert saved == [4, 8, 12, 16]


def test_half_an_epoch_at_the_end_is_reported_as_the_end(tiny, images, tmp_path):
    _, reports = run(tiny(epochs=1.5), images, out=tmp_path)
    assert [(p.step, p.done) for p in reports] == [(4, False), (6, True)]
    assert checkpoint.finished(tmp_path)


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
    assert not torch.equal(first["backbone.0.weight"], other["backbone.0.weight"])


def test_a_checkpoint_of_another_recipe_is_refused(tiny, images, tmp_path):
    run(tiny(epochs=1), images, out=tmp_path)
    with pytest.raises(InputError, match="epochs 1, not 3"):
        run(tiny(epochs=3), images, out=tmp_path, resume=True)
    with pytest.raises(InputError, match="40 images"):
        run(tiny(epochs=1), images[:30], out=tmp_path, resume=True)


def test_a_queue_of_other_processes_is_refused(tiny, images, tmp_path):
    recipe = tiny("swav")
    run(recipe, images, out=tmp_path)
    state = checkpoint.read(tmp_path / checkpoint.FILE)
    state["method"]["queue"] = state["method"]["queue"].repeat(1, 2, 1, 1)  # as two processes leave it
    torch.save(state, tmp_path / checkpoint.FILE)
    with pytest.raises(InputError, match="as many processes"):
        run(recipe, images, out=tmp_path, resume=True)


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


def test_parts_of_a_batch_add_up_to_one_step(tiny, images):
    """BYOL's target moves once per optimiser step, however many parts the batch is computed in."""
    recipe = tiny("byol", accumulate=5)
    method = engine.build(recipe)
    moves = []
    method.after_step = moves.append
    reports = list(engine.train(method, images, recipe))
    assert len(moves) == reports[-1].step == 8
    with pytest.raises(InputError, match="can't be split over 10 parts"):
        run(tiny(accumulate=10), images)


def test_clipping_bounds_the_gradient(tiny, images):
    recipe = tiny(clip_grad=1e-6, momentum=0.0, weight_decay=0.0, warmup_epochs=0.0, epochs=1)
    before = engine.build(recipe).state_dict()
    after, reports = run(recipe, images)
    moved = sum((after[k] - before[k]).square().sum() for k in after if k.endswith("weight")).sqrt()
    assert 0 < moved.item() <= reports[-1].step * recipe.learning_rate * 1e-6


def test_weights_that_are_no_numbers_never_replace_a_good_checkpoint(tiny, images, tmp_path):
    """A gradient may go wrong while the loss is still a number: the last step's shows in the weights alone."""
    recipe = tiny()
    method, calls = engine.build(recipe), []

    def spoil(gradient):
        calls.append(1)
        return gradient * float("nan") if len(calls) == recipe.steps(len(images)) else gradient

    next(method.backbone.parameters()).register_hook(spoil)
    with pytest.raises(engine.Diverged, match="at step 7 of 8"):
        for _ in engine.train(method, images, recipe, out=tmp_path, save_seconds=0):
            pass
    state = checkpoint.read(tmp_path / checkpoint.FILE)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["method"].values())


def test_a_long_epoch_is_saved_on_the_way(tiny, images, tmp_path):
    for report in engine.train(engine.build(tiny()), images, tiny(), out=tmp_path, report_seconds=0, save_seconds=0):
        assert checkpoint.read(tmp_path / checkpoint.FILE)["step"] == report.step


def test_where_the_loss_stopped_being_a_number_is_written_down(tiny, images, tmp_path):
    with pytest.raises(engine.Diverged, match=r"at step 1 of 8; the first was what enters .*; see .*diverged.json"):
        run(tiny("simsiam", lr_per_256=1e30, warmup_epochs=0.0), images, out=tmp_path)
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert report["first step that is not finite"] == 1
    assert "weight backbone.0.weight" in report["not finite when the run ended"]
    assert "view 0" in report["largest"]
    assert not (tmp_path / checkpoint.FILE).exists()


NAN = float("nan")


@pytest.mark.parametrize("place", ["layer", "loss", "gradient"])
def test_the_dump_names_the_first_place_and_the_images(tiny, images, tmp_path, monkeypatch, place):
    """Spoilt at step 2; step 3, after which it is noticed, has nothing left that is a number."""
    recipe = tiny("byol")
    method, seen = engine.build(recipe), []
    make_views = engine.make_views

    def spy(batch, *arguments):
        seen.append({image.numpy().tobytes() for image in batch})
        return make_views(batch, *arguments)

    monkeypatch.setattr(engine, "make_views", spy)
    if place == "layer":  # the second convolution; its output enters the BN that is number 4
        method.backbone[3].register_forward_hook(lambda layer, _, y: y * NAN if len(seen) == 3 else y)
        expected = "what enters backbone.4"
    elif place == "loss":
        loss = method.loss
        method.loss = lambda views, progress: (lambda x, z: (x * (NAN if len(seen) == 3 else 1), z))(
            *loss(views, progress)
        )
        expected = "the loss"
    else:
        method.backbone[3].weight.register_hook(lambda gradient: gradient * NAN if len(seen) == 3 else gradient)
        expected = "the gradient of backbone.3.weight"
    with pytest.raises(engine.Diverged, match=rf"at step 2 of 8; the first was {expected}"):
        list(engine.train(method, images, recipe, out=tmp_path))
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert report["what was not finite then, in the order it was computed"][0].startswith(expected)
    batch = [images[int(name)].numpy().tobytes() for name in report["images of that step"]]
    assert set(batch) == seen[2] and len(batch) == 10
    assert "view 0" in report["largest"]


def test_a_new_run_removes_the_dump_of_the_one_before(tiny, images, tmp_path):
    with pytest.raises(engine.Diverged, match="; try --set"):
        run(tiny(lr_per_256=1e30, warmup_epochs=0.0), images, out=tmp_path)
    run(tiny(epochs=1), images, out=tmp_path)
    assert not (tmp_path / "diverged.json").exists()


def test_training_starts_from_given_weights(tiny):
    weights = {k: v + 1 for k, v in engine.build(tiny("byol")).backbone.state_dict().items()}
    method = engine.build(tiny("byol"), weights)
    for k, v in weights.items():
        assert torch.equal(method.backbone.state_dict()[k], v)
        assert torch.equal(method.target[0].state_dict()[k], v)


def test_a_checkpoint_from_before_a_key_existed_goes_on(tiny, images, tmp_path):
    run(tiny(epochs=2), images, out=tmp_path, stop=stop_after(3))
    state = torch.load(tmp_path / checkpoint.FILE, weights_only=True)
    del state["recipe"]["optimizer"], state["recipe"]["accumulate"]
    torch.save(state, tmp_path / checkpoint.FILE)
    assert run(tiny(epochs=2), images, out=tmp_path, resume=True)[1][-1].done


@pytest.fixture
def batches(tiny, monkeypatch):
    """Which images the loop takes, and what it makes of them, step by step; the images are flat, each of its own grey."""
    seen = []
    original = engine.make_views

    def spy(images, recipe, progress, noise):
        views = original(images, recipe, progress, noise)
        seen.append((images[:, 0, 0, 0].tolist(), views[0]))
        return views

    monkeypatch.setattr(engine, "make_views", spy)
    flat = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 20, 20).contiguous()
    run(tiny(), flat)
    return seen


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own(batches):
    assert len(batches) == 8
    first, second = ([i for rows, _ in batches[k : k + 4] for i in rows] for k in (0, 4))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second and first != sorted(first)


def test_every_step_draws_its_own_noise(tiny, images, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        engine,
        "make_views",
        lambda batch, recipe, progress, noise: (drawn.append(torch.rand(1, generator=noise)), VIEWS)[1],
    )
    run(tiny(), images)
    assert len({value.item() for value in drawn}) == 8


VIEWS = [torch.randn(10, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(2)]


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: reading a number off a tensor, or a result whose size is data."""

    CALLS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "bincount")

    def __init__(self):
        super().__init__()
        self.step, self.seen = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.CALLS:
            self.seen.append((self.step, str(func)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(tiny, images, method):
    """Between two reports nothing is read back: shown on a CPU by the calls that would do it."""
    view = {"count": 1, "size": 16, "blur_p": 0.5, "solarize_p": 0.2, "interpolation": "bicubic"}
    recipe = tiny(method, epochs=1, optimizer="lars", clip_grad=1.0, views=[view, view])
    run(recipe, images)  # what is computed once is computed now
    with Waits() as waits:

        def stop():  # asked before every step
            waits.step += 1
            return False

        run(recipe, images, stop=stop)
    assert waits.step == 4
    assert [call for step, call in waits.seen if step < 4] == []
    assert waits.seen  # the report after the last one does read


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_compiled_networks_learn_the_same(tiny, images, method):
    recipe = tiny(method, epochs=1, progressive=[[0.0, 1.0]])
    plain, _ = run(recipe, images)
    compiled, _ = run(dataclasses.replace(recipe, compile=True), images)
    assert list(compiled) == list(plain)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4)
