"""`embed` on a Ray cluster of two actors leaves the very folder of a run without Ray, and nothing of Ray's is reported."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sslzoo
from sslzoo.errors import UnknownModel

from .conftest import draw

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
slow = pytest.mark.slow  # a cluster takes ten seconds to start

# as `sslzoo embed --engine ray`, in small parts
RAY = """
import functools, os, sys
from sslzoo import cli, distributed
distributed.embed = functools.partial(distributed.embed, part_size=4)
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect"):
        address = arguments[1] if event == "socket.connect" else arguments
        host = address[0] if isinstance(address, tuple) else "localhost"  # a plain string is a socket in the file system
        if host not in ("127.0.0.1", "localhost", "::1"):
            os.write(2, f"LOOKED UP {event} {arguments}\\n".encode())
sys.addaudithook(watch)
cli.main()
"""


def start(*arguments):
    command = [sys.executable, "-c", RAY, "embed", *map(str, arguments), "--engine", "ray", "--actors", "2", "-b", "2"]
    return subprocess.Popen([*command, "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate()
    assert "LOOKED UP" not in err, err
    return process.returncode, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 pictures in three folders, two broken files, one that is hidden and one that is no image."""
    root = tmp_path_factory.mktemp("in") / "pictures"
    for i in range(32):
        path = root / "abc"[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in (0, 20):
            path.write_text("text")
        else:
            draw("bars", i, (40, 30)).save(path)
    for name in (".first.png", "readme.txt"):
        (root / name).write_text("text")
    return root


def snapshot(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@slow
def test_the_folder_is_that_of_one_process(folder, tmp_path):
    sslzoo.embed(folder, None, tmp_path / "one", part_size=4, batch_size=2)
    code, out, err = run(folder, "-o", tmp_path / "ray", "--json")
    assert code == 3, err
    assert json.loads(out)["failed"] == 2
    assert json.loads(out)["left_out"] == {"hidden": 1, "not an image's extension": 1}
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "one")


@slow
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "parquet"])
def test_archives_and_tables(folder, tmp_path, kind):
    files = sorted(folder.rglob("*.png"))
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
    elif kind == "parquet":
        cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
        pq.write_table(pa.table({"image": cells, "n": list(range(len(files)))}), path, row_group_size=5)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(folder, ".")
    sslzoo.embed(path, "pixels-32", tmp_path / "one", part_size=4, batch_size=2)
    code, _, err = run(path, "-o", tmp_path / "ray", "-m", "pixels-32")
    assert code == 3, err
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "one")


@slow
def test_interrupted_by_hand_or_killed_it_goes_on_with_and_without_ray(folder, tmp_path):
    many = tmp_path / "many"
    for copy in range(12):
        for file in folder.rglob("*.png"):
            link = many / str(copy) / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(file)
    sslzoo.embed(many, "pixels-32", tmp_path / "one", part_size=4, batch_size=2)
    for number, (how, code) in enumerate(((signal.SIGINT, 130), (signal.SIGKILL, -9))):
        out = tmp_path / f"ray{number}"
        process = start(many, "-o", out, "-m", "pixels-32")
        while process.poll() is None and not list(out.glob("part-*")):
            time.sleep(0.01)
        process.send_signal(how)
        _, err = process.communicate()
        assert process.returncode == code, err
        assert 0 < len(list(out.glob("part-*"))) < 96
    assert run(many, "-o", tmp_path / "ray0", "-m", "pixels-32", "--resume")[0] == 3
    assert snapshot(tmp_path / "ray0") == snapshot(tmp_path / "one")
    sslzoo.embed(many, "pixels-32", tmp_path / "ray1", resume=True)
    assert snapshot(tmp_path / "ray1") == snapshot(tmp_path / "one")


@slow
def test_what_ray_cannot_do_is_said(folder, tmp_path):
    for options, message in (
        (["--update"], "leave out --update"),
        (["--shard", "0/2"], "leave out --update"),
        (["--precision", "int8"], "int8 is calibrated by one process"),
        (["-m", "random-r99"], "unknown model"),
    ):
        code, _, err = run(folder, "-o", tmp_path / "e", *options)
        assert code == 1
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "e").exists()


def test_an_error_of_ours_comes_back_from_ray_as_it_was_raised():
    from ray.exceptions import RayTaskError

    from sslzoo import distributed

    error = UnknownModel("unknown model 'byoll'; did you mean byol-r50?", ["byol-r50"])
    wrapped = RayTaskError("_manifest", "Traceback (most recent call last): …", error).as_instanceof_cause()
    assert isinstance(wrapped, UnknownModel) and str(wrapped) != str(error)  # it has Ray's traceback in it
    assert str(distributed._ours(wrapped)) == "unknown model 'byoll'; did you mean byol-r50?"


def test_usage_is_not_reported(monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    code = "from sslzoo import distributed; from ray._common.usage import usage_lib; print(usage_lib.usage_stats_enabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
