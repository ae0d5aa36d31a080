"""What the processor can do, and how to keep glibc's allocator from slowing it down."""

from __future__ import annotations

import ctypes
import sys

import torch


def native_bf16(device: str | torch.device = "cpu") -> bool:
    """Whether bf16 is computed in hardware: AVX512-BF16 or AMX on a CPU, Ampere or later on a GPU.

    Elsewhere torch emulates it, which is slower than fp32.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    # private names, present from torch 2.6 on; where one is gone, fp32 is the safe answer
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)


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
