"""int8: calibrated on the images themselves, a space of its own that queries find again, nothing looked up by name."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import sslzoo
from sslzoo.backends import open_backend
from sslzoo.errors import InputError, MissingExtra

from .conftest import draw


def test_what_int8_cannot_do_is_said(monkeypatch, photos, tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(InputError, match="--backend openvino"):
        sslzoo.embed(photos, "random-r18", precision="int8")
    with pytest.raises(InputError, match="--backend openvino"):
        sslzoo.embed(photos, precision="int8", backend="torch")
    with pytest.raises(InputError, match="give a folder"):
        open_backend("simclr-r18", precision="int8")
    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path))
    for package in ("nncf", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=r"pip install 'sslzoo\[int8\]'"):
            sslzoo.embed(photos, precision="int8")


def test_agreement_by_hand():
    from sslzoo.backends.int8_backend import agreement

    full = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    assert agreement(full, 3 * full) == pytest.approx(
        {"images": 3, "mean_cosine": 1, "lowest_cosine": 1, "neighbours_kept": 1}
    )
    turned = np.array([[0, 2], [0, 1], [1, 1]], np.float32)
    assert agreement(full, turned)["lowest_cosine"] == pytest.approx(0)
    assert agreement(full, turned)["mean_cosine"] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`sslzoo embed --precision int8` in a process of its own, where every look-up of a host ends it."""
    pytest.importorskip("nncf")
    root = tmp_path_factory.mktemp("int8")
    (root / "photos").mkdir()
    for i in range(40):
        draw("circles" if i % 2 else "bars", i).save(root / "photos" / f"{i:02d}.png")
    code = f"""
    import sys
    def watch(event, arguments):
        if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect"):
            raise SystemExit(f"{{event}} {{arguments}}")
    sys.addaudithook(watch)
    sys.argv = ["sslzoo", "embed", {str(root / "photos")!r}, "-o", {str(root / "e")!r}, "--precision", "int8", "--json", "-q"]
    from sslzoo.cli import main
    main()
    """
    environment = {k: v for k, v in os.environ.items() if k != "CI"}  # which alone would silence the telemetry
    environment |= {"HOME": str(root / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["precision"] == "int8"  # and nothing of NNCF's on stdout
    assert "neighbours_kept" in done.stderr
    return root


def test_int8_is_close_and_apart(made):
    low, full = sslzoo.open_embeddings(made / "e"), sslzoo.embed(made / "photos", precision="fp32")
    assert low.ids == full.ids
    assert low.space != full.space
    cosines = (low.normalized * full.normalized).sum(1)
    assert 0.97 < cosines.min() < 0.999999
    assert low.manifest["agreement"]["mean_cosine"] == pytest.approx(float(cosines.mean()), abs=1e-4)


def test_queries_and_resumed_runs_use_the_graph_in_the_folder(made, monkeypatch, tmp_path):
    from sslzoo.search import search_images

    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path / "empty"))  # nothing is calibrated again
    monkeypatch.setitem(sys.modules, "nncf", None)
    emb = sslzoo.open_embeddings(made / "e")
    _, found = search_images(emb, [str(made / "photos" / "07.png")], k=1)
    assert found.ids[0][0] == "07.png"
    (made / "photos" / "40.png").write_bytes((made / "photos" / "03.png").read_bytes())
    updated = sslzoo.embed(made / "photos", out=made / "e", update=True)
    assert len(updated) == 41
    assert updated.space == emb.space
    assert updated.normalized[40] @ updated.normalized[3] > 0.9999
