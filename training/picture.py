"""The pictures on a card: example photos with their nearest neighbours, who took them, and the run's curves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from sslzoo.encoder import Encoder
from sslzoo.index import build_index
from sslzoo.pipeline.run import embed
from sslzoo.spec import EncoderSpec

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
QUERIES = ("windmill-1.jpg", "panda-1.jpg", "night-colosseum.jpg", "fish-goldfish.jpg", "space-nebula.jpg")
NEIGHBOURS = 5
TILE, GAP = 128, 6  # px
CURVES = {"loss": "loss", "std": "std·√d of the projections", "rank": "effective rank of the projections"}


def neighbours(spec: EncoderSpec, path: Path) -> str:
    """Draws a row a query, the query first and its nearest neighbours after it, and returns the photos' credits."""
    photos = embed(PHOTOS, Encoder.from_spec(spec, device="cpu"), precision="fp32")
    rows = [photos.rows[name] for name in QUERIES]
    found = build_index(photos).search(photos.vectors[rows], k=NEIGHBOURS, exclude=rows)
    names = [[query, *near] for query, near in zip(QUERIES, found.ids, strict=True)]
    sheet(names).save(path, quality=88)
    return credits(sorted({name for row in names for name in row}))


def sheet(rows: list[list[str]]) -> Image.Image:
    """The photos as squares in a grid on white, the first column set off."""
    width = max(len(row) for row in rows) * (TILE + GAP) + 3 * GAP
    canvas = Image.new("RGB", (width, len(rows) * (TILE + GAP) + GAP), "white")
    for y, row in enumerate(rows):
        for x, name in enumerate(row):
            with Image.open(PHOTOS / name) as photo:
                tile = ImageOps.fit(photo.convert("RGB"), (TILE, TILE))
            canvas.paste(tile, (GAP + x * (TILE + GAP) + (2 * GAP if x else 0), GAP + y * (TILE + GAP)))
    return canvas


def credits(names: list[str]) -> str:
    """Author and license of each photo, from `ATTRIBUTION.md`."""
    text = (PHOTOS / "ATTRIBUTION.md").read_text(encoding="utf-8")
    rows = {
        row[0]: row for row in (re.split(r" *\| *", line.strip("| ")) for line in text.splitlines()) if len(row) > 4
    }
    return "; ".join(f"{name} by {rows[name][2]} ({rows[name][3].partition(',')[0]})" for name in names)


def curve(log: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draws the loss, the spread and the effective rank that a run reported against its epochs.

    False where Matplotlib isn't installed (the extra `train`): a card does without.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        axes.plot([line["epoch"] for line in log], [line[key] for line in log], color="#2b6cb0", linewidth=1.2)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if key != "loss":
            axes.set_ylim(0, 1.08 * max(line[key] for line in log) or 1)  # a line at the top is not the frame
    figure.savefig(path, dpi=150)
    return True
