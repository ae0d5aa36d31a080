"""Keeping glibc's allocator from slowing a process down; needs no torch."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it to the kernel, which faults it in again at every step.

    For a process of our own (the command line), never on import. Training on a CPU gains about a quarter; it costs some
    100 MB. Does nothing without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    # parameter numbers of malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
    for parameter, value in ((-1, 2**31 - 1), (-2, 64 << 20), (-3, 1 << 30)):
        mallopt(parameter, value)
