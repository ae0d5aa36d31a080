"""Models: the zoo's cards, and embedding the photos with another encoder, with progress and a way to stop it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
from gradio.events import api

from sslzoo.demo import html
from sslzoo.demo.shared import PRIVATE, Demo, asset, said
from sslzoo.demo.shelf import SECONDS, Entry, Job


def tab(demo: Demo, opened: gr.Tab) -> None:
    """Lays the tab out."""
    status = gr.HTML(_idle(), elem_id="status", js_on_load=asset("status.js"), apply_default_css=False)
    cards = gr.HTML(
        html.empty("Reading the cards …", ""),
        elem_id="models",
        js_on_load=asset("models.js"),
        apply_default_css=False,
    )

    def follow(job: Job) -> Iterator[tuple[str, str]]:
        listed = _cards(demo)
        while job.running:
            yield _progress(job), listed
            job.wait(SECONDS)
        demo.shelf.__dict__.pop("entries", None)  # what was downloaded needs no network any more
        yield _ended(demo, job), _cards(demo)

    def show() -> Iterator[tuple[Any, str]]:
        if job := next((job for job in demo.shelf.jobs.values() if job.running), None):
            yield from follow(job)
        else:
            yield gr.skip(), _cards(demo)

    @said
    def embed(event: gr.EventData) -> Iterator[tuple[str, str]]:
        yield from follow(demo.shelf.start(event._data.get("name")))

    def stop(event: gr.EventData) -> None:
        if job := demo.shelf.jobs.get(str(event._data.get("name"))):
            job.cancelled = True

    def models() -> list[dict[str, Any]]:
        """Every encoder: name, method, backbone, license, whether it needs no network, whether it has embedded the photos."""
        return [
            {
                "name": name,
                "method": entry.spec.method,
                "backbone": entry.spec.backbone,
                "license": entry.spec.license,
                "ready": entry.ready,
                "embedded": demo.shelf.photos(name) is not None,
            }
            for name, entry in demo.shelf.entries.items()
        ]

    # whoever looks on takes nobody's turn
    watched: dict[str, Any] = PRIVATE | {"show_progress": "hidden", "concurrency_limit": None}
    opened.select(show, None, [status, cards], **watched)
    # "once" would lose a click between the last line that is shown and the event's own end
    cards.embed(embed, None, [status, cards], trigger_mode="multiple", **watched)
    status.stop(stop, None, None, **PRIVATE)
    api(models, api_name="models")


def _idle() -> str:
    return '<div class="status"><p>Another encoder can look at the same photos; afterwards it stands under Compare.</p></div>'


def _progress(job: Job) -> str:
    button = (
        f'<button type="button" class="stop" data-name="{escape(job.name)}" title="For everybody who has this page open">'
        "Stop</button>"
    )
    return html.progress(job.name, job.told, job.done / max(1, job.total), button)


def _ended(demo: Demo, job: Job) -> str:
    seen = demo.shelf.photos(job.name)
    told = job.error or f"has embedded {html.count(len(seen or ()), 'photo')}; it stands under Compare now."
    kind = "status failed" if job.error else "status"
    return f'<div class="{kind}"><p><b>{escape(job.name)}</b> {escape(told)}</p></div>'


def _cards(demo: Demo) -> str:
    entries = demo.shelf.entries
    ready = sum(entry.ready for entry in entries.values())
    title = html.heading(f"{len(entries)} encoders", [f"{ready} need no network", "a card opens on a click"])
    filters = (
        '<div class="filter"><input type="search" placeholder="Filter: byol, r50, apache …" aria-label="Filter">'
        '<label><input type="checkbox"> without a network only</label></div>'
    )
    cards = "".join(_card(demo, name, entry) for name, entry in entries.items())
    none = html.empty(
        "No encoder matches", "Take a word out of the filter, or allow those that need a network.", hidden=True
    )
    return f"{title}{filters}<div class='models'>{cards}</div>{none}"


def _card(demo: Demo, name: str, entry: Entry) -> str:
    spec = entry.spec
    embedded = demo.shelf.photos(name) is not None
    badge = "embedded" if embedded else "ready" if entry.ready else "download"
    top1 = f"{100 * spec.linear_top1:.1f} %" if spec.linear_top1 else ""
    size = f"{spec.size_bytes / 1e6:.0f} MB" if spec.size_bytes else ""
    action = "Embed these photos" if entry.ready else f"Download {size or 'it'} and embed these photos"
    button = "" if embedded else f'<button type="button" class="embed" data-name="{escape(name)}">{action}</button>'
    checked = f"verified: {spec.verified}" if spec.checkpoints else ""
    facts = {
        "trained on": " · ".join(filter(None, [spec.trained_on, f"{spec.epochs:g} epochs" if spec.epochs else ""])),
        "weights": " · ".join(filter(None, [f"from {entry.origin}", size, checked])),
        "license": " ".join(filter(None, [spec.license, spec.license_note])),
        "data terms": spec.data_terms,
        "paper": spec.paper,
        "note": spec.note,
    }
    rows = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    scores = "".join(
        f"<tr><td>{escape(s.dataset)}</td><td>{escape(s.metric)}</td><td>{_percent(s.value, s.interval)}</td>"
        f"<td>{_percent(s.random_weights)}</td><td>{_percent(s.raw_pixels)}</td><td>{escape(s.protocol)}</td></tr>"
        for s in spec.scores[:8]
    )
    if scores:
        scores = (
            "<table><thead><tr><th>data</th><th>metric</th><th>%</th><th>random</th><th>pixels</th><th>protocol</th></tr></thead>"
            f"<tbody>{scores}</tbody></table>"
        )
    words = escape(f"{name} {spec.method} {spec.backbone} {spec.license} {spec.trained_on}".lower())
    return (
        f'<details data-words="{words}" data-ready="{int(entry.ready)}"><summary>{html.name(name)}'
        f'<span class="method">{escape(spec.method)} · {escape(spec.backbone)}</span><span class="top1">{top1}</span>'
        f'<span class="license">{escape(spec.license)}</span><span class="badge {badge}">{badge}</span></summary>'
        f"<dl>{rows}</dl>{scores}{button}</details>"
    )


def _percent(value: float | None, interval: float | None = None) -> str:
    return "" if value is None else f"{100 * value:.1f}" + (f" ± {100 * interval:.1f}" if interval else "")
