"""Opening what a path or a URL names: local files plainly, everything else through fsspec."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sslzoo.errors import InputError


def is_url(source: str) -> bool:
    """Whether it names a file system of fsspec's, such as s3://… or https://…"""
    return re.match(r"[a-z][a-z0-9+.-]+://", source) is not None


def opener(location: str | Path) -> Callable[[], BinaryIO]:
    """A function that opens the file for reading from its start; each call opens it anew, so threads don't share it."""
    if isinstance(location, str) and is_url(location):
        fs, path = file_system(location)
        return lambda: fs.open(path, "rb")
    return lambda: open(location, "rb")


def contents(location: str | Path) -> Callable[[], bytes]:
    """A function that reads the whole file."""
    open_ = opener(location)

    def read() -> bytes:
        with open_() as file:
            return file.read()

    return read


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path on it; raises InputError when its package is missing."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        raise InputError(f"{url} can't be opened: {error}") from None
