"""A contact sheet: one HTML file with the thumbnails inside it, that asks nothing of the network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslzoo.errors import ImageError
from sslzoo.images.decode import DEFAULT
from sslzoo.images.discover import LISTED, LISTS
from sslzoo.images.sources.archive import TAR
from sslzoo.thumbnails import image_file, small_jpeg

THUMBNAIL = 160  # px, the longer side
MISSING = '<div class="none">not found</div>'  # no id or note reads so: theirs are escaped
STYLE = """body{font:14px system-ui,sans-serif;margin:24px;background:#fff;color:#222}h2{font-size:16px;margin:28px 0 8px;
overflow-wrap:anywhere}.row{display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:160px}img,.none{width:160px;height:160px;
object-fit:contain;background:#f2f2f2}.none{display:grid;place-items:center;color:#666}figcaption{font-size:12px;
overflow-wrap:anywhere}.first img{outline:3px solid #2563eb}"""


@dataclass(frozen=True)
class Picture:
    """An image on a sheet: its id, what stands under it, and whether it is the one the row is about.

    `image` is a file or the encoded picture where it is no image of the collection.
    """

    id: str
    note: str = ""
    first: bool = False
    image: Path | bytes | None = None


def contact_sheet(title: str, rows: Sequence[tuple[str, Sequence[Picture]]], manifest: Mapping[str, Any]) -> str:
    """The page, a heading and its pictures a row; `manifest` says where the images lie. An image that is gone is a grey tile."""
    out = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>",
    ]
    for heading, pictures in rows:
        out.append(f'<h2>{html.escape(heading)}</h2><div class="row">')
        for picture in pictures:
            name, note = html.escape(picture.id), html.escape(picture.note)
            data = thumbnail(picture.id, manifest) if picture.image is None else _jpeg(picture.image)
            shown = f'<img alt="{name}" src="data:image/jpeg;base64,{data}">' if data else MISSING
            mark = ' class="first"' if picture.first else ""
            out.append(f"<figure{mark}>{shown}<figcaption>{note}<br>{name}</figcaption></figure>")
        out.append("</div>")
    return "\n".join(out) + "\n</html>\n"


def missing(page: str, manifest: Mapping[str, Any]) -> str:
    """How many pictures of a page could not be shown and why, or nothing where all are."""
    gone, shown = page.count(MISSING), page.count("<img ")
    if not gone:
        return ""
    source = str(manifest.get("source", ""))
    if source.lower().endswith((*TAR, ".zip", ".parquet")):
        why = f"they lie inside {source}; unpack it and embed the folder to see them"
    elif source in LISTED or source.lower().endswith(LISTS):
        why = "their paths lead to no image from here; run this in the folder where sslzoo embed ran"
    elif Path(source).is_absolute():
        why = f"no image of that name lies in {source} (any more)"
    else:
        why = f"they came from {source or 'an unknown source'}, and only files on this machine are shown"
    return f"{gone} of {gone + shown} pictures can't be shown: {why}"


def thumbnail(id_: str, manifest: Mapping[str, Any]) -> str:
    """A small JPEG in base64, or nothing when the image isn't there (any more) or was not a file."""
    path = image_file(id_, manifest, listed=True)
    return "" if path is None else _jpeg(path)


def _jpeg(source: Path | bytes) -> str:
    try:
        return base64.b64encode(small_jpeg(source, THUMBNAIL, DEFAULT)).decode()
    except (ImageError, OSError):
        return ""
