"""Keeping glibc's allocator from slowing a process down; needs no torch."""

from __future__ import annotations

import contextlib
import ctypes
import sys

own_process = False  # whether the process is ours to set up: the command line says so


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it to the kernel, which faults it in again at every step.

    For a process of our own (the command line), never on import. Training on a CPU and `embed` with torch gain by it,
    for more memory held. Does nothing without glibc.
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


def return_freed_memory() -> None:
    """Gives freed memory back to the kernel now, after something large that won't be needed again. Needs glibc."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
