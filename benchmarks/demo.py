"""How quickly the demo is there: first result from the example photos, a large collection from its embeddings folder, its map.

`python -m benchmarks.demo [--rows 10000] [--map-rows 50000]` starts `sslzoo demo` as users do and looks at it with Debian's
chromium through Playwright. The large collections are links to the example photos with vectors of noise around theirs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

import sslzoo
from sslzoo.pipeline.writer import Facts, Part, Writer

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "examples" / "photos"
PART = 1024


class Demo:
    """A started `sslzoo demo`; `seconds` is how long until it gave its address."""

    def __init__(self, path: Path, cwd: Path) -> None:
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "sslzoo", "demo", str(path), "-q"]
        self.process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.url = next(line.strip() for line in self.process.stdout if re.match("http://", line))
        self.seconds = time.perf_counter() - began

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def large(folder: Path, rows: int) -> Path:
    """An embeddings folder of so many rows, whose photos are links to the examples, in folders of 100."""
    small = sslzoo.embed(PHOTOS)
    rng = np.random.default_rng(0)
    source, out = folder / f"photos-{rows}", folder / f"{rows}.emb"
    manifest = {**small.manifest, "source": str(source)}
    writer = Writer(out, {k: v for k, v in manifest.items() if k not in ("rows", "failed", "failures")}, started=False)
    for start in range(0, rows, PART):
        part = Part(small.dim)
        count = min(PART, rows - start)
        for i in range(start, start + count):
            photo = small.ids[i % len(small)]
            id_ = f"{i // 100:04d}/{i:06d}-{photo}"
            (source / f"{i // 100:04d}").mkdir(parents=True, exist_ok=True)
            os.link(folder / photo, source / id_)
            part.inputs.append(id_)
            part.add(id_, Facts(0, 0, label=f"{i // 100:04d}"))
        vectors = small.vectors[np.arange(start, start + count) % len(small)]
        noise = rng.standard_normal(vectors.shape, np.float32) * vectors.std() * 0.5
        part.put(list(range(count)), vectors + noise)
        writer.add(start // PART, part)
    writer.finish({})
    return out


def timed(browser: Any, demo: Demo, steps: list[tuple[str, Any]]) -> None:
    """Opens the page and does the steps one after the other, printing how long each took."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    began = time.perf_counter()
    page.goto(demo.url)
    page.wait_for_selector("#results .card")
    page.wait_for_function("[...document.querySelectorAll('#results .card img')].slice(0, 10).every((i) => i.complete)")
    print(f"  page with its first photos   {time.perf_counter() - began:6.2f} s")
    for name, step in steps:
        began = time.perf_counter()
        step(page)
        print(f"  {name:<28} {time.perf_counter() - began:6.2f} s")
    page.close()


def upload(page: Any) -> None:
    page.set_input_files("#picker input[type=file]", str(PHOTOS / "windmill-1.jpg"))
    page.wait_for_function("document.querySelector('#results h2').textContent.includes('nearest to your picture')")


def click(page: Any) -> None:
    page.click("#results .card >> nth=3")
    page.wait_for_function("!document.querySelector('#results h2').textContent.includes('your picture')")


def pca(page: Any) -> None:
    page.get_by_role("tab", name="Map").click()
    page.get_by_label("PCA").check()
    page.wait_for_function(
        "document.querySelector('#chart canvas') && document.querySelector('#chart canvas').width > 300"
    )


def zoom(page: Any) -> None:
    """Ten steps of the wheel, each painted before the next; the time is that of all ten."""
    box = page.query_selector("#chart canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for _ in range(10):
        page.mouse.wheel(0, -100)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--map-rows", type=int, default=50_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for photo in PHOTOS.glob("*.jpg"):
            shutil.copy(photo, folder)
        for name in ("first start, photos not yet embedded", "second start") if options.rows else ():
            demo = Demo(PHOTOS, folder)
            print(f"example photos, {name}: address after {demo.seconds:.2f} s")
            timed(browser, demo, [("upload to results", upload), ("click to results", click)])
            demo.close()
        for rows in filter(None, (options.rows, options.map_rows)):
            demo = Demo(large(folder, rows), folder)
            print(f"{rows:,} photos from their embeddings folder: address after {demo.seconds:.2f} s")
            steps = [
                ("upload to results", upload),
                ("click to results", click),
                ("map (PCA)", pca),
                ("ten zoom steps", zoom),
            ]
            timed(browser, demo, steps)
            demo.close()
        browser.close()


if __name__ == "__main__":
    main()
