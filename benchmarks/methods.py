"""What each method costs at equal batch and views: negatives, momentum encoder, queue, parameters, memory, time per image.

`python -m benchmarks.methods [--recipes r18.tin_cpu_1h] [--batch 128]` trains each method for a few steps in a process of
its own, on noise at full size, and prints a table; `--json sslzoo/demo/costs.json` writes it where the demo and the site
(`python -m tests.generated`) read it. Memory on a CPU is what the process grew by from before the network was
built, on a GPU what tensors took at most. Negatives are those of one view.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.train import alone, timed
from sslzoo.backends.allocator import keep_freed_memory
from sslzoo.backends.processor import native_bf16
from sslzoo.demo.methods import COLUMNS
from training import cost, engine, recipe
from training.facts import processor_name
from training.methods import BYOL, MoCo, SimCLR, SwAV

METHODS = {"simclr": "SimCLR", "mocov2": "MoCo v2", "byol": "BYOL", "simsiam": "SimSiam", "swav": "SwAV"}


def measure(settings: recipe.Recipe, device: str) -> dict[str, Any]:
    """One method's figures."""
    keep_freed_memory()  # as `python -m training` does
    shape = (4 * settings.batch_size, 3, settings.store_size, settings.store_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    before = cost.peak_memory(device)
    times, _ = timed(settings, images, device, wait=False)
    memory = cost.peak_memory(device) - (before if device == "cpu" else 0)
    method = engine.build(settings)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    held = sum(p.numel() for p in method.parameters())
    queue = int(method.queue.shape[-2]) if isinstance(method, MoCo | SwAV) else 0
    negatives = {SimCLR: 2 * (settings.batch_size - 1), MoCo: queue}
    return {
        "negatives": negatives.get(type(method), 0),
        "momentum_encoder": isinstance(method, MoCo | BYOL),
        "queue": queue,
        "trained_parameters": trained,
        "held_parameters": held,
        "gflop_per_image": round(cost.stages(settings)[0][1] / 1e9, 2),
        "peak_memory_mb": round(memory / 1e6),
        "ms_per_image": round(1e3 * statistics.median(times) / settings.batch_size, 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [f"| {' | '.join(COLUMNS.values())} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(cell(row[key]) for key in COLUMNS)} |")
    return "\n".join(lines)


def cell(value: str | bool | float) -> str:
    if isinstance(value, str):
        return value
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:,}" if value else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="r18.tin_cpu_1h", help="which recipe of each method")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of measuring
    where = processor_name() if options.device == "cpu" else torch.cuda.get_device_name()
    precision = "bf16" if native_bf16(options.device) else "fp32"
    measured = f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, {precision}"
    rows = []
    for method, title in METHODS.items():
        settings = recipe.load(f"{method}-{options.recipes}", ["epochs=1000", f"batch_size={options.batch}"])
        settings = replace(settings, progressive=((0.0, 1.0),))
        rows.append({"method": title} | alone(measure, settings, options.device))
    command = (
        f"python -m benchmarks.methods --recipes {options.recipes} --batch {options.batch} --device {options.device}"
    )
    print(f"By `{command}`: {measured}; recipes `METHOD-{options.recipes}` at full size.\n\n{table(rows)}")
    if options.json:
        rows = [row | {"measured": measured, "command": command} for row in rows]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
