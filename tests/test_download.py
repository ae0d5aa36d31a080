"""Downloads against a server that misbehaves: nothing half-written, nothing exchanged, and as little twice as possible."""

import hashlib
import io
import json
import shutil
import threading

import numpy as np
import pytest
import torch
import torchvision

import sslzoo
from sslzoo import hub, registry
from sslzoo.errors import WeightsError
from sslzoo.hub import cache, download
from sslzoo.spec import Checkpoint, EncoderSpec, Preprocess
from tests.backbones.test_resnet import randomised
from tests.hub_servers import file_server, serving

BODY = bytes(np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_ASSETS_CACHE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def names(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("fault", ["cut", "stall", 503, 429, "redirect"])
def test_a_fault_is_survived_and_what_came_is_kept(fault, tmp_path):
    handler = file_server({"/a.pth": BODY}, [fault])
    with serving(handler) as url:
        path = download.download(f"{url}/a.pth", tmp_path / "d" / "a.pth")
    assert path.read_bytes() == BODY
    assert names(tmp_path / "d") == ["a.pth"]
    ranges = [r for _, r in handler.requests]
    if fault in ("cut", "stall"):
        assert ranges[0] is None
        assert int(ranges[1].removeprefix("bytes=").rstrip("-")) > 0


def test_an_interrupted_download_goes_on_in_the_next_process(tmp_path):
    handler = file_server({"/a.pth": BODY}, ["cut", *[500] * (download.TRIES - 1)])
    with serving(handler) as url:
        with pytest.raises(WeightsError, match=r"500.*goes on where it stopped"):
            download.download(f"{url}/a.pth", tmp_path / "a.pth")
        assert not (tmp_path / "a.pth").exists()
        download.download(f"{url}/a.pth", tmp_path / "a.pth", expected=f"md5:{hashlib.md5(BODY).hexdigest()[:8]}")
    assert handler.requests[-1][1] == f"bytes={len(BODY) // 2}-"
    assert (tmp_path / "a.pth").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path):
    files = {"/a.pth": BODY}
    with serving(file_server(files, ["cut", *[500] * (download.TRIES - 1)])) as url:
        with pytest.raises(WeightsError):
            download.download(f"{url}/a.pth", tmp_path / "a.pth")
        files["/a.pth"] = BODY[::-1]
        assert download.download(f"{url}/a.pth", tmp_path / "a.pth").read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expected": "sha256:00000000"}, "its sha256 is"),
        ({"expected": "md5:0000000000"}, "its md5 is"),
        ({"size": 5}, "3000000 bytes, not 5"),
    ],
)
def test_a_wrong_file_is_refused_and_removed(options, message, tmp_path):
    with serving(file_server({"/a.pth": BODY})) as url, pytest.raises(WeightsError, match=message):
        download.download(f"{url}/a.pth", tmp_path / "d" / "a.pth", **options)
    assert names(tmp_path / "d") == []


def test_what_is_not_there_is_said_at_once(tmp_path):
    handler = file_server({})
    with serving(handler) as url, pytest.raises(WeightsError, match=r"gone\.pth can't be downloaded.*404"):
        download.download(f"{url}/gone.pth", tmp_path / "a.pth")
    assert len(handler.requests) == 1
    with pytest.raises(WeightsError, match="refused"):
        download.download(f"{url}/a.pth", tmp_path / "a.pth")  # no server any more
    with pytest.raises(WeightsError, match="no http"):
        download.download(f"file://{tmp_path}/a", tmp_path / "a.pth")


def test_a_proxy_from_the_environment_is_used(tmp_path, monkeypatch):
    with serving(file_server({"http://weights.invalid/a.pth": BODY})) as url:
        monkeypatch.setenv("http_proxy", url)
        assert download.download("http://weights.invalid/a.pth", tmp_path / "a.pth").read_bytes() == BODY


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    network = randomised(torchvision.models.resnet18(weights=None))
    path = tmp_path_factory.mktemp("c") / "c.pth.tar"
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in network.state_dict().items()}}, path)
    return network, path.read_bytes()


def spec_of(*urls, **changes):
    return EncoderSpec(
        "mocov2-r18.test", "mocov2", "resnet18", 512, Preprocess(64, 64), license="cc-by-nc-4.0", license_note="Both.",
        checkpoints=tuple(Checkpoint(url, "moco") for url in urls), **changes,
    )  # fmt: skip


def known(monkeypatch, spec):
    monkeypatch.setattr(registry, "known", lambda: {spec.name: spec})


def test_load_downloads_converts_and_caches(checkpoint, monkeypatch, capsys):
    network, body = checkpoint
    handler = file_server({"/c.pth.tar": body})
    with serving(handler) as url:
        spec = spec_of(f"{url}/gone.pth.tar", f"{url}/c.pth.tar")
        known(monkeypatch, spec)
        assert not hub.is_cached(spec)
        encoder = sslzoo.load("mocov2-r18", device="cpu")
        assert capsys.readouterr().err.count("mocov2-r18.test: license cc-by-nc-4.0. Both.") == 1
        sslzoo.load("mocov2-r18", device="cpu")
    assert [path for path, _ in handler.requests] == ["/gone.pth.tar", "/c.pth.tar"]
    assert "license" not in capsys.readouterr().err
    network.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(encoder(x), network(x))
    assert hub.is_cached(spec)
    config = json.loads((cache.home() / "models" / spec.name / "config.json").read_text())
    assert config["checkpoints"][0]["hash"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert names(cache.home() / "downloads") == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sslzoo.load("mocov2-r18", device="cpu")


def test_a_file_that_was_exchanged_after_its_first_use_is_refused(checkpoint, monkeypatch):
    files = {"/c.pth.tar": checkpoint[1]}
    with serving(file_server(files)) as url:
        spec = spec_of(f"{url}/c.pth.tar")
        hub.fetch(spec)
        shutil.rmtree(cache.home() / "models")
        files["/c.pth.tar"] = checkpoint[1] + b"\0"
        with pytest.raises(WeightsError, match=r"has changed since it was first used.*delete"):
            hub.fetch(spec)
        assert not hub.is_cached(spec)


def other_weights():
    """The bytes of another network's checkpoint."""
    torch.manual_seed(1)
    state = torchvision.models.resnet18(weights=None).state_dict()
    file = io.BytesIO()
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in state.items()}}, file)
    return file.getvalue()


@pytest.mark.parametrize("first", ["gone", "changed"])
def test_a_mirror_does_not_stand_in_for_what_was_pinned(first, checkpoint):
    files = {"/c.pth.tar": checkpoint[1], "/mirror.pth.tar": other_weights()}
    with serving(file_server(files)) as url:
        spec = spec_of(f"{url}/c.pth.tar", f"{url}/mirror.pth.tar")
        right = hub.read_config(hub.fetch(spec)).sha256
        shutil.rmtree(cache.home() / "models")
        files["/c.pth.tar"] += b"\0"
        if first == "gone":
            del files["/c.pth.tar"]
        with pytest.raises(WeightsError, match=r"has changed since it was first used.*delete .*pins"):
            hub.fetch(spec)
        assert not hub.is_cached(spec)
        assert names(cache.home() / "downloads") == []
        files["/c.pth.tar"] = checkpoint[1]
        assert hub.read_config(hub.fetch(spec)).sha256 == right


def test_a_mirror_with_the_same_weights_in_another_file_stands_in(checkpoint):
    state = torch.load(io.BytesIO(checkpoint[1]))["state_dict"]
    mirror = io.BytesIO()
    torch.save({"epoch": 200, "state_dict": state}, mirror)
    files = {"/c.pth.tar": checkpoint[1], "/mirror.pth.tar": mirror.getvalue()}
    with serving(file_server(files)) as url:
        spec = spec_of(f"{url}/c.pth.tar", f"{url}/mirror.pth.tar")
        right = hub.read_config(hub.fetch(spec)).sha256
        shutil.rmtree(cache.home() / "models")
        del files["/c.pth.tar"]
        found = hub.read_config(hub.fetch(spec))
    assert found.sha256 == right
    assert found.checkpoints[0].url.endswith("/mirror.pth.tar")


def test_other_weights_than_the_pinned_are_refused(checkpoint):
    with serving(file_server({"/c.pth.tar": checkpoint[1]})) as url:
        with pytest.raises(WeightsError, match="other weights"):
            hub.fetch(spec_of(f"{url}/c.pth.tar", sha256="0" * 64))
        assert names(cache.home() / "pins") == []
        first = hub.read_config(hub.fetch(spec_of(f"{url}/c.pth.tar"))).sha256
        shutil.rmtree(cache.home())
        assert hub.read_config(hub.fetch(spec_of(f"{url}/c.pth.tar", sha256=first))).sha256 == first


def test_a_new_pin_replaces_what_is_cached(checkpoint):
    with serving(file_server({"/c.pth.tar": checkpoint[1]})) as url:
        spec = spec_of(f"{url}/c.pth.tar")
        right = hub.read_config(hub.fetch(spec)).sha256
        config = cache.home() / "models" / spec.name / "config.json"
        config.write_text(config.read_text().replace(right, "1" * 64))
        pinned = spec_of(f"{url}/c.pth.tar", sha256=right)
        assert not hub.is_cached(pinned)
        assert hub.read(pinned)["conv1.weight"].shape == (64, 3, 7, 7)
        assert hub.is_cached(pinned)


def test_offline_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE.*sslzoo pull mocov2-r18\.test"):
        hub.fetch(spec_of("http://127.0.0.1:9/c.pth"))


def test_two_at_once_download_once(checkpoint):
    handler = file_server({"/c.pth.tar": checkpoint[1]})
    with serving(handler) as url:
        spec = spec_of(f"{url}/c.pth.tar")
        threads = [threading.Thread(target=hub.fetch, args=(spec,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(handler.requests) == 1


def test_the_cache_follows_the_hubs_rules(monkeypatch, tmp_path):
    assert cache.home() == tmp_path / "hf" / "assets" / "sslzoo"
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    assert cache.home() == tmp_path / "assets" / "sslzoo"
    monkeypatch.delenv("HF_ASSETS_CACHE")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.home() == tmp_path / "xdg" / "huggingface" / "assets" / "sslzoo"


def test_a_hub_address_follows_the_endpoint(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1/")
    assert cache._address("https://huggingface.co/a/b/resolve/main/c") == "http://127.0.0.1:1/a/b/resolve/main/c"
    assert cache._address("https://example.org/c") == "https://example.org/c"


def test_sharded_weights_are_one_folder(model_folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model_folder / "model.safetensors")
    keys = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": keys[:40], "model-00002-of-00002.safetensors": keys[40:]}
    folder = tmp_path / "sharded"
    folder.mkdir()
    for name, part in shards.items():
        save_file({k: tensors[k] for k in part}, folder / name)
    index = {"metadata": {}, "weight_map": {k: name for name, part in shards.items() for k in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((model_folder / "config.json").read_text())
    sums = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in shards]
    config["sha256"] = hashlib.sha256("".join(f"{s}\n" for s in sums).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    loaded = sslzoo.load(f"local-dir:{folder}", device="cpu")
    assert torch.equal(loaded.backbone.conv1.weight, torch.tensor(tensors["conv1.weight"]))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="lacks model-00002"):
        sslzoo.load(f"local-dir:{folder}", device="cpu")
    index["weight_map"]["x"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="no file beside it"):
        sslzoo.load(f"local-dir:{folder}", device="cpu")
