"""What a step costs and what the machine could do: FLOPs counted on shapes alone, a measured peak, and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training import engine
from training.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """`stages` are (from which share of the run, FLOPs of one image with all its views, forward and backward).

    `peak` is the FLOP/s of a large matrix product on all devices together, in the precision of the run.
    """

    stages: list[tuple[float, float]]
    peak: float

    def flops(self, step: int, steps: int) -> float:
        """Of one image at a step."""
        return [flops for start, flops in self.stages if start <= step / steps][-1]

    def mfu(self, report: engine.Progress) -> float:
        """Model FLOPs utilisation (Chowdhery et al., arXiv:2204.02311, appendix B): FLOP/s of the run over the peak."""
        return report.images_per_second * self.flops(report.step - 1, report.steps) / self.peak

    def seconds_left(self, report: engine.Progress, batch: int) -> float:
        """At the last report's FLOP/s: a run that begins at a low resolution has its dearest steps before it."""
        speed = report.images_per_second * self.flops(report.step - 1, report.steps)
        ends = [*(round(start * report.steps) for start, _ in self.stages[1:]), report.steps]
        begun = [max(report.step, round(start * report.steps)) for start, _ in self.stages]
        work = sum(max(0, end - begin) * flops for begin, end, (_, flops) in zip(begun, ends, self.stages, strict=True))
        return work * batch / speed


def summary(log: Sequence[Mapping[str, Any]], images_per_epoch: int) -> dict[str, float]:
    """What a run took, and its means over the lines of its log, which are of all its starts; evaluation has no part in these."""
    seconds = sum(line["seconds"] for line in log)
    images = sum(line["seconds"] * line["images_per_second"] for line in log)
    return {
        "minutes": round(log[-1]["minutes"], 1),
        "images_per_second": round(images / seconds, 1),
        "seconds_per_epoch": round(images_per_epoch * seconds / images, 2),
        "mfu": round(sum(line["seconds"] * line["mfu"] for line in log) / seconds, 4),
    }


def stages(recipe: Recipe) -> list[tuple[float, float]]:
    """The FLOPs of one image in each stage of the recipe's resolution, of a single process.

    A multiplication with its addition counts two, padding counts as pixels; augmentation, BN and other elementwise work
    count nothing, as is usual. Nothing is computed: the tensors are shapes. To be called before several processes join.
    """
    counted = []
    for start, _ in recipe.progressive:
        with torch.device("meta"):
            method = engine.build(recipe).train()
            sizes = [recipe.view_size(view, start) for view in recipe.views for _ in range(view.count)]
            views = [torch.empty(recipe.batch_size, 3, size, size) for size in sizes]
            with FlopCounterMode(display=False) as counter:
                method(views, start)[0].backward()
        counted.append((start, counter.get_total_flops() / recipe.batch_size))
    return counted


def peak_flops(device: str, *, bf16: bool) -> float:
    """FLOP/s of a large matrix product: the best of five, now, on this machine with whatever else it does."""
    cpu = torch.device(device).type == "cpu"
    side = 2048 if cpu else 8192
    a = torch.randn(side, side, device=device).to(torch.bfloat16 if bf16 else torch.float32)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        if not cpu:
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


def peak_memory(device: str) -> int:
    """The most bytes that were held at once: on a GPU by tensors, on a CPU by the whole process (0 where no call tells)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # macOS counts in bytes
