"""The pieces of the pages in HTML; every name in them is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from sslzoo.demo.methods import COLUMNS
from sslzoo.demo.sessions import Query

TAIL = 8  # characters at a name's end that are always shown


def count(number: int, noun: str) -> str:
    """ "1 photo", "2,000 photos"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def name(text: str) -> str:
    """A file's name that loses its middle, never its end, where there is too little room."""
    tail = text[-TAIL:] if len(text) > TAIL else ""
    head = text[: len(text) - len(tail)]
    end = f'<span class="end">{escape(tail)}</span>' if tail else ""
    return f'<span class="name" title="{escape(text)}"><span class="start">{escape(head)}</span>{end}</span>'


def card(photo: str, row: int, id_: str, score: float | None = None, note: str = "", mark: str = "") -> str:
    """A photo to click on, with its cosine as number and bar, or a note; `mark` is a class such as "same"."""
    line = f'<span class="note">{escape(note)}</span>' if note else ""
    if score is not None:
        share = max(0.0, min(1.0, score))
        line = (
            f'<span class="score"><span class="bar"><span style="width:{100 * share:.1f}%"></span></span>'
            f"<b>{score:.3f}</b></span>"
        )
    return (
        f'<button type="button" class="card {mark}" data-row="{row}">'
        f'<span class="frame"><img src="{photo}/{row}/320" alt="{escape(id_)}" loading="lazy" decoding="async"></span>'
        f"{line}{name(id_)}</button>"
    )


def grid(cards: Iterable[str], kind: str = "") -> str:
    """Cards in as many columns as fit."""
    return f'<div class="grid {kind}">{"".join(cards)}</div>'


def heading(title: str, facts: Sequence[str] = ()) -> str:
    """A line over a page: its title (HTML) and facts (text)."""
    return f'<div class="heading"><h2>{title}</h2><p>{" · ".join(escape(fact) for fact in facts)}</p></div>'


def empty(title: str, what_to_do: str, *, hidden: bool = False) -> str:
    """What stands where there is nothing to show yet."""
    return f'<div class="empty"{" hidden" * hidden}><h3>{escape(title)}</h3><p>{escape(what_to_do)}</p></div>'


def progress(name: str, told: str, share: float, button: str = "") -> str:
    """How far an encoder is with the photos, `share` of them, and a button (HTML) beside it."""
    return (
        f'<div class="status"><p><b>{escape(name)}</b> {escape(told)}</p>'
        f'<span class="bar"><span style="width:{100 * share:.1f}%"></span></span>{button}</div>'
    )


def query_panel(photo: str, query: Query | None) -> str:
    """The picture that is searched for, and the part of it that counts."""
    if query is None:
        return (
            '<div class="query none"><div class="stage"><p>Pick a photo, or give one of your own</p></div>'
            '<div class="caption"></div><p></p></div>'
        )
    source = f"{photo}/{query.row}/1024"
    if query.image is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(query.image).decode()}"
    box = ""
    if query.box is not None:
        left, top, right, bottom = (100 * share for share in query.box)
        box = f'style="left:{left}%;top:{top}%;width:{right - left}%;height:{bottom - top}%"'
    hint = "Click the picture to search by the whole again."
    if query.box is None:
        hint = "Drag over the picture to search by a part of it."
    return (
        f'<div class="query"><div class="stage"><div class="photo"><img src="{source}" alt="{escape(query.name)}" '
        f'draggable="false"><div class="box {"on" if box else ""}" {box}></div></div></div>'
        f'<div class="caption">{name(query.name)}<button type="button" class="clear" title="Search for nothing">✕</button>'
        f"</div><p>{hint}</p></div>"
    )


def costs(rows: list[dict[str, Any]]) -> str:
    """What each method costs, as `python -m benchmarks.methods` measured it; nothing where it hasn't."""
    if not rows:
        return ""
    columns = {key: text for key, text in COLUMNS.items() if any(key in row for row in rows)}
    head = "".join(f"<th>{text}</th>" for text in columns.values())
    body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(key))}</td>" for key in columns) + "</tr>" for row in rows)
    return (
        '<h3 class="costs">What each costs, measured</h3><div class="table"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>{_how(rows[0])}"
    )


def _how(row: dict[str, Any]) -> str:
    if "command" not in row:
        return ""
    return f"<p>ResNet-18 at 64 px: <code>{escape(row['command'])}</code> on {escape(row['measured'])}.</p>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int | float):
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return escape(str(value))
