"""Compare: the same query through several encoders side by side, with how well each one's neighbours keep to the groups."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from gradio.events import api
from numpy.typing import NDArray

from sslzoo.demo import html, sessions
from sslzoo.demo.collection import AGREEMENT_K, Photos
from sslzoo.demo.sessions import Query
from sslzoo.demo.shared import MOST_ASKED, PRIVATE, Demo, asset, number, said
from sslzoo.demo.shelf import SECONDS, Job
from sslzoo.demo.tabs.search import View
from sslzoo.errors import InputError

MOST = 6  # encoders side by side: the five methods and random weights
SHOWN = 8  # neighbours of each
WHAT_TO_DO = "Start each under Models, once for these photos, or choose other encoders."
AT_ONCE = 500  # photos up to which an encoder embeds them without being asked on the page of models


def tab(demo: Demo, view: View, opened: gr.Tab) -> None:
    """Lays the tab out."""
    ready = demo.shelf.ready
    with gr.Row(elem_classes="controls"):
        chosen = gr.CheckboxGroup(
            ready,
            value=demo.shelf.suggested(MOST),
            label=f"Encoders, 2 to {MOST}; further ones are under Models",
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
    def side_by_side(names: list[str], request: gr.Request) -> Iterator[str]:
        for job in _embedding(demo, names):
            yield html.progress(job.name, job.told, job.done / max(1, job.total))
        seen = _seen_by(demo, names)
        if waiting := [name for name, photos in seen.items() if photos is None]:
            yield html.empty(f"Not yet looked at by {_listed(waiting)}", demo.shelf.obstacle or WHAT_TO_DO)
            return
        query = demo.sessions.get(request.session_hash or "")
        if query is None:
            query = sessions.from_row(demo.photos, int(demo.photos.rows[0]))
        yield _columns(demo, query, {name: photos for name, photos in seen.items() if photos is not None})

    @said
    def pick(
        names: list[str], k: int, threshold: float, request: gr.Request, event: gr.EventData
    ) -> Iterator[tuple[str, Any, Any]]:
        panel, results, _ = view.go(k, threshold, request, event)  # the search is for this photo now as well
        for columns in side_by_side(names, request):
            yield columns, panel, results

    @said
    def compare_by_id(id: str, encoders: list[str], k: int = SHOWN) -> list[dict[str, Any]]:
        """A photo's neighbours by several encoders: for each its name, kNN agreement (or null), and ids with cosines."""
        query, k = demo.by_id(id), int(number("k", k, 1, MOST_ASKED, whole=True))
        for _ in _embedding(demo, encoders):
            pass
        out = []
        for name, photos in _seen_by(demo, encoders).items():
            if photos is None:
                raise InputError(f"{name} has not embedded these photos yet; start it under Models")
            found = _neighbours(demo.photos, photos, query, k)
            agreement = None if photos.agreement is None else round(photos.agreement.value, 4)
            near = [{"id": id_, "score": round(score, 6)} for id_, score in found]
            out.append({"encoder": name, "agreement": agreement, "neighbours": near})
        return out

    def offer(names: list[str]) -> Any:
        now = demo.shelf.ready
        return gr.CheckboxGroup(now, value=[name for name in names if name in now])

    opened.select(offer, chosen, chosen, **PRIVATE).then(side_by_side, chosen, columns, **PRIVATE)
    button.click(side_by_side, chosen, columns, **PRIVATE)
    columns.pick(pick, [chosen, *view.inputs], [columns, *view.outputs[:2]], **PRIVATE)
    api(compare_by_id, api_name="compare")


def _embedding(demo: Demo, names: list[str]) -> Iterator[Job]:
    """Lets each of these encoders embed a small collection where that hasn't been done; yields the job while it runs."""
    if not isinstance(names, list) or not 2 <= len(set(map(str, names))) <= MOST:
        raise InputError(f"choose 2 to {MOST} different encoders to compare")
    for name in names:
        demo.shelf.require(name)
        small = len(demo.photos) <= AT_ONCE and not demo.shelf.obstacle
        if not small or not demo.shelf.entries[name].ready or demo.shelf.photos(name) is not None:
            continue
        job = demo.shelf.start(name)
        while job.running:
            yield job
            job.wait(SECONDS)
        if job.error:
            raise InputError(f"{name}: {job.error}")


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _seen_by(demo: Demo, names: list[str]) -> dict[str, Photos | None]:
    """The photos as each of these encoders sees them, None where it has not embedded them yet."""
    return {name: demo.shelf.photos(name) for name in names}


def _neighbours(main: Photos, photos: Photos, query: Query, k: int) -> list[tuple[str, float]]:
    vector: NDArray[np.float32] = sessions.vector_by(photos, main, query)
    itself = photos.row_of.get(query.name) if query.row is not None and query.box is None else None
    found = photos.index.search(vector[None], k, exclude=[itself])
    pairs = zip(found.ids[0], found.scores[0].tolist(), strict=True)
    return [(id_, score) for id_, score in pairs if id_ in main.row_of]  # the folder may have others by now


def _columns(demo: Demo, query: Query, seen: dict[str, Photos]) -> str:
    first: set[str] = set()
    out = []
    for name, photos in seen.items():
        near = _neighbours(demo.photos, photos, query, SHOWN)
        ids = {id_ for id_, _ in near}
        facts = []
        if photos.agreement is not None:
            kind = photos.groups.kind
            share, interval = 100 * photos.agreement.value, 100 * photos.agreement.interval
            facts.append(f"<b>{share:.0f} ± {interval:.0f} %</b> kNN agreement with the {kind}s")
        facts.append(f"shares {len(ids & first)} of {len(ids)} with the first" if first else "&nbsp;")
        cards = [
            html.card(demo.photo_url, demo.photos.row_of[id_], id_, score, mark="same" if id_ in first else "")
            for id_, score in near
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
    facts = ["what each method finds similar"]
    if (agreement := next(iter(seen.values())).agreement) is not None:
        asked = html.count(agreement.asked, "photo")
        facts.append(
            f"kNN agreement: how many of {asked} the {AGREEMENT_K} nearest among them put with their own, ± 95 %"
        )
    title = html.heading(f'{picture}<span class="fixed">Nearest to {part}</span>{html.name(query.name)}', facts)
    return f'{title}<div class="columns" style="--n:{len(seen)}">{"".join(out)}</div>'
