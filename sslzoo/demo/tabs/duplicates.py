"""Duplicates: groups of photos that are nearly the same, the one to keep first; nothing is ever deleted."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr
from gradio.events import api

from sslzoo.dedup import Group
from sslzoo.dedup import duplicates as find
from sslzoo.demo import html
from sslzoo.demo.shared import LATEST, Demo, asset, number, said
from sslzoo.demo.tabs.search import View

SHOWN, MEMBERS = 60, 24  # groups, and photos of each
LEAST, THRESHOLD = 0.5, 0.97


def tab(demo: Demo, view: View, opened: gr.Tab) -> None:
    """Lays the tab out."""
    with gr.Row(elem_classes="controls"):
        threshold = gr.Slider(
            LEAST, 1, THRESHOLD, step=0.005, label="Least cosine of duplicates", scale=0,
            min_width=420, buttons=[], elem_id="same",
        )  # fmt: skip
    groups = gr.HTML(
        html.empty("Looking for photos that are nearly the same …", "A large collection takes a moment."),
        elem_id="groups",
        js_on_load=asset("pick.js"),
        apply_default_css=False,
    )

    @functools.lru_cache(maxsize=16)
    def compute(threshold: float) -> list[Group]:
        return find(demo.photos.index, threshold)

    def found_at(threshold: float) -> list[Group]:
        with demo.photos.once("duplicates"):
            return compute(threshold)

    @said
    def look(threshold: float) -> str:
        return _groups(demo, found_at(_checked(threshold)), threshold)

    @said
    def duplicates(threshold: float = THRESHOLD) -> list[dict[str, Any]]:
        """Groups of near-duplicates: ids with the one to keep first, sizes in px, and each one's cosine to the first."""
        found = found_at(_checked(threshold))
        return [{"ids": g.ids, "sizes": g.sizes, "scores": [round(s, 6) for s in g.scores]} for g in found]

    gr.on([opened.select, threshold.change], look, threshold, groups, **LATEST)
    view.follow(groups.pick)
    api(duplicates, api_name="duplicates")


def _checked(threshold: object) -> float:
    return float(number("threshold", threshold, LEAST, 1))


def _groups(demo: Demo, found: list[Group], threshold: float) -> str:
    if not found:
        return html.empty(
            "No two photos are that much alike",
            f"At a cosine of {threshold:.3f} every photo stands alone. Lower the threshold to see what is merely similar.",
        )
    more = sum(group.copies(threshold) for group in found)
    facts = [
        f"{html.count(more, 'photo')} could go, at least {threshold:g} to the one to keep",
        "nothing is deleted here",
        "a click searches for the photo",
    ]
    out = [html.heading(html.count(len(found), "group"), facts)]
    for group in found[:SHOWN]:
        cards = []
        members = list(zip(group.ids, group.sizes, group.scores, strict=True))
        for i, (id_, (width, height), score) in enumerate(members[:MEMBERS]):
            size = f"{width} × {height}" if width else ""
            alike = f"{score:.3f}" if i else "keep"
            if not group.is_copy(i, threshold):
                alike += ", like another here"
            note = f"{alike} · {size}".rstrip(" ·")
            row = demo.photos.row_of[id_]
            cards.append(html.card(demo.photo_url, row, id_, note=note, mark="keep" if i == 0 else ""))
        if len(members) > MEMBERS:
            cards.append(f'<p class="rest">and {len(members) - MEMBERS:,} more</p>')
        out.append(html.grid(cards, "group"))
    if len(found) > SHOWN:
        out.append(
            f'<p class="rest">and {html.count(len(found) - SHOWN, "more group")}: sslzoo dedup lists them all</p>'
        )
    return "".join(out)
