"""The Space's files: their header, their requirements, and that `app.py` starts in a clean environment."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.demo.conftest import ROOT, free_port

APP = ROOT / "app"


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_header_is_a_spaces():
    _, header, text = (APP / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["sdk"] == "gradio" and (APP / facts["app_file"]).is_file()
    assert facts["license"] == "apache-2.0" and len(facts["short_description"]) <= 60
    pin = next(line for line in project()["optional-dependencies"]["demo"] if line.startswith("gradio"))
    lowest = re.search(r">=([\d.]+)", pin)[1]
    assert facts["sdk_version"].startswith(lowest)
    assert "deleted with it" in text


def test_requirements_are_extras_of_ours():
    line = (APP / "requirements.txt").read_text().strip()
    name, extras = re.fullmatch(r"(\w+)\[([\w,]+)\]", line).groups()
    assert name == "sslzoo" and set(extras.split(",")) <= set(project()["optional-dependencies"])


def clean(folder):
    """No variable but those that every process has."""
    home = folder / "home"
    home.mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(home), "GRADIO_SERVER_PORT": str(free_port())}


def check(running):
    assert re.fullmatch(r"http://\S+:\d+/", running.url)
    page = urllib.request.urlopen(running.url.replace("0.0.0.0", "127.0.0.1"), timeout=20).read()
    found = re.search(rb"photo/[\w-]+/0/320", page)[0].decode()
    with urllib.request.urlopen(running.url.replace("0.0.0.0", "127.0.0.1") + found, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("image/jpeg")
    assert b"windmill-1.jpg" in page


def test_it_starts_as_deployed(start, tmp_path):
    space = deployed(tmp_path)
    env = clean(tmp_path) | {"PYTHONPATH": str(ROOT)}
    running = start("app.py", program=(), cwd=space, env=env)
    check(running)
    running.process.terminate()
    assert running.process.wait(20) == 0, running.log.read_text()
    assert not list(running.folder.glob("sslzoo-demo-*")), running.log.read_text()


@pytest.mark.slow
def test_it_starts_from_the_wheel_alone(start, tmp_path):
    """In a new environment with the wheel built from this checkout; the packages it needs are taken from ours."""
    run = lambda *command: subprocess.run(  # noqa: E731
        command, check=True, capture_output=True, text=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]}
    )
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "dist"), str(ROOT))
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = (tmp_path / "dist").glob("sslzoo-*.whl")
    run(str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel))
    purelib = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = """
import json
from importlib.metadata import requires, version
from packaging.requirements import Requirement
import sslzoo
wanted = [Requirement(line) for line in requires("sslzoo")]
wanted = [r for r in wanted if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("demo", "fast", "faiss"))]
print(json.dumps([sslzoo.__file__, [r.name for r in wanted if version(r.name) not in r.specifier]]))
"""
    where, unmet = json.loads(run(str(python), "-c", code).stdout)
    assert where.startswith(purelib) and not unmet
    check(start("app.py", program=(), cwd=deployed(tmp_path), env=clean(tmp_path), python=python))


def deployed(folder):
    """The Space's folder as `python -m training publish` pushes it."""
    space = folder / "space"
    shutil.copytree(APP, space)
    shutil.copytree(ROOT / "examples" / "photos", space / "photos")
    return space
