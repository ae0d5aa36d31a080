"""A running demo over a folder with awkward names, and a real browser: Debian's chromium, driven by Playwright."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sslzoo
from tests.conftest import draw

ROOT = Path(__file__).parent.parent.parent
BROWSER = shutil.which("chromium")
FLAGS = [  # nothing that the browser itself would ask of the network
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    "--disable-default-apps", "--disable-extensions", "--disable-domain-reliability", "--disable-client-side-phishing-detection",
    "--disable-features=OptimizationHints,MediaRouter,Translate,CertificateTransparencyComponentUpdater",
]  # fmt: skip

EVIL = "<img src=x onerror=alert(1)> ${alert(2)} {{3}}.png"
LONG = "a-very-long-name-" * 8 + "that-ends-so.jpg"


@pytest.fixture(scope="session")
def collection(tmp_path_factory):
    """A folder of photos in two sub-folders, with a copy, a link that leads out, and names that try to be HTML."""
    root = tmp_path_factory.mktemp("demo") / "photos"
    for shape in ("bars", "circles"):
        (root / shape).mkdir(parents=True)
        for i in range(6):
            draw(shape, i).save(root / shape / f"{i}.jpg")
    draw("bars", 6).save(root / "bars" / EVIL.replace("/", ""))
    draw("bars", 7).save(root / "bars" / LONG)
    shutil.copy(root / "circles" / "0.jpg", root / "circles" / "copy.jpg")
    draw("circles", 9).save(root.parent / "secret.jpg")
    (root / "circles" / "link.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "broken.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def embedded(collection):
    out = collection.parent / "photos.emb"
    sslzoo.embed(collection, "random-r18", out, device="cpu")
    return out


class Running:
    """`sslzoo demo …` in a process of its own, as users run it; `url` is where, `uploads` where it keeps these."""

    def __init__(self, folder, *arguments, program=("-m", "sslzoo", "demo"), cwd=None, env=None, python=sys.executable):
        self.folder = folder
        self.log = folder / "log"
        command = [str(python), *program, *map(str, arguments)]
        env = (os.environ if env is None else env) | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=cwd or folder, stdout=log, stderr=subprocess.STDOUT, env=env)
        for _ in range(600):
            if found := re.search(r"^http://\S+$", self.log.read_text(), re.M):
                break
            assert self.process.poll() is None, f"it ended: {self.log.read_text()}"
            time.sleep(0.1)
        else:
            raise AssertionError(f"no address within a minute: {self.log.read_text()}")
        self.url = found[0]

    @property
    def uploads(self):
        return next(self.folder.glob("sslzoo-demo-*"))

    @cached_property
    def photo(self):
        with urllib.request.urlopen(self.url, timeout=20) as page:
            return re.search(rb"photo/[\w-]+", page.read())[0].decode()

    def close(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def server(embedded, tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("server"), embedded, "--port", free_port(), "--device", "cpu")
    yield running
    running.close()


@pytest.fixture
def start(tmp_path):
    """Starts further ones."""
    running = []

    def start(*arguments, **options):
        running.append(Running(tmp_path, *arguments, **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def browser():
    if BROWSER is None:
        message = "no browser: these tests drive Debian's chromium, install it with: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page in a context of its own; what it asked for and complained of is in `page.asked`, `page.errors`."""
    contexts = []

    def open_(url=None, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
        page.on("dialog", lambda dialog: page.errors.append(f"dialog: {dialog.message}"))
        page.goto(url or server.url)
        page.wait_for_selector("#results .card")
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def picture_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("query") / "mine.png"
    draw("circles", 3).save(path)
    return path


def noise(seed, size=(64, 48)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
