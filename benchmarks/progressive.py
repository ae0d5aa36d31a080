"""What a low resolution first gains at equal time: kNN after as many seconds of processor time with and without it.

`python -m benchmarks.progressive --data FOLDER [--recipe simclr-r18.tin_cpu_1h] [--minutes 10]`. FOLDER has train and test
splits. A few steps of each resolution tell how many steps fit into the time; each schedule then trains for so many, with
its learning rate falling over the whole, on one thread in a process of its own. The table says what each really took.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from benchmarks.train import COUNT, SKIP, alone
from sslzoo.backends.allocator import keep_freed_memory
from sslzoo.evaluate.knn import knn
from training import data, engine, recipe
from training.facts import processor_name
from training.judge import embed

FULL = ((0.0, 1.0),)


def seconds_per_step(settings: recipe.Recipe, images: data.ImageSet, factor: float) -> float:
    """Processor time of a step at one resolution: the median."""
    began: list[float] = []

    def stop() -> bool:
        began.append(time.process_time())
        return len(began) > SKIP + COUNT

    settings = replace(settings, progressive=((0.0, factor),), epochs=1000)
    for _ in engine.train(engine.build(settings), images, settings, stop=stop, report_seconds=1e9):
        pass
    return statistics.median(b - a for a, b in zip(began[SKIP:], began[SKIP + 1 :], strict=False))


def run(settings: recipe.Recipe, folder: str, count: int, minutes: float) -> dict[str, object]:
    """One schedule: how far it came, what it took and what it scores."""
    keep_freed_memory()
    torch.set_num_threads(1)
    train, test = data.splits(folder)
    if test is None:
        raise SystemExit(f"{folder} has no train and test splits")
    images = data.load(train, settings.store_size, limit=count, quiet=True)
    queries = data.load(test, settings.store_size, limit=2000, quiet=True)
    assert isinstance(images, data.ImageSet)
    ends = [*(start for start, _ in settings.progressive[1:]), 1.0]
    shares = [end - start for end, (start, _) in zip(ends, settings.progressive, strict=True)]
    costs = [seconds_per_step(settings, images, factor) for _, factor in settings.progressive]
    steps = 60 * minutes / sum(share * seconds for share, seconds in zip(shares, costs, strict=True))
    settings = replace(settings, epochs=max(1, round(steps / (len(images) // settings.batch_size))))
    method, began = engine.build(settings), time.process_time()
    *_, last = engine.train(method, images, settings)
    taken = (time.process_time() - began) / 60
    bank = embed(method, images, settings, 5000)
    (score,) = knn(bank, embed(method, queries, settings, 2000), [(20, 0.07)])
    return {
        "schedule": ", ".join(
            f"{settings.view_size(settings.views[0], start)} px from {start:g}" for start, _ in settings.progressive
        ),
        "images seen": last.step * settings.batch_size,
        "minutes": round(taken, 2),
        "loss": round(last.loss, 3),
        "kNN, %": f"{100 * score.value:.1f} ± {100 * score.interval():.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="simclr-r18.tin_cpu_1h")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--images", type=int, default=5120, help="how many to train on")
    options = parser.parse_args()
    settings = recipe.load(options.recipe)
    print(f"{processor_name()}, one thread, torch {torch.__version__}; {options.recipe}, {options.images} images\n")
    for i, schedule in enumerate((FULL, settings.progressive)):
        row = alone(run, replace(settings, progressive=schedule), options.data, options.images, options.minutes)
        if i == 0:
            print(f"| {' | '.join(row)} |\n{'|---' * len(row)}|")
        print(f"| {' | '.join(map(str, row.values()))} |", flush=True)


if __name__ == "__main__":
    main()
