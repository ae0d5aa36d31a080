"""Search: a picture on the left, its nearest neighbours on the right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import api

from sslzoo.demo import html, sessions
from sslzoo.demo.sessions import Query
from sslzoo.demo.shared import LATEST, MOST_ASKED, PRIVATE, Demo, asset, number, picture_input, said

BROWSED = 60  # photos shown before one is picked; as many more with each click
MAX_K = 60


@dataclass(frozen=True)
class View:
    """The search as other tabs reach it: `go` makes a photo that was picked there the query, and turns to this tab."""

    go: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]

    def follow(self, pick: Callable[..., Any]) -> None:
        """Searches for whatever is picked by this event."""
        pick(self.go, self.inputs, self.outputs, **PRIVATE)


def tab(demo: Demo, tabs: gr.Tabs) -> View:
    """Lays the tab out."""
    photos = demo.photos
    most = max(2, min(MAX_K, len(photos) - 1))
    with gr.Row(elem_id="search"):
        with gr.Column(scale=0, min_width=320, elem_id="side"):
            picker = picture_input(
                sources=["upload", "clipboard"], height=120, elem_id="picker", show_label=False,
                label="Query", buttons=[], placeholder="Drop, paste or choose a photo",
            )  # fmt: skip
            panel = gr.HTML(
                html.query_panel(demo.photo_url, None),
                elem_id="query",
                js_on_load=asset("query.js"),
                apply_default_css=False,
            )
            k = gr.Slider(1, most, min(12, most), step=1, label="Neighbours (k)", elem_id="k", buttons=[])
            threshold = gr.Slider(0, 1, 0, step=0.01, label="Threshold (least cosine)", elem_id="threshold", buttons=[])
        with gr.Column(scale=1, min_width=320):
            results = gr.HTML(
                browse(demo, BROWSED), elem_id="results", js_on_load=asset("pick.js"), apply_default_css=False
            )
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
    def upload(path: str | None, k: int, threshold: float, request: gr.Request) -> tuple[None, str, str, gr.Tabs]:
        if path is not None:
            session = request.session_hash or ""
            demo.sessions.make(session, lambda: demo.upload(path, session))
        return None, *show(request, k, threshold), gr.Tabs(selected="search")  # it may be dropped on any tab

    @said
    def pick(k: int, threshold: float, request: gr.Request, event: gr.EventData) -> tuple[str, str]:
        demo.pick(event, request)
        return show(request, k, threshold)

    @said
    def go(k: int, threshold: float, request: gr.Request, event: gr.EventData) -> tuple[str, str, gr.Tabs]:
        demo.pick(event, request)
        return *show(request, k, threshold), gr.Tabs(selected="search")

    @said
    def crop(k: int, threshold: float, request: gr.Request, event: gr.EventData) -> tuple[str, str]:
        session = request.session_hash or ""
        query = demo.sessions.get(session)
        if query is not None:
            box = sessions.valid_box(event._data.get("box"))
            demo.sessions.make(session, lambda: sessions.part(photos, query, box))
        return show(request, k, threshold)

    def clear(request: gr.Request) -> tuple[str, str, int]:
        demo.sessions.end(request.session_hash or "")
        return html.query_panel(demo.photo_url, None), browse(demo, BROWSED), BROWSED

    def more(shown: int) -> tuple[str, int]:
        return browse(demo, shown + BROWSED), shown + BROWSED

    @said
    def slide(k: int, threshold: float, request: gr.Request) -> str:
        return show(request, k, threshold)[1]

    @said
    def search(request: gr.Request, image: str | None, k: int = 10, threshold: float = 0.0) -> list[dict[str, Any]]:
        """The k photos nearest to an uploaded picture: id and cosine, nearest first."""
        if image is None:
            raise gr.Error("Upload a picture to search for.", print_exception=False)
        limits = _limits(k, threshold)
        return _as_json(demo.search(demo.upload(image, request.session_hash or ""), *limits)[0])

    @said
    def search_by_id(id: str, k: int = 10, threshold: float = 0.0) -> list[dict[str, Any]]:
        """The k photos nearest to one of the collection, which is left out; `id` is its path as the collection has it."""
        return _as_json(demo.search(demo.by_id(id), *_limits(k, threshold))[0])

    both = [panel, results]
    sent = picker.upload(upload, [picker, k, threshold], [picker, *both, tabs], **PRIVATE)
    sent.success(None, js=asset("reveal.js"))
    sent.failure(lambda: None, None, picker, **PRIVATE)  # a bad picture doesn't stay there
    results.pick(pick, [k, threshold], both, **PRIVATE)
    results.more(more, shown, [results, shown], **PRIVATE)
    panel.crop(crop, [k, threshold], both, **PRIVATE)
    panel.clear(clear, None, [*both, shown], **PRIVATE)
    gr.on([k.change, threshold.change], slide, [k, threshold], results, **LATEST)
    api_button.click(search, [picker, k, threshold], api_result, api_name="search")
    api(search_by_id, api_name="search_by_id")
    return View(go, [k, threshold], [*both, tabs])


def browse(demo: Demo, count: int) -> str:
    """The first photos of the collection, to pick one."""
    photos = demo.photos
    rows = photos.rows[:count].tolist()
    title = html.heading(
        "Pick a photo",
        [html.count(len(photos), "photo"), "a click finds its nearest neighbours; so does a photo of your own"],
    )
    cards = [html.card(demo.photo_url, row, id_) for row, id_ in zip(rows, photos.collection.ids_at(rows), strict=True)]
    more = (
        f'<button type="button" class="more">Show more of {len(photos):,}</button>' if len(rows) < len(photos) else ""
    )
    return title + html.grid(cards) + more


def _results(demo: Demo, query: Query, found: list[tuple[int, str, float]], took: float, threshold: float) -> str:
    part = "a part of " if query.box is not None else ""
    facts = [f"cosine by {demo.photos.model}", f"{took:.1f} ms among {len(demo.photos):,}"]
    title = html.heading(f'<span class="fixed">{len(found)} nearest to {part}</span>{html.name(query.name)}', facts)
    if not found:
        return title + html.empty(
            f"No photo reaches a cosine of {threshold:.2f}", "Lower the threshold, or search for something else."
        )
    return title + html.grid(html.card(demo.photo_url, *each) for each in found)


def _as_json(found: list[tuple[int, str, float]]) -> list[dict[str, Any]]:
    return [{"id": id_, "score": round(score, 6)} for _, id_, score in found]


def _limits(k: object, threshold: object) -> tuple[int, float]:
    return int(number("k", k, 1, MOST_ASKED, whole=True)), number("threshold", threshold, -1, 1)
