"""The user's cache folder: what sslzoo can make again at any time (compiled graphs, comparisons of precision, digests).

Nothing here is ever written beside the weights, and a cache that can't be written costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def user_cache() -> Path:
    """Where sslzoo keeps what it can make again: `SSLZOO_CACHE`, or the system's place for caches."""
    if named := os.environ.get("SSLZOO_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sslzoo"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sslzoo"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sslzoo"


def cache_key(*parts: object, engine: str) -> str:
    """A name for what was made from `parts` by these versions of sslzoo and `engine` on this kind of processor."""
    try:
        used = version(engine)
    except PackageNotFoundError:
        used = ""
    everything = (*map(str, parts), engine, used, version("sslzoo"), platform.machine(), _processor())
    return hashlib.sha256("\0".join(everything).encode()).hexdigest()[:32]


def keep(path: Path, data: bytes | memoryview) -> bool:
    """Puts a file into the cache, whole or not at all; returns whether it could."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), "") or platform.processor()
