"""Every back end gives torch's vectors, in torch's space; OpenVINO does so without torch and without a word to any host."""

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

import sslzoo
from sslzoo.backends import PixelsBackend, open_backend, processor, torch_backend
from sslzoo.backends.backend import Immediate
from sslzoo.backends.torch_backend import TorchBackend, load_backbone
from sslzoo.errors import InputError
from sslzoo.registry import resolve
from sslzoo.spec import EncoderSpec, Geometry, Preprocess, feature_dim

from .backbones.test_resnet import randomised
from .conftest import need


@pytest.fixture(
    scope="module",
    params=[
        "resnet18",
        "resnet50",
        "resnet18-cifar",
        "resnet18-cifar-pad2",
        "resnet18w2",
        "resnet50--same",
        "resnet18--same-pool",
    ],
)
def folder(request, tmp_path_factory):
    """Model folders of every block, stem and width, with random weights and BN statistics."""
    backbone, _, geometry = request.param.partition("-")
    stem, _, padding = ("", "", geometry[1:]) if geometry.startswith("-") else (geometry, "", "")
    spec = EncoderSpec(
        name="test-r18.x",
        method="test",
        backbone=backbone,
        dim=feature_dim(backbone),
        preprocess=Preprocess(resize=40, size=32, mean=(0.1, 0.5, 0.9), std=(0.3, 0.2, 0.5)),
        geometry=Geometry(stem=stem or "imagenet", padding=padding or "torchvision", bn_eps=1e-3),
        sources=("random:0",),
    )
    encoder = sslzoo.Encoder.from_spec(spec, device="cpu")
    randomised(encoder.backbone)
    path = tmp_path_factory.mktemp("model") / "m"
    encoder.save_pretrained(path)
    return path


@pytest.fixture
def batch():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_openvino_equals_torch(folder, batch):
    pytest.importorskip("openvino")
    theirs = open_backend(f"local-dir:{folder}", device="cpu", backend="torch")
    ours = open_backend(f"local-dir:{folder}", device="cpu", backend="openvino")
    a, b = theirs(batch), ours(batch)
    assert b.dtype == np.float32
    assert cosine(a, b).min() > 1 - 1e-6
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3 * np.abs(a).max())
    assert ours.space == theirs.space
    assert ours.weights == theirs.weights


def test_a_smaller_batch_is_padded_and_gives_the_same_rows(folder, batch):
    pytest.importorskip("openvino")
    run = open_backend(f"local-dir:{folder}", device="cpu", backend="openvino")
    whole = run(batch)
    np.testing.assert_array_equal(run(batch[:2]), whole[:2])
    assert list(run._compiled) == [8]


def test_folding_changes_no_vector(folder, batch):
    """What `embed` runs in torch equals the plain network."""
    network = load_backbone(resolve(f"local-dir:{folder}"))
    plain = TorchBackend(network, resolve(f"local-dir:{folder}"))(batch)
    ours = open_backend(f"local-dir:{folder}", device="cpu", backend="torch")
    assert not [m for m in ours._network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    np.testing.assert_allclose(ours(batch), plain, rtol=1e-3, atol=1e-4 * np.abs(plain).max())
    assert [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_a_compiled_graph_is_kept_and_a_damaged_one_made_again(model_folder, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    from sslzoo.backends import openvino_backend

    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    built = []
    build = openvino_backend.build_graph
    monkeypatch.setattr(openvino_backend, "build_graph", lambda *a: built.append(1) or build(*a))

    def vectors():
        return open_backend(f"local-dir:{model_folder}", device="cpu", backend="openvino")(images)

    first = vectors()
    np.testing.assert_array_equal(vectors(), first)
    assert len(built) == 1
    [blob] = (tmp_path / "cache" / "openvino").iterdir()
    for damage in (b"", b"text" * 1000, blob.read_bytes()[:100_000]):
        built.clear()
        blob.unlink()
        blob.write_bytes(damage)
        np.testing.assert_array_equal(vectors(), first)
        assert len(built) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path / "file"))  # nothing can be written there
    np.testing.assert_allclose(vectors(), first, rtol=1e-5)


def test_a_cache_that_cannot_be_mapped_into_memory_costs_time_alone(model_folder, batch, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    from sslzoo.backends import openvino_backend

    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path))
    images = np.tile(batch[:2], (1, 3, 3, 1))
    first = open_backend(f"local-dir:{model_folder}", device="cpu", backend="openvino")(images)

    def mmap(*arguments, **options):  # as on a file system of a kind that this machine doesn't have
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(openvino_backend.mmap, "mmap", mmap)
    made = open_backend(f"local-dir:{model_folder}", device="cpu", backend="openvino")(images)
    np.testing.assert_array_equal(made, first)


def test_auto_takes_openvino_where_it_is_and_the_weights_are_a_file(folder):
    pytest.importorskip("openvino")
    assert type(open_backend(f"local-dir:{folder}", device="cpu")).__name__ == "OpenVinoBackend"
    assert isinstance(open_backend("random-r18", device="cpu"), TorchBackend)
    assert isinstance(open_backend("pixels-32"), PixelsBackend)
    encoder = sslzoo.load(f"local-dir:{folder}", device="cpu")
    assert isinstance(open_backend(encoder), TorchBackend)  # its present weights, which may have changed
    with pytest.raises(InputError, match="--backend torch"):
        open_backend("random-r18", backend="openvino")
    with pytest.raises(InputError, match="auto, torch or openvino"):
        open_backend("random-r18", backend="tensorflow")


def test_embed_without_torch_looks_up_no_host(model_folder, photos, tmp_path):
    """`sslzoo embed` in a process where torch can't be imported and every name look-up is an error."""
    pytest.importorskip("openvino")
    code = f"""
    import sys
    for name in ("torch", "torchvision"):
        sys.modules[name] = None
    def watch(event, arguments):
        if event.startswith("socket.") and event != "socket.__new__":
            raise SystemExit(f"{{event}} {{arguments}}")
    sys.addaudithook(watch)
    sys.argv = ["sslzoo", "embed", {str(photos)!r}, "-m", {f"local-dir:{model_folder}"!r}, "-o", {str(tmp_path / "e")!r}, "-q"]
    from sslzoo.cli import main
    main()
    """
    environment = {k: v for k, v in os.environ.items() if k != "CI"}  # which alone would silence openvino's telemetry
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(sslzoo.open_embeddings(tmp_path / "e")) == 12
    home = tmp_path / "home"
    left = [p for p in home.rglob("*") if p.is_file() and "sslzoo" not in p.parts] if home.exists() else []
    assert left == []


def test_torch_leaves_the_mode_of_the_network(batch):
    encoder = sslzoo.load("random-r18", device="cpu").train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    open_backend(encoder)(np.zeros((2, 96, 96, 3), np.uint8))
    assert encoder.training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_a_batch_that_does_not_fit_is_halved_until_it_does(folder, batch):
    run = open_backend(f"local-dir:{folder}", device="cpu", backend="torch")
    expected = run(batch)
    whole, sizes = run._network, []

    def small_memory(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(x)

    run._network = small_memory
    np.testing.assert_allclose(run(batch), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert sizes == [5, 3, 2, 2, 1]  # what was found to fit is kept
    run.begin(batch[:4])()
    assert sizes[5:] == [2, 2]
    run.fits = 1
    run._network = lambda x: small_memory(torch.cat([x] * 3))
    with pytest.raises(InputError, match="cpu has not enough memory for one image"):
        run(batch)


def test_vectors_and_batches_arrive_whole_on_the_other_side(batch):
    x = torch_backend.to_device(batch, torch.device("cpu"))
    np.testing.assert_array_equal(x.numpy(), batch)
    np.testing.assert_array_equal(torch_backend.to_host(x.float())(), batch.astype(np.float32))


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_vectors(model_folder):
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    plain, compiled = (
        open_backend(f"local-dir:{model_folder}", device="cpu", backend="torch", compiled=c)(images)
        for c in (False, True)
    )
    assert cosine(plain, compiled).min() > 1 - 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_vectors_of_the_cpu(model_folder, photos):
    model = f"local-dir:{model_folder}"
    expected = sslzoo.embed(photos, model, device="cpu", backend="torch", precision="fp32").normalized
    for options in ({"precision": "fp32"}, {"precision": "bf16"}, {"decoder": "torch"}, {"compiled": True}):
        made = sslzoo.embed(photos, model, device="cuda", backend="torch", **options).normalized
        assert (made * expected).sum(1).min() > 0.999, options


class Fake(Immediate):
    """A back end whose bf16 is off by a given angle, to test the choice."""

    engine, space = "numpy", "s"
    spec = EncoderSpec("x-r18.y", "x", "resnet18", 2, Preprocess(32, 32))

    def __init__(self, precision, cosine, native=True):
        self.precision, self.cosine, self.native = precision, cosine, native

    def native_bf16(self):
        return self.native

    def __call__(self, batch):
        c = self.cosine if self.precision == "bf16" else 1.0
        return np.tile(np.array([c, (1 - c * c) ** 0.5], np.float32), (len(batch), 1))


@pytest.mark.parametrize(
    ("cosine", "native", "chosen"), [(0.9995, True, "bf16"), (0.998, True, "fp32"), (0.9999, False, "fp32")]
)
def test_bf16_is_taken_only_where_it_is_native_and_close(monkeypatch, tmp_path, cosine, native, chosen):
    from sslzoo import backends

    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path / "cache"))
    for _ in range(2):  # the second time from the cache
        assert backends._trusted(lambda p: Fake(p, cosine, native), "auto").precision == chosen
    assert len(list((tmp_path / "cache").rglob("*.json"))) == native
    assert backends._trusted(lambda p: Fake(p, cosine, native), "bf16").precision == "bf16"  # on request, always


def test_the_photos_in_the_package_are_few_and_small():
    files = list((sslzoo.hub.PACKAGE / "photos").glob("*.jpg"))
    assert 3 <= len(files) <= 8
    assert sum(f.stat().st_size for f in files) < 300_000


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library")
def test_openvino_leaves_the_main_threads_signals_where_they_were():
    """Its plugin's stack for signal handlers is too small for Python's where AVX-512's registers are saved."""
    need("openvino")
    code = """
    import ctypes
    from sslzoo.backends import open_backend

    class Stack(ctypes.Structure):
        _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    def alternate():
        stack = Stack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
        return stack.flags, stack.size

    before = alternate()
    run = open_backend("simclr-r18", backend="openvino", device="cpu")
    run.native_bf16()
    assert alternate() == before, alternate()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize(("capability", "native"), [("AVX512", True), ("AVX2", False)])
def test_a_process_that_is_kept_to_avx2_has_no_bf16(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert processor.native_bf16() is native
