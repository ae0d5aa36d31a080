"""The README is true: its Python runs, its tables and help are those of the program, its commands exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import generated

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("name", generated.SECTIONS)
def test_generated_sections_are_fresh(name):
    found = re.search(rf"<!-- {name}:.*?-->\n(.*?)<!-- /{name} -->", README, re.S)
    assert found, f"README.md has no section {name}"
    assert found[1] == generated.SECTIONS[name](), "stale: run `python -m tests.generated`"


def test_the_first_command_does_the_main_job(tmp_path):
    steps = blocks("sh")[0].split("&&")
    assert [shlex.split(step)[0] for step in steps] == [
        "python3",
        ".venv/bin/pip",
        ".venv/bin/sslzoo",
        ".venv/bin/sslzoo",
    ]
    for step in steps[2:]:
        arguments = [str(tmp_path / a) if a == "photos.emb" else a for a in shlex.split(step)[1:]]
        done = subprocess.run(
            [sys.executable, "-m", "sslzoo", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    nearest = [line.split()[1] for line in done.stdout.splitlines()]
    assert nearest[0] == "windmill-1.jpg"
    assert len(nearest) == 5


def test_ci_runs_the_readmes_test_command():
    ci = (ROOT / ".ci" / "run").read_text()
    last = blocks("sh")[1].split("&&")[-1].strip()
    assert last in ci


def test_no_link_leads_nowhere():
    for target in re.findall(r"`((?:training|tests|examples|sslzoo|hub_cards)/[\w./-]+)`", README):
        assert (ROOT / target).exists(), target
