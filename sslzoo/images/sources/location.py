"""Opening what a path or a URL names: local files plainly, everything else through fsspec."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sslzoo.errors import ImageError, InputError

FILE_LIMIT = 1 << 30  # bytes; what is larger is no picture that could be decoded, and reading it would fill the memory


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
    """A function that reads the whole file; it raises ImageError for what is no regular file, or no image by its size."""
    open_ = opener(location)
    remote = isinstance(location, str) and is_url(location)

    def read() -> bytes:
        if not remote:  # a pipe or a device would never end
            facts = os.stat(location)
            if not stat.S_ISREG(facts.st_mode):
                raise ImageError("a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file", str(location))
            check_bytes(facts.st_size)
        with open_() as file:
            return file.read()

    return read


def stamp(facts: os.stat_result | None) -> tuple[int, int]:
    """What tells whether a file is still the same: its bytes and its mtime in ns; zeros for one that isn't there."""
    return (facts.st_size, facts.st_mtime_ns) if facts else (0, 0)


def stamp_of(path: str | Path) -> tuple[int, int] | None:
    """The stamp of a local file; none of a URL's."""
    if is_url(str(path)):
        return None
    try:
        return stamp(os.stat(path))
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return stamp(None)


def check_bytes(size: int) -> None:
    """Raises ImageError for a file of more bytes than any image has."""
    if size > FILE_LIMIT:
        raise ImageError(f"{size:,} bytes are more than an image has (the limit is {FILE_LIMIT:,})")


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path on it; raises InputError when its package is missing."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        extra = "http" if url.startswith("http") else url.partition(":")[0]
        raise InputError(f"{url} can't be opened: {error}: pip install 'fsspec[{extra}]'") from None
    except ValueError as error:
        raise InputError(f"{url} can't be opened: {error}") from None
