"""Every encoder that wants a GPU, trained and judged one after the other: `make gpu-zoo CIFAR10=FOLDER TINYIMAGENET=FOLDER`.

`python -m training.gpu_zoo --cifar10 FOLDER --tinyimagenet FOLDER --minutes 9` works for so many minutes, saves, and ends
with code 75 while there is more to do: the same command goes on, on this machine or on another one that has the output
folder, and `make gpu-zoo` repeats it until all is done. What is finished is a model folder with its scores in results.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sslzoo import baselines
from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.knn import knn
from sslzoo.evaluate.linear import linear
from sslzoo.evaluate.score import Score
from training.checkpoint import LEFT_OUT, UNFINISHED, finished
from training.export import splits

MODEL, RESULT = "model", "result.json"
KNN = (200, 0.1)


@dataclass(frozen=True)
class Job:
    """An encoder to train: its recipe, the data it learns and is judged on, and what others report or we aim at, in %."""

    recipe: str
    data: str
    knn: float | None = None
    linear: float | None = None
    epochs: float | None = None  # None: the recipe's own


#: kNN at k=200, T=0.1 of the last epoch, and a linear probe, on CIFAR-10: the higher of what papers and libraries report
JOBS = (
    Job("simclr-r18.cifar10_200ep", "cifar10", 84.8),
    Job("mocov2-r18.cifar10_200ep", "cifar10", 85.3),
    Job("byol-r18.cifar10_200ep", "cifar10", 86.9),
    Job("simsiam-r18.cifar10_200ep", "cifar10", 81.9),
    Job("swav-r18.cifar10_200ep", "cifar10", 84.2),
    Job("simclr-r18.tin", "tinyimagenet", epochs=400),
    Job("simclr-r50.tin", "tinyimagenet", epochs=200),
    Job("simclr-r18.cifar10", "cifar10", 87.9, 91.1),
    Job("mocov2-r18.cifar10", "cifar10", 89.9, 90.7),
    Job("byol-r18.cifar10", "cifar10", 91.0, 91.7),
    Job("simsiam-r18.cifar10", "cifar10", 90.4, 91.8),
    Job("swav-r18.cifar10", "cifar10", 88.4, 89.0),
)


def main() -> None:
    """Goes on with the first encoder that isn't finished, until the minutes are up or all are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", default="", help="folder of Parquet files with train and test splits")
    parser.add_argument("--tinyimagenet", default="", help="the same with train and val splits")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", nargs="+", default=[job.recipe for job in JOBS], metavar="RECIPE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for every recipe, as in a rehearsal")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/gpu-zoo"))
    args = parser.parse_args()
    folders = {"cifar10": args.cifar10, "tinyimagenet": args.tinyimagenet}
    jobs = [job for job in JOBS if job.recipe in args.only and folders[job.data]]
    if not jobs:
        raise SystemExit("nothing to do: give --cifar10 or --tinyimagenet, and with --only one of its recipes")
    try:
        data = {job.data: splits(Path(folders[job.data])) for job in jobs}
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    args.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    for job in jobs:
        run = args.output / job.recipe
        if (run / RESULT).exists():
            continue
        left = (end - time.monotonic()) / 60
        if left <= 0 or not trained(job, Path(folders[job.data]), run, left, args):
            print(table(args.output, jobs))
            sys.exit(UNFINISHED)
        scores = judged(run / MODEL, data[job.data], args.device)
        (run / RESULT).write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
        (args.output / "results.md").write_text(table(args.output, jobs), encoding="utf-8")
    print(table(args.output, jobs))


def trained(job: Job, folder: Path, run: Path, minutes: float, args: argparse.Namespace) -> bool:
    """Trains for at most so many minutes, going on where the run stopped; whether it is finished."""
    sets = [*([f"epochs={job.epochs:g}"] if job.epochs else []), *args.set]
    command = [sys.executable, "-m", "training", job.recipe, "--data", str(folder), "-o", str(run), "--resume"]
    options = [f"--max-minutes={minutes:.2f}", f"--device={args.device}", *(f"--set={item}" for item in sets)]
    done = subprocess.run([*command, *options], check=False)
    if done.returncode not in (0, LEFT_OUT, UNFINISHED):
        raise SystemExit(f"{job.recipe} failed with exit code {done.returncode}; its message stands above")
    return finished(run)


def judged(model: Path, data: tuple[list[Path], list[Path]], device: str) -> dict[str, dict[str, float]]:
    """kNN and linear accuracy of the written file by encoder, random weights and raw pixels among them."""
    train, test = ([str(path) for path in split] for split in data)

    def evaluate(bank: Embeddings, probes: Embeddings | None) -> list[Score]:
        assert probes is not None
        return [*knn(bank, probes, protocols=[KNN], device=device), linear(bank, probes, device=device)]

    table = baselines.table(
        evaluate,
        train,
        test,
        str(model),
        device=device,
        precision="fp32",
    )
    rows = {name: dict(zip(("knn", "linear"), scores, strict=True)) for name, scores in table.items()}
    return {
        role: {probe: round(score.value, 4) for probe, score in scores.items()}
        for role, scores in zip(("encoder", "random weights", "raw pixels"), rows.values(), strict=True)
    }


def table(folder: Path, jobs: Sequence[Job]) -> str:
    """What is finished as Markdown, beside what it was held against."""
    lines = [
        f"kNN (k={KNN[0]}, T={KNN[1]}) and linear top-1 in % of the last epoch, on the file; the bar in brackets.\n",
        "| recipe | data | kNN | linear | random weights | raw pixels | GPU | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job in jobs:
        run = folder / job.recipe
        if not (run / RESULT).exists():
            lines.append(f"| {job.recipe} | {job.data} | not finished | | | | | |")
            continue
        scores, facts = (json.loads((run / name).read_text(encoding="utf-8")) for name in (RESULT, "run.json"))
        ours = [
            f"{100 * scores['encoder'][probe]:.1f}" + (f" ({bar})" if bar else "")
            for probe, bar in (("knn", job.knn), ("linear", job.linear))
        ]
        others = [
            " / ".join(f"{100 * v:.1f}" for v in scores[role].values()) for role in ("random weights", "raw pixels")
        ]
        cells = [job.recipe, job.data, *ours, *others, facts["processor"], f"{facts['minutes'] / 60:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
