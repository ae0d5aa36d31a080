"""The real huggingface_hub client against a small Hub on loopback: push, load, and everything that can be refused.

The client reads HF_ENDPOINT when it is imported, so each step runs in a process of its own.
"""

import json
import os
import subprocess
import sys

import pytest

from sslzoo import hub
from sslzoo.errors import InputError
from tests.hub_servers import hub_server, serving


@pytest.fixture
def faults():
    return []


@pytest.fixture
def handler(faults):
    return hub_server(faults)


@pytest.fixture
def server(handler):
    with serving(handler) as url:
        yield url


@pytest.fixture
def run(server, tmp_path):
    def call(*arguments, ok=True, **environment):
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "http", "HTTP"))}
        settings = {
            "HF_ENDPOINT": server,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "owner",
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=plain | settings | environment,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if ok else done.stderr

    return call


@pytest.fixture
def folder(model_folder, tmp_path):
    """A model folder whose license is stated in its config and its card."""
    target = tmp_path / "folder"
    target.mkdir()
    for path in model_folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


LOAD = (
    "import sslzoo, sys; e = sslzoo.load(sys.argv[1], device='cpu'); print(e.spec.name, e.spec.sha256, e.spec.sources)"
)


def test_push_then_load(run, folder, handler):
    out = run("-m", "sslzoo", "push", folder, "me/mine")
    name = out.split("sslzoo.load('")[1].split("'")[0]
    assert name.startswith("hf-hub:me/mine@")
    sha256 = json.loads((folder / "config.json").read_text())["sha256"]
    for each in (name, "hf-hub:me/mine"):
        assert run("-c", LOAD, each).split()[:2] == ["random-r18", sha256]
    assert run("-c", LOAD, name, HF_HUB_OFFLINE="1").split()[1] == sha256  # from the cache
    assert json.loads(run("-m", "sslzoo", "show", name, "--json"))["sources"] == [name]
    run("-m", "sslzoo", "push", folder, "me/mine")  # once more, onto itself
    run("-m", "sslzoo", "push", folder, "me/secret", "--private")
    assert handler.private == {"me/secret"}


@pytest.mark.parametrize(("license", "times"), [("cc-by-nc-4.0", 1), ("mit", 0)])
def test_a_license_that_restricts_is_told_with_the_download(license, times, run, folder):
    for name in ("config.json", "README.md"):
        (folder / name).write_text((folder / name).read_text().replace("CC0-1.0", license).replace("cc0-1.0", license))
    run("-m", "sslzoo", "push", folder, "me/mine")
    told = f"random-r18: license {license}."
    load = "import sys; sys.stderr = sys.stdout; " + LOAD
    assert run("-c", load, "hf-hub:me/mine").count(told) == times
    assert run("-c", load, "hf-hub:me/mine").count(told) == 0
    limited = run("-m", "sslzoo", "show", "hf-hub:me/mine", ok=times == 0, SSLZOO_LICENSE="permissive")
    assert ("me/mine has a license that is permissive" in limited) == bool(times)


def test_an_encoder_in_memory(run, tmp_path):
    code = "import sslzoo; print(sslzoo.load('random-r18', device='cpu').push_to_hub('me/other')[0])"
    assert "pushed to me/other" in run("-c", code)
    code = "import sslzoo; print(sslzoo.Encoder.from_pretrained('hf-hub:me/other', device='cpu').dim)"
    assert run("-c", code).strip() == "512"


def test_a_dry_run_uploads_nothing(run, folder):
    assert "would push to me/mine" in run("-m", "sslzoo", "push", folder, "me/mine", "--dry-run")
    assert "doesn't exist" in run("-m", "sslzoo", "show", "hf-hub:me/mine", ok=False)


@pytest.mark.parametrize(("token", "status"), [("nobody", "401"), ("reader", "403")])
def test_without_permission(run, folder, token, status):
    err = run("-m", "sslzoo", "push", folder, "me/mine", ok=False, HF_TOKEN=token)
    assert "hf auth login" in err


def test_what_is_not_there(run, folder):
    run("-m", "sslzoo", "push", folder, "me/mine")
    assert "no such revision" in run("-m", "sslzoo", "show", f"hf-hub:me/mine@{'1' * 40}", ok=False)
    assert "doesn't exist" in run("-m", "sslzoo", "show", "hf-hub:me/nothing", ok=False)
    assert "ORG/REPO" in run("-m", "sslzoo", "show", "hf-hub:nothing", ok=False)
    assert "can't be reached" in run("-m", "sslzoo", "show", "hf-hub:me/nothing", ok=False, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize("cuts", [1, 30])
def test_an_interrupted_download_goes_on(run, folder, faults, cuts):
    name = run("-m", "sslzoo", "push", folder, "me/mine").split("sslzoo.load('")[1].split("'")[0]
    faults += ["cut"] * cuts
    if cuts > 1:  # the client gives up: nothing half-written is taken for the weights
        err = run("-m", "sslzoo", "pull", name, ok=False)
        assert "me/mine" in err
        assert "the same command" in err
        faults.clear()
    assert run("-c", LOAD, name).split()[0] == "random-r18"


@pytest.mark.parametrize(
    ("token", "message"), [("stranger", "is gated; accept its terms"), ("nobody", "hf auth login")]
)
def test_reading_without_permission(run, folder, token, message):
    run("-m", "sslzoo", "push", folder, "me/mine")
    err = run("-m", "sslzoo", "pull", "hf-hub:me/mine", ok=False, HF_TOKEN=token)
    assert message in err
    assert "hf auth login" in err


def test_a_hub_without_xet_is_named(run, folder):
    """The client chooses Xet by itself where its package is installed; a self-hosted Hub may not speak it."""
    pytest.importorskip("hf_xet", reason="the client has no Xet without it")
    err = run("-m", "sslzoo", "push", folder, "me/mine", ok=False, HF_HUB_DISABLE_XET="0")
    assert "HF_HUB_DISABLE_XET=1" in err


def test_shards_both_ways(run, folder, tmp_path):
    from training.export import repack

    repack(folder, tmp_path / "shards", shard_size="20MB")
    assert len(list((tmp_path / "shards").glob("model-0000?-of-00003.safetensors"))) == 3
    run("-m", "sslzoo", "push", tmp_path / "shards", "me/shards")
    assert run("-c", LOAD, "hf-hub:me/shards").split()[0] == "random-r18"
    # the other kind into the same repository: what was there would be read, and refused, in its place
    for again in (folder, tmp_path / "shards"):
        assert "safetensors  taken away" in run("-m", "sslzoo", "push", again, "me/shards")
        assert run("-c", LOAD, "hf-hub:me/shards").split()[0] == "random-r18"


def test_weights_that_are_not_the_configs_are_refused(run, folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert "damaged or was exchanged" in run("-m", "sslzoo", "push", folder, "me/mine", ok=False)


@pytest.mark.parametrize("repo", ["me", "a/b/c", "a/b@c", "bad name", "a/.b", "a/b--c"])
def test_a_dry_run_takes_only_names_that_the_hub_takes(folder, repo):
    with pytest.raises(InputError, match="is no name for a repository; write ORG/NAME"):
        hub.push(folder, repo, dry_run=True)


@pytest.mark.parametrize(
    ("config", "card", "message"),
    [
        ("", "", "states no license"),
        ("not stated", "not stated", "states no license"),
        ("cc-by-nc-4.0", "apache-2.0", "make them equal"),
        ("mit", "not stated", "says license not stated and"),
        ("cc-by-nc-4.0", "", "make them equal"),
    ],
)
def test_a_license_must_be_stated_and_kept(config, card, message, folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"license": config}))
    (folder / "README.md").write_text(f"---\nlicense: {card}\n---\n" if card else "# mine\n")
    with pytest.raises(InputError, match=message):
        hub.push(folder, "me/mine", dry_run=True)


def test_a_non_commercial_label_and_the_authors_stay_on_the_card(folder):
    values = json.loads((folder / "config.json").read_text())
    origin = {"url": "https://example.org/authors.pth", "format": "moco"}
    (folder / "config.json").write_text(json.dumps(values | {"license": "cc-by-nc-4.0", "checkpoints": [origin]}))
    spec = hub.read_config(folder)
    (folder / "README.md").write_text(hub.card(spec))
    assert "(cc-by-nc-4.0)" in hub.push(folder, "me/mine", dry_run=True).lines[0]
    (folder / "README.md").write_text(hub.card(spec).replace("https://example.org/authors.pth", "somewhere"))
    with pytest.raises(InputError, match=r"doesn't say that the weights come from https://example\.org/authors\.pth"):
        hub.push(folder, "me/mine", dry_run=True)


def test_an_abbreviated_revision_becomes_the_whole_commit(run, folder, handler):
    """What `verify` writes for authors' files on the Hub; other addresses, and all of them offline, stay as they are."""
    run("-m", "sslzoo", "push", folder, "me/mine")
    oid = handler.contents["me/mine"][-1][0]
    code = "import sys; from sslzoo import hub; print(*(hub.pinned_url(url) for url in sys.argv[1:]))"
    place = "https://huggingface.co/me/mine/resolve"
    elsewhere = "https://example.org/resolve/main/x"
    out = run("-c", code, f"{place}/main/model.safetensors", elsewhere)
    assert out.split() == [f"{place}/{oid}/model.safetensors", elsewhere]
    out = run("-c", code, f"{place}/main/model.safetensors", HF_HUB_OFFLINE="1")
    assert out.split() == [f"{place}/main/model.safetensors"]
    assert "doesn't exist" in run(
        "-c", EXPLAIN, "https://huggingface.co/me/nothing/resolve/main/model.safetensors", ok=False
    )


EXPLAIN = """
import sys
from sslzoo import WeightsError, hub
try:
    hub.pinned_url(sys.argv[1])
except WeightsError as error:
    sys.exit(str(error))
"""
