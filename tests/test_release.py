"""The release stamp, and what is built: the wheel holds sslzoo alone, and does the main job in an environment without extras."""

import datetime
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import release
from sslzoo.registry import PACKAGE_ENCODER
from tests.conftest import need

ROOT = Path(__file__).parent.parent
DAY = datetime.date(2030, 1, 31)


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "sslzoo").mkdir()
    for name in ("sslzoo/__init__.py", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.0.9 - 2029-01-01\n\n- Old.\n"
    )
    return tmp_path


def test_a_release_stamps_version_citation_and_changelog(checkout):
    release.stamp(checkout, "3.0.1", DAY)
    assert '__version__ = "3.0.1"\n' in (checkout / "sslzoo" / "__init__.py").read_text()
    assert "version: 3.0.1\ndate-released: 2030-01-31\n" in (checkout / "CITATION.cff").read_text()
    expected = "## Unreleased\n\n## 3.0.1 - 2030-01-31\n\n### Added\n\n- A thing.\n\n## 0.0.9"
    assert expected in (checkout / "CHANGELOG.md").read_text()
    before = (checkout / "CHANGELOG.md").read_text()
    assert release.stamp(checkout, "3.0.1", DAY + datetime.timedelta(1)) == []  # the build had failed
    assert (checkout / "CHANGELOG.md").read_text() == before
    release_again = (checkout / "CHANGELOG.md").read_text().replace("## Unreleased\n", "## Unreleased\n\n- More.\n", 1)
    (checkout / "CHANGELOG.md").write_text(release_again)
    with pytest.raises(ValueError, match="not newer"):
        release.stamp(checkout, "3.0.1", DAY)
    release.stamp(checkout, "3.1.0", DAY)
    assert (checkout / "CITATION.cff").read_text().count("date-released") == 1


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        ("1.0", "- A.", "MAJOR.MINOR.PATCH"),
        ("0.0.1", "- A.", "not newer"),
        ("9.0.0", "", "nothing under ## Unreleased"),
    ],
)
def test_a_release_that_makes_no_sense_writes_nothing(checkout, version, changes, message):
    (checkout / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## Unreleased\n\n{changes}\n\n## 0.0.0 - 2029-01-01\n\n- Old.\n"
    )
    before = {path: path.read_text() for path in checkout.rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        release.stamp(checkout, version, DAY)
    assert before == {path: path.read_text() for path in before}


def test_only_what_is_committed_is_released(checkout):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], cwd=checkout, check=True)
    release.stamp(checkout, "3.0.1", DAY)
    release.require_clean(checkout)
    (checkout / "sslzoo" / "new file.py").touch()
    with pytest.raises(ValueError, match=r"^sslzoo/new file\.py would be released uncommitted; commit"):
        release.require_clean(checkout)


def test_the_citation_states_this_version():
    import sslzoo

    assert f"\nversion: {sslzoo.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of what git tracks."""
    need("hatchling")
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", folder / "checkout"], check=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder / "dist"], cwd=folder / "checkout", check=True
    )
    return folder / "dist"


def test_the_wheel_holds_sslzoo_alone(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sslzoo"}
    assert {"sslzoo/py.typed", f"sslzoo/weights/{PACKAGE_ENCODER}/model.safetensors"} <= set(names)
    tracked = subprocess.run(
        ["git", "ls-files", "sslzoo"], cwd=built.parent / "checkout", capture_output=True, text=True, check=True
    ).stdout
    assert set(tracked.split()) == {name for name in names if name.startswith("sslzoo/")}
    assert wheel.stat().st_size < 40_000_000
    required = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.M)
    assert {"torch", "numpy", "pillow", "typer"} <= set(required)
    assert not {"openvino", "faiss-cpu", "gradio", "onnx", "ray", "pytest"} & set(required)


def test_the_sdist_holds_the_checkout_without_copies_of_weights_and_tests_that_need_them(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"training/engine.py", "docs/index.md", "LICENSE", "CHANGELOG.md"} <= names
    assert not [name for name in names if name.startswith(("hub_cards", "tests", "build", "runs"))]


@pytest.mark.slow
def test_the_wheel_does_the_main_job_in_a_clean_environment(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout

    run(sys.executable, "-m", "venv", "clean")
    here = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin")
    run(here / "python", "-m", "pip", "install", "-q", wheel)
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "photos")
    assert "40 vectors of 512 numbers" in run(here / "sslzoo", "embed", "photos", "-q")
    lines = run(
        here / "python", "-m", "sslzoo", "search", "photos.emb", "photos/windmill-1.jpg", "-k", "3"
    ).splitlines()
    assert lines[0].split()[1] == "windmill-1.jpg"
    assert "simclr-r18" in run(here / "sslzoo", "models")
    code = "import sslzoo; print(sslzoo.load('simclr-r18', device='cpu').encode('photos/panda-1.jpg').shape)"
    assert run(here / "python", "-c", code) == "(1, 512)\n"
    installed = run(here / "python", "-m", "pip", "list", "--format", "freeze")
    assert not re.search(r"^(openvino|faiss|gradio|onnx|ray|nncf)", installed, re.M)
