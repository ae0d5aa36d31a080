"""Fine-tuning: it learns, it stops and goes on exactly, what is frozen stays, and its settings do what they say."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

import sslzoo
from sslzoo import registry
from sslzoo.errors import InputError, OutputExists
from sslzoo.evaluate.linear import draw
from sslzoo.transfer import loop
from sslzoo.transfer.classifier import Classifier, fresh
from sslzoo.transfer.finetune import finetune
from sslzoo.transfer.photos import Photos, random_box
from sslzoo.transfer.settings import PRESETS, RANDAUGMENT, Settings, preset
from tests.transfer.conftest import FAST


def test_it_learns_what_can_be_learnt(tuned):
    _, made = tuned
    assert made.epochs[-1].loss < 0.5 * made.epochs[0].loss < np.log(3)
    assert made.score.value > 0.6  # a third by chance; colour is what the encoder has learned to overlook
    assert made.score.protocol.startswith(
        "finetune_top1@4 epochs (whole network, sgd, lr 0.2, batch 8, 32 to 32 px, n=24"
    )
    assert (made.score.train.size, made.score.test.size) == (24, 12)


def test_the_folder_tells_where_it_came_from(tuned):
    folder, made = tuned
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == ["blue", "green", "red"]
    run = config["sslzoo"]["run"]
    assert run["model"] == registry.PACKAGE_ENCODER
    assert run["failures"] == {"train": {}, "test": {}}
    assert run["settings"]["epochs"] == 4
    assert run["scores"][0]["value"] == made.score.value
    assert [e["number"] for e in run["epochs"]] == [1, 2, 3, 4]
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_finished_folder_is_left_alone(tuned, colours):
    folder, _ = tuned
    with pytest.raises(OutputExists, match="sslzoo predict"):
        finetune(colours[0], "random-r18", folder)
    with pytest.raises(OutputExists, match="remove it"):
        tuned[1].classifier.save_pretrained(folder)


def test_resuming_a_finished_run_gives_its_result(tuned, colours):
    folder, made = tuned
    call = {"model": registry.PACKAGE_ENCODER, "settings": Settings(**FAST), "resume": True, "device": "cpu"}
    again = finetune(colours[0], out=folder, test=colours[1], **call)
    assert again.epochs == made.epochs
    assert torch.equal(again.classifier.fc.weight, made.classifier.fc.weight)
    assert again.score.to_dict() == made.score.to_dict()
    for changes, message in (
        ({"model": "random-r18"}, f"model {registry.PACKAGE_ENCODER}, not random-r18"),
        ({"settings": Settings(**FAST | {"lr": 0.3})}, "lr 0.2, not 0.3"),
        ({"train": colours[1]}, "images .*/24, not .*/12"),
    ):
        with pytest.raises(InputError, match=message):
            finetune(**{"train": colours[0], "out": folder} | call | changes)


def test_only_a_classifier_folder_is_resumed(model_folder, colours):
    with pytest.raises(InputError, match="not a classifier folder; choose another -o"):
        finetune(colours[0], "random-r18", model_folder, resume=True, device="cpu")


class Stop(Exception):
    pass


def test_a_resumed_run_equals_an_unbroken_one(colours, tmp_path):
    settings = Settings(**FAST | {"epochs": 3, "randaugment": 5, "mixup": 0.2, "cutmix": 1.0, "patience": 3})

    def stop(epoch):
        if epoch.number == 2:
            raise Stop

    whole = finetune(colours[0], "random-r18", settings=settings, device="cpu")
    with pytest.raises(Stop):
        finetune(colours[0], "random-r18", tmp_path / "c", settings=settings, device="cpu", on_epoch=stop)
    with pytest.raises(OutputExists, match="--resume"):
        finetune(colours[0], "random-r18", tmp_path / "c", settings=settings, device="cpu")
    other = replace(settings, lr=0.3)
    with pytest.raises(InputError, match=r"lr 0\.2, not 0\.3"):
        finetune(colours[0], "random-r18", tmp_path / "c", settings=other, device="cpu", resume=True)
    rest = finetune(colours[0], "random-r18", tmp_path / "c", settings=settings, device="cpu", resume=True)
    assert [e.number for e in rest.epochs] == [1, 2, 3]
    states = [made.classifier.state_dict() for made in (whole, rest)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert [(e.loss, e.held_out) for e in whole.epochs] == [(e.loss, e.held_out) for e in rest.epochs]


@pytest.mark.parametrize("packed", [False, True])
def test_images_of_other_contents_are_other_images(colours, tmp_path, packed):
    shutil.copytree(colours[0], tmp_path / "in")
    source, out = tmp_path / ("in.zip" if packed else "in"), tmp_path / "c"
    zipped = partial(shutil.make_archive, tmp_path / "in", "zip", tmp_path / "in")
    zipped()

    def stop(epoch):
        raise Stop

    call = {"model": "random-r18", "settings": Settings(**FAST | {"epochs": 2}), "device": "cpu"}
    with pytest.raises(Stop):
        finetune(source, out=out, on_epoch=stop, **call)
    shutil.copy(tmp_path / "in" / "red" / "1.png", tmp_path / "in" / "red" / "0.png")
    zipped()
    with pytest.raises(InputError, match=r"run with files [0-9a-f]{12}, not [0-9a-f]{12}: resume without changes"):
        finetune(source, out=out, resume=True, **call)
    state = torch.load(out / "checkpoint.pt")
    del state["call"]["files"]  # as of an older run
    torch.save(state, out / "checkpoint.pt")
    assert len(finetune(source, out=out, resume=True, **call).epochs) == 2


def test_a_run_that_was_killed_while_its_first_checkpoint_was_written_begins_anew(colours, tmp_path):
    settings = Settings(**FAST | {"epochs": 1})
    (tmp_path / "checkpoint.pt.tmp").write_bytes(b"PK")
    with pytest.raises(OutputExists, match="--resume"):
        finetune(colours[0], "random-r18", tmp_path, settings=settings, device="cpu")
    made = finetune(colours[0], "random-r18", tmp_path, settings=settings, device="cpu", resume=True)
    assert len(made.epochs) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("damaged", [b"", b"PK and no more", b"\x80\x02}q\x00."])
def test_a_damaged_checkpoint_is_told(colours, tmp_path, damaged):
    (tmp_path / "checkpoint.pt").write_bytes(damaged)
    with pytest.raises(InputError, match=r"checkpoint.pt is damaged .*; remove it"):
        finetune(colours[0], "random-r18", tmp_path, settings=Settings(**FAST), device="cpu", resume=True)


@pytest.mark.parametrize(("stages", "moved"), [(0, set()), (2, {"layer4", "layer3"})])
def test_frozen_stages_stay_as_they_are(colours, stages, moved):
    before = sslzoo.load("random-r18", device="cpu").backbone.state_dict()
    settings = Settings(**FAST | {"epochs": 1, "stages": stages})
    after = finetune(colours[0], "random-r18", settings=settings, device="cpu").classifier
    found = {name.split(".")[0] for name, v in after.encoder.backbone.state_dict().items() if not v.equal(before[name])}
    assert found == moved
    assert all(p.requires_grad for p in after.parameters())


def test_rates_by_layer():
    classifier = fresh("random-r18", ["a", "b"], device="cpu")
    settings = Settings(layer_decay=0.5, head_lr=3.0, weight_decay=0.01, stages=3)
    groups = loop.build_optimizer(classifier, settings).param_groups
    # the classifier, layer4, layer3, layer2, each as weights that decay and vectors that don't
    assert [g["scale"] for g in groups] == [3, 3, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert [g["weight_decay"] for g in groups] == [0.01, 0] * 4
    assert all(p.ndim > 1 for g in groups[::2] for p in g["params"])
    trained = sum(p.numel() for g in groups for p in g["params"])
    backbone = classifier.encoder.backbone
    counted = sum(p.numel() for m in (backbone.layer2, backbone.layer3, backbone.layer4) for p in m.parameters())
    assert trained == 512 * 2 + 2 + counted


def test_one_step_of_a_linear_probe_by_hand(colours):
    """One batch of everything, one epoch, SGD: W - lr · (p - onehot)ᵀ f / n, in torch's own words."""
    settings = replace(preset("moco-linear"), epochs=1, batch_size=24, lr_steps=(), precision="fp32")
    classifier = fresh("random-r18", ["blue", "green", "red"], device="cpu")
    photos = Photos.open(colours[0])
    rows = np.random.default_rng((0, 0)).permutation(24)
    pixels = [p for _, p in photos.crops(rows, (0, 0), classifier.encoder.spec.preprocess, 0.08, 1)]
    features = torch.tensor(sslzoo.load("random-r18", device="cpu").encode(pixels))
    start, truth = (
        classifier.fc.weight.detach().clone(),
        torch.nn.functional.one_hot(torch.tensor(photos.codes[rows]), 3),
    )
    gradient = ((features @ start.T).softmax(1) - truth).T @ features / 24
    for _ in loop.train(classifier, photos, settings):
        pass
    expected = start - 30 * 24 / 256 * gradient
    torch.testing.assert_close(classifier.fc.weight.detach(), expected, rtol=1e-3, atol=1e-4)


def test_the_seed_is_that_of_the_head_too(colours):
    still = replace(preset("moco-linear"), epochs=1, lr=1e-9, precision="fp32", seed=3)  # the head stays as it began
    head = finetune(colours[0], "random-r18", settings=still, device="cpu").classifier.fc.weight.detach()
    drawn = [0.01 * torch.randn(3, 512, generator=torch.Generator().manual_seed(seed)) for seed in (3, 0)]
    torch.testing.assert_close(head, drawn[0], rtol=0, atol=1e-6)
    assert torch.equal(fresh("random-r18", ["a", "b", "c"], device="cpu").fc.weight, drawn[1])


def test_early_stopping_keeps_the_best():
    classifier = fresh("random-r18", ["a", "b"], device="cpu")
    keep = loop.Best(Settings(patience=2))
    for value, bias in ((0.5, 1.0), (0.7, 2.0), (0.6, 3.0), (0.7, 4.0)):
        assert not keep.enough
        torch.nn.init.constant_(classifier.fc.bias, bias)
        keep.see(value, classifier)
    assert keep.enough
    keep.restore(classifier)
    assert classifier.fc.bias.tolist() == [2.0, 2.0]


def test_the_epoch_that_was_kept_is_the_one_that_is_told(colours, monkeypatch):
    accuracies = iter([0.3, 0.7, 0.7, 0.4])  # of the four epochs on held-out images; then come the test images

    def hits(classifier, photos, workers):
        share = next(accuracies, 0.5)
        return np.arange(len(photos.items)), np.full(len(photos.items), share, np.float32)

    monkeypatch.setattr(loop, "hits", hits)
    settings = Settings(**FAST | {"patience": 2, "epochs": 9})
    made = finetune(colours[0], "random-r18", test=colours[1], settings=settings, device="cpu")
    assert len(made.epochs) == 4
    # 24 images, of which one of each class is held out
    assert made.score.protocol.startswith("finetune_top1@epoch 2 of 9, the best on held-out images (whole network")
    assert "n=21, 12 test images" in made.score.protocol
    assert "epoch 2 of 9" in made.classifier.encoder.spec.note


def test_what_is_held_out_is_not_trained_on(colours, tmp_path):
    settings = Settings(**FAST | {"epochs": 1, "patience": 1})
    made = finetune(colours[0], "random-r18", settings=settings, device="cpu")
    photos = Photos.open(colours[0])
    held = [photos.items[row].id for row in draw([i.id for i in photos.items], photos.codes, share=0.1)]
    assert [id_.split("/")[0] for id_ in held] == ["blue", "green", "red"]
    shutil.copytree(colours[0], tmp_path / "rest")
    for id_ in held:
        (tmp_path / "rest" / id_).unlink()
    rest = finetune(tmp_path / "rest", "random-r18", settings=replace(settings, patience=0), device="cpu")
    assert rest.epochs[0].held_out is None
    assert "(1 epoch)" in rest.classifier.encoder.spec.note
    assert 3 * made.epochs[0].held_out == pytest.approx(round(3 * made.epochs[0].held_out))
    weights = (made.classifier.state_dict(), rest.classifier.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_mixing_is_torchvisions():
    assert loop.mixer(Settings(), 3)(1, 2) == (1, 2)
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    mixed, labels = loop.mixer(Settings(mixup=0.5), 3)(x, y)
    assert labels.shape == (4, 3)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    share = labels[0, 0]  # images and labels are mixed in one proportion with their neighbour in the batch
    torch.testing.assert_close(mixed[1], x[1] * labels[1, 1] + x[0] * (1 - labels[1, 1]))
    assert 0 <= share <= 1
    assert len(loop.mixer(Settings(mixup=0.5, cutmix=1.0), 3).transforms) == 2


def test_randaugment_is_per_image():
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert torch.equal(loop.randaugment([image], 0)[0], torch.tensor(image))
    torch.manual_seed(0)
    batch = loop.randaugment([image] * 8, 9)
    assert batch.dtype == torch.uint8 and batch.shape == (8, 16, 16, 3)
    assert len({bytes(b.numpy().tobytes()) for b in batch}) > 4


def test_crops_are_distributed_as_torchvisions():
    random, image = np.random.default_rng(0), torch.empty(3, 120, 90)
    ours = np.array([random_box(90, 120, random, 0.2) for _ in range(4000)])
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    top, left, height, width = theirs.T
    for mine, other in (
        (ours[:, 0], left),
        (ours[:, 1], top),
        (ours[:, 2] - ours[:, 0], width),
        (ours[:, 3] - ours[:, 1], height),
    ):
        assert mine.mean() == pytest.approx(other.mean(), rel=0.05)
        assert mine.std() == pytest.approx(other.std(), rel=0.05)
    assert random_box(10, 1000, random, 1.0) == (0, 493, 10, 506)  # no such box fits: the middle, at 3/4


def test_crops_depend_on_seed_epoch_and_row_alone(colours):
    photos = Photos.open(colours[0])
    p = sslzoo.load("random-r18", device="cpu").spec.preprocess
    some = dict(photos.crops(np.array([3, 1, 2]), (0, 1), p, 0.2, 2))
    again = dict(photos.crops(np.array([2, 3]), (0, 1), p, 0.2, 1))
    assert np.array_equal(some[3], again[3])
    assert not np.array_equal(some[3], dict(photos.crops(np.array([3]), (0, 2), p, 0.2, 1))[3])


def test_unreadable_and_unlabelled_images(tmp_path, colours):
    with pytest.raises(InputError, match="without a label"):
        Photos.open(colours[0] / "red")
    with pytest.raises(InputError, match="'blue', which the training images don't have"):
        Photos.open(colours[1], ["red", "green"])
    (tmp_path / "one").mkdir()
    shutil.copytree(colours[0] / "red", tmp_path / "one" / "red")
    with pytest.raises(InputError, match="one class 'red'; give at least two"):
        Photos.open(tmp_path / "one")
    shutil.rmtree(tmp_path / "one")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_text("text")
        (tmp_path / name / "good.png").write_bytes((colours[0] / "red" / "0.png").read_bytes())
    photos = Photos.open(tmp_path)
    p = sslzoo.load("random-r18", device="cpu").spec.preprocess
    assert [photos.items[row].id for row, _ in photos.crops(np.arange(4), (0,), p, 0.2, 1)] == [
        "a/good.png",
        "b/good.png",
    ]
    made = finetune(tmp_path, "random-r18", test=tmp_path, settings=Settings(**FAST | {"epochs": 1}), device="cpu")
    assert np.isfinite(made.epochs[0].loss)
    assert made.score.test.size == len(made.score.items) == made.score.train.size == 2
    assert "n=2, 2 test images" in made.score.protocol
    assert {k: sorted(v) for k, v in made.failures.items()} == {
        "train": ["a/broken.png", "b/broken.png"],
        "test": ["a/broken.png", "b/broken.png"],
    }
    assert made.failures["train"]["a/broken.png"].startswith("not an image")
    (tmp_path / "a" / "good.png").unlink()
    (tmp_path / "b" / "good.png").unlink()
    with pytest.raises(InputError, match=r"fewer than 2 of the 2 training images .* \([ab]/broken.png: not an image"):
        finetune(tmp_path, "random-r18", settings=Settings(**FAST | {"epochs": 1}), device="cpu")
    with pytest.raises(InputError, match="none of the 2 images"):
        loop.hits(made.classifier, Photos.open(tmp_path))


def test_presets_are_the_papers():
    assert set(PRESETS) - {"finetune"} == {f"{m}-linear" for m in ("moco", "simclr", "byol", "simsiam", "swav")}
    assert all(s.stages == 0 for name, s in PRESETS.items() if name.endswith("linear"))
    moco = preset("moco-linear")
    assert (moco.lr, moco.batch_size, moco.epochs, moco.lr_steps, moco.weight_decay) == (30, 256, 100, (0.6, 0.8), 0)
    assert preset("simsiam-linear").optimizer == "lars"
    with pytest.raises(InputError, match="moco-linear"):
        preset("moco")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", "lamb"),
        ("precision", "fp8"),
        ("stages", 6),
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("head_lr", 0),
        ("layer_decay", -1),
        ("weight_decay", -1e-4),
        ("momentum", 1),
        ("warmup_epochs", -1),
        ("warmup_epochs", 31),
        ("lr_steps", (60, 80)),
        ("size", -32),
        ("min_crop", 0),
        ("randaugment", 31),
        ("mixup", -1),
        ("cutmix", -1),
        ("label_smoothing", 2),
        ("patience", -1),
        ("seed", -1),
    ],
)
def test_settings_that_cannot_be_meant(name, value):
    with pytest.raises(InputError, match=f"{name} is .*; use "):
        Settings(**{name: value})


def test_the_greatest_randaugment_is_torchvisions():
    image = np.zeros((8, 8, 3), np.uint8)
    torch.manual_seed(0)
    assert loop.randaugment([image] * 32, RANDAUGMENT).shape == (32, 8, 8, 3)
    with pytest.raises(IndexError):
        loop.randaugment([image] * 32, RANDAUGMENT + 1)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "finetune"])
def test_every_preset_runs(name, colours):
    settings = replace(preset(name), epochs=2, size=32)
    made = finetune(colours[0], "random-r18", settings=settings, device="cpu")
    assert len(made.epochs) == 2 and isinstance(made.classifier, Classifier)
