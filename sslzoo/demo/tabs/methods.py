"""Methods: how each of the five learns without labels, drawn; and what each costs."""

from __future__ import annotations

from html import escape

import gradio as gr

from sslzoo.demo import html
from sslzoo.demo.drawings import drawing
from sslzoo.demo.methods import METHODS, code_of, costs

LEGEND = (
    ("encoder", "encoder; its backbone is kept"),
    ("projector", "projector"),
    ("predictor", "predictor"),
    ("follower", "moving average (EMA), no gradient"),
    ("queue", "queue, prototypes"),
    ("loss", "loss"),
)


def tab() -> None:
    """Lays the tab out."""
    title = html.heading("How five methods learn to see without labels", ["x: a picture", "t: a random augmentation"])
    legend = "".join(f'<li><i class="{kind}"></i>{text}</li>' for kind, text in LEGEND)
    stop = '<li><svg class="drawing" viewBox="0 0 20 20"><path class="cut" d="M4 18l6 -16m3 16l6 -16"/></svg>stop-gradient</li>'
    cards = "".join(_card(name) for name in METHODS)
    gr.HTML(
        f'{title}<ul class="legend kinds">{legend}{stop}</ul><div class="methods">{cards}</div>{html.costs(costs())}',
        elem_id="methods",
        apply_default_css=False,
        js_on_load=None,
    )


def _card(name: str) -> str:
    method = METHODS[name]
    file = f"training/methods/{name}.py"
    link = f'<a href="code/{name}" target="_blank">{file}</a>' if code_of(name) else f"{file} in a checkout"
    return (
        f"<article><h3>{method.name}<span>{method.paper}</span></h3><div class='scroll'>{drawing(name)}</div>"
        f"<p>{_symbols(method.idea)}</p><p>{_symbols(method.trick)}</p><p class='code'>Code: {link}</p></article>"
    )


def _symbols(text: str) -> str:
    """q_θ with its subscript."""
    words = []
    for word in escape(text).split(" "):
        stem, under, rest = word.partition("_")
        words.append(f"{stem}<sub>{rest[:1]}</sub>{rest[1:]}" if under else word)
    return " ".join(words)
