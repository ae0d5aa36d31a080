"""The authors' linear heads: every place that one is published in, and top-1 against torch's and scikit-learn's own."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

import sslzoo
from sslzoo import cli, convert, hub, registry, verify
from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError, WeightsError
from sslzoo.evaluate.heads import SYNSETS, class_numbers, head_top1
from sslzoo.evaluate.score import set_id
from sslzoo.hub import cache, download
from sslzoo.spec import Checkpoint, EncoderSpec, Geometry, Head, Preprocess, ReportedScore
from tests.backbones.test_resnet import randomised
from tests.convert.test_formats import body, haiku, other, separius
from tests.hub_servers import file_server, serving

WNIDS = SYNSETS.read_text().split()


@pytest.fixture(scope="module")
def network():
    return randomised(torchvision.models.resnet50(weights=None))


@pytest.fixture
def small():
    return randomised(torchvision.models.resnet18(weights=None))


def spec_of(backbone="resnet50", **changes):
    dim = 2048 if backbone == "resnet50" else 512
    return EncoderSpec("mocov2-r18.head", "mocov2", backbone, dim, Preprocess(72, 64), license="mit", **changes)


def linear(network, weight="weight", bias="bias"):
    return {weight: network.fc.weight.detach(), bias: network.fc.bias.detach()}


def test_the_imagenet_classes_are_the_sorted_synsets():
    assert len(WNIDS) == len(set(WNIDS)) == 1000
    assert sorted(WNIDS) == WNIDS
    # tench, the first; English springer and toilet tissue as torchvision numbers them
    names = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    for wnid, name in (("n01440764", "tench"), ("n02102040", "English springer"), ("n15075141", "toilet tissue")):
        assert names[WNIDS.index(wnid)] == name


def test_labels_are_synsets_numbers_or_the_files_own_names():
    assert class_numbers(["n01440764", "n15075141", 5, "17"], 1000).tolist() == [0, 999, 5, 17]
    assert class_numbers(["cat", "ant"], 3, ["ant", "bee", "cat"]).tolist() == [2, 0]
    for labels, names in ((["cat"], []), ([1000], []), (["cat"], ["cat", "dog"]), ([None], [])):
        with pytest.raises(
            InputError, match=r"none of the classifier's 1000 classes; name class folders by WordNet id"
        ):
            class_numbers(labels, 1000, names)


def test_top1_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(60, 16)).astype(np.float32), rng.integers(0, 5, 60)
    vectors[:, :5] += 2 * np.eye(5)[labels]
    fit = LogisticRegression(max_iter=500).fit(vectors[:30], labels[:30])
    test = Embeddings(vectors[30:], [str(i) for i in range(30)], space="s", labels=labels[30:].tolist())
    score = head_top1(test, {"weight": fit.coef_, "bias": fit.intercept_})
    assert score.value == pytest.approx(accuracy_score(labels[30:], fit.predict(vectors[30:])))
    assert 0.3 < score.value < 1
    assert score.protocol == "linear_top1@authors-head (5 classes, 30 images)"
    assert score.test == set_id(test) and score.to_dict()["test"].endswith("/30")
    with pytest.raises(InputError, match="for 3 features and the vectors have 16"):
        head_top1(test, {"weight": np.ones((5, 3)), "bias": np.ones(5)})
    with pytest.raises(InputError, match="needs labels"):
        head_top1(Embeddings(vectors, list("x" * 60), space="s"), {"weight": fit.coef_, "bias": fit.intercept_})


def byol(network):
    params, state = haiku(network)
    params["classifier"] = {"w": network.fc.weight.detach().numpy().T, "b": network.fc.bias.detach().numpy()}
    return {"experiment_state": {"online_params": params, "online_state": state}}


# format: what the file that holds the classifier looks like, encoder included or not, as the authors save it
FILES = {
    "torchvision": lambda n: {"state_dict": {f"module.{k}": v for k, v in n.state_dict().items()}},  # SimSiam, MoCo v3
    "swav-linear": lambda n: {"epoch": 100, "state_dict": linear(n, "module.linear.weight", "module.linear.bias")},
    "mmselfsup": lambda n: {"meta": {}, "state_dict": body(n, "backbone.") | linear(n, "head.fc.weight", "head.fc.bias")},
    "lightly": lambda n: {
        "state_dict": body(n, "backbone.")
        | linear(n, "online_classifier.classification_head.weight", "online_classifier.classification_head.bias")
        | other("projection_head.layers.", "0.weight")
    },
    "solo-learn": lambda n: {"state_dict": body(n, "backbone.") | linear(n, "classifier.weight", "classifier.bias")},
    "simclr-v1": lambda n: {"state_dict": n.state_dict()},
    "simclr-v2": lambda n: {
        "resnet": {separius(k): v for k, v in body(n).items()} | linear(n, "fc.weight", "fc.bias"),
        "head": other("layers.0.", "weight"),
    },
    "byol": byol,
}  # fmt: skip


@pytest.mark.parametrize("format", FILES)
def test_a_head_is_found_where_its_authors_put_it(format, network, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(FILES[format](network), path)
    if format == "swav-linear":
        encoder, head = {}, convert.convert_head(path, {}, spec_of(), format=format)
    else:
        made = convert.convert(path, format=format)
        encoder, head = made.tensors, made.head
        for name, value in convert.convert_head(path, encoder, spec_of(), format=format).items():
            np.testing.assert_array_equal(value, head[name])
    np.testing.assert_array_equal(head["weight"], network.fc.weight.detach().numpy())
    # the port of SimCLR v1 left its bias at random
    expected = np.zeros(1000) if format == "simclr-v1" else network.fc.bias.detach().numpy()
    np.testing.assert_array_equal(head["bias"], expected)


def test_the_formats_that_the_zoo_names_for_heads_are_tested():
    named = {s.head.checkpoint.format for s in registry.known().values() if s.head and s.head.checkpoint}
    within = {s.checkpoints[0].format for s in registry.known().values() if s.head and not s.head.checkpoint}
    assert named | within <= set(FILES)
    assert len([s for s in registry.known().values() if s.head]) >= 30


def test_the_head_of_another_network_is_refused(network, tmp_path):
    torch.save(FILES["torchvision"](network), tmp_path / "probe.pth")
    encoder = convert.convert(tmp_path / "probe.pth").tensors
    encoder["layer3.2.bn1.bias"] = encoder["layer3.2.bn1.bias"] + 1
    with pytest.raises(WeightsError, match=r"trained on another network than mocov2-r18\.head: layer3\.2\.bn1\.bias"):
        convert.convert_head(tmp_path / "probe.pth", encoder, spec_of(), format="torchvision")
    with pytest.raises(WeightsError, match="no linear classifier of 512 features"):
        convert.convert_head(tmp_path / "probe.pth", encoder, spec_of("resnet18"), format="torchvision")
    torch.save(body(network), tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match="no linear classifier"):
        convert.convert_head(tmp_path / "bare.pth", encoder, spec_of(), format="torchvision")


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A quick, empty cache, and a known encoder of the given spec."""
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_ASSETS_CACHE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def know(spec):
        known = registry.known() | {spec.name: spec}
        monkeypatch.setattr(registry, "known", lambda: known)
        return spec

    return know


@pytest.fixture
def labelled(photos, tmp_path):
    """The twelve pictures in folders named like ImageNet's, and their class numbers by file."""
    numbers = {}
    for i, path in enumerate(sorted(photos.rglob("*.*g"))):
        wnid = WNIDS[7 * (i % 4)]
        (tmp_path / "val" / wnid).mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / wnid / f"{i}{path.suffix}").write_bytes(path.read_bytes())
        numbers[f"{wnid}/{i}{path.suffix}"] = 7 * (i % 4)
    return tmp_path / "val", numbers


def trained(small, labelled):
    """The network with a classifier that is right about most of the pictures, and its own top-1 on them.

    Both are torch's and torchvision's alone: their transforms, their layers.
    """
    from PIL import Image
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(72, antialias=True),
            v2.CenterCrop(64),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    root, numbers = labelled
    x = torch.stack([steps(Image.open(root / name).convert("RGB")) for name in numbers])
    y = torch.tensor(list(numbers.values()))
    head, small.fc = small.fc, torch.nn.Identity()
    with torch.inference_mode():
        features = small(x)
    with torch.no_grad():  # three quarters of the pictures get a class vector of their own: those are found again
        centred = features[: len(y) * 3 // 4] - features.mean(0)
        head.weight.zero_()
        for feature, number in zip(centred, y, strict=False):
            head.weight[number] += feature / feature.norm()
        head.bias.copy_(-(head.weight @ features.mean(0)))
        expected = (head(features).argmax(1) == y).float().mean().item()
    small.fc = head
    return expected


def files_of(small):
    import io

    encoder, probe = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": body(small, "module.encoder_q.") | other("module.", "queue")}, encoder)
    torch.save({"state_dict": {f"module.{k}": v for k, v in small.state_dict().items()}}, probe)
    return {"/pretrain.pth.tar": encoder.getvalue(), "/linear.pth.tar": probe.getvalue()}


def test_top1_by_the_published_head_and_verify(online, small, labelled, tmp_path, monkeypatch, capsys):
    expected = trained(small, labelled)
    assert 0.5 < expected < 1
    handler = file_server(files_of(small))
    with serving(handler) as url:
        spec = online(
            spec_of(
                "resnet18",
                checkpoints=(Checkpoint(f"{url}/pretrain.pth.tar", "moco"),),
                head=Head(Checkpoint(f"{url}/linear.pth.tar", "torchvision")),
                scores=(ReportedScore("ImageNet-1k val", "linear_top1", "as reported", 0.75, source="a paper"),),
            )
        )
        hub.fetch(spec)
        assert [path for path, _ in handler.requests] == ["/pretrain.pth.tar"]  # the head only when it is asked for
        arguments = [
            "eval",
            "linear",
            str(labelled[0]),
            "-m",
            spec.name,
            "--head",
            "authors",
            "--precision",
            "fp32",
            "-q",
        ]
        monkeypatch.setattr(sys, "argv", ["sslzoo", *arguments, "--json"])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        ours, random = json.loads(capsys.readouterr().out)
        assert ours["value"] == pytest.approx(expected)
        assert random["encoder"] == "random-r18" and random["value"] < expected
        monkeypatch.setattr(sys, "argv", ["sslzoo", *arguments])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == [
            f"{100 * ours['value']:.1f}", f"{100 * random['value']:.1f}", "75.0",
        ]  # fmt: skip

        out = tmp_path / "filled"
        monkeypatch.setattr(sys, "argv", ["sslzoo", "verify", spec.name, "--data", str(labelled[0]), "-o", str(out)])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        lines = capsys.readouterr().out
        assert "reported linear top-1 75.0 %" in lines
        assert f"linear_top1 {100 * expected:.1f}" in lines
        assert "knn_top1" in lines
        assert "left out of the file: queue (1)" in lines
    assert len(handler.requests) == 2

    filled = EncoderSpec.from_dict(json.loads((out / f"{spec.name}.json").read_text()))
    folder = cache.home() / "models" / spec.name
    assert filled.verified == "online"
    assert filled.sha256 == hub.sha256(folder / "model.safetensors")
    assert filled.size_bytes == (folder / "model.safetensors").stat().st_size
    assert filled.head.sha256 == hub.sha256(folder / "head.safetensors")
    for checkpoint, name in ((filled.checkpoints[0], "/pretrain.pth.tar"), (filled.head.checkpoint, "/linear.pth.tar")):
        assert checkpoint.size_bytes == len(files_of(small)[name])
        assert checkpoint.hash.startswith("sha256:") and len(checkpoint.hash) == 71
    assert len(filled.canary.values) == 8
    measured = [s for s in filled.scores if s.source == "sslzoo verify"]
    assert [s.metric for s in measured] == ["knn_top1", "knn_top1", "linear_top1"]
    assert measured[-1].value == pytest.approx(expected, abs=1e-4)
    assert (measured[-1].dataset, measured[-1].random_weights) == ("val", pytest.approx(random["value"], abs=1e-4))
    # what was filled in holds from now on, and measuring again replaces what was measured
    online(filled)
    again = verify.verify(spec.name, data=labelled[0]).spec
    assert len(again.scores) == len(filled.scores)
    assert again.checkpoints == filled.checkpoints and again.head == filled.head
    online(filled)
    assert hub.read_head(filled)["weight"].shape == (1000, 512)
    (folder / "head.safetensors").write_bytes(b"x" + (folder / "head.safetensors").read_bytes()[1:])
    with pytest.raises(WeightsError, match=r"head\.safetensors is damaged or was exchanged"):
        hub.read_head(filled)


def test_a_head_within_the_encoders_file_and_parquet_labels(online, small, labelled, tmp_path):
    expected = trained(small, labelled)
    state = body(small, "backbone.") | other("projection_head.layers.", "0.weight")
    state |= linear(small, "online_classifier.classification_head.weight", "online_classifier.classification_head.bias")
    torch.save({"state_dict": state}, tmp_path / "c.ckpt")
    root, numbers = labelled
    images = [{"bytes": (root / name).read_bytes(), "path": name} for name in numbers]
    table = pa.table({"image": images, "label": pa.array(list(numbers.values()))})
    pq.write_table(table, tmp_path / "numbers.parquet")
    names = [f"{'abcdefghij'[i % 10]}{i:03d}, a class" for i in range(1000)]  # in no alphabetical order
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "names.parquet")
    with serving(file_server({"/c.ckpt": (tmp_path / "c.ckpt").read_bytes()})) as url:
        spec = online(spec_of("resnet18", checkpoints=(Checkpoint(f"{url}/c.ckpt", "lightly"),), head=Head()))
        hub.fetch(spec)
    from sslzoo.baselines import head_table

    for data in (root, tmp_path / "numbers.parquet", tmp_path / "names.parquet"):
        scores = head_table(data, spec, precision="fp32")
        assert scores[spec.name].value == pytest.approx(expected), data
    assert (cache.home() / "models" / spec.name / "head.safetensors").is_file()
    saved = sslzoo.load(spec.name, device="cpu").save_pretrained(tmp_path / "saved")  # the encoder alone
    assert saved.head is None
    assert not (tmp_path / "saved" / "head.safetensors").exists()


def test_verify_tells_what_other_padding_and_normalisation_would_score(online, small, labelled, tmp_path):
    trained(small, labelled)
    with serving(file_server(files_of(small))) as url:
        spec = online(
            spec_of(
                "resnet18",
                geometry=Geometry(padding="same-pool"),
                checkpoints=(Checkpoint(f"{url}/pretrain.pth.tar", "moco"),),
                head=Head(Checkpoint(f"{url}/linear.pth.tar", "torchvision")),
            )
        )
        report = verify.verify(spec.name, data=labelled[0])
    assert len([line for line in report.lines if "variant: torchvision's padding" in line]) == 1
    assert not any("variant" in s.protocol for s in report.spec.scores)


def test_without_a_published_head(online, small, monkeypatch, tmp_path):
    with serving(file_server(files_of(small))) as url:
        plain = spec_of("resnet18", checkpoints=(Checkpoint(f"{url}/pretrain.pth.tar", "moco"),))
        with pytest.raises(WeightsError, match=r"no linear classifier was published with mocov2-r18\.head"):
            hub.read_head(plain)
        claimed = spec_of("resnet18", checkpoints=plain.checkpoints, head=Head())
        with pytest.raises(WeightsError, match=r"lacks head\.safetensors"):
            hub.read_head(claimed)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set and the classifier"):
            hub.read_head(spec_of("resnet18", checkpoints=plain.checkpoints, head=Head(Checkpoint(f"{url}/x", "moco"))))
