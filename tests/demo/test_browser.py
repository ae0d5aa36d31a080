"""The demo in a real browser: search by every way, click-through, map, compare, errors, narrow and dark."""

import json
import re
import shutil
import time

import pytest

import sslzoo
from sslzoo.demo.layout import has_umap
from sslzoo.registry import PACKAGE_ENCODER
from tests.demo.conftest import EVIL, LONG, free_port, noise


def names(page, within="#results"):
    return [card.get_attribute("alt") for card in page.query_selector_all(f"{within} .card img")]


def heading(page, text, within="#results", timeout=30_000):
    page.wait_for_function(
        "([id, text]) => document.querySelector(id + ' .heading h2')?.textContent.includes(text)",
        arg=[within, text],
        timeout=timeout,
    )


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def test_upload_finds_the_same_photo_first(open_page, picture_file):
    page = open_page()
    assert len(names(page)) == 16  # the collection, to pick from: all but the broken one
    page.set_input_files("#picker input[type=file]", str(picture_file))
    heading(page, "nearest to your picture")
    assert names(page)[0] == "circles/3.jpg"
    scores = [float(each.text_content()) for each in page.query_selector_all("#results .score b")]
    assert scores[0] > 0.99 and scores == sorted(scores, reverse=True) and len(scores) == 12
    assert re.search(r"\d ms among 16", page.text_content("#results .heading p"))
    assert page.query_selector("#query .photo img").evaluate("image => image.naturalWidth") == 120
    assert not page.errors


def test_click_through_and_back_to_the_collection(open_page):
    page = open_page()
    page.click("#results .card:has(img[alt='circles/0.jpg'])")
    heading(page, "nearest to circles/0.jpg")
    assert names(page)[0] == "circles/copy.jpg"  # and not itself
    second = names(page)[1]
    page.click("#results .card >> nth=1")
    heading(page, f"nearest to {second}")
    assert second not in names(page)
    page.click("#query .clear")
    heading(page, "Pick a photo")
    assert len(names(page)) == 16


def test_k_and_threshold(open_page):
    page = open_page()
    page.click("#results .card:has(img[alt='circles/0.jpg'])")
    heading(page, "12 nearest")
    page.fill("#k input[type=number]", "3")
    page.press("#k input[type=number]", "Enter")
    heading(page, "3 nearest")
    page.fill("#threshold input[type=number]", "1")
    page.press("#threshold input[type=number]", "Enter")
    page.wait_for_function("document.querySelectorAll('#results .card').length < 3")


def test_a_frame_searches_by_a_part(open_page):
    page = open_page()
    page.click("#results .card:has(img[alt='bars/0.jpg'])")
    heading(page, "nearest to bars/0.jpg")
    page.wait_for_function("document.querySelector('#query .photo img').complete")
    area = page.query_selector("#query .photo").bounding_box()
    x, y, w, h = (area[key] for key in ("x", "y", "width", "height"))
    page.mouse.move(x + 0.1 * w, y + 0.2 * h)
    page.mouse.down()
    page.mouse.move(x + 0.5 * w, y + 0.5 * h)
    page.mouse.move(x + 0.6 * w, y + 0.7 * h)
    page.mouse.up()
    heading(page, "a part of bars/0.jpg")
    style = page.get_attribute("#query .box", "style")
    left, top, width, height = (float(v) for v in re.findall(r"([\d.]+)%", style))
    assert (left, top, width, height) == pytest.approx((10, 20, 50, 50), abs=1.5)
    assert "bars/0.jpg" in names(page)  # of which it is a part
    page.click("#query .photo", position={"x": w / 2, "y": h / 2})
    heading(page, "nearest to bars/0.jpg")


def test_paste_and_drop_anywhere(open_page, picture_file):
    page = open_page()
    give = """async ([kind, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], 'pasted.png', { type: 'image/png' }));
      const options = { bubbles: true, cancelable: true };
      document.querySelector('#results').dispatchEvent(kind === 'paste'
        ? new ClipboardEvent('paste', { ...options, clipboardData: transfer })
        : new DragEvent('drop', { ...options, dataTransfer: transfer }));
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(give, [kind, list(picture_file.read_bytes())])
        heading(page, "nearest to your picture")
        assert names(page)[0] == "circles/3.jpg"
        page.click("#query .clear")
        heading(page, "Pick a photo")
    tab(page, "Duplicates")
    page.evaluate(give, ["drop", list(picture_file.read_bytes())])
    heading(page, "nearest to your picture")
    page.wait_for_selector("#results .card", state="visible")


def test_a_drop_that_is_no_picture_is_a_sentence(open_page):
    page = open_page()
    give = """([name, type]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(['text'], name, { type }));
      document.querySelector('#results').dispatchEvent(
        new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: transfer }));
    }"""
    for _ in range(20):  # the page listens once it is whole, a moment after its first photos
        page.evaluate(give, ["<b>.txt", "text/plain"])
        if page.query_selector(".told"):
            break
        page.wait_for_timeout(250)
    assert page.text_content(".told") == "<b>.txt is no picture; drop a JPEG, PNG or the like."
    page.evaluate(give, ["phone.HEIC", ""])  # a type that the browser doesn't know: the server tells
    assert "That picture can't be used." in page.wait_for_selector(".toast-body").inner_text()
    assert not page.errors


def test_a_bad_upload_is_a_sentence(open_page, tmp_path, picture_file):
    page = open_page()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n but no picture")
    page.set_input_files("#picker input[type=file]", str(bad))
    toast = page.wait_for_selector(".toast-body")
    told = toast.inner_text()
    assert "That picture can't be used. Begins as PNG does, but its header is damaged" in told
    assert "Traceback" not in told and str(tmp_path) not in told
    page.wait_for_selector("#picker img", state="detached")
    page.set_input_files("#picker input[type=file]", str(picture_file))  # and the next one works
    heading(page, "nearest to your picture")


def test_names_are_text_and_long_ones_are_cut(open_page):
    page = open_page()
    evil, long = (f".card:has(img[alt={quoted!r}])" for quoted in (f"bars/{EVIL}", f"bars/{LONG}"))
    card = page.query_selector(f"#results {evil}")
    assert card.query_selector(".name").get_attribute("title") == f"bars/{EVIL}"
    assert page.query_selector("img[src=x]") is None
    name = page.query_selector(f"#results {long} .name")
    assert name.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
    assert (
        name.query_selector(".end").evaluate("e => e.getBoundingClientRect().width > 20 && e.textContent") == LONG[-8:]
    )
    card.click()
    heading(page, f"nearest to bars/{EVIL}")
    assert not page.errors


def test_map_shows_every_photo_and_a_click_searches(open_page):
    page = open_page()
    tab(page, "Map")
    if has_umap():
        heading(page, "UMAP of random-r18", "#chart", timeout=120_000)  # it may be made only now
    page.get_by_label("PCA").check()
    heading(page, "PCA of random-r18", "#chart")
    legend = page.text_content("#chart .legend")
    assert "bars8" in legend and "circles8" in legend
    painted = (
        "(() => { const c = document.querySelector('#chart canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (d.length / 4); })()"
    )
    page.wait_for_function(f"{painted} > 0.005")
    assert page.evaluate(painted) < 0.5
    canvas = page.query_selector("#chart canvas")
    before = canvas.evaluate("c => c.toDataURL()")
    page.get_by_label("failure").check()  # other colours, in the same places
    page.wait_for_function(
        "document.querySelector('#chart .legend').textContent.includes('the nearest are of its own')"
    )
    page.wait_for_function("before => document.querySelector('#chart canvas').toDataURL() !== before", arg=before)
    box = canvas.bounding_box()
    found = canvas.evaluate(
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " for (let i = 3; i < d.length; i += 4) if (d[i] > 0) { const p = (i - 3) / 4;"
        " return [p % c.width / c.width, Math.floor(p / c.width) / c.height]; } }"
    )
    x, y = box["x"] + found[0] * box["width"] + 12, box["y"] + found[1] * box["height"] + 12
    page.mouse.move(x, y)
    page.wait_for_selector("#chart .tip.on")
    page.wait_for_function("document.querySelector('#chart .tip span').textContent.length > 3")
    shown = page.text_content("#chart .tip span")
    page.mouse.click(x, y)
    heading(page, f"nearest to {shown}")
    assert not page.errors


def test_a_map_that_is_made_stays_where_it_is(open_page):
    pytest.importorskip("umap")
    page = open_page()
    tab(page, "Map")
    heading(page, "UMAP of random-r18", "#chart", timeout=120_000)  # it may be made only now
    page.evaluate(
        "() => { window.seen = []; new MutationObserver(() =>"
        " seen.push(document.querySelector('#chart h2')?.textContent)).observe("
        "document.querySelector('#chart'), { subtree: true, childList: true, characterData: true, attributes: true }); }"
    )
    page.get_by_label("failure").check()
    page.wait_for_function(
        "document.querySelector('#chart .legend').textContent.includes('the nearest are of its own')"
    )
    assert set(page.evaluate("seen")) == {"UMAP of random-r18"}


def test_duplicates(open_page):
    page = open_page()
    tab(page, "Duplicates")
    page.fill("#same input[type=number]", "1")
    page.press("#same input[type=number]", "Enter")
    heading(page, "1 group", "#groups")
    page.wait_for_function("document.querySelectorAll('#groups .card').length == 2")
    assert names(page, "#groups") == ["circles/0.jpg", "circles/copy.jpg"]
    page.click("#groups .card >> nth=1")
    heading(page, "nearest to circles/copy.jpg")


def compare(page, *chosen):
    """Compares these encoders, whichever the page suggests."""
    page.wait_for_selector("#columns section", timeout=120_000)  # what it suggests, which it compares by itself
    for box in page.query_selector_all("#encoders input[type=checkbox]"):
        box.set_checked(box.get_attribute("name") in chosen)
    page.click("#compare-button")


def test_compare_side_by_side(open_page):
    page = open_page()
    page.click("#results .card:has(img[alt='circles/0.jpg'])")
    heading(page, "nearest to circles/0.jpg")
    tab(page, "Compare")
    compare(page, "random-r18", PACKAGE_ENCODER)
    heading(page, "Nearest to circles/0.jpg", "#columns")
    page.wait_for_function("document.querySelectorAll('#columns section').length == 2")
    for section in page.query_selector_all("#columns section"):
        assert section.query_selector(".card img").get_attribute("alt") == "circles/copy.jpg"
        assert re.search(r"\d+ ± \d+ % kNN agreement with the folders", section.text_content())
    assert "shares" in page.text_content("#columns section >> nth=1")
    second = names(page, "#columns")[1]
    page.click("#columns .card >> nth=1")
    heading(page, f"Nearest to {second}", "#columns")
    tab(page, "Search")
    heading(page, f"nearest to {second}")
    page.click("#query .clear")
    heading(page, "Pick a photo")
    tab(page, "Compare")
    heading(page, "Nearest to bars/0.jpg", "#columns")  # by default the first, which nobody has searched for
    tab(page, "Search")
    page.fill("#k input[type=number]", "5")
    page.press("#k input[type=number]", "Enter")
    page.wait_for_timeout(500)
    assert "Pick a photo" in page.text_content("#results .heading")
    assert not page.errors


def test_without_their_encoder_and_folder_the_vectors_are_still_searched(
    open_page, start, embedded, tmp_path, picture_file
):
    moved = tmp_path / "moved.emb"
    shutil.copytree(embedded, moved)
    facts = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps(facts | {"model": "byol-r18.gone", "source": "/nowhere/*.jpg"}))
    running = start(moved, "--port", free_port(), "--device", "cpu")
    page = open_page(running.url)
    page.click("#results .card:has(img[alt='circles/0.jpg'])")
    heading(page, "nearest to circles/0.jpg")
    assert names(page)[0] == "circles/copy.jpg"
    tab(page, "Compare")
    page.wait_for_function("document.querySelector('#columns h3')?.textContent.startsWith('Not yet looked at by')")
    assert "these came from /nowhere/*.jpg" in page.text_content("#columns p")
    page.set_input_files("#picker input[type=file]", str(picture_file))
    assert "byol-r18.gone" in page.wait_for_selector(".toast-body").inner_text()
    assert "pictures of your own can't be searched for: " in running.log.read_text()


def test_compare_needs_two(open_page):
    page = open_page()
    tab(page, "Compare")
    compare(page, "random-r18")
    assert "choose 2 to 6 different encoders" in page.wait_for_selector(".toast-body").inner_text()


def test_models_are_embedded_from_the_page(open_page):
    page = open_page()
    tab(page, "Models")
    page.wait_for_selector("#models details")
    page.fill("#models input[type=search]", "random r50")
    assert [d.is_visible() for d in page.query_selector_all("#models details")].count(True) == 1
    page.click("#models details:not([hidden]) summary")
    page.click("#models details:not([hidden]) .embed")
    page.wait_for_selector("#status .stop")
    page.reload()  # what runs is seen again
    tab(page, "Models")
    running = "document.querySelector('#status .stop[data-name=random-r50]')"
    done = (
        "(document.querySelector('#models details') && !document.querySelector('#models .embed[data-name=random-r50]'))"
    )
    page.wait_for_function(f"{running} || {done}")  # a quick machine is done while the page loads
    if page.evaluate(f"{running} !== null"):
        page.wait_for_function(
            "document.querySelector('#status').textContent.includes('has embedded 16 photos')", timeout=90_000
        )
    page.wait_for_function(done)
    page.fill("#models input[type=search]", "no such words")
    assert page.text_content("#models .empty h3") == "No encoder matches" and page.is_visible("#models .empty")
    page.fill("#models input[type=search]", "byol-r50.deepmind")
    page.click("#models details:not([hidden]) summary")
    assert not page.is_visible("#models .empty")
    card = page.text_content("#models details:not([hidden])")
    assert "cc-by-nc-4.0" in card and "Download" in card and "ImageNet" in card


def test_methods_are_drawn(open_page):
    page = open_page()
    tab(page, "Methods")
    drawings = page.query_selector_all("#methods article .drawing")
    assert len(drawings) == 5
    for drawing in drawings:  # nothing lies outside of its picture
        assert drawing.evaluate(
            "svg => [...svg.querySelectorAll('text, rect, path.arrow')].every((e) => { const b = e.getBBox();"
            " return b.x >= 0 && b.y >= 0 && b.x + b.width <= 640 && b.y + b.height <= 220; })"
        )
    with page.context.expect_page() as opened:
        page.click("#methods a[href='code/simsiam']")
    assert "arXiv:2011.10566" in opened.value.text_content("body")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screen(open_page, scheme, picture_file):
    page = open_page(color_scheme=scheme)
    page.set_viewport_size({"width": 375, "height": 800})
    first = page.query_selector("#results .card img").bounding_box()
    assert first["y"] + first["height"] < 800  # photos to pick from are on the first screen
    page.set_input_files("#picker input[type=file]", str(picture_file))
    heading(page, "nearest to your picture")
    page.wait_for_function("document.querySelector('#results').getBoundingClientRect().top < 400")
    for name in ("Search", "Map", "Duplicates", "Compare", "Models", "Methods"):
        if not page.get_by_role("tab", name=name, exact=True).is_visible():
            page.click("#tabs .overflow-menu button")
        page.get_by_role("tab", name=name, exact=True).or_(
            page.get_by_role("button", name=name, exact=True)
        ).first.click()
        page.wait_for_timeout(300)
        if name == "Compare":
            page.wait_for_selector("#columns section", timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 376, name
    assert (
        page.query_selector("#methods article .drawing").bounding_box()["width"] >= 560
    )  # readable, in a frame that scrolls


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(open_page, scheme):
    """Contrast by WCAG 2.2: 4.5 to 1 for text."""
    page = open_page(color_scheme=scheme)

    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(selector):
        text, ground = page.query_selector(selector).evaluate(
            "e => { const numbers = (c) => c.match(/[\\d.]+/g).map(Number); const text = numbers(getComputedStyle(e).color);"
            " for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);"
            " if (c.length === 3) return [text, c]; } }"
        )
        dark, light = sorted((luminance(text[:3]), luminance(ground)))
        return (light + 0.05) / (dark + 0.05)

    page.click("#results .card")
    heading(page, "nearest to")
    for selector in ("#header .brand b", "#header .facts", ".card .name", "#results h2 .name", "#results .heading p",
                     "#query .query > p", "#picker", "button[role=tab][aria-selected=true]"):  # fmt: skip
        assert contrast(selector) >= 4.5, selector
    tab(page, "Compare")
    assert contrast("#compare-button") >= 4.5


def test_dark_mode_follows_the_system(open_page):
    light, dark = (
        open_page(color_scheme=scheme).evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        for scheme in ("light", "dark")
    )
    assert min(light) > 200 and max(dark) < 60


def test_the_page_asks_no_other_host(open_page, server, picture_file):
    page = open_page()
    page.set_input_files("#picker input[type=file]", str(picture_file))
    heading(page, "nearest to your picture")
    for name in ("Map", "Duplicates", "Models", "Methods", "Compare"):
        tab(page, name)
        page.wait_for_timeout(300)
    page.wait_for_selector("#columns .card", timeout=60_000)
    foreign = [url for url in page.asked if not url.startswith((server.url, "data:", "blob:"))]
    assert not foreign and len(page.asked) > 20
    assert not page.errors


def test_two_users_see_their_own_queries(open_page, tmp_path, server):
    one, two = open_page(), open_page()
    for seed in (1, 2):
        noise(seed).save(tmp_path / f"{seed}.png")
    one.set_input_files("#picker input[type=file]", str(tmp_path / "1.png"))
    heading(one, "nearest to your picture")
    assert two.text_content("#query").strip().startswith("Pick a photo")
    two.click("#results .card:has(img[alt='bars/2.jpg'])")
    heading(two, "nearest to bars/2.jpg")
    one.fill("#k input[type=number]", "4")
    one.press("#k input[type=number]", "Enter")
    heading(one, "4 nearest to your picture")


def test_uploads_go_with_their_session(open_page, tmp_path, server):
    noise(5).save(tmp_path / "private.png")
    page = open_page()
    page.set_input_files("#picker input[type=file]", str(tmp_path / "private.png"))
    heading(page, "nearest to your picture")
    assert any(path.is_file() for path in server.uploads.rglob("private.png"))
    page.wait_for_timeout(2100)
    page.context.close()
    for _ in range(80):
        if not list(server.uploads.rglob("private.png")):
            break
        time.sleep(0.25)
    assert not list(server.uploads.rglob("private.png"))


@pytest.mark.slow
def test_an_embedding_shows_its_progress_and_can_be_stopped(open_page, start, tmp_path):
    for i in range(320):
        noise(i).save(tmp_path / f"{i}.png")
    sslzoo.embed(tmp_path, "random-r18", tmp_path / "e.emb", device="cpu")
    page = open_page(start(tmp_path / "e.emb", "--port", free_port(), "--device", "cpu").url)
    tab(page, "Models")
    page.fill("#models input[type=search]", "random r50")
    page.click("#models details:not([hidden]) summary")
    page.click("#models details:not([hidden]) .embed")
    count = "/[1-9]\\d* of 320/.test(document.querySelector('#status').textContent)"
    page.wait_for_function(count, timeout=120_000)
    page.click("#status .stop")
    page.wait_for_function("document.querySelector('#status').textContent.includes('Stopped')", timeout=60_000)
    page.click("#models details:not([hidden]) .embed")
    page.wait_for_function(
        "document.querySelector('#status').textContent.includes('random-r50 has embedded 320 photos')", timeout=240_000
    )
    assert not page.errors
