"""The page: its tabs, what happens on a click, and the named endpoints for `gradio_client`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from sslzoo.demo import html, sessions
from sslzoo.demo.collection import Photos
from sslzoo.demo.sessions import Query, Sessions, Uploads
from sslzoo.errors import ImageError, SslzooError

ASSETS = Path(__file__).parent / "assets"
BROWSED = 60  # photos shown before one is picked; as many more with each click
MAX_K = 60

def asset(name: str) -> str:
    """A file of `assets`."""
    return (ASSETS / name).read_text(encoding="utf-8")

class Picture(gr.Image):
    """An image input that gives the path of an upload of ours, as it was sent; nothing is converted."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path
    from collections.abc import Callable, Sequence
    from typing import TYPE_CHECKING, Any, Literal

    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Page(gr.Blocks):
    """Blocks that take files from the folder of uploads alone: no address is fetched, no other path is opened."""

    uploads: Uploads

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> Any:
        _refuse(inputs, self.uploads)
        return await super().preprocess_data(block_fn, inputs, *args, **options)

def _refuse(value: Any, uploads: Uploads) -> None:
    """Raises for anything that gradio would take for a file and that is no upload."""
    if isinstance(value, dict):
        if "path" in value and not uploads.holds(value["path"]):
            raise gr.Error("Only an uploaded picture can be searched for.", print_exception=False)
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            _refuse(each, uploads)

def said(function: Callable[..., Any]) -> Callable[..., Any]:
    """Shows an error of ours as its sentence."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except ImageError as error:
            reason = error.reason[:1].upper() + error.reason[1:]
            raise gr.Error(f"That picture can't be used. {reason}.", print_exception=False) from None
        except SslzooError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return wrapped

class Demo:
    """All that the pages share."""

    def __init__(self, photos: Photos, uploads: Uploads, photo_url: str) -> None:
        self.photos, self.uploads, self.photo_url = photos, uploads, photo_url
        self.sessions = Sessions()

    def search(self, query: Query, k: int, threshold: float) -> tuple[list[tuple[int, str, float]], float]:
        """The k nearest that reach the threshold, without the query itself: row, id, cosine; and the milliseconds it took."""
        start = time.perf_counter()
        itself = [query.row] if query.box is None else None
        limit = None if threshold <= 0 else threshold
        found = self.photos.index.search(query.vector[None], k, exclude=itself, threshold=limit)
        took = 1000 * (time.perf_counter() - start)
        return list(zip(found.rows[0].tolist(), found.ids[0], found.scores[0].tolist(), strict=True)), took

    def upload(self, path: str, session: str) -> Query:
        """The query that an upload makes."""
        return sessions.from_upload(self.photos, self.uploads.read(path, session))

def build(demo: Demo) -> Page:
    """The whole page."""
    photos = demo.photos
    with Page(title="sslzoo", analytics_enabled=False) as page:
        page.uploads = demo.uploads
        gr.HTML(_header(photos), elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs, gr.Tab("Search", id="search"):
            search_tab(demo)
        page.unload(_end(demo))
    del tabs
    return page

def _end(demo: Demo) -> Callable[[gr.Request], None]:
    def end(request: gr.Request) -> None:
        session = request.session_hash or ""
        demo.sessions.set(session, None)
        demo.uploads.end(session)

    return end

def _header(photos: Photos) -> str:
    failed = f" · {photos.failed:,} could not be read" if photos.failed else ""
    where = html.name(str(photos.source)) if str(photos.source) != "." else ""
    return (
        '<header><div class="brand"><b>sslzoo</b><span>your photos through self-supervised eyes</span></div>'
        f'<div class="facts"><span>{len(photos):,} photos{failed}</span>{where}<span class="model">{html.escape(photos.model)}'
        "</span></div></header>"
    )

def search_tab(demo: Demo) -> None:
    """Search: a picture on the left, its neighbours on the right."""
    photos = demo.photos
    most = max(1, min(MAX_K, len(photos) - 1))
    with gr.Row(elem_id="search"):
        with gr.Column(scale=0, min_width=320, elem_id="side"):
            picker = Picture(
                sources=["upload", "clipboard"], type="filepath", height=128, elem_id="picker", show_label=False,
                label="Query", buttons=[], placeholder="Drop or paste a photo anywhere, or click to choose one",
            )  # fmt: skip
            panel = gr.HTML(html.query_panel(demo.photo_url, None), elem_id="query", js_on_load=asset("query.js"))
            k = gr.Slider(1, most, min(12, most), step=1, label="Neighbours (k)", elem_id="k")
            threshold = gr.Slider(0, 1, 0, step=0.01, label="Threshold: least cosine", elem_id="threshold")
        with gr.Column(scale=1, min_width=320):
            results = gr.HTML(browse(demo, BROWSED), elem_id="results", js_on_load=asset("pick.js"))
    shown = gr.State(BROWSED)
    api_result = gr.JSON(visible=False)
    api_button = gr.Button(visible=False)

    def show(request: gr.Request, k: int, threshold: float) -> tuple[str, str]:
        query = demo.sessions.get(request.session_hash or "")
        if query is None:
            return html.query_panel(demo.photo_url, None), browse(demo, BROWSED)
        found, took = demo.search(query, int(k), threshold)
        return html.query_panel(demo.photo_url, query), _results(demo, query, found, took, threshold)

    @said
    def upload(path: str | None, k: int, threshold: float, request: gr.Request) -> tuple[None, str, str]:
        if path is not None:
            session = request.session_hash or ""
            demo.sessions.set(session, demo.upload(path, session))
        return None, *show(request, k, threshold)

    @said
    def pick(k: int, threshold: float, request: gr.Request, event: gr.EventData) -> tuple[str, str]:
        row = event._data.get("row")
        if photos.has(row):
            demo.sessions.set(request.session_hash or "", sessions.from_row(photos, row))
        return show(request, k, threshold)

    @said
    def crop(k: int, threshold: float, request: gr.Request, event: gr.EventData) -> tuple[str, str]:
        session = request.session_hash or ""
        query = demo.sessions.get(session)
        if query is not None:
            box = sessions.valid_box(event._data.get("box"))
            demo.sessions.set(session, sessions.cut(photos, query, box or (0, 0, 1, 1)) if box else whole(query))
        return show(request, k, threshold)

    def whole(query: Query) -> Query:
        if query.row is not None:
            return sessions.from_row(photos, query.row)
        return sessions.cut(photos, query, (0, 0, 1, 1))

    def clear(request: gr.Request) -> tuple[str, str, int]:
        demo.sessions.set(request.session_hash or "", None)
        return html.query_panel(demo.photo_url, None), browse(demo, BROWSED), BROWSED

    def more(shown: int) -> tuple[str, int]:
        return browse(demo, shown + BROWSED), shown + BROWSED

    @said
    def search(image: str | None, k: int = 10, threshold: float = 0.0) -> list[dict[str, Any]]:
        """The k photos nearest to an uploaded picture: id and cosine, nearest first."""
        if image is None:
            raise gr.Error("Upload a picture to search for.", print_exception=False)
        query = sessions.from_upload(photos, demo.uploads.read(image, ""))
        return _as_json(demo.search(query, _whole_number(k), threshold)[0])

    @said
    def search_by_id(id: str, k: int = 10, threshold: float = 0.0) -> list[dict[str, Any]]:
        """The k photos nearest to one of the collection, which is left out; `id` is its path as the collection has it."""
        row = photos.row_of.get(id)
        if row is None:
            raise gr.Error("The collection has no photo of that id.", print_exception=False)
        return _as_json(demo.search(sessions.from_row(photos, row), _whole_number(k), threshold)[0])

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    both = [panel, results]
    picker.upload(upload, [picker, k, threshold], [picker, *both], **private)
    results.pick(pick, [k, threshold], both, **private)
    results.more(more, shown, [results, shown], **private)
    panel.crop(crop, [k, threshold], both, **private)
    panel.clear(clear, None, [*both, shown], **private)
    for slider in (k, threshold):
        slider.release(lambda request, k, t: show(request, k, t)[1], [k, threshold], results, **private)
    api_button.click(search, [picker, k, threshold], api_result, api_name="search")
    gr.api(search_by_id, api_name="search_by_id")

def browse(demo: Demo, count: int) -> str:
    """The first photos of the collection, to pick one."""
    photos = demo.photos
    rows = photos.rows[:count].tolist()
    title = html.heading(
        "Pick a photo", [f"{len(photos):,} photos", "a click finds its nearest neighbours; so does a photo of your own"]
    )
    cards = [html.card(demo.photo_url, row, id_) for row, id_ in zip(rows, photos.collection.ids_at(rows), strict=True)]
    more = (
        f'<button type="button" class="more">Show more of {len(photos):,}</button>' if len(rows) < len(photos) else ""
    )
    return title + html.grid(cards) + more

def _results(demo: Demo, query: Query, found: list[tuple[int, str, float]], took: float, threshold: float) -> str:
    part = "a part of " if query.box is not None else ""
    facts = [f"cosine by {demo.photos.model}", f"{took:.1f} ms among {len(demo.photos):,}"]
    title = html.heading(f"{len(found)} nearest to {part}{html.name(query.name)}", facts)
    if not found:
        return title + html.empty(
            f"No photo reaches a cosine of {threshold:.2f}", "Lower the threshold, or search for something else."
        )
    return title + html.grid(html.card(demo.photo_url, *each) for each in found)

def _as_json(found: list[tuple[int, str, float]]) -> list[dict[str, Any]]:
    return [{"id": id_, "score": round(score, 6)} for _, id_, score in found]

def _whole_number(k: object) -> int:
    if isinstance(k, bool) or not isinstance(k, int | float) or not 1 <= k <= 1000:
        raise gr.Error("k is a whole number between 1 and 1000.", print_exception=False)
    return int(k)
