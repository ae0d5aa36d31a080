"""Small JPEGs of a collection's images, made when they are first asked for; no file outside the collection is ever opened."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslzoo.images.decode import Policy, decode
from sslzoo.user_cache import keep, user_cache


def image_file(id_: str, manifest: Mapping[str, Any]) -> Path | None:
    """Where the image of an id lies, or None when it isn't there (any more), was not a file, or lies elsewhere.

    An id never leads out of its source, whatever a manifest from elsewhere says, and neither does a link inside it.
    """
    root = Path(manifest.get("source", ""))
    try:
        if not root.is_absolute():  # a URL, or an object in memory
            return None
        if not root.is_dir():
            return root if root.is_file() and root.name == id_ else None
        path = (root / id_).resolve()
        return path if path.is_file() and path.is_relative_to(root.resolve()) else None
    except (OSError, ValueError):  # a name that no file can have
        return None


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
