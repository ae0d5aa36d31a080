"""The classifier folder: read back by ourselves, by torchvision and by timm, and as an encoder; and predicting with it."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sslzoo
from sslzoo import cli
from sslzoo.backbones import build
from sslzoo.encoder import Encoder
from sslzoo.errors import InputError, SpaceMismatch, WeightsError
from sslzoo.registry import PACKAGE_ENCODER
from sslzoo.spec import EncoderSpec, Geometry, Preprocess
from sslzoo.transfer.settings import Settings
from tests.transfer.conftest import FAST


@pytest.fixture(scope="module")
def logits(tuned, colours):
    """Of one image, from the classifier in memory."""
    path = colours[1] / "red" / "0.png"
    classifier = tuned[1].classifier
    with torch.inference_mode():
        return path, classifier(classifier.encoder.transform(Image.open(path))[None])


def test_it_comes_back(tuned, logits):
    folder, _ = tuned
    again = sslzoo.Classifier.from_pretrained(folder, device="cpu")
    path, expected = logits
    assert again.classes == ("blue", "green", "red")
    with torch.inference_mode():
        torch.testing.assert_close(again(again.encoder.transform(Image.open(path))[None]), expected)
    with pytest.raises(InputError, match="sslzoo finetune"):
        sslzoo.Classifier.from_pretrained(folder.parent)


def test_torchvision_loads_it_whole(tuned, logits):
    from torchvision.models import resnet18

    model = resnet18(num_classes=3)
    model.load_state_dict(load_file(tuned[0] / "model.safetensors"))
    path, expected = logits
    x = tuned[1].classifier.encoder.transform(Image.open(path))[None]
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-4, atol=1e-4)


def test_timm_loads_it_by_its_config(tuned, logits):
    import timm

    model = timm.create_model(f"local-dir:{tuned[0]}", pretrained=True)
    path, expected = logits
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    x = transform(Image.open(path).convert("RGB"))[None]
    torch.testing.assert_close(x, tuned[1].classifier.encoder.transform(Image.open(path))[None], atol=0.02, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), expected, atol=0.05, rtol=0.05)
    assert model.pretrained_cfg["label_names"] == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("backbone", "geometry"),
    [
        ("resnet18", {"stem": "cifar"}),
        ("resnet18", {"padding": "same-pool"}),
        ("resnet18", {"bn_eps": 1e-3}),
        ("resnet18w2", {}),
    ],
)
def test_timm_refuses_a_network_that_it_lacks(tmp_path, backbone, geometry):
    import timm

    torch.manual_seed(0)
    dim = 1024 if "w2" in backbone else 512
    spec = EncoderSpec("mine", "simsiam", backbone, dim, Preprocess(32, 32), Geometry(**geometry))
    classifier = sslzoo.Classifier(Encoder(build(backbone, **geometry), spec), ["a", "b"]).eval()
    classifier.save_pretrained(tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert "architecture" not in config and config["label_names"] == ["a", "b"]
    assert "timm" not in (tmp_path / "c" / "README.md").read_text()
    with pytest.raises(Exception, match="architecture"):
        timm.create_model(f"local-dir:{tmp_path / 'c'}", pretrained=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        again = sslzoo.Classifier.from_pretrained(tmp_path / "c", device="cpu")
        torch.testing.assert_close(again(x), classifier(x))


def test_damaged_weights_are_told(tuned, colours, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(tuned[0], folder)
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (b"", whole[:100], whole[:-1000]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(WeightsError, match="sslzoo finetune IMAGES -o NEW"):
            sslzoo.predict(colours[1], folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="sslzoo finetune IMAGES -o NEW"):
        sslzoo.predict(colours[1], folder)


def test_it_is_a_model_folder_too(tuned, logits):
    folder, made = tuned
    encoder = sslzoo.load(f"local-dir:{folder}", device="cpu")
    assert encoder.spec.name == "by-colour"
    assert encoder.spec.preprocess.size == 32
    assert encoder.space == made.classifier.encoder.space
    assert f"Fine-tuned from {PACKAGE_ENCODER} on 24 labelled images of 3 classes (4 epochs)" in encoder.spec.note
    assert encoder.spec.license == "apache-2.0" and "non-commercial" in encoder.spec.data_terms


def test_predictions(tuned, colours, logits):
    folder, made = tuned
    found = sslzoo.predict(colours[1], folder, top=2, device="cpu", precision="fp32", backend="torch")
    assert len(found) == 12 and found.ids[0] == "blue/0.png"
    assert np.mean(
        [id_.split("/")[0] == names[0] for id_, names in zip(found.ids, found.classes, strict=True)]
    ) == pytest.approx(made.score.value)
    row = found.ids.index("red/0.png")
    expected, order = logits[1].softmax(1)[0].sort(descending=True)
    np.testing.assert_allclose(found.probabilities[row], expected[:2].numpy(), atol=1e-4)
    assert found.classes[row] == [made.classifier.classes[c] for c in order[:2]]
    e = sslzoo.embed(colours[1], f"local-dir:{folder}", folder.parent / "e", precision="fp32", backend="torch")
    assert len(e) == 12
    again = sslzoo.predict(folder.parent / "e", folder, top=2, precision="fp32", backend="torch", device="cpu")
    assert again.classes == found.classes
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-5)
    sslzoo.embed(colours[1], "random-r18", folder.parent / "other")
    with pytest.raises(SpaceMismatch, match=f"images themselves, or .* sslzoo embed IMAGES -m local-dir:{folder}$"):
        sslzoo.predict(folder.parent / "other", folder)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sslzoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capsys.readouterr())

    return call


def test_from_the_command_line(run, colours, tmp_path):
    train, test = colours
    options = ("-m", "random-r18", "--epochs", 2, "--size", 32, "-b", 8, "--precision", "fp32", "--device", "cpu")
    code, out, err = run("finetune", train, test, "-o", "c", *options)
    assert code == 0
    assert "3 classes; next: sslzoo predict c" in out and "finetune_top1@2 epochs" in out
    assert "epoch 2/2: loss" in err
    assert "the interval is wide: there are 12 test images" in err
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.png").write_bytes((test / "red" / "0.png").read_bytes())
    (mixed / "b.png").write_text("text")
    code, out, err = run("predict", "c", mixed, "-k", 3, "-q")
    assert code == 3
    assert out.startswith("a.png\t") and len(out.strip().split("\t")) == 4
    assert "b.png: not an image" in err
    code, out, _ = run("predict", "c", mixed, "--json", "-q")
    (entry,) = json.loads(out)
    assert code == 3 and 0 < entry["classes"][0]["probability"] <= 1
    code, _, err = run("predict", mixed, mixed)
    assert code == 1 and "sslzoo finetune" in err
    code, out, _ = run("finetune", train, "-o", "f", *options, "--freeze", "--preset", "swav-linear", "--json", "-q")
    assert code == 0 and json.loads(out)["score"] is None


def test_unreadable_images_are_listed_and_end_with_code_3(run, colours, tmp_path):
    for kind, source in zip(("train", "test"), colours, strict=True):
        shutil.copytree(source, tmp_path / kind)
        (tmp_path / kind / "red" / f"broken-{kind}.png").write_text("text")
    options = ("-m", "random-r18", "--epochs", 1, "--size", 32, "-b", 8, "--precision", "fp32", "--device", "cpu", "-q")
    code, out, err = run("finetune", "train", "test", "-o", "c", *options)
    assert code == 3
    assert "n=24, 12 test images" in out
    assert "red/broken-train.png (train): not an image" in err and "red/broken-test.png (test): not an image" in err
    failures = json.loads((tmp_path / "c" / "config.json").read_text())["sslzoo"]["run"]["failures"]
    assert [list(failures[kind]) for kind in ("train", "test")] == [["red/broken-train.png"], ["red/broken-test.png"]]
    code, out, _ = run("finetune", "train", "test", "-o", "c", *options, "--resume", "--json")
    assert code == 3 and json.loads(out)["failures"] == failures
    assert "n=24, 12 test images" in json.loads(out)["score"]["protocol"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_that_are_not_utf8(run, colours, tmp_path):
    shutil.copytree(colours[0], tmp_path / "train")
    bad = os.fsdecode(b"red/bad\xff.png")
    (tmp_path / "train" / "red").rename(tmp_path / "train" / os.fsdecode(b"red\xfe"))
    (tmp_path / "train" / os.fsdecode(b"red\xfe")).joinpath(os.fsdecode(b"bad\xff.png")).write_text("text")
    (tmp_path / "red").mkdir()
    shutil.copy(colours[1] / "red" / "0.png", tmp_path / bad)
    sslzoo.finetune("train", "random-r18", "c", settings=Settings(**FAST | {"epochs": 1}), device="cpu")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["label_names"] == ["blue", "green", os.fsdecode(b"red\xfe")]
    assert list(config["sslzoo"]["run"]["failures"]["train"]) == [os.fsdecode(b"red\xfe/bad\xff.png")]
    code, out, _ = run("predict", "c", "red", "-q", "-k", 3)
    assert (code, out.split("\t")[0]) == (0, "bad\\udcff.png"), out and "red\\udcfe " in out


def test_freezing_and_stages_contradict_each_other(run, colours):
    code, _, err = run("finetune", colours[0], "--freeze", "--stages", 2)
    assert code == 1 and "--stages 2" in err and "leave out one" in err
    code, _, err = run("finetune", colours[0], "--freeze", "--layer-decay", 0.7)
    assert code == 1 and "leave out one" in err


def test_ctrl_c_leaves_a_run_to_go_on_with(run, colours, monkeypatch, tmp_path):
    from sslzoo.transfer import loop

    kept = loop.save

    def save_and_interrupt(*arguments):
        kept(*arguments)
        raise KeyboardInterrupt

    options = ("-m", "random-r18", "-o", "c", "--epochs", 2, "--size", 32, "-b", 8, "--precision", "fp32", "-q")
    monkeypatch.setattr(loop, "save", save_and_interrupt)
    code, _, err = run("finetune", colours[0], *options)
    assert code == 130 and "--resume" in err
    code, _, err = run("predict", "c", colours[1])
    assert code == 1 and "c holds a fine-tuning that was interrupted" in err and "--resume" in err
    monkeypatch.setattr(loop, "save", kept)
    assert run("finetune", colours[0], *options)[0] == 1
    assert run("finetune", colours[0], *options, "--resume")[0] == 0
    assert [p.name for p in (tmp_path / "c").glob("*.pt")] == []
