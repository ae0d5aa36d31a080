"""Fixtures for all tests: one torch thread, no network but loopback, and a few images made from nothing but code."""

import importlib
import os
import shutil
import socket

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Graphs and comparisons that tests make go where nobody else finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    connect = socket.socket.connect

    def refuse(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        if host not in ("", "127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def need(*modules: str) -> None:
    """Skips what can't run without these packages, and fails where CI has to have them."""
    for name in modules:
        if os.environ.get("CI"):
            importlib.import_module(name)
        else:
            pytest.importorskip(name)


def draw(shape: str, seed: int, size: tuple[int, int] = (120, 100)) -> Image.Image:
    """A picture of coloured circles or bars on noise, different for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(60, 200, (size[1], size[0], 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        if shape == "circles":
            pen.ellipse((x - 18, y - 18, x + 18, y + 18), fill=colour)
        else:
            pen.rectangle((x - 30, y - 4, x + 30, y + 4), fill=colour)
    return image


@pytest.fixture
def picture():
    return draw("circles", 0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A labelled folder: circles/0.png … and bars/0.jpg …, six of each."""
    root = tmp_path_factory.mktemp("photos")
    for shape, suffix in (("bars", "jpg"), ("circles", "png")):
        (root / shape).mkdir()
        for i in range(6):
            draw(shape, i).save(root / shape / f"{i}.{suffix}")
    return root


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model folder with the weights of random-r18."""
    import sslzoo

    folder = tmp_path_factory.mktemp("models") / "mine"
    sslzoo.load("random-r18", device="cpu").save_pretrained(folder)
    return folder


def pytest_terminal_summary(terminalreporter):
    """Says what was not tested, which `-q` would only count."""
    if shutil.which("chromium") is None:
        terminalreporter.write_line("tests/demo/test_browser.py needs a browser: apt-get install chromium")
