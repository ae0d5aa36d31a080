"""How much memory is free for this process, a container's limit included."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that can be taken without swapping; half of the machine's where the system doesn't tell (macOS, Windows)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = _installed() // 2
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    with contextlib.suppress(OSError, ValueError):
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used -= int(stat.get("inactive_file", 0))  # what was read from disk once, which gives way
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def free_on(device: str) -> float:
    """Bytes free on a GPU; without limit on a CPU, where an image set is already."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else float("inf")


def _installed() -> int:
    if sys.platform == "win32":  # no call of the standard library tells
        return 16 * 2**30
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
