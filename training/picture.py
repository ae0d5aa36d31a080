"""The picture on a card: example photos with their nearest neighbours among the others, and who took them."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image, ImageOps

from sslzoo.encoder import Encoder
from sslzoo.index import build_index
from sslzoo.pipeline.run import embed
from sslzoo.spec import EncoderSpec

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
QUERIES = ("windmill-1.jpg", "panda-1.jpg", "night-colosseum.jpg", "fish-goldfish.jpg", "space-nebula.jpg")
NEIGHBOURS = 5
TILE, GAP = 128, 6  # px


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
