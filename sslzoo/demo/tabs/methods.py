"""Methods: how each of the five learns without labels, drawn; and what each costs."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from sslzoo.demo import html
from sslzoo.demo.drawings import drawing
from sslzoo.demo.methods import COLUMNS, METHODS, code_of, costs

LEGEND = (
    ("encoder", "encoder, what is kept"),
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
        f'{title}<ul class="legend kinds">{legend}{stop}</ul><div class="methods">{cards}</div>{_table(costs())}',
        elem_id="methods",
        apply_default_css=False,
        js_on_load=None,
    )


def _card(name: str) -> str:
    method = METHODS[name]
    file = f"training/methods/{name}.py"
    link = f'<a href="code/{name}" target="_blank">{file}</a>' if code_of(name) else f"{file} in a checkout"
    return (
        f"<article><h3>{method.name}<span>{method.paper}</span></h3>{drawing(name)}"
        f"<p>{_symbols(method.idea)}</p><p>{_symbols(method.trick)}</p><p class='code'>Code: {link}</p></article>"
    )


def _symbols(text: str) -> str:
    """q_θ with its subscript."""
    words = []
    for word in escape(text).split(" "):
        stem, under, rest = word.partition("_")
        words.append(f"{stem}<sub>{rest[:1]}</sub>{rest[1:]}" if under else word)
    return " ".join(words)


def _table(rows: list[dict[str, Any]]) -> str:
    """What each method costs, as `python -m benchmarks.methods` measured it; nothing where it hasn't."""
    if not rows:
        return ""
    columns = {key: text for key, text in COLUMNS.items() if any(key in row for row in rows)}
    head = "".join(f"<th>{text}</th>" for text in columns.values())
    body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(key))}</td>" for key in columns) + "</tr>" for row in rows)
    return (
        '<h3 class="costs">What each costs, measured</h3><div class="table"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int | float):
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return escape(str(value))
