"""Drawings of the five methods as SVG, one shape a symbol of the papers; colours and dark mode come from the style sheet."""

from __future__ import annotations

import re
from html import escape

TOP, BOTTOM, MIDDLE = 52, 168, 110  # heights of the two branches, and between them
WIDTH, HEIGHT = 640, 220


def drawing(method: str) -> str:
    """The drawing of "simclr", "moco", "byol", "simsiam" or "swav"."""
    title, parts = {
        "simclr": ("Two views of a picture, one encoder, one projector; agreement is maximised", _simclr),
        "moco": ("A query and a key; the key's encoder follows slowly, and a queue holds earlier keys", _moco),
        "byol": ("The online network predicts the target network, which follows slowly", _byol),
        "simsiam": ("One encoder on both sides; one side predicts, the other's gradient is stopped", _simsiam),
        "swav": ("Each view's code, from prototypes, is predicted from the other view", _swav),
    }[method]
    return (
        f'<svg class="drawing" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<title>{escape(title)}</title><defs><marker id="tip-{method}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        f'<g style="--tip:url(#tip-{method})">{"".join(parts())}</g></svg>'
    )


def _simclr() -> list[str]:
    out = [*_views("x̃_i", "x̃_j", "t", "t′")]
    for y, i in ((TOP, "i"), (BOTTOM, "j")):
        out += _chain(y, [("box encoder", "f"), ("dot", f"h_{i}"), ("box projector", "g"), ("dot", f"z_{i}")])
    return [*out, *_agree("maximize", "agreement"), _note(285, MIDDLE, "the same f and g on both sides")]


def _moco() -> list[str]:
    out = [*_views("x^q", "x^k", "", "")]
    out += _chain(TOP, [("box encoder", "f_q"), ("dot", "q")])
    out += _chain(BOTTOM, [("box follower", "f_k"), ("dot", "k")])
    out += [
        _arrow(210, TOP + 22, 210, BOTTOM - 22, "follows"),
        _note(216, MIDDLE, "θ_k ← m θ_k + (1 − m) θ_q", "start"),
    ]
    out += [_arrow(299, BOTTOM, 368, BOTTOM), _cut(323, BOTTOM)]
    # the key of the same picture is compared as well, before it joins the queue
    out += [
        _arrow(346, BOTTOM, 346, 130, "plain"),
        _arrow(346, 130, 580, 130, "plain"),
        _arrow(580, 130, 580, TOP + 22),
    ]
    out += [_note(463, 118, "its own key: the positive")]
    for n, name in enumerate(("k_0", "k_1", "k_2", "…")):
        out.append(_box(390 + 40 * n, BOTTOM, 36, name, "queue"))
    out += [_note(450, BOTTOM + 38, "queue of earlier keys: the negatives")]
    out += [_arrow(299, TOP, 560, TOP), _arrow(528, BOTTOM, 612, BOTTOM, "plain"), _arrow(612, BOTTOM, 612, TOP + 22)]
    return [*out, _box(598, TOP, 72, "InfoNCE", "loss")]


def _byol() -> list[str]:
    out = [*_views("v", "v′", "t", "t′")]
    out += _chain(
        TOP,
        [("box encoder", "f_θ"), ("dot", "y_θ"), ("box projector", "g_θ"), ("dot", "z_θ"), ("box predictor", "q_θ")],
        step=72,
    )
    out += _chain(BOTTOM, [("box follower", "f_ξ"), ("dot", "y′_ξ"), ("box follower", "g_ξ"), ("dot", "z′_ξ")], step=72)
    out += [_arrow(210, TOP + 22, 210, BOTTOM - 22, "follows"), _note(216, MIDDLE, "ξ ← τ ξ + (1 − τ) θ", "start")]
    out += [_arrow(520, TOP, 577, TOP), _arrow(445, BOTTOM, 602, BOTTOM, "plain"), _cut(520, BOTTOM)]
    return [
        *out,
        _note(520, BOTTOM + 30, "sg: stop-gradient"),
        _arrow(602, BOTTOM, 602, TOP + 22),
        _box(604, TOP, 52, "loss", "loss"),
    ]


def _simsiam() -> list[str]:
    out = [*_views("x_1", "x_2", "", "")]
    out += _chain(TOP, [("box encoder", "f"), ("dot", "z_1"), ("box predictor", "h"), ("dot", "p_1")])
    out += _chain(BOTTOM, [("box encoder", "f"), ("dot", "z_2")])
    out += [_arrow(299, BOTTOM, 598, BOTTOM, "plain"), _cut(420, BOTTOM), _note(420, BOTTOM + 30, "stop-gradient")]
    out += [_arrow(448, TOP, 558, TOP), _arrow(598, BOTTOM, 598, TOP + 22), _box(598, TOP, 76, "D(p_1, z_2)", "loss")]
    return [*out, _note(285, MIDDLE, "the same f; the sides then change places")]


def _swav() -> list[str]:
    out = [*_views("X_t", "X_s", "t", "s")]
    for y, name in ((TOP, "t"), (BOTTOM, "s")):
        out += _chain(y, [("box encoder", "f_θ"), ("dot", f"z_{name}")])
        out += [_arrow(299, y, 362, y + (24 if y == TOP else -24)), _dot(515, y, f"q_{name}"), _label(515, y, "codes")]
    out += [_arrow(408, MIDDLE - 30, 499, TOP + 4), _arrow(408, MIDDLE + 30, 499, BOTTOM - 4)]
    out += [_arrow(296, TOP + 10, 501, BOTTOM - 8, "loss"), _arrow(296, BOTTOM - 10, 501, TOP + 8, "loss")]
    out += [_box(385, MIDDLE, 46, "C", "queue", 96), _label(385, MIDDLE + 12, "prototypes", 64)]
    return [*out, _note(560, MIDDLE, "each view predicts"), _note(560, MIDDLE + 16, "the other's code")]


def _views(first: str, second: str, t: str, t2: str) -> list[str]:
    """The picture x and its two views."""
    return [
        _dot(36, MIDDLE, "x"),
        _arrow(48, MIDDLE - 12, 111, TOP + 8),
        _arrow(48, MIDDLE + 12, 111, BOTTOM - 8),
        _note(70, MIDDLE - 34, t),
        _note(70, MIDDLE + 44, t2),
        _dot(126, TOP, first),
        _dot(126, BOTTOM, second),
    ]


def _chain(y: int, shapes: list[tuple[str, str]], *, start: int = 210, step: int = 74) -> list[str]:
    """Shapes from left to right behind a view, with arrows between them."""
    out, before = [], 142
    for n, (shape, text) in enumerate(shapes):
        x = start + step * n
        half = 25 if shape.startswith("box") else 16
        out.append(_arrow(before, y, x - half, y))
        out.append(_box(x, y, 50, text, shape.removeprefix("box ")) if half == 25 else _dot(x, y, text))
        before = x + half
    return out


def _agree(first: str, second: str) -> list[str]:
    return [
        _arrow(448, TOP, 560, TOP, "plain"),
        _arrow(448, BOTTOM, 560, BOTTOM, "plain"),
        _arrow(560, TOP, 560, MIDDLE - 24),
        _arrow(560, BOTTOM, 560, MIDDLE + 24),
        _box(560, MIDDLE, 96, "", "loss", 48),
        _text(560, MIDDLE - 4, first, "small"),
        _text(560, MIDDLE + 13, second, "small"),
    ]


def _dot(x: int, y: int, text: str) -> str:
    return f'<circle class="symbol" cx="{x}" cy="{y}" r="16"/>{_text(x, y + 5, text)}'


def _box(x: int, y: int, width: int, text: str, kind: str, height: int = 44) -> str:
    left, top = x - width / 2, y - height / 2
    shape = f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width}" height="{height}" rx="7"/>'
    return shape + _text(x, y + 5, text, "small" if len(text) > 6 else "")


def _arrow(x1: int, y1: int, x2: int, y2: int, kind: str = "") -> str:
    return f'<path class="arrow {kind}" d="M{x1} {y1}L{x2} {y2}"/>'


def _cut(x: int, y: int) -> str:
    """The sign of a stopped gradient: two strokes across the line."""
    return f'<path class="cut" d="M{x - 7} {y + 9}l6 -18m3 18l6 -18"/>'


def _note(x: int, y: int, text: str, anchor: str = "middle") -> str:
    return _text(x, y + 4, text, f"note {anchor}")


def _label(x: int, y: int, text: str, below: int = 32) -> str:
    return _text(x, y + below - 4, text, "note")


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    """A text with subscripts and superscripts: f_θ, x^q."""
    pieces = re.split(r"([_^]\S[′]?)", text)
    spans = []
    for piece in pieces:
        if piece[:1] in ("_", "^") and len(piece) > 1:
            down = 4 if piece[0] == "_" else -6
            spans.append(
                f'<tspan class="sub" dy="{down}">{escape(piece[1:])}</tspan><tspan dy="{-down}">&#8203;</tspan>'
            )
        elif piece:
            spans.append(escape(piece))
    return f'<text x="{x}" y="{y}" class="{kind}">{"".join(spans)}</text>'
