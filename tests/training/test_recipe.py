import dataclasses
import json

import pytest
import torch

from benchmarks import bakeoff
from sslzoo import registry
from sslzoo.errors import InputError
from training import engine, recipe
from training.methods import METHODS


@pytest.mark.parametrize("path", sorted(recipe.RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_builds_its_method(path):
    settings = recipe.load(path.stem)
    assert settings.name == path.stem
    with torch.device("meta"):  # names and shapes only: ResNet-50 with a queue takes seconds otherwise
        assert isinstance(engine.build(settings), METHODS[settings.method])


@pytest.mark.parametrize(
    ("base", "overrides"),
    [*bakeoff.CANDIDATES.values(), *bakeoff.TUNING.values()],
    ids=[*bakeoff.CANDIDATES, *(f"{name}-2ep" for name in bakeoff.TUNING)],
)
def test_every_candidate_of_the_bakeoff_builds_its_method(base, overrides):
    with torch.device("meta"):
        engine.build(recipe.load(base, overrides))


def test_a_base_is_overlaid():
    short, long = recipe.load("byol-r50.in1k_100ep"), recipe.load("byol-r50.in1k_1000ep")
    assert (short.epochs, short.lr_per_256, short.batch_size) == (100, 0.45, 4096)
    assert short.views == long.views
    assert short.method_options == long.method_options | {"tau": 0.99}
    assert "temperature" not in recipe.load("byol-r18.tin_cpu_1h").method_options  # another method's are replaced


def test_the_papers_peak_rates():
    rates = {
        name: recipe.load(f"{name}-r50.in1k_100ep").learning_rate for name in ("simclr", "simsiam", "swav", "mocov2")
    }
    assert rates == pytest.approx({"simclr": 4.8, "simsiam": 0.1, "swav": 4.8, "mocov2": 0.03})


def test_swav_with_small_batches_as_its_authors_ran_it():
    small = recipe.load("swav-r50.in1k_200ep_bs256")
    assert (small.learning_rate, small.final_lr, small.warmup_epochs, small.batch_size) == (0.6, 0.0006, 0, 256)
    options = small.method_options
    assert (options["queue"], options["prototypes"], options["epsilon"]) == (3840, 3000, 0.05)
    assert options["queue_from"] * small.epochs == pytest.approx(15)
    assert options["freeze_until"] * small.epochs * (1_281_167 // 256) == pytest.approx(5005, abs=2)


@pytest.mark.parametrize("path", sorted(recipe.RECIPES.glob("*.in1k_*.toml")), ids=lambda p: p.stem)
def test_imagenet_is_cropped_from_whole_pictures_and_judged_as_its_authors_do(path):
    settings = recipe.load(path.stem)
    method = path.stem.partition("-")[0]
    theirs = registry.resolve(f"{method}-r50").preprocess
    ours = settings.preprocess
    assert not settings.square
    assert (ours.resize, ours.size, ours.interpolation) == (theirs.resize, theirs.size, theirs.interpolation)
    assert (ours.resize, ours.size) == (256, 224)


def test_mocos_statistics_are_never_taken_over_all_processes():
    """They would undo the split, and the shuffle of the keys with it (MoCo v1, section 3.3)."""
    assert not [path.stem for path in recipe.RECIPES.glob("moco*.toml") if recipe.load(path.stem).sync_bn]


def test_plain_values_round_trip(tiny):
    settings = tiny()
    assert recipe.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_overrides_take_tomls_syntax():
    name = next(recipe.RECIPES.glob("*.toml")).stem
    changed = recipe.load(
        name, ["epochs=30", "precision=fp32", "method_options.temperature=0.5", "views.0.scale=[0.1, 0.9]"]
    )
    assert (changed.epochs, changed.precision, changed.method_options["temperature"]) == (30, "fp32", 0.5)
    assert changed.views[0].scale == (0.1, 0.9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "did you mean 'epochs'"),
        ("views.0.jiter_p=1", "did you mean 'jitter_p'"),
        ("epochs", "--set key=value"),
        ("precision=fp8", "auto, bf16 or fp32"),
        ("batch_size=1", "at least 2"),
        ("progressive=[[0.5, 1.0]]", "must begin at share 0.0"),
        ("progressive=[[0.0, 0.5], [0.9, 1.0], [0.7, 1.0]]", "rise"),
        ("epochs=abc", "epochs in recipe is 'abc'; it must be a number"),
        ("batch_size=12.5", "batch_size in recipe is 12.5; it must be a whole number"),
        ("zero_init_residual=1", "true or false"),
        ("views.0.jitter=0.4", "jitter in views is 0.4; it must be a list"),
        ("mean=[0.5]", "three numbers"),
        ("stem=foo", "stem is 'foo'"),
        ("test_size=-5", "size=-5"),
        ("lr_per_256=-1", "0 or more"),
        ("warmup_epochs=1e6", "would never reach its peak"),
        ("warmup_epochs=-1", "--set warmup_epochs="),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(InputError, match=message):
        recipe.load(next(recipe.RECIPES.glob("*.toml")).stem, [override])


def test_an_unknown_recipe_or_method(tiny):
    with pytest.raises(InputError, match=r"no recipe 'simclr-r18'; did you mean: simclr-r18\."):
        recipe.load("simclr-r18")
    with pytest.raises(InputError, match="unknown method 'mae'; there are: simclr"):
        engine.build(dataclasses.replace(tiny(), method="mae"))


def test_a_file_that_is_not_toml(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs = [1")
    with pytest.raises(InputError, match=r"mine\.toml is not TOML"):
        recipe.load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("method", "views"),
    [
        ("simclr", [{"count": 1, "size": 16}]),
        ("simclr", [{"count": 3, "size": 16}]),
        ("byol", [{"count": 1, "size": 16}, {"count": 1, "size": 8}]),
        ("swav", [{"count": 1, "size": 16}]),
        ("swav", [{"count": 1, "size": 16}, {"count": 4, "size": 8}]),
    ],
)
def test_a_method_says_which_views_it_takes(tiny, method, views):
    """SimCLR, given one view, would pair different images and train on."""
    with pytest.raises(InputError, match=rf"{method} takes two .*views.0.count"):
        engine.build(tiny(method, views=views))


def test_a_missing_key_is_named(tiny):
    values = tiny().to_dict()
    del values["epochs"]
    with pytest.raises(InputError, match="lacks epochs"):
        recipe.from_dict(values)


def test_the_rate_grows_with_the_batch(tiny):
    assert tiny(batch_size=512, lr_per_256=0.05).learning_rate == pytest.approx(0.1)


def test_a_run_may_have_a_fraction_of_an_epoch():
    settings = recipe.load("simclr-r18.tin_cpu_1h", ["epochs=2.5"])  # of batches of 128
    assert settings.steps(1300) == 25
    assert recipe.load("simclr-r18.tin_cpu_1h", ["epochs=0.001", "warmup_epochs=0"]).steps(1300) == 1
