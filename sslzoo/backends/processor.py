"""What the processor can do: which number formats it computes natively."""

from __future__ import annotations

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
    if torch.backends.cpu.get_cpu_capability() != "AVX512":  # or ATEN_CPU_CAPABILITY keeps torch from it
        return False
    # private names, present from torch 2.6 on; where one is gone, fp32 is the safe answer
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)
