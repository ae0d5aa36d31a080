"""Compare: the same query through several encoders side by side, with how well each one's neighbours keep to the groups."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
import numpy as np
from gradio.events import api
from numpy.typing import NDArray

from sslzoo.demo import html, sessions
from sslzoo.demo.collection import Photos
from sslzoo.demo.sessions import Query
from sslzoo.demo.shared import PRIVATE, Demo, asset, said
from sslzoo.demo.tabs.search import View
from sslzoo.errors import InputError

MOST = 5  # encoders side by side
SHOWN = 8  # neighbours of each
AT_ONCE = 500  # photos up to which an encoder embeds them without being asked on the page of models


def tab(demo: Demo, view: View, opened: gr.Tab) -> None:
    """Lays the tab out."""
    ready = demo.shelf.ready
    with gr.Row(elem_classes="controls"):
        chosen = gr.CheckboxGroup(
            ready,
            value=demo.shelf.suggested(MOST),
            label=f"Encoders, two to {MOST}; further ones are under Models",
            elem_id="encoders",
        )
        button = gr.Button("Compare", variant="primary", scale=0, min_width=140, elem_id="compare-button")
    columns = gr.HTML(
        html.empty("What does each method find similar?", "Choose encoders and press Compare."),
        elem_id="columns",
        js_on_load=asset("pick.js"),
        apply_default_css=False,
    )

    @said
    def side_by_side(names: list[str], request: gr.Request, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        query = demo.sessions.get(request.session_hash or "")
        if query is None:
            query = sessions.from_row(demo.photos, int(demo.photos.rows[0]))
            demo.sessions.set(request.session_hash or "", query)
        return _columns(demo, query, _seen_by(demo, names, progress))

    @said
    def pick(
        names: list[str],
        request: gr.Request,
        event: gr.EventData,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        demo.pick(event, request)
        out: str = side_by_side(names, request, progress)
        return out

    @said
    def compare_by_id(id: str, encoders: list[str], k: int = SHOWN) -> list[dict[str, Any]]:
        """A photo's neighbours by several encoders: for each its name, kNN agreement (or null), and ids with cosines."""
        row = demo.photos.row_of.get(id)
        if row is None:
            raise gr.Error("The collection has no photo of that id.", print_exception=False)
        query = sessions.from_row(demo.photos, row)
        out = []
        for name, photos in _seen_by(demo, encoders, None).items():
            found = _neighbours(demo.photos, photos, query, int(k))
            agreement = None if photos.agreement is None else round(photos.agreement.value, 4)
            near = [{"id": id_, "score": round(score, 6)} for id_, score in found]
            out.append({"encoder": name, "agreement": agreement, "neighbours": near})
        return out

    def offer(names: list[str]) -> Any:
        now = demo.shelf.ready
        return gr.CheckboxGroup(now, value=[name for name in names if name in now])

    opened.select(offer, chosen, chosen, **PRIVATE).then(side_by_side, chosen, columns, **PRIVATE)
    button.click(side_by_side, chosen, columns, **PRIVATE)
    columns.pick(pick, chosen, columns, **PRIVATE)
    api(compare_by_id, api_name="compare")


def _seen_by(demo: Demo, names: list[str], progress: gr.Progress | None) -> dict[str, Photos]:
    """The photos as each of these encoders sees them; a small collection is embedded where that hasn't been done."""
    names = [name for name in dict.fromkeys(names) if name in demo.shelf.entries]
    if not 1 <= len(names) <= MOST:
        raise InputError(f"choose between two and {MOST} encoders to compare")
    out = {}
    for i, name in enumerate(names):
        photos = demo.shelf.photos(name)
        if photos is None and len(demo.photos) <= AT_ONCE and demo.shelf.entries[name].ready:
            job = demo.shelf.start(name)
            while job.running:
                if progress is not None:
                    progress((i, len(names)), desc=f"{name} looks at the photos: {job.done} of {job.total}")
                job.wait(0.2)
            if job.error:
                raise InputError(f"{name}: {job.error}")
            photos = demo.shelf.photos(name)
        if photos is None:
            raise InputError(f"{name} has not embedded these photos yet; start it under Models")
        out[name] = photos
    return out


def _neighbours(main: Photos, photos: Photos, query: Query, k: int) -> list[tuple[str, float]]:
    vector: NDArray[np.float32] = sessions.vector_by(photos, main, query)
    itself = photos.row_of.get(query.name) if query.row is not None and query.box is None else None
    found = photos.index.search(vector[None], k, exclude=[itself])
    return list(zip(found.ids[0], found.scores[0].tolist(), strict=True))


def _columns(demo: Demo, query: Query, seen: dict[str, Photos]) -> str:
    first: set[str] = set()
    out = []
    for name, photos in seen.items():
        near = _neighbours(demo.photos, photos, query, SHOWN)
        ids = {id_ for id_, _ in near}
        facts = []
        if photos.agreement is not None:
            kind = photos.groups.kind
            facts.append(f"<b>{100 * photos.agreement.value:.0f} %</b> kNN agreement with the {kind}s")
        facts.append(f"shares {len(ids & first)} of {len(ids)} with the first" if first else "&nbsp;")
        cards = [
            html.card(demo.photo_url, demo.photos.row_of[id_], id_, score, mark="same" if id_ in first else "")
            for id_, score in near
            if id_ in demo.photos.row_of
        ]
        spec = demo.shelf.entries[name].spec
        method = "random weights" if spec.method == "random" else spec.method
        out.append(
            f'<section><h3>{html.name(name)}</h3><p class="method">{escape(f"{method} · {spec.backbone}")}</p>'
            f"<p>{'<br>'.join(facts)}</p>{html.grid(cards)}</section>"
        )
        first = first or ids
    part = "a part of " if query.box is not None else ""
    picture = f'<img src="{demo.photo_url}/{query.row}/160" alt="">' if query.row is not None else ""
    protocol = next((p.agreement.protocol for p in seen.values() if p.agreement), "")
    facts = ["what each method finds similar", *([protocol] if protocol else [])]
    title = html.heading(f'{picture}<span class="fixed">Nearest to {part}</span>{html.name(query.name)}', facts)
    return f'{title}<div class="columns" style="--n:{len(seen)}">{"".join(out)}</div>'
