"""A running demo over a folder with awkward names, and a real browser: Debian's chromium, driven by Playwright."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import sslzoo
from tests.conftest import draw

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


@pytest.fixture(scope="session")
def server(embedded):
    from sslzoo.demo.server import Server

    with Server(embedded, port=free_port(), device="cpu") as running:
        running.warm()
        yield running


@pytest.fixture
def started(tmp_path):
    """Starts `sslzoo demo …` in a process of its own and gives its address; what it printed is in `started.printed`."""
    running = []

    def start(*arguments, program=("-m", "sslzoo", "demo"), cwd=tmp_path, env=None):
        port = [] if env and "GRADIO_SERVER_PORT" in env else ["--port", str(free_port())]
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments), *(port if program[0] == "-m" else [])],
            cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        )  # fmt: skip
        running.append(process)
        start.printed = ""
        for line in process.stdout:
            start.printed += line
            if line.startswith("http://"):
                return line.strip()
        raise AssertionError(f"it ended: {start.printed}")

    yield start
    for process in running:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()


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
