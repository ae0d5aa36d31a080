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
def server():
    with serving(hub_server()) as url:
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


def test_push_then_load(run, folder):
    out = run("-m", "sslzoo", "push", folder, "me/mine")
    name = out.split("sslzoo.load('")[1].split("'")[0]
    assert name.startswith("hf-hub:me/mine@")
    sha256 = json.loads((folder / "config.json").read_text())["sha256"]
    for each in (name, "hf-hub:me/mine"):
        assert run("-c", LOAD, each).split()[:2] == ["random-r18", sha256]
    assert run("-c", LOAD, name, HF_HUB_OFFLINE="1").split()[1] == sha256  # from the cache
    assert json.loads(run("-m", "sslzoo", "show", name, "--json"))["sources"] == [name]
    run("-m", "sslzoo", "push", folder, "me/mine")  # once more, onto itself


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


def test_weights_that_are_not_the_configs_are_refused(run, folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert "damaged or was exchanged" in run("-m", "sslzoo", "push", folder, "me/mine", ok=False)


@pytest.mark.parametrize(
    ("config", "card", "message"),
    [
        ("", "", "states no license"),
        ("not stated", "not stated", "states no license"),
        ("cc-by-nc-4.0", "apache-2.0", "make them equal"),
        ("cc-by-nc-4.0", "", "make them equal"),
    ],
)
def test_a_license_must_be_stated_and_kept(config, card, message, folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"license": config}))
    (folder / "README.md").write_text(f"---\nlicense: {card}\n---\n" if card else "# mine\n")
    with pytest.raises(InputError, match=message):
        hub.push(folder, "me/mine", dry_run=True)
