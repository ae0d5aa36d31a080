"""Each format's key table, laid out here by itself around a torchvision network, converts to that network's features."""

import argparse
import collections
import pickle
import re

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from sslzoo import backbones, convert
from sslzoo.errors import InputError, WeightsError
from sslzoo.spec import IMAGENET_MEAN, EncoderSpec, Preprocess
from tests.backbones.test_resnet import randomised
from tests.backbones.test_same_padding import theirs_with_same


@pytest.fixture(scope="module")
def r18():
    return randomised(torchvision.models.resnet18(weights=None))


@pytest.fixture(scope="module")
def r50():
    return randomised(torchvision.models.resnet50(weights=None))


def body(network, prefix=""):
    return {prefix + k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}


def other(prefix, *names):
    return {prefix + name: torch.ones(3) for name in names}


# name: (what the file holds, given a network), each as the authors' own training script lays it out
LAYOUTS = {
    "moco": lambda n: {
        "epoch": 200, "arch": "resnet50",
        "state_dict": body(n, "module.encoder_q.") | other("module.encoder_q.fc.", "0.weight", "2.bias")
        | body(n, "module.encoder_k.") | other("module.", "queue", "queue_ptr"),
    },
    "mocov1": lambda n: {
        "epoch": 200, "arch": "resnet50",
        "state_dict": body(n, "module.encoder_q.") | other("module.encoder_q.fc.", "weight", "bias")
        | body(n, "module.encoder_k.") | other("module.encoder_k.fc.", "weight") | other("module.", "queue"),
    },
    "mocov3": lambda n: {
        "epoch": 100, "arch": "resnet50", "optimizer": {"state": {}}, "scaler": {},
        "state_dict": body(n, "module.base_encoder.") | other("module.base_encoder.fc.", "0.weight", "1.running_mean")
        | other("module.momentum_encoder.", "conv1.weight", "fc.0.weight") | other("module.predictor.", "0.weight"),
    },
    "simsiam": lambda n: {
        "epoch": 100, "arch": "resnet50", "optimizer": {"state": {140: torch.ones(2)}},
        "state_dict": body(n, "module.encoder.") | other("module.encoder.fc.", "0.weight", "7.running_var")
        | other("module.predictor.", "3.bias"),
    },
    "swav": lambda n: body(n, "module.") | other("module.projection_head.", "0.weight", "1.num_batches_tracked")
        | other("module.prototypes.", "weight"),
    "vissl": lambda n: {
        "phase_idx": 800, "loss": {}, "classy_state_dict": {"base_model": {"model": {
            "trunk": body(n, "_feature_blocks."), "heads": other("0.clf.0.", "weight")}}, "optimizer": {}},
    },
    "mmselfsup": lambda n: {
        "meta": {"epoch": 200}, "state_dict": body(n, "backbone.") | other("neck.", "fc0.weight")
        | other("head.", "predictor.fc0.weight") | other("target_net.", "module.0.conv1.weight", "steps")
        | body(n, "encoder.0.")  # SimSiam of 0.x
        | {"data_preprocessor.mean": torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1) * 255},
    },
    "lightly": lambda n: {
        "epoch": 99, "pytorch-lightning_version": "2.0.3", "hyper_parameters": {}, "state_dict": body(n, "backbone.")
        | other("projection_head.layers.", "0.weight") | other("online_classifier.classification_head.", "weight")
        | body(n, "student_backbone.") | other("student_projection_head.", "weight"),
    },
    "solo-learn": lambda n: {
        "epoch": 99, "state_dict": body(n, "backbone.") | other("classifier.", "weight", "bias")
        | other("projector.", "0.weight") | body(n, "momentum_backbone.") | other("", "queue", "queue_ptr")
        | other("", "dino_loss_func.center", "local_memory_index", "local_memory_embeddings")  # DINO, DeepCluster-v2
        | other("", "predictor2.0.weight", "pos_enc.pe", "transformer_encoder.layers.0.norm1.bias"),  # All4One
    },
    "solo-learn-old": lambda n: {"state_dict": body(n, "encoder.") | other("classifier.", "weight")},
    "backbone": lambda n: {"model": body(n, "module.backbone.") | other("module.projector.", "0.weight")
        | other("module.bn.", "running_mean")},
    "torchvision": lambda n: n.state_dict(),
}  # fmt: skip


def features(converted, x):
    geometry = converted.spec.geometry.to_dict()
    network = backbones.build(converted.spec.backbone, **geometry).eval()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in converted.tensors.items()}, strict=False)
    with torch.inference_mode():
        return network(x)


def expect(network, x):
    with torch.inference_mode():
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(network, name)(x)
        return x.mean((2, 3))


X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("format", LAYOUTS)
def test_a_format_is_recognised_and_gives_the_networks_features(format, legacy, r18, tmp_path):
    path = tmp_path / "checkpoint_0099.pth.tar"
    torch.save(LAYOUTS[format](r18), path, _use_new_zipfile_serialization=not legacy)
    converted = convert.convert(path)
    assert converted.format == format
    assert converted.spec.backbone == "resnet18"
    assert converted.spec.name.endswith("-r18.checkpoint_0099")
    torch.testing.assert_close(features(converted, X), expect(r18, X), rtol=1e-5, atol=1e-5)
    assert {str(v.dtype) for v in converted.tensors.values()} == {"float32"}
    assert not any(name == "conv1.weight" for name in converted.dropped)


def test_every_format_has_a_test():
    assert set(LAYOUTS) | {"simclr-v1", "simclr-v2", "byol"} == set(convert.FORMATS)


def test_safetensors(r18, tmp_path):
    save_file(r18.state_dict(), tmp_path / "model.safetensors")
    converted = convert.convert(tmp_path / "model.safetensors")
    torch.testing.assert_close(features(converted, X), expect(r18, X), rtol=1e-5, atol=1e-5)


def test_precision_is_kept(r18, tmp_path):
    torch.save({k: v.half() for k, v in body(r18).items()}, tmp_path / "half.pth")
    assert {str(v.dtype) for v in convert.convert(tmp_path / "half.pth").tensors.values()} == {"float16"}
    torch.save({k: v.bfloat16() for k, v in body(r18).items()}, tmp_path / "b.pth")
    save_file({k: v.bfloat16() for k, v in body(r18).items()}, tmp_path / "b.safetensors")
    for name in ("b.pth", "b.safetensors"):
        assert {str(v.dtype) for v in convert.convert(tmp_path / name).tensors.values()} == {"float32"}


def test_a_wide_network(tmp_path):
    network = backbones.build("resnet18w2")
    torch.save(
        {f"module.{k}": v for k, v in network.state_dict().items()} | other("module.prototypes.", "w"), tmp_path / "w"
    )
    assert convert.convert(tmp_path / "w").spec.backbone == "resnet18w2"


@pytest.mark.parametrize(("format", "stem", "padding"), [("solo-learn", "cifar-pad2", 2), ("simsiam", "cifar", 1)])
def test_small_stems(format, stem, padding, tmp_path):
    network = torchvision.models.resnet18(weights=None)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=padding, bias=False)
    network.maxpool = torch.nn.Identity()
    randomised(network)
    torch.save(LAYOUTS[format](network), tmp_path / "c.ckpt")
    converted = convert.convert(tmp_path / "c.ckpt")
    assert converted.spec.geometry.stem == stem
    assert converted.spec.preprocess.size == 32
    x = X[:, :, :32, :32]
    torch.testing.assert_close(features(converted, x), expect(network, x), rtol=1e-5, atol=1e-5)


def test_google_simclr_v1_must_be_named_since_its_names_are_torchvisions(r50, tmp_path):
    torch.save({"state_dict": r50.state_dict()}, tmp_path / "resnet50-1x.pth")
    assert convert.convert(tmp_path / "resnet50-1x.pth").format == "torchvision"
    converted = convert.convert(tmp_path / "resnet50-1x.pth", format="simclr-v1")
    assert converted.spec.preprocess.mean == (0, 0, 0)
    assert converted.spec.preprocess.std == (1, 1, 1)
    with torch.inference_mode():
        expected = theirs_with_same(r50, X, everywhere=False)
    torch.testing.assert_close(features(converted, X), expected, rtol=1e-4, atol=1e-5)


SEPARIUS = {"conv1": "net.0", "bn1": "net.1.0", "conv2": "net.2", "bn2": "net.3.0", "conv3": "net.4", "bn3": "net.5.0"}


def separius(name):
    """The name that SimCLRv2-Pytorch's resnet.py gives to a tensor of torchvision's network."""
    parts = name.split(".")
    if parts[0] in ("conv1", "bn1"):
        return {"conv1": "net.0.0.", "bn1": "net.0.1.0."}[parts[0]] + parts[1]
    block = f"net.{parts[0][-1]}.blocks.{parts[1]}."
    if parts[2] == "downsample":
        return block + ("projection.shortcut." if parts[3] == "0" else "projection.bn.0.") + parts[4]
    return block + f"{SEPARIUS[parts[2]]}.{parts[3]}"


def test_google_simclr_v2(r50, tmp_path):
    resnet = {separius(k): v for k, v in body(r50).items()} | other("fc.", "weight", "bias")
    torch.save({"resnet": resnet, "head": other("layers.0.", "weight")}, tmp_path / "r50_1x_sk0.pth")
    converted = convert.convert(tmp_path / "r50_1x_sk0.pth")
    assert converted.format == "simclr-v2"
    with torch.inference_mode():
        expected = theirs_with_same(r50, X, everywhere=False)
    torch.testing.assert_close(features(converted, X), expected, rtol=1e-4, atol=1e-5)


ByolState = collections.namedtuple("ByolState", "online_params target_params online_state target_state opt_state")


class Dill(pickle.Pickler):
    """Writes a named tuple's class as dill does, by the call that remakes it; and a Haiku mapping, which takes a dict."""

    class Remade:
        pass

    def reducer_override(self, value):
        if value is ByolState:
            # never called here: only its name is written
            return _create_namedtuple, ("_ByolExperimentState", ByolState._fields, "byol.byol_experiment")
        return NotImplemented


def _create_namedtuple(name, fields, module):
    raise AssertionError("written by name only")


def haiku(network):
    """The network as Haiku names and shapes it: kernels [h, w, in, out], BN vectors [1, 1, 1, c], averages in the state."""
    params, state = collections.defaultdict(dict), collections.defaultdict(dict)
    for name, value in body(network).items():
        if name.endswith("num_batches_tracked"):
            continue
        *path, what = name.split(".")
        if path[0] in ("conv1", "bn1"):
            module = {"conv1": "initial_conv", "bn1": "initial_batchnorm"}[path[0]]
        else:
            group, block = int(path[0][-1]) - 1, path[1]
            if path[2] == "downsample":
                layer = ("shortcut_conv", "shortcut_batchnorm")[int(path[3])]
            else:
                layer = re.sub(r"(\d)$", lambda m: f"_{int(m[1]) - 1}", path[2].replace("bn", "batchnorm"))
            module = f"block_group_{group}/~/block_{block}/~/{layer}"
        module, value = f"res_net50/~/{module}", value.numpy()
        if value.ndim == 4:
            params[module]["w"] = value.transpose(2, 3, 1, 0)
        elif what.startswith("running"):
            average = value.reshape(1, 1, 1, -1)
            part = "mean_ema" if what == "running_mean" else "var_ema"
            state[f"{module}/~/{part}"] = {"average": average, "hidden": average, "counter": np.array(5)}
        else:
            params[module]["scale" if what == "weight" else "offset"] = value.reshape(1, 1, 1, -1)
    for head in ("projector/linear", "predictor/linear_1", "classifier"):
        params[head] = {"w": np.ones((3, 2), np.float32)}
    state["projector/batch_norm/~/mean_ema"] = {"average": np.ones((1, 2), np.float32)}
    return dict(params), dict(state)


@pytest.fixture
def byol_file(r50, tmp_path, monkeypatch):
    params, state = haiku(r50)
    monkeypatch.setattr(_create_namedtuple, "__module__", "dill._dill")
    import sys
    import types

    fake = types.ModuleType("dill._dill")
    fake._create_namedtuple = _create_namedtuple
    monkeypatch.setitem(sys.modules, "dill", types.ModuleType("dill"))
    monkeypatch.setitem(sys.modules, "dill._dill", fake)
    with (tmp_path / "pretrain_res50x1.pkl").open("wb") as file:
        checkpoint = {"experiment_state": ByolState(params, {}, state, {}, None), "step": 5, "rng": np.array([0, 1])}
        Dill(file, protocol=2).dump(checkpoint)
    return tmp_path / "pretrain_res50x1.pkl"


def test_deepminds_byol(r50, byol_file):
    converted = convert.convert(byol_file)
    assert converted.format == "byol"
    assert converted.spec.geometry.padding == "same"
    with torch.inference_mode():
        expected = theirs_with_same(r50, X, everywhere=True)
    torch.testing.assert_close(features(converted, X), expected, rtol=1e-4, atol=1e-5)
    assert {name.partition("/")[0] for name in converted.dropped} == {"projector", "predictor", "classifier"}


def test_what_is_left_over_is_refused_by_name_and_may_be_dropped(r18, tmp_path):
    torch.save(body(r18, "encoder_q.") | {"domain_classifier.weight": torch.ones(3)}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"1 entries have no place.*domain_classifier\.weight.*--drop PREFIX"):
        convert.convert(tmp_path / "c.pth")
    converted = convert.convert(tmp_path / "c.pth", drop=["domain_classifier."])
    assert converted.dropped == ["domain_classifier.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer3.1.bn2.bias"), r"lacks 1 .*layer3\.1\.bn2\.bias"),
        (lambda s: s.update({"layer2.0.extra": torch.ones(1)}), r"layer2\.0\.extra"),
        (lambda s: s.update({"bn1.bias": torch.ones(7)}), r"bn1\.bias has shape \(7,\)"),
        (lambda s: s["bn1.running_var"].fill_(0), r"bn1\.running_var holds values"),
        (lambda s: s["layer1.0.conv1.weight"].fill_(torch.nan), r"layer1\.0\.conv1\.weight holds values"),
        (lambda s: s.update({"layer1.0.downsample.0.weight": torch.ones(64, 64, 1, 1)}), r"layer1\.0\.downsample"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer4.1")], "no ResNet"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(change, message, r18, tmp_path):
    state = {k: v.clone() for k, v in body(r18).items()}
    change(state)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=message):
        convert.convert(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({1: torch.ones(1)}), r"named 1, of type int"),
        (lambda s: s.update({k: v.int() for k, v in s.items()}), r"conv1\.weight is int32; .*float32"),
        (lambda s: s.update({k: v.to(torch.complex64) for k, v in s.items()}), r"conv1\.weight is complex64"),
        (lambda s: s.update({"conv1.weight": s["conv1.weight"].to(torch.float8_e4m3fn)}), "is float8_e4m3fn"),
        (lambda s: s.update({"conv1.weight": s["conv1.weight"].to_sparse()}), "is float32, sparse"),
        (lambda s: s.update({"conv1.weight": s["conv1.weight"].to("meta")}), r"is float32, without values \(meta\)"),
        (lambda s: s.update({"model": s}), "hold themselves"),
        (lambda s: s.update({"module." + k: s.pop(k) for k in list(s)} | {"module.model": s}), "nested|no known"),
        (lambda s: s.update({"experiment_state": {}, **dict.fromkeys(s, 0)}), "no place"),
    ],
    ids=["int name", "int32", "complex", "float8", "sparse", "meta", "itself", "itself below", "no tensors"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_what_no_encoder_holds_is_told_in_one_line(change, message, r18, tmp_path):
    state = {k: v for k, v in body(r18).items() if not k.endswith("num_batches_tracked")}
    change(state)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=message):
        convert.convert(tmp_path / "c.pth")


@pytest.mark.parametrize("start", ["model.", "net.", "encoder.", "anything.of.mine."])
def test_what_stands_before_all_names_is_left_away(start, r18, tmp_path):
    """A LightningModule that keeps its networks in an attribute."""
    entries = body(r18, "backbone.") | other("projection_head.layers.", "0.weight")
    torch.save({"epoch": 9, "state_dict": {start + k: v for k, v in entries.items()}}, tmp_path / "model.ckpt")
    converted = convert.convert(tmp_path / "model.ckpt")
    assert converted.format == "lightly"
    assert converted.dropped == ["projection_head.layers.0.weight"]
    torch.testing.assert_close(features(converted, X), expect(r18, X), rtol=1e-5, atol=1e-5)
    torch.save({start + k: v for k, v in body(r18).items()}, tmp_path / "bare.pth")
    assert convert.convert(tmp_path / "bare.pth").format == "torchvision"


def test_where_several_encoders_may_be_one_is_named(r18, tmp_path):
    twin = randomised(torchvision.models.resnet18(weights=None))
    state = body(twin, "online.encoder.") | other("online.projector.", "0.weight") | body(r18, "target.encoder.")
    torch.save({"state_dict": state}, tmp_path / "flat.ckpt")
    nested = {"student": {}, "teacher": {"module." + k: v for k, v in body(r18).items()}, "epoch": 1}
    torch.save(nested, tmp_path / "nested.pth")
    with pytest.raises(WeightsError, match=r"--prefix online\.encoder\. or --prefix target\.encoder\.$"):
        convert.convert(tmp_path / "flat.ckpt")
    with pytest.raises(WeightsError, match=r"holds student, teacher, epoch; .*--prefix teacher\.module\.$"):
        convert.convert(tmp_path / "nested.pth")
    with pytest.raises(InputError, match=r"no entry starts with 'momentum\.'.*--prefix online\.encoder\."):
        convert.convert(tmp_path / "flat.ckpt", prefix="momentum.")
    for name, prefix in (("flat.ckpt", "target."), ("flat.ckpt", "target.encoder."), ("nested.pth", "teacher.")):
        converted = convert.convert(tmp_path / name, prefix=prefix)
        torch.testing.assert_close(features(converted, X), expect(r18, X), rtol=1e-5, atol=1e-5)
    assert converted.dropped == []
    assert "online.projector.0.weight" in convert.convert(tmp_path / "flat.ckpt", prefix="target.").dropped


def test_two_entries_for_one_place(r18, tmp_path):
    resnet = {separius(k): v for k, v in body(randomised(torchvision.models.resnet50())).items()}
    torch.save({"resnet": resnet | {"conv1.weight": torch.ones(1)}}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"two entries.*conv1\.weight"):
        convert.convert(tmp_path / "c.pth")


def test_another_normalisation_than_the_formats_is_refused(r18, tmp_path):
    checkpoint = LAYOUTS["mmselfsup"](r18)
    checkpoint["state_dict"]["data_preprocessor.mean"] = torch.full((3, 1, 1), 127.5)
    torch.save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="another mean"):
        convert.convert(tmp_path / "c.pth")


def test_a_known_encoder_must_be_the_one_it_says(r18, tmp_path):
    torch.save(body(r18), tmp_path / "c.pth")
    spec = EncoderSpec("a-r50.b", "a", "resnet50", 2048, Preprocess(256, 224))
    with pytest.raises(WeightsError, match=r"holds a resnet18 where a-r50\.b is a resnet50"):
        convert.convert(tmp_path / "c.pth", spec=spec)


def test_unknown_formats_and_files(tmp_path):
    torch.save({"weights": {"a": torch.ones(1)}}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"no known format: the file holds weights.*--format"):
        convert.convert(tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"unknown format 'tf'.*moco"):
        convert.convert(tmp_path / "c.pth", format="tf")
    with pytest.raises(InputError, match="there is no file"):
        convert.convert(tmp_path / "gone.pth")


def test_arguments_beside_the_tensors_are_left_unread(r18, tmp_path):
    checkpoint = LAYOUTS["simsiam"](r18) | {
        "args": argparse.Namespace(lr=0.1, out=tmp_path),
        "best": np.float64(0.5),
        "history": np.arange(3),
    }
    for legacy in (False, True):
        path = tmp_path / f"c{legacy}.pth"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
        assert convert.convert(path).format == "simsiam"
