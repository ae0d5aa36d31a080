"""The pictures of README and site, from the example photos alone; `python -m tests.pictures` takes them from the running demo."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.demo import PHOTOS, Demo

DOCS = Path(__file__).parent.parent / "docs"


def take():
    """Search and map (UMAP, extra `umap`), in a window of 1200 x 820."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright, ExitStack() as stack:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        demo = Demo(PHOTOS, Path(temporary))
        stack.callback(demo.close)
        page = browser.new_page(viewport={"width": 1200, "height": 820})
        page.goto(demo.url)
        page.click("#results .card:has(img[alt='windmill-1.jpg'])")
        page.wait_for_function(
            "document.querySelector('#results h2').textContent.includes('nearest to windmill-1.jpg')"
        )
        page.wait_for_function("[...document.querySelectorAll('#results .card img')].every((image) => image.complete)")
        shoot(page, "demo-search.jpg")
        page.get_by_role("tab", name="Map").click()
        page.get_by_label("UMAP").check()
        page.get_by_role("heading", name="UMAP of").wait_for(timeout=120_000)
        page.wait_for_selector("#chart canvas")
        shoot(page, "demo-map.jpg")
        browser.close()


def shoot(page, name):
    """The top of the page once all has faded in, without the path of whoever takes it."""
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(5000)
    page.evaluate("document.querySelector('#header .facts').children[1].textContent = '~/photos'")
    page.screenshot(path=DOCS / name, type="jpeg", quality=80)


if __name__ == "__main__":
    take()
