import dataclasses
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
    assert (result.dataset_name, result.dataset_type) == ("ImageNet-1k val", "ILSVRC/imagenet-1k")
    assert (result.metric_type, result.metric_value) == ("accuracy", 68.3)
    assert result.metric_name.startswith("linear_top1")
    assert (data.datasets, data.metrics) == (["ILSVRC/imagenet-1k"], ["accuracy"])
    assert "checkpoint_0099.pth.tar" in hub.card(spec)


@pytest.fixture(scope="module", params=["simclr-r18", "random-r50"])
def ours(request, tmp_path_factory):
    """An encoder of ours and its model folder in fp32: the one in the package, and a ResNet-50."""
    encoder = sslzoo.load(request.param, device="cpu")
    folder = tmp_path_factory.mktemp("ours") / "m"
    encoder.save_pretrained(folder)
    return encoder, folder


X = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("text", "found"), [("cc-by-nc-4.0", "cc-by-nc-4.0"), ("MIT", "mit"), ("", ""), ("not stated", "not stated")]
)
def test_the_hubs_ids_of_licenses(text, found):
    assert hub.license_id(text) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("CC BY-NC 4.0", r"did you mean cc-by-nc-4\.0\?"),
        ("Apache License 2.0", r"did you mean apache-2\.0"),
        ("gpl3", r"or gpl-3\.0\?"),
        ("our own, ask us", "or: other"),
    ],
)
def test_what_is_no_license_of_the_hub_is_told_with_the_id(text, hint):
    with pytest.raises(InputError, match=f"is no license id of the Hub; .*{hint}"):
        hub.license_id(text)


def test_timm_reads_the_same_file(ours):
    import timm

    encoder, folder = ours
    path = folder / "model.safetensors"
    network = timm.create_model(encoder.spec.backbone, num_classes=0, checkpoint_path=str(path)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(X), encoder(X), rtol=1e-5, atol=1e-5)


def test_timm_reads_the_file_inside_the_package():
    import timm

    encoder = sslzoo.load("simclr-r18", device="cpu")
    path = hub.fetch(encoder.spec) / "model.safetensors"  # its kernels are fp16
    network = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(path)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(X), encoder(X), rtol=1e-5, atol=1e-5)


def test_torchvision_reads_the_same_file(ours):
    import torchvision
    from safetensors.torch import load_file

    encoder, folder = ours
    network = getattr(torchvision.models, encoder.spec.backbone)()
    network.fc = torch.nn.Identity()
    found = network.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert found.unexpected_keys == []
    assert all(k.endswith("num_batches_tracked") for k in found.missing_keys)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(X), encoder(X), rtol=1e-5, atol=1e-5)


def test_shards_are_made_read_and_joined(model_folder, tmp_path, monkeypatch, capsys):
    """`training export` on a model folder, both ways; the Hub's own reader of shards finds the same tensors."""
    import sys

    from safetensors.torch import load_file

    from training import __main__ as cli

    def export(*arguments):
        monkeypatch.setattr(sys, "argv", ["training", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err

    assert export(model_folder, "-o", tmp_path / "shards", "--shard-size", "15MB")[0] in (0, None)
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert [p.name for p in shards] == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    assert all(p.stat().st_size <= 15e6 for p in shards)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    whole = load_file(model_folder / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in whole.values())
    for path in shards:
        for name, value in load_file(path).items():
            assert index["weight_map"][name] == path.name
            assert torch.equal(value, whole.pop(name))
    assert not whole

    encoder = sslzoo.load(str(tmp_path / "shards"), device="cpu")
    assert encoder.space == sslzoo.load(str(model_folder), device="cpu").space
    assert encoder.spec.size_bytes == sum(p.stat().st_size for p in shards)

    assert export(tmp_path / "shards", "-o", tmp_path / "joined")[0] in (0, None)
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "joined" / name).read_bytes() == (model_folder / name).read_bytes()
    (tmp_path / "shards" / "README.md").unlink()  # as `load` fetches them from the Hub
    assert export(tmp_path / "shards", "-o", tmp_path / "fetched")[0] in (0, None)
    assert encoder.spec.name in (tmp_path / "fetched" / "README.md").read_text()
    code, err = export(model_folder, "-o", tmp_path / "x", "--shard-size", "15")
    assert code == 1
    assert "15MB" in err
    assert not (tmp_path / "x").exists()


def test_an_encoder_that_is_not_published_yet_says_so():
    spec = EncoderSpec("x-r18.y", "x", "resnet18", 512, Preprocess(96, 96), sha256="1" * 64)
    for sources in ((), ("checkout:x-r18.y",)):  # as an installed package sees what lies in a checkout alone
        with pytest.raises(WeightsError, match=r"x-r18\.y is known but not published yet"):
            hub.fetch(dataclasses.replace(spec, sources=sources))


def test_entries_of_our_own_pin_their_weights():
    from sslzoo import registry

    ours = [spec for spec in registry.known().values() if not spec.checkpoints]
    assert ours
    assert all(len(spec.sha256) == 64 for spec in ours)
