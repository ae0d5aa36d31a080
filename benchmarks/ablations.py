"""The papers' ablations, each by one flag of a recipe (`--set method_options.KEY=VALUE`), on a tiny network.

`python -m benchmarks.ablations [--only simsiam] [--seeds 2]` prints a table: how each run's loss, spread and effective rank
end, and the accuracy of kNN on the frozen features (the means over the seeds). The pictures are generated; with `--data
FOLDER` they are some of a folder with train and test splits, at 32 px. Minutes on one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks import gratings
from benchmarks.gratings import Labelled
from training import data, engine
from training.facts import processor_name

OPTION = "method_options."
# method, then what is changed in its settings: nothing, or one key (in words where the line wants them)
ABLATIONS: list[tuple[str, dict[str, Any]]] = [
    ("simsiam", {}),
    ("simsiam", {OPTION + "stop_gradient": False}),
    ("simsiam", {OPTION + "predictor": False}),
    ("simsiam", {OPTION + "similarity": "cross-entropy"}),
    ("simsiam", {OPTION + "symmetric": False}),
    ("simsiam", {OPTION + "norm": "none"}),
    ("simsiam", {OPTION + "norm": "hidden"}),
    ("simsiam", {OPTION + "norm": "hidden", OPTION + "stop_gradient": False}),
    ("simsiam", {OPTION + "norm": "all"}),
    *(("simsiam", {"batch_size": size}) for size in (16, 32, 128, 256)),
    ("byol", {}),
    ("byol", {OPTION + "tau": 1.0}),
    ("byol", {OPTION + "tau": 0.0, OPTION + "tau_final": 0.0}),
    ("byol", {OPTION + "predictor": False}),
    ("mocov2", {}),
    ("mocov2", {OPTION + "shuffle": False}),
    ("mocov2", {OPTION + "symmetric": False}),
    ("simclr", {}),
    *(("simclr", {"batch_size": size}) for size in (16, 32, 128, 256)),
]


def run(
    method: str, changes: dict[str, Any], seed: int, train: Labelled, bank: Labelled, test: Labelled
) -> dict[str, float]:
    """The last report of a run, and the accuracy of what it leaves."""
    options = {key.removeprefix(OPTION): value for key, value in changes.items() if key.startswith(OPTION)}
    rest = {key: value for key, value in changes.items() if not key.startswith(OPTION)}
    recipe = gratings.settings(method, options, seed=seed, **rest)
    network = gratings.build(recipe)
    *_, last = engine.train(network, train[0], recipe)
    accuracy = gratings.accuracy(gratings.features(network), bank, test)
    return {"loss": last.loss, "std": last.std, "rank": last.rank, "kNN": 100 * accuracy}


def load(folder: str, images: int) -> tuple[Labelled, Labelled]:
    """Images of the train and the test split of a folder, evenly taken."""
    train, test = data.splits(folder)
    if test is None:
        raise SystemExit(f"{folder} has no train and test splits")
    sets = [data.load(source, 32, limit=limit, quiet=True) for source, limit in ((train, images), (test, 1000))]
    first, second = (s.sample(images) for s in sets)
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a folder with train and test splits")
    parser.add_argument("--images", type=int, default=1024, help="how many to train on")
    parser.add_argument("--only", default="", help="the rows that contain this text: 'byol', 'simsiam batch_size'")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (
        load(options.data, options.images)
        if options.data
        else (gratings.gratings(options.images, 0), gratings.gratings(1000, 1))
    )
    print(f"{processor_name()}, one thread, torch {torch.__version__}, {len(train[0])} images, {options.seeds} seeds")
    bank = train if options.data else (train[0][:100], train[1][:100])  # few, or pixels alone would do
    random = gratings.accuracy(gratings.features(gratings.build(gratings.settings("simclr"))), bank, test)
    pixels = gratings.accuracy(lambda images: images.flatten(1).float().numpy() - 127, bank, test)
    print(f"kNN of random weights {100 * random:.1f} %, of raw pixels {100 * pixels:.1f} %\n")
    print("| method | changed | loss | std | rank | kNN, % | s |\n|---|---|---|---|---|---|---|")
    for method, changes in ABLATIONS:
        changed = ", ".join(f"{key.removeprefix(OPTION)} {value}" for key, value in changes.items()) or "nothing"
        if options.only not in f"{method} {changed}":
            continue
        began = time.perf_counter()
        runs = [run(method, changes, seed, train, bank, test) for seed in range(options.seeds)]
        means = {key: statistics.mean(r[key] for r in runs) for key in runs[0]}
        scores = " / ".join(f"{r['kNN']:.1f}" for r in runs)
        seconds = (time.perf_counter() - began) / options.seeds
        numbers = f"{means['loss']:.3f} | {means['std']:.2f} | {means['rank']:.1f} | {scores} | {seconds:.0f}"
        print(f"| {method} | {changed} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
