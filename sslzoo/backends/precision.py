"""Choosing the precision: bf16 only where the processor computes it natively and it was seen to give fp32's vectors.

The comparison is made once for an encoder, on a few photos inside the package, and its cosine is kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslzoo import hub
from sslzoo.images.decode import decode
from sslzoo.images.preprocess import resize_crop
from sslzoo.spec import Preprocess

TRUSTED = 0.999  # the cosine from which on vectors of two precisions share a space

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def bf16_cosine(space: str, engine: str, preprocess: Preprocess, open_run: Callable[[str], Run]) -> float:
    """The lowest cosine between bf16's and fp32's vectors of the photos in the package, from the cache where it is known.

    `open_run` gives a forward pass for a precision; `space` and `engine` (with versions and processor) key the cache.
    """
    path = user_cache() / "bf16" / f"{_key(space, engine)}.json"
    try:
        return float(json.loads(path.read_text())["cosine"])
    except (OSError, ValueError, KeyError):
        pass
    photos = [
        resize_crop(decode(file.read_bytes()).image, preprocess)
        for file in sorted((hub.PACKAGE / "photos").glob("*.jpg"))
    ]
    full, low = (open_run(precision)(np.stack(photos)).astype(np.float64) for precision in ("fp32", "bf16"))
    cosine = float(((full * low).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(low, axis=1)).min())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cosine": cosine}))
    except OSError:
        pass  # a read-only home costs the comparison again, nothing else
    return cosine


def user_cache() -> Path:
    """Where sslzoo keeps what it can make again: `SSLZOO_CACHE`, or the system's place for caches."""
    if named := os.environ.get("SSLZOO_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sslzoo"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sslzoo"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sslzoo"


def _key(space: str, engine: str) -> str:
    try:
        used = version(engine)
    except PackageNotFoundError:
        used = ""
    parts = (space, engine, used, version("sslzoo"), platform.machine(), _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), "") or platform.processor()
