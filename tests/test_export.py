"""Exports run in other people's programs and give torch's vectors, for every stem, padding and width that they can hold."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import sslzoo
from sslzoo.errors import InputError, OutputExists, SslzooError
from sslzoo.export import FORMATS, export, onnx_graph
from sslzoo.spec import EncoderSpec, Geometry, Preprocess, feature_dim

from .backbones.test_resnet import randomised

PHOTO = Path(__file__).parent.parent / "examples/photos/windmill-1.jpg"


def small(backbone="resnet18", stem="imagenet", padding="torchvision"):
    """An encoder of 32 px with random weights and BN statistics, and an epsilon of its own."""
    spec = EncoderSpec(
        name="test-r18.x",
        method="test",
        backbone=backbone,
        dim=feature_dim(backbone),
        preprocess=Preprocess(resize=40, size=32, mean=(0.1, 0.5, 0.9), std=(0.3, 0.2, 0.5)),
        geometry=Geometry(stem=stem, padding=padding, bn_eps=1e-3),
        sources=("random:0",),
    )
    encoder = sslzoo.Encoder.from_spec(spec, device="cpu")
    randomised(encoder.backbone)
    return encoder


@pytest.mark.parametrize(
    "kinds",
    [
        ("resnet18", "imagenet", "torchvision"),
        ("resnet50", "imagenet", "torchvision"),
        ("resnet18", "cifar", "torchvision"),
        ("resnet18", "cifar-pad2", "torchvision"),
        ("resnet18", "imagenet", "same-pool"),
        ("resnet50", "imagenet", "same"),
    ],
    ids="-".join,
)
def test_onnx_gives_torchs_vectors_in_batches_of_any_size(kinds, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    encoder = small(*kinds)
    record = export(encoder, tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "encoder.onnx")
    assert (model.opset_import[0].version, len(model.opset_import)) == (17, 1)
    session = runtime.InferenceSession(tmp_path / "out" / "encoder.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 3):
        x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))
        with torch.inference_mode():
            expected = encoder(x).numpy()
        found = session.run(None, {"images": x.numpy()})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert record["input"]["shape"] == ["n", 3, 32, 32]
    assert record["parity"]["images"] == 4
    assert record["parity"]["cosine"] > 0.999999
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == json.loads(json.dumps(record))


def test_large_weights_lie_beside_the_graph(tmp_path, monkeypatch):
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    checked, check = [], onnx.checker.check_model
    monkeypatch.setattr(onnx_graph, "LIMIT", 0)
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: checked.append(model) or check(model))
    export(small(), tmp_path / "out")  # it was run from there, and compared
    assert (tmp_path / "out" / "encoder.onnx.data").stat().st_size > 40_000_000
    assert (tmp_path / "out" / "encoder.onnx").stat().st_size < 1_000_000
    assert [Path(model).name for model in checked] == [
        "encoder.onnx"
    ]  # a model in memory would be one protobuf of 2 GB


def test_timm_opens_the_folder_and_knows_the_preprocessing(tmp_path):
    timm = pytest.importorskip("timm")
    encoder = small("resnet18")  # whose epsilon timm doesn't have
    export(encoder, tmp_path / "out", "safetensors")
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), encoder(x), rtol=1e-4, atol=1e-4)
    config = timm.data.resolve_model_data_config(network)
    resize, crop = timm.data.create_transform(**config).transforms[:2]
    assert (resize.size, *crop.size) == (40, 32, 32)
    assert (*config["mean"], *config["std"]) == (*encoder.spec.preprocess.mean, *encoder.spec.preprocess.std)


def test_openvino_takes_pixels(tmp_path):
    openvino = pytest.importorskip("openvino")
    encoder = small("resnet18")
    export(encoder, tmp_path / "out", "openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(tmp_path / "out" / "encoder.xml", "CPU", options)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)  # nothing is scaled at 32 px
    p = encoder.spec.preprocess
    x = ((torch.tensor(pixels) / 255 - torch.tensor(p.mean)) / torch.tensor(p.std)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = encoder(x).numpy()
    np.testing.assert_allclose(network(pixels)[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("format", FORMATS)
def test_the_code_in_its_readme_runs_and_decodes_as_we_do(format, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "safetensors": "timm"}.get(format, format))
    record = export("simclr-r18", tmp_path / "out", format)
    assert record["preprocess"]["alpha"] == "composited over white"
    with Image.open(PHOTO) as photo:
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        photo.save(tmp_path / "out" / "photo.jpg", "PNG", exif=exif)  # Pillow goes by the content
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"**{record['license']}**" in text
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    code += "import sys\nassert 'sslzoo' not in sys.modules\n"
    code += "import numpy\nnumpy.save('features.npy', getattr(features, 'detach', lambda: features)())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "out", check=True)
    found = np.load(tmp_path / "out" / "features.npy")[0]
    expected = sslzoo.load("simclr-r18", device="cpu").encode(tmp_path / "out" / "photo.jpg")[0]
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine > 0.999  # decoded and scaled by other code


def test_what_differs_too_much_is_not_written(tmp_path):
    pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    with pytest.raises(SslzooError, match=r"differs from torch by .* nothing was written"):
        export(small(), tmp_path / "out", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_two_exports_of_one_folder_leave_one_whole(tmp_path, monkeypatch):
    takes, write, packages = FORMATS["torch"]

    def overtaken(encoder, folder):
        monkeypatch.setitem(FORMATS, "torch", (takes, write, packages))
        export(encoder, tmp_path / "out", "torch")  # somebody else's, begun later and finished first
        return write(encoder, folder)

    monkeypatch.setitem(FORMATS, "torch", (takes, overtaken, packages))
    with pytest.raises(OutputExists):
        export(small(), tmp_path / "out", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "encoder.pt2", "export.json"}


def test_the_readme_of_random_weights_claims_no_training(tmp_path):
    export("random-r18", tmp_path / "out", "safetensors")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "A resnet18 image encoder, with seeded random weights: a photo becomes 512 numbers." in text


def test_refusals_name_the_way_out(tmp_path):
    with pytest.raises(InputError, match="use onnx, torch, safetensors, openvino"):
        export(small(), tmp_path / "out", "coreml")
    for kinds in ({"backbone": "resnet18w2"}, {"padding": "same"}, {"stem": "cifar"}):
        with pytest.raises(InputError, match="--format"):
            export(small(**kinds), tmp_path / "out", "safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists):
        export(small(), tmp_path / "out", "safetensors")


@pytest.mark.parametrize("kinds", [("resnet18",), ("resnet50",), ("resnet18", "cifar"), ("resnet18", "cifar-pad2")])
def test_torchvisions_own_network(kinds):
    encoder = small(*kinds)
    network = encoder.torchvision()
    assert type(network) is torchvision.models.ResNet
    assert not network.training
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), encoder(x))
    assert network.conv1.weight.data_ptr() != encoder.backbone.conv1.weight.data_ptr()  # a copy: training it is safe
    with pytest.raises(InputError, match="--format torch"):
        small("resnet18", padding="same-pool").torchvision()
