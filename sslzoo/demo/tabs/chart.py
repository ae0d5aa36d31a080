"""Map: the whole collection in the plane; a photo under the pointer is shown, a click searches for it."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from gradio.events import api
from numpy.typing import NDArray

from sslzoo.cluster import clusters
from sslzoo.demo import html, layout
from sslzoo.demo.collection import Photos
from sslzoo.demo.shared import LATEST, Demo, asset, said
from sslzoo.demo.tabs.search import View
from sslzoo.index import faiss_door

AT_ONCE = 5000  # photos up to which UMAP is computed without being asked
COLOURS = (
    "#0d9488 #e11d48 #2563eb #d97706 #7c3aed #16a34a #db2777 #0891b2 #a16207 #4f46e5 #65a30d #be123c #0369a1 #9333ea"
).split()
NONE = 255  # the number of "no colour", that of the groups beyond as many as there are colours


def tab(demo: Demo, view: View, opened: gr.Tab) -> None:
    """Lays the tab out."""
    photos = demo.photos
    ways = _ways(photos)
    layouts = layout.kinds(photos)
    with gr.Row(elem_classes="controls"):
        kind = gr.Radio(
            layouts, value=layouts[-1] if len(photos) <= AT_ONCE else layouts[0], label="Layout", scale=0, min_width=200
        )
        by = gr.Radio(list(ways), value=next(iter(ways)), label="Colour", scale=0, min_width=360)
    if missing := _missing():
        gr.HTML(f'<p class="missing">{missing}</p>', apply_default_css=False)
    chart = gr.HTML(
        html.empty("Drawing the map …", "A large collection takes a moment the first time."),
        elem_id="chart",
        js_on_load=asset("map.js"),
        apply_default_css=False,
    )

    @said
    def draw(kind: str, by: str) -> Iterator[str]:
        chosen = ways.get(by, next(iter(ways.values())))
        kind = kind if kind in layouts else layouts[0]
        if kind == "UMAP" and not layout.is_made(photos, kind):
            yield _chart(demo, "PCA", layout.place(photos, "PCA"), chosen(photos), "UMAP is being computed …")
        yield _chart(demo, kind, layout.place(photos, kind), chosen(photos))

    def map_of(kind: str = "PCA") -> list[dict[str, Any]]:
        """A place in the plane for each photo: id, x and y in [0, 1]; `kind` is PCA, or UMAP where it is installed."""
        if kind not in layouts:
            raise gr.Error(f"The layouts are: {', '.join(layouts)}.", print_exception=False)
        places = layout.place(photos, kind).round(5).tolist()
        ids = photos.collection.ids_at(photos.rows)
        return [{"id": id_, "x": x, "y": y} for id_, (x, y) in zip(ids, places, strict=True)]

    gr.on([opened.select, kind.change, by.change], draw, [kind, by], chart, **LATEST)
    view.follow(chart.pick)
    api(map_of, api_name="map")


Colouring = tuple[list[str], NDArray[np.int64]]  # names, and the number of its name for each photo, -1 for none


def _ways(photos: Photos) -> dict[str, Callable[[Photos], Colouring]]:
    """What the points can be coloured by."""
    ways: dict[str, Callable[[Photos], Colouring]] = {}
    if photos.groups.names:
        ways[photos.groups.kind] = lambda photos: (photos.groups.names, photos.groups.codes)
    if faiss_door.available():
        ways["cluster"] = _clusters
    if photos.agreement_possible:
        ways["kNN failure"] = _failures
    return ways or {"nothing": lambda photos: ([], np.full(len(photos), -1))}


def _missing() -> str:
    """What would be there as well if it were installed, in HTML."""
    extras = {"UMAP": ("umap", layout.has_umap()), "colours by cluster": ("faiss", faiss_door.available())}
    return " ".join(
        f"For {what}: <code>pip install 'sslzoo[{extra}]'</code>."
        for what, (extra, there) in extras.items()
        if not there
    )


def _clusters(photos: Photos) -> Colouring:
    with photos.once("clusters"):
        return _clusters_of(photos)


@functools.cache
def _clusters_of(photos: Photos) -> Colouring:
    found = clusters(photos.index, min(len(photos), max(2, min(12, round(len(photos) ** 0.5)))))
    number = {id_: i for i, cluster in enumerate(found) for id_ in cluster.ids}
    names = [f"{len(cluster.ids):,} like {cluster.ids[0].rsplit('/', 1)[-1]}" for cluster in found]
    return names, np.array([number[id_] for id_ in photos.collection.ids_at(photos.rows)])


def _failures(photos: Photos) -> Colouring:
    """Where the nearest neighbours vote for another group than the photo's own."""
    agreement = photos.agreement
    assert agreement is not None
    sample = f" of {agreement.asked:,} drawn at random" if agreement.asked < (photos.groups.codes >= 0).sum() else ""
    names = [
        f"the nearest are of its own {photos.groups.kind} ({100 * agreement.value:.0f} %{sample})",
        f"the nearest are of another {photos.groups.kind}",
    ]
    return names, np.where(agreement.right < 0, -1, 1 - agreement.right)


def _chart(demo: Demo, kind: str, places: NDArray[np.float32], colouring: Colouring, note: str = "") -> str:
    photos, (names, codes) = demo.photos, colouring
    counts = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
    # the largest groups, each in a colour of its own
    listed = sorted(sorted(range(len(names)), key=lambda i: -counts[i])[: len(COLOURS)])
    colour_of = np.full(len(names) + 1, NONE, np.uint8)  # the last for -1
    colour_of[listed] = np.arange(len(listed))
    drawn = colour_of[codes]
    data = {
        "xy": np.round(places * 65535).astype("<u2"),
        "colour": drawn,
        "row": photos.rows.astype("<u4"),
    }
    attributes = " ".join(f'data-{name}="{base64.b64encode(a.tobytes()).decode()}"' for name, a in data.items())
    legend = [
        f'<li><i style="background:{colour}"></i>{html.name(names[i])}<b>{counts[i]:,}</b></li>'
        for i, colour in zip(listed, COLOURS, strict=False)
    ]
    if names and (others := int((codes < 0).sum())):
        legend.append(f"<li>and {html.count(others, 'other photo')}, in grey</li>")
    if len(names) > len(listed):
        legend.append(f"<li>and {len(names) - len(listed):,} more groups, in grey</li>")
    facts = [note] if note else [html.count(len(photos), "photo"), "drag to move", "wheel to zoom", "click to search"]
    return (
        html.heading(f"{escape(kind)} of {escape(photos.model)}", facts)
        + f'<div class="chart" data-photo="{demo.photo_url}" data-palette="{" ".join(COLOURS)}" {attributes}>'
        '<canvas tabindex="0"></canvas><div class="tip"><img alt=""><span></span></div>'
        '<div class="zoom"><button type="button" data-zoom="1.5" aria-label="Zoom in">+</button>'
        '<button type="button" data-zoom="0.667" aria-label="Zoom out">−</button>'
        '<button type="button" data-zoom="0" aria-label="Show all">⤢</button></div></div>'
        f'<ul class="legend">{"".join(legend)}</ul>'
    )
