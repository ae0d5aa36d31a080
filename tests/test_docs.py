"""README and site are true: their code runs, tables and help are the program's, every link leads somewhere."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from sslzoo import cli
from sslzoo.cli.examples import EXAMPLES
from sslzoo.convert import FORMATS
from tests import generated
from tests.conftest import need
from training.__main__ import app as training_app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)
TRAINS = ("train.md", "extending.md")  # these take more than seconds


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(language):
    return [code for kind, code in FENCE.findall(README) if kind == language]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})


def run_line(line, monkeypatch):
    """A command of a page: sslzoo in this process, anything else in one of its own."""
    program, *arguments = shlex.split(line)
    if program != "sslzoo":
        assert program == "python", f"{line} is neither sslzoo nor python; fence it as console"
        subprocess.run(
            [sys.executable, *arguments], check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        return
    monkeypatch.setattr(sys, "argv", ["sslzoo", *arguments])
    output = io.StringIO()
    with pytest.raises(SystemExit) as end, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        cli.main()
    assert end.value.code == 0, f"{line}\n{output.getvalue()}"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.name in TRAINS else (), id=name_of(page))
        for page in PAGES
        if re.search(r"^```(python|sh)$", page.read_text(encoding="utf-8"), re.M)
    ],
)
def test_a_page_of_the_site_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """`python` and `sh` blocks, where the project's examples are; `console` blocks need a network or a cluster."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        kind, code = block.groups()
        if kind == "python":
            lines = "\n" * (text[: block.start()].count("\n") + 1)  # a traceback then names the page's own line
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(lines + code, str(page), "exec"), names)
        elif kind == "sh":
            for line in code.splitlines():
                run_line(line, monkeypatch)


def known_commands():
    """Every command of both programs as it is typed; what `training` does with a recipe has no name of its own."""
    known = {f"sslzoo {' '.join(path)}": command for path, command in generated.commands()}
    for name, command in get_command(training_app).commands.items():
        known[f"training {name}".removesuffix(" run")] = command
    return known


def shown_commands(text):
    """The commands of both programs in a page's blocks and in its text, without what stands before them."""
    lines = [line for kind, code in FENCE.findall(text) if kind in ("sh", "console") for line in code.splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    for part in (part for line in lines for part in re.split(r"&&|\|", line)):
        if match := re.match(
            r"(?:\S*/)?(sslzoo|(?:OMP_\S+ )?(?:\S*python|torchrun .*) -m training) ([\w.].*)", part.strip()
        ):
            yield f"{match[1].split()[-1]} {match[2]}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=name_of)
def test_every_command_that_is_shown_exists(page):
    known = known_commands()
    for line in shown_commands(page.read_text(encoding="utf-8")):
        words = line.split(" #")[0].split()
        path = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in known), "")
        assert path, f"{line}: there is no such command"
        options = {name for parameter in known[path].params for name in parameter.opts}
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.rstrip(";,.)") in options, f"{line}: {path} has no option {word}"


def test_commands_that_do_not_exist_are_found(tmp_path):
    page = tmp_path / "page.md"
    for line in (
        "pip install . && .venv/bin/sslzoo embed photos && .venv/bin/sslzoo serch x",
        ".venv/bin/python -m training simclr-r18.tin_cpu_1h --dta PHOTOS",
        "torchrun --nproc-per-node 2 -m training exprot RUN --oops",
    ):
        page.write_text(f"```sh\n{line}\n```\n")
        with pytest.raises(AssertionError, match=r"no such command|has no option"):
            test_every_command_that_is_shown_exists(page)


def test_every_command_has_an_example_and_every_option_a_word():
    known = {" ".join(path): command for path, command in generated.commands()}
    groups = {name for name, command in known.items() if getattr(command, "commands", None)}
    assert known.keys() - groups == EXAMPLES.keys()
    for name, command in known.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.name == "help" or getattr(parameter, "help", None), f"{name} {parameter.opts}"


def test_the_help_of_convert_lists_its_formats():
    (command,) = (command for path, command in generated.commands() if path == ["convert"])
    (text,) = (parameter.help for parameter in command.params if parameter.name == "format")
    assert set(re.findall(r"[\w-]+", text)) - {"or", "auto"} == FORMATS.keys()


def test_every_extra_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`([\w-]+)`", row)}
    assert project["optional-dependencies"].keys() - {"dev", "docs"} == listed


SECTIONS = [(path, name) for path, sections in generated.SECTIONS.items() for name in sections]


@pytest.mark.parametrize(("path", "name"), SECTIONS, ids=[f"{p.name}-{n}" for p, n in SECTIONS])
def test_generated_sections_are_fresh(path, name):
    found = re.search(rf"<!-- {name}:.*?-->\n(.*?)<!-- /{name} -->", path.read_text(encoding="utf-8"), re.S)
    assert found, f"{path} has no section {name}"
    assert found[1] == generated.SECTIONS[path][name](), "stale: run `python -m tests.generated`"


@pytest.mark.parametrize("path", generated.DRAWINGS, ids=lambda p: p.name)
def test_the_drawings_are_the_demos(path):
    assert path.read_text(encoding="utf-8") == generated.drawing(generated.DRAWINGS[path]), (
        "run `python -m tests.generated`"
    )


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
    for path, name in re.findall(r"(tests/\S+\.py)::(\w+)", ci):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {name}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=name_of)
def test_no_path_leads_nowhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"`((?:training|tests|examples|sslzoo|hub_cards|benchmarks|docs)/[\w./-]+)`", text):
        assert "NAME" in target or (ROOT / target).exists(), target
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built from a copy with warnings as errors."""
    need("zensical", "mkdocstrings_handlers.python")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")  # zensical follows no link out of its folder
    (folder / "sslzoo").symlink_to(ROOT / "sslzoo")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "site"


def test_the_site_has_every_page_and_the_docstrings(site):
    for page in PAGES:
        path = page.relative_to(ROOT / "docs").with_suffix("")
        assert (site / ("" if path.name == "index" else path) / "index.html").is_file(), page
    reference = (site / "reference" / "python" / "index.html").read_text()
    assert "Raises UnknownModel (with suggestions) or WeightsError" in reference


def test_the_site_asks_nothing_of_other_hosts(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", text
        )
        loaded += re.findall(r"url\([\"']?((?:https?:)?//[^\"')]+)", text)
        assert not [url for url in loaded if "w3.org" not in url], path


def test_every_link_of_the_site_leads_somewhere(site):
    for path in site.rglob("index.html"):
        text = path.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"<a [^>]*href=\"(?!https?:|mailto:)([^\"#]*)#?([^\"]*)\"", text):
            there = (path.parent / target) if target else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{path}: {target}"
            if anchor and there.suffix == ".html":
                assert re.search(rf"id=\"?{re.escape(anchor)}[\" >]", there.read_text(encoding="utf-8")), (
                    f"{path}: {target}#{anchor}"
                )
