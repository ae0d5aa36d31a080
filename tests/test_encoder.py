import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import sslzoo
from sslzoo import backbones
from sslzoo.errors import ImageError, InputError, OutputExists, UnknownModel
from sslzoo.registry import PACKAGE_ENCODER


@pytest.fixture(scope="module")
def encoder():
    return sslzoo.load("random-r18", device="cpu")


def test_it_is_a_module_in_evaluation_mode(encoder):
    assert isinstance(encoder, torch.nn.Module)
    assert not encoder.training
    assert encoder.dim == encoder.spec.dim == 512


@pytest.mark.parametrize("name", ["random-r18", PACKAGE_ENCODER])
def test_loading_leaves_the_global_generator_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    sslzoo.load(name, device="cpu")
    assert torch.rand(1) == expected


def test_random_weights_are_those_of_the_seed():
    torch.manual_seed(0)
    expected = backbones.build("resnet18").state_dict()
    loaded = sslzoo.load("random-r18", device="cpu").backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["random-r18", PACKAGE_ENCODER])
def test_loading_does_not_depend_on_the_default_device(name):
    expected = sslzoo.load(name, device="cpu").backbone.state_dict()
    with torch.device("meta"):
        loaded = sslzoo.load(name, device="cpu").backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_random_weights_are_the_same_whatever_other_threads_draw(encoder):
    done = threading.Event()

    def draw():
        while not done.is_set():
            torch.rand(1)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        again = [sslzoo.load("random-r18", device="cpu") for _ in range(3)]
    finally:
        done.set()
        thread.join()
    for each in again:
        assert torch.equal(each.backbone.layer4[1].conv2.weight, encoder.backbone.layer4[1].conv2.weight)


def test_encode_equals_the_plain_way(encoder, picture):
    p = encoder.spec.preprocess
    plain = v2.Compose(
        [
            v2.Resize(p.resize),
            v2.CenterCrop(p.size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(p.mean, p.std),
        ]
    )
    with torch.inference_mode():
        expected = encoder.backbone(plain(picture)[None]).numpy()
    np.testing.assert_allclose(encoder.encode(picture), expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(encoder.transform(picture), plain(picture), atol=0.02, rtol=0)  # a grey level is 0.017
    assert torch.equal(encoder.forward(encoder.transform(picture)[None]), encoder(encoder.transform(picture)[None]))


def test_every_kind_of_input_gives_the_same_vector(encoder, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    array = np.asarray(picture)
    inputs = [tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue(), picture, array, torch.tensor(array)]
    vectors = encoder.encode(inputs)
    assert vectors.shape == (6, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), rtol=1e-4, atol=1e-5)
    for one in inputs:
        assert encoder.encode(one).shape == (1, 512)
    assert encoder.encode([]).shape == (0, 512)


def test_rows_keep_their_inputs_whatever_the_batch(encoder, photos):
    paths = sorted(photos.rglob("*.*g"))
    alone = np.concatenate([encoder.encode(path) for path in paths])
    for batch_size in (1, 5, 64):
        np.testing.assert_allclose(encoder.encode(paths, batch_size), alone, rtol=1e-4, atol=1e-5)


def test_normalize(encoder, picture):
    raw, unit = encoder.encode(picture), encoder.encode(picture, normalize=True)
    assert np.linalg.norm(unit) == pytest.approx(1)
    np.testing.assert_allclose(unit * np.linalg.norm(raw), raw, rtol=1e-5)


def test_encode_uses_the_present_weights_and_leaves_the_mode(picture):
    encoder = sslzoo.load("random-r18", device="cpu")
    before = encoder.encode(picture)
    encoder.train()
    np.testing.assert_array_equal(encoder.encode(picture), before)  # evaluation mode inside
    assert encoder.training
    with torch.no_grad():
        encoder.backbone.conv1.weight *= 2
    assert not np.allclose(encoder.encode(picture), before)


def test_precision(encoder, picture):
    full, low = encoder.encode(picture, normalize=True), encoder.encode(picture, normalize=True, precision="bf16")
    assert low.dtype == np.float32
    assert 0.98 < float((full * low).sum()) < 1 - 1e-9
    with pytest.raises(InputError, match="fp32, bf16, fp16"):
        encoder.encode(picture, precision="int3")


def test_features(encoder, picture):
    x = encoder.transform(picture)[None]
    maps = encoder.features(x, layers=["layer2", "layer4"])
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"layer2": (1, 128, 12, 12), "layer4": (1, 512, 3, 3)}
    torch.testing.assert_close(maps["layer4"].mean((2, 3)), encoder(x))


def test_gradients_flow_for_fine_tuning(picture):
    encoder = sslzoo.load("random-r18", device="cpu").train()
    encoder(torch.stack([encoder.transform(picture)] * 2)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_the_first_bad_input_is_named(encoder, picture, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image"):
        encoder.encode([picture, tmp_path / "bad.jpg"])
    with pytest.raises(ImageError, match=r"gone\.jpg: can't be opened"):
        encoder.encode(tmp_path / "gone.jpg")
    for value, message in (
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 2), np.uint8), "uint8 \\[height"),
        (7, "int"),
    ):
        with pytest.raises(InputError, match=message):
            encoder.encode([value])


def test_loading_what_is_not_there():
    with pytest.raises(UnknownModel, match="did you mean"):
        sslzoo.load("random-r19")
    with pytest.raises(InputError, match="--device auto, cpu"):
        sslzoo.load("random-r18", device="cuda:99")


def test_changed_weights_lose_their_scores(model_folder, tmp_path):
    encoder = sslzoo.Encoder.from_pretrained(model_folder, device="cpu")
    with torch.no_grad():
        encoder.backbone.conv1.weight *= 2
    spec = encoder.save_pretrained(tmp_path / "new")
    assert spec.scores == ()
    assert spec.sha256 != encoder.spec.sha256
    again = sslzoo.load(f"local-dir:{tmp_path / 'new'}", device="cpu")
    assert torch.equal(again.backbone.conv1.weight, encoder.backbone.conv1.weight)
    with pytest.raises(OutputExists):
        encoder.save_pretrained(tmp_path / "new")


def test_a_picture_is_not_changed_by_encoding(encoder):
    image = Image.new("P", (30, 30), 3)
    encoder.encode(image)
    assert image.mode == "P"
