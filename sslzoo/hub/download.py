"""One file over HTTP: streamed to a temporary name, resumed, retried, checked against its published hash, renamed when whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from sslzoo.errors import WeightsError

TIMEOUT = 30.0  # seconds without a single byte
TRIES = 4
PAUSE = 1.0  # seconds before the second try; doubled each time
CHUNK = 1 << 20
AGAIN = (408, 416, 429)  # the answers below 500 that another try may change


def download(url: str, path: Path, *, expected: str = "", size: int = 0) -> Path:
    """The file behind a URL at `path`, whole and checked; what had come of it before an interruption is kept and used.

    `expected` is "md5:…" or "sha256:…", whole or its first digits; `size` is in bytes, 0 when it isn't known. Proxies
    come from the environment. Raises WeightsError naming the URL and the cause; `path` exists only when all is well.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"{url} is no http(s) address")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    cause = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            _stream(url, partial)
            cause = ""
            break
        except urllib.error.HTTPError as error:
            cause = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # what we have is not a beginning of what is there
                partial.unlink(missing_ok=True)
            if error.code < 500 and error.code not in AGAIN:
                break
        except (OSError, http.client.HTTPException) as error:  # refused, reset, stalled, cut short
            cause = str(getattr(error, "reason", error)) or type(error).__name__
    if cause:
        raise WeightsError(f"{url} can't be downloaded: {cause}; the same command goes on where it stopped")
    if wrong := _mismatch(partial, expected, size):
        _forget(partial)
        raise WeightsError(f"{url} is not the file it should be: {wrong}")
    os.replace(partial, path)
    _forget(partial)
    return path


def _stream(url: str, partial: Path) -> None:
    """Fetches what `partial` still lacks of the URL; raises OSError when it ends early."""
    tag = _tag(partial)
    start = partial.stat().st_size if partial.is_file() and tag.is_file() else 0
    headers = {"User-Agent": "sslzoo", "Accept-Encoding": "identity"}
    if start:  # the tag makes the server send all of it again if the file has changed since
        headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text()}
    opener = urllib.request.build_opener()  # reads the proxies afresh
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if answer.status != 206:
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if mark and not mark.startswith("W/"):  # a weak tag can't be resumed with
            tag.write_text(mark)
        name = partial.name.removesuffix(".part")
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=not sys.stderr.isatty()
            ) as bar,
        ):
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and partial.stat().st_size != total:
            raise OSError(f"it ended after {partial.stat().st_size} of {total} bytes")


def _tag(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _tag(partial).unlink(missing_ok=True)


def _mismatch(path: Path, expected: str, size: int) -> str:
    """What is wrong with a file, in words; empty when nothing is."""
    if size and path.stat().st_size != size:
        return f"it has {path.stat().st_size} bytes, not {size}"
    algorithm, _, digits = expected.partition(":")
    if digits:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, algorithm).hexdigest()
        if not actual.startswith(digits):
            return f"its {algorithm} is {actual[:16]}…, not {digits[:16]}…"
    return ""
