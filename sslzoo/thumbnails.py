"""Small JPEGs of a collection's images, made when they are first asked for; of a folder or pattern, none outside it is opened."""

from __future__ import annotations

import glob
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslzoo.images.decode import Policy, decode
from sslzoo.images.discover import LISTED, LISTS
from sslzoo.user_cache import keep, user_cache


def image_file(id_: str, manifest: Mapping[str, Any], *, listed: bool = False, anywhere: bool = False) -> Path | None:
    """Where the image of an id lies, or None when it isn't there (any more), was not a file, or lies elsewhere.

    An id never leads out of its folder, or out of the folder that a pattern begins with, whatever a manifest from elsewhere
    says, and neither does a link inside it. A list's ids are paths, from the working directory on, that lead anywhere: they
    are followed only where `listed`. `anywhere` follows links wherever they lead: to tell files apart, not to open them.
    """
    source, id_ = (_as_named(text) for text in (manifest.get("source", ""), id_))
    root = Path(source)
    try:
        if source in LISTED or (root.is_absolute() and root.name.lower().endswith(LISTS) and not root.is_dir()):
            path = Path(id_).resolve()
            return path if listed and path.is_file() else None
        if not root.is_absolute():  # a URL, or an object in memory
            return None
        if root.is_file():
            return root if root.name == id_ else None
        starts = [root]
        if not root.is_dir():  # a pattern, whose ids are paths from where it was typed: here, or above what it names
            root = _begin(root)
            starts = [Path.cwd(), root, *root.parents]
        inside = root.resolve()
        paths = ((start / id_).resolve() for start in starts)
        return next((path for path in paths if path.is_file() and (anywhere or path.is_relative_to(inside))), None)
    except (OSError, ValueError):  # a name that no file can have
        return None


def _as_named(text: str) -> str:
    """A path as Python has it, of one as an embeddings folder stores it: bytes that are no UTF-8 stand there as \\udcff."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), text)


def _begin(pattern: Path) -> Path:
    """The folder in which everything that a pattern matches lies."""
    parts = pattern.parts
    special = (i for i, part in enumerate(parts) if glob.has_magic(part) or "{" in part)
    return Path(*parts[: next(special, len(parts) - 1)])


def small_jpeg(source: Path | bytes, longest: int, policy: Policy) -> bytes:
    """A file, or its bytes, as a JPEG of at most `longest` px on the longer side; raises ImageError or OSError."""
    data, name = (source, "image") if isinstance(source, bytes) else (source.read_bytes(), source.name)
    image = decode(data, name=name, target=longest, policy=policy).image
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def cached_jpeg(path: Path, longest: int, policy: Policy) -> bytes:
    """The same, kept in the user's cache until the file changes."""
    stat = path.stat()
    facts = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{longest}\0{policy}"
    key = hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()
    cached = user_cache() / "thumbnails" / key[:2] / f"{key}.jpg"
    try:
        return cached.read_bytes()
    except OSError:
        data = small_jpeg(path, longest, policy)
        keep(cached, data)
        return data
