"""Every encoder that wants a GPU, trained and judged one after the other: `make gpu-zoo CIFAR10=FOLDER TINYIMAGENET=FOLDER`.

Ctrl-C and SIGTERM save, and the same command goes on, on this machine or on another one that has the output folder. Where a
command may not run for long, `python -m training.gpu_zoo --minutes 9 …` saves after so many minutes, and ends with code 75
while there is more to do. What is finished is a model folder with its scores in results.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sslzoo import baselines
from sslzoo.backends.torch_backend import pick_device
from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.knn import knn
from sslzoo.evaluate.linear import linear
from sslzoo.evaluate.score import Score
from sslzoo.images.discover import Source
from sslzoo.labelled import open_set
from training import checkpoint, recipe
from training.checkpoint import LEFT_OUT, UNFINISHED, finished
from training.export import splits

MODEL, RESULT, FAILED = "model", "result.json", "failed.txt"
IMAGENETTE = "imagenette"
ROLES = ("encoder", "random weights", "raw pixels")
KNN = {"cifar10": (200, 0.1), "tinyimagenet": (200, 0.1), IMAGENETTE: (20, 0.07)}  # as the bars were measured
JUDGING = 4.0  # minutes that embedding a set three times and the linear probes may take; chosen, not measured


@dataclass(frozen=True)
class Job:
    """An encoder to train: its recipe, the data it learns and is judged on, and what others report or we aim at, in %."""

    recipe: str
    data: str
    knn: float | None = None
    linear: float | None = None
    epochs: float | None = None  # None: the recipe's own
    judge: str = ""  # the set that knn and linear are of, where it isn't the data; judged there if it is given


#: kNN of the last epoch and a linear probe: on CIFAR-10 the higher of what papers and libraries report, on imagenette our aim
JOBS = (
    Job("simclr-r18.cifar10_200ep", "cifar10", 84.8),
    Job("mocov2-r18.cifar10_200ep", "cifar10", 85.3),
    Job("byol-r18.cifar10_200ep", "cifar10", 86.9),
    Job("simsiam-r18.cifar10_200ep", "cifar10", 81.9),
    Job("swav-r18.cifar10_200ep", "cifar10", 84.2),
    Job("simclr-r18.tin", "tinyimagenet", 75.0, epochs=400, judge=IMAGENETTE),
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
    parser.add_argument("--imagenette", default="", help="labelled folder that simclr-r18.tin is then judged on")
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
    try:  # what would make every run fail is refused before the first
        data: dict[str, tuple[Source, Source]] = {job.data: splits(Path(folders[job.data])) for job in jobs}
        if args.imagenette:
            judging = open_set(args.imagenette)
            data[IMAGENETTE] = judging.train, judging.test
        pick_device(args.device)
        for job in jobs:
            recipe.load(job.recipe, settings(job, args.set))
        require_same(args.output, args.set)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    args.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    for job in jobs:
        done = advance(job, folders[job.data], data, end, args)
        results = table(args.output, jobs)
        (args.output / "results.md").write_text(results, encoding="utf-8")
        if not done:
            break
    print(results)
    if not done:
        sys.exit(UNFINISHED)
    if any((args.output / job.recipe / FAILED).exists() for job in jobs):
        sys.exit(1)


def settings(job: Job, sets: Sequence[str]) -> list[str]:
    """What a job changes of its recipe, and what is changed of every one."""
    return [*([f"epochs={job.epochs:g}"] if job.epochs else []), *sets]


def require_same(folder: Path, sets: Sequence[str]) -> None:
    """Raises InputError where the folder holds a run of other settings, such as a rehearsal, which is no result of these."""
    for job in JOBS:
        run = folder / job.recipe
        if not checkpoint.exists(run):
            continue
        ours = recipe.load(job.recipe, settings(job, sets))
        if changed := checkpoint.changed(checkpoint.read(run / checkpoint.FILE, facts=True), ours):
            raise InputError(
                f"{run} was made with {'; '.join(changed)}. Choose another folder with -o {folder}-2 (of make:"
                f" ARGS='-o {folder}-2'), repeat every --set it was made with, or delete it"
            )


def advance(
    job: Job, folder: str, data: Mapping[str, tuple[Source, Source]], end: float, args: argparse.Namespace
) -> bool:
    """Trains and judges an encoder, going on where it stopped; False where the time was up before that."""
    run = args.output / job.recipe
    judge = job.judge if job.judge in data else job.data
    known = json.loads((run / RESULT).read_text(encoding="utf-8")) if (run / RESULT).exists() else None
    if (run / FAILED).exists() or (known and known["data"] in (judge, job.judge)):
        return True
    waited = finished(run)  # since an earlier slice, which had no time to judge it
    if not waited and end <= time.monotonic():
        return False
    if not known:
        code = train(job, folder, run, (end - time.monotonic()) / 60, args)
        if code == UNFINISHED:
            return False
        if code not in (0, LEFT_OUT):
            run.mkdir(exist_ok=True)
            (run / FAILED).write_text(f"exit code {code}", encoding="utf-8")
            return True
    if not waited and end - time.monotonic() < 60 * JUDGING:
        return False
    scores = judged(run / MODEL, *data[judge], KNN[judge], args.device)
    (run / RESULT).write_text(json.dumps({"data": judge, **scores}, indent=1) + "\n", encoding="utf-8")
    return True


def train(job: Job, folder: str, run: Path, minutes: float, args: argparse.Namespace) -> int:
    """Trains for at most so many minutes, going on where the run stopped; the exit code."""
    command = [sys.executable, "-m", "training", job.recipe, "--data", folder, "-o", str(run), "--resume"]
    options = [f"--max-minutes={max(0, minutes):.2f}", f"--device={args.device}"]
    return work([*command, *options, *(f"--set={item}" for item in settings(job, args.set))])


def work(command: Sequence[str]) -> int:
    """The exit code of a command; SIGINT, SIGTERM and a closed terminal are passed on to it, and end us when it has ended.

    It has a process group of its own: a terminal's Ctrl-C would reach it twice, and the second one ends it at once.
    """
    asked: list[int] = []
    with subprocess.Popen(command, process_group=0) as child:

        def pass_on(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT or not asked:  # `timeout make` sends two SIGTERM that mean one
                child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
            asked.append(number)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # what is ignored, as under nohup, stays so
        before = {n: signal.signal(n, pass_on) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        code = child.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if asked:
        sys.exit(128 + asked[0])
    return code


def judged(
    model: Path, train: Source, test: Source, protocol: tuple[int, float], device: str
) -> dict[str, dict[str, float]]:
    """kNN and linear accuracy of the written file by encoder, random weights and raw pixels among them."""

    def evaluate(bank: Embeddings, probes: Embeddings | None) -> list[Score]:
        assert probes is not None
        return [*knn(bank, probes, protocols=[protocol], device=device), linear(bank, probes, device=device)]

    rows = baselines.table(evaluate, train, test, str(model), device=device, precision="fp32").values()
    found = {role: dict(zip(("knn", "linear"), scores, strict=True)) for role, scores in zip(ROLES, rows, strict=True)}
    values = {role: {probe: round(each.value, 4) for probe, each in by.items()} for role, by in found.items()}
    return values | {"interval": {probe: round(each.interval(), 4) for probe, each in found["encoder"].items()}}


def table(folder: Path, jobs: Sequence[Job]) -> str:
    """These jobs, and all others that the folder has, as Markdown: what is finished beside what it was held against."""
    shown = [job for job in JOBS if job in jobs or (folder / job.recipe).exists()]
    usual, other = (f"k={k}, T={temperature}" for k, temperature in (KNN["cifar10"], KNN[IMAGENETTE]))
    lines = [
        f"Top-1 in % of the last epoch, on the file, with its 95 % interval: kNN ({usual}; on {IMAGENETTE} {other}), and logistic"
        " regression on standardised features, its penalty chosen on a fifth of the training images; the bar in brackets.\n",
        "| recipe | data | kNN | linear | random weights | raw pixels | GPU | hours |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row(job, folder / job.recipe))} |" for job in shown),
    ]
    if any((folder / job.recipe / FAILED).exists() for job in shown):
        lines.append(f"\nTo try a failed run again, delete its folder, or {FAILED} in it to go on from its checkpoint.")
    return "\n".join(lines) + "\n"


def row(job: Job, run: Path) -> list[str]:
    """The cells of a job."""
    if (run / FAILED).exists():
        return [job.recipe, job.data, f"failed ({(run / FAILED).read_text(encoding='utf-8')})", *[""] * 5]
    if not (run / RESULT).exists():
        return [job.recipe, job.data, "not finished", *[""] * 5]
    scores, facts = (json.loads((run / name).read_text(encoding="utf-8")) for name in (RESULT, checkpoint.FACTS))
    judge = scores["data"]
    bars = {"knn": job.knn, "linear": job.linear} if judge == (job.judge or job.data) else {}
    ours = [
        f"{100 * value:.1f} ± {100 * scores['interval'][probe]:.1f}" + (f" ({bars[probe]})" if bars.get(probe) else "")
        for probe, value in scores["encoder"].items()
    ]
    others = [" / ".join(f"{100 * v:.1f}" for v in scores[role].values()) for role in ROLES[1:]]
    data = job.data if judge == job.data else f"{job.data}, judged on {judge}"
    return [job.recipe, data, *ours, *others, facts["processor"], f"{facts['minutes'] / 60:.2f}"]


if __name__ == "__main__":
    main()
