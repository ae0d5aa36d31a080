"""The pictures of README and site, from the example photos alone; `python -m tests.pictures` takes them from the running demo."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.demo import PHOTOS, Demo, pca

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def take():
    """Search and map, in a window of 1200 x 800."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        demo = Demo(PHOTOS, Path(temporary))
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(demo.url)
        page.click("#results .card:has(img[alt='windmill-1.jpg'])")
        page.wait_for_function(
            "document.querySelector('#results h2').textContent.includes('nearest to windmill-1.jpg')"
        )
        page.wait_for_function("[...document.querySelectorAll('#results .card img')].every((image) => image.complete)")
        shoot(page, "search.jpg")
        pca(page)
        shoot(page, "map.jpg")
        demo.close()
        browser.close()


def shoot(page, name):
    """The top of the page once all has faded in, without the path of whoever takes it."""
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(2000)
    page.evaluate("document.querySelector('#header .facts').children[1].textContent = 'photos'")
    page.screenshot(path=PICTURES / name, type="jpeg", quality=80)


if __name__ == "__main__":
    take()
