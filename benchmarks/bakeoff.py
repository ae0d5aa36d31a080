"""Which recipe makes the best small encoder in so many minutes? Candidates at equal time, judged without labels held out.

`python -m benchmarks.bakeoff TRAIN --judge NAME=PARQUET … --minutes 12 [--only a,b] [--threads 1] -o FOLDER`; with
`--epochs` in place of `--minutes` they see equally many images instead, as `TUNING` is meant to be tried.

A candidate gets the images that `--minutes` of `--reference` threads buy on a quiet machine: all speeds are measured first
(`--measure` does only that), from the quickest steps at each resolution, so that other programs on the machine, or fewer
threads, make a run longer and not worse. Each is judged by leave-one-out kNN (k=20, T=0.07) inside the judging sets, at
several test resolutions; no validation or test file is read. What is done already in FOLDER is kept, an interrupted candidate
goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch

import sslzoo
from sslzoo import baselines, hub, registry
from sslzoo.backends.allocator import keep_freed_memory
from sslzoo.evaluate.knn import knn
from sslzoo.evaluate.score import Score
from sslzoo.spec import EncoderSpec
from training import engine, recipe
from training.checkpoint import finished
from training.export import export

SIZES = (64, 96, 128)
STEPS, SKIP = 24, 6

HOUR = "-r18.tin_cpu_1h"
CANDIDATES: dict[str, tuple[str, list[str]]] = {
    "simclr": (f"simclr{HOUR}", []),  # batch 128, T 0.2, crops from 0.2, 40 px and 64 px for the last 30 %
    "simclr-32px": (f"simclr{HOUR}", ["progressive=[[0.0, 0.5], [0.7, 1.0]]"]),
    "simclr-late64": (f"simclr{HOUR}", ["progressive=[[0.0, 0.625], [0.85, 1.0]]"]),
    "simclr-256": (f"simclr{HOUR}", ["batch_size=256", "lr_per_256=0.2"]),
    "simclr-t0.1": (f"simclr{HOUR}", ["method_options.temperature=0.1"]),
    "simclr-crop0.08": (f"simclr{HOUR}", ["views.0.scale=[0.08, 1.0]"]),
    "mocov2": (f"mocov2{HOUR}", []),
    "swav-multicrop": (
        f"swav{HOUR}",
        [
            "views=[{count=2, size=64, scale=[0.3, 1.0], jitter=[0.4, 0.4, 0.4, 0.1]},"
            " {count=4, size=32, scale=[0.08, 0.3], jitter=[0.4, 0.4, 0.4, 0.1]}]",
            "method_options.queue=1024",
            "method_options.queue_from=0.1",
            "method_options.freeze_until=0.05",
        ],
    ),
}

# For the methods that the settings of an hour, a first guess, do not serve: what to change was read off the papers and
# off smaller runs (training/LOG.md). At 32 px, where a step is cheapest: it is the optimiser and the head that are compared.
LOW = "progressive=[[0.0, 0.5]]"
ADAM = ["optimizer=adamw", "lr_per_256=0.002", "weight_decay=0.0001"]
SHARP = ["method_options.epsilon=0.02", "method_options.freeze_until=0.02"]
QUEUE = ["method_options.queue=1024", "method_options.queue_from=0.1"]
TUNING: dict[str, tuple[str, list[str]]] = {
    name: (f"{name.split('-')[0]}{HOUR}", [LOW, *overrides])
    for name, overrides in {
        "simclr": [],  # for the scale, as is mocov2
        "mocov2": [],
        "byol": [],
        "byol-tau0.97": ["method_options.tau=0.97"],
        "byol-tau0.97-lr0.4": ["method_options.tau=0.97", "lr_per_256=0.4"],
        "byol-tau0.97-adamw": ["method_options.tau=0.97", *ADAM],
        "byol-32": ["batch_size=32", "lr_per_256=0.4"],
        "simsiam": [],
        "simsiam-lr0.5-wd1e-4": ["lr_per_256=0.5", "weight_decay=0.0001"],
        "simsiam-adamw": ADAM,
        "simsiam-32": ["batch_size=32", "lr_per_256=0.4"],
        "swav": [],
        "swav-sharp": SHARP,
        "swav-sharp-128": [*SHARP, "method_options.prototypes=128"],
        "swav-sharp-queue": [*SHARP, *QUEUE],
        "swav-sharp-adamw": [*SHARP, *ADAM],
        "swav-sharp-t0.3-adamw": [*SHARP, *ADAM, "method_options.temperature=0.3"],
        "swav-sharp-128-queue-adamw": [*SHARP, *QUEUE, *ADAM, "method_options.prototypes=128"],
    }.items()
}


def speed(settings: recipe.Recipe, threads: int) -> float:
    """Source images per second over the whole schedule on so many threads, from the quickest steps at each resolution."""
    torch.set_num_threads(threads)
    images = torch.randint(0, 256, (settings.batch_size * 4, 3, 64, 64), dtype=torch.uint8)
    seconds = 0.0
    ends = [*(start for start, _ in settings.progressive[1:]), 1.0]
    for (start, factor), end in zip(settings.progressive, ends, strict=True):
        flat = dataclasses.replace(settings, progressive=((0.0, factor),), epochs=100)
        times: list[float] = []

        def stop(times: list[float] = times) -> bool:
            times.append(time.perf_counter())
            return len(times) > STEPS

        for _ in engine.train(engine.build(flat), images, flat, stop=stop, report_seconds=1e9):
            pass
        steps = sorted(b - a for a, b in itertools.pairwise(times[SKIP:]))
        seconds += (end - start) * steps[len(steps) // 5] / settings.batch_size
    return 1 / seconds


def judged(spec: EncoderSpec, judges: dict[str, str], sizes: Sequence[int] = SIZES) -> dict[str, Score]:
    """Leave-one-out kNN (k=20, T=0.07) by "set@size"."""
    scores = {}
    for (name, path), size in itertools.product(judges.items(), sizes):
        each = dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, resize=size, size=size))
        vectors = sslzoo.embed(path, each, device="cpu", backend="torch", precision="fp32")
        (scores[f"{name}@{size}"],) = knn(vectors, protocols=[(20, 0.07)])
    return scores


def score(spec: EncoderSpec, judges: dict[str, str]) -> dict[str, float]:
    """The accuracies alone."""
    return {key: round(each.value, 4) for key, each in judged(spec, judges).items()}


def raw_pixels(judges: dict[str, str]) -> dict[str, float]:
    """The same by set, of raw pixels, which have one size."""
    return {
        name: knn(sslzoo.embed(path, baselines.PIXELS, device="cpu"), protocols=[(20, 0.07)])[0].value
        for name, path in judges.items()
    }


def trained(run: Path) -> EncoderSpec:
    """The encoder of a finished run."""
    if not (run / "model").exists():
        export(run, run / "model")
    return dataclasses.replace(hub.read_config(run / "model"), sources=(f"local-dir:{run / 'model'}",))


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="training images, one Parquet file")
    parser.add_argument("--judge", nargs="+", required=True, metavar="NAME=PARQUET")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--epochs", type=float, help="equal images instead of equal minutes")
    parser.add_argument("--reference", type=int, default=2, help="threads that the minutes are meant on")
    parser.add_argument("--threads", type=int, default=2, help="threads to train with")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), help="of CANDIDATES, or of TUNING with --epochs; all of them"
    )
    parser.add_argument("--measure", action="store_true", help="measure the speeds and stop")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    judges = dict(item.split("=", 1) for item in args.judge)
    known = TUNING if args.epochs else CANDIDATES
    if unknown := set(args.only or []) - set(known):
        parser.error(f"--only {','.join(sorted(unknown))}: there is {', '.join(known)}")
    budget = f"{args.epochs:g}ep" if args.epochs else f"{args.minutes:g}min"
    runs = {name: args.output / f"{name}-{budget}" for name in args.only or known}
    for name, run in runs.items():
        run.mkdir(parents=True, exist_ok=True)
        if not args.epochs and not (run / "speed.json").exists():
            (run / "speed.json").write_text(json.dumps(speed(recipe.load(*known[name]), args.reference)))
            print(f"{name}: {json.loads((run / 'speed.json').read_text()):.0f} images/s", flush=True)
    if args.measure:
        return
    images = pq.read_metadata(args.train).num_rows
    for name, run in runs.items():
        result = run / "bakeoff.json"
        if result.exists():
            continue
        base, overrides = known[name]
        sets = [part for item in overrides for part in ("--set", item)]
        quick = None if args.epochs else json.loads((run / "speed.json").read_text())
        epochs = args.epochs or quick * args.minutes * 60 / images
        command = [sys.executable, "-m", "training", base, "--data", str(args.train), "-o", str(run), "--resume"]
        done = subprocess.run(
            [*command, *sets, "--set", f"epochs={epochs:.4f}", "--set", f"warmup_epochs={0.03 * epochs:.4f}"],
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": str(args.threads)},
        )
        if not finished(run):
            raise SystemExit(f"{name} ended with exit code {done.returncode}; the same command goes on")
        facts = {"speed": quick and round(quick), "images_seen": round(epochs * images), **score(trained(run), judges)}
        result.write_text(json.dumps(facts, indent=1) + "\n")
        print(name, facts, flush=True)
    print(table(args.output, judges))


def table(folder: Path, judges: dict[str, str]) -> str:
    """All results so far as Markdown, the best mean first, with random weights and raw pixels below."""
    results = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/bakeoff.json"))}
    columns = [f"{name}@{size}" for name in judges for size in SIZES]
    random = registry.resolve("random-r18")
    rows = {"random weights": score(random, judges)}
    lines = [f"| candidate | img/s | images seen | {' | '.join(columns)} |", "|---" * (len(columns) + 3) + "|"]
    for name in sorted(results, key=lambda n: -sum(results[n][c] for c in columns)):
        facts = results[name]
        numbers = " | ".join(f"{100 * facts[c]:.1f}" for c in columns)
        lines.append(f"| {name} | {facts['speed'] or ''} | {facts['images_seen']:,} | {numbers} |")
    for name, facts in rows.items():
        lines.append(f"| {name} | | | {' | '.join(f'{100 * facts[c]:.1f}' for c in columns)} |")
    lines.append("| raw pixels | | | " + ", ".join(f"{n} {100 * v:.1f}" for n, v in raw_pixels(judges).items()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
