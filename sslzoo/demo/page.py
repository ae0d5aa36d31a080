"""The page: its header and its tabs."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import gradio as gr

from sslzoo.demo import html
from sslzoo.demo.collection import Photos
from sslzoo.demo.shared import Demo, Page
from sslzoo.demo.tabs import chart, compare, duplicates, methods, models, search

LOOKED_AT = 20  # photos; where none of them has a file, none has


def build(demo: Demo) -> Page:
    """The whole page."""
    page = Page(title="sslzoo", analytics_enabled=False)
    with page:
        page.uploads = demo.uploads
        gr.HTML(_header(demo.photos), elem_id="header", apply_default_css=False)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Search", id="search"):
                view = search.tab(demo, tabs)
            with gr.Tab("Map", id="map") as map_tab:
                chart.tab(demo, view, map_tab)
            with gr.Tab("Duplicates", id="duplicates") as duplicates_tab:
                duplicates.tab(demo, view, duplicates_tab)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare.tab(demo, view, compare_tab)
            with gr.Tab("Models", id="models") as models_tab:
                models.tab(demo, models_tab)
            with gr.Tab("Methods", id="methods"):
                methods.tab()
        page.unload(_end(demo))
    return page


def _end(demo: Demo) -> Callable[[gr.Request], None]:
    def end(request: gr.Request) -> None:
        session = request.session_hash or ""
        demo.sessions.end(session)
        demo.uploads.end(session)

    return end


def _header(photos: Photos) -> str:
    failed = f", {photos.failed:,} could not be read" if photos.failed else ""
    if not any(photos.file(row) for row in photos.rows[:LOOKED_AT].tolist()):
        failed += (
            f"; they can't be shown, as their files are not in {photos.source}: embed the folder where they are now"
        )
    where = html.name(_short(photos.source)) if photos.source.is_absolute() else ""
    return (
        '<header><div class="brand"><b>sslzoo</b><span>your photos through self-supervised eyes</span></div>'
        f'<div class="facts"><span>{html.count(len(photos), "photo")}{escape(failed)}</span>{where}'
        f'<span class="model">{escape(photos.model)}</span></div></header>'
    )


def _short(path: Path) -> str:
    """A path as people write it, from the home folder on."""
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)
