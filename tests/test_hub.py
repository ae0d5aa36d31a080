import json

import numpy as np
import pytest
import torch

import sslzoo
from sslzoo import hub
from sslzoo.errors import InputError, OutputExists, WeightsError
from sslzoo.spec import EncoderSpec, Preprocess


def test_save_and_load_round_trip(model_folder, picture):
    original = sslzoo.load("random-r18", device="cpu")
    again = sslzoo.Encoder.from_pretrained(model_folder, device="cpu")
    np.testing.assert_array_equal(original.encode(picture), again.encode(picture))
    assert again.space == original.space
    assert {p.name for p in model_folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert (model_folder / "model.safetensors").stat().st_mode & 0o044


def test_nothing_is_overwritten(model_folder):
    before = (model_folder / "config.json").read_bytes()
    with pytest.raises(OutputExists, match="already exists"):
        sslzoo.load("random-r18", device="cpu").save_pretrained(model_folder)
    assert (model_folder / "config.json").read_bytes() == before


def damaged(model_folder, tmp_path, change):
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    change(tmp_path)
    return tmp_path


def test_one_flipped_bit_is_found(model_folder, tmp_path):
    def flip(folder):
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1000] ^= 1
        (folder / "model.safetensors").write_bytes(data)

    with pytest.raises(WeightsError, match=r"sha256.*get the model folder"):
        sslzoo.load(f"local-dir:{damaged(model_folder, tmp_path, flip)}")


def test_weights_of_another_network_are_refused(model_folder, tmp_path):
    def lie(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"backbone": "resnet34"}))

    with pytest.raises(WeightsError, match="don't fit a resnet34"):
        sslzoo.load(f"local-dir:{damaged(model_folder, tmp_path, lie)}")


def test_a_file_without_a_hash_is_refused(model_folder, tmp_path):
    def unpin(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"sha256": ""}))

    with pytest.raises(WeightsError, match="no sha256"):
        sslzoo.load(f"local-dir:{damaged(model_folder, tmp_path, unpin)}")


def test_folders_that_are_no_model_folders(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        sslzoo.load(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        sslzoo.load(f"local-dir:{tmp_path}")


def test_an_encoder_without_a_source_says_what_was_tried():
    spec = EncoderSpec("x-r18.y", "x", "resnet18", 512, Preprocess(96, 96), sources=("package:nothing",))
    with pytest.raises(WeightsError, match="package:nothing"):
        hub.fetch(spec)


def test_the_digest_is_that_of_the_values():
    a = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}
    assert hub.digest(a) == hub.digest(dict(reversed(a.items())))
    assert hub.digest(a) == hub.digest({k: v.astype(np.float16) for k, v in a.items()})  # exact in fp16
    assert hub.digest(a) == hub.digest(a | {"steps": np.array(7)})
    assert hub.digest(a) != hub.digest(a | {"w": a["w"].T})
    assert hub.digest(a) != hub.digest(a | {"b": a["b"] * 2})


def test_changed_weights_are_another_space(model_folder):
    encoder = sslzoo.Encoder.from_pretrained(model_folder, device="cpu")
    before = encoder.space
    with torch.no_grad():
        encoder.backbone.conv1.weight[0] += 1
    assert encoder.space != before


def test_a_card_is_what_the_hub_reads():
    from huggingface_hub import ModelCard

    from sslzoo import registry

    spec = registry.resolve("simsiam-r50")
    data = ModelCard(hub.card(spec)).data
    assert (data.library_name, data.pipeline_tag) == ("sslzoo", "image-feature-extraction")
    assert data.license == "cc-by-nc-4.0"
    assert {"simsiam", "resnet50"} <= set(data.tags)
    assert data.model_name == spec.name
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("ImageNet-1k val", "linear_top1", 68.3)
    assert "checkpoint_0099.pth.tar" in hub.card(spec)


def test_torchvision_reads_the_same_file(model_folder):
    import torchvision
    from safetensors.torch import load_file

    found = torchvision.models.resnet18().load_state_dict(load_file(model_folder / "model.safetensors"), strict=False)
    assert found.unexpected_keys == []
    assert {k for k in found.missing_keys if not k.endswith("num_batches_tracked")} == {"fc.weight", "fc.bias"}
