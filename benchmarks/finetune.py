"""Fine-tuning an encoder beside training the same network from scratch, for the same epochs and so the same time.

    python -m benchmarks.finetune caltech101/train.parquet caltech101/test.parquet --size 64 --epochs 8
    python -m benchmarks.finetune cifar10/train-00000-of-00002.parquet cifar10/test.parquet --images 3000 --tests 1000 \
        --size 48 --epochs 5

It prints the accuracy of both in % with 95 % intervals, the paired difference, and the seconds of training. With
OMP_NUM_THREADS=1 and --device cpu it uses one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools

from sslzoo import registry
from sslzoo.evaluate.score import compare
from sslzoo.images.discover import discover
from sslzoo.suites import ListReader
from sslzoo.transfer.finetune import finetune
from sslzoo.transfer.settings import PRESETS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("-m", "--model", default=registry.PACKAGE_ENCODER)
    parser.add_argument("--images", type=int, help="only so many training images, the first ones")
    parser.add_argument("--tests", type=int, help="only so many test images, the first ones")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    train, test = (
        ListReader(list(itertools.islice(discover(source), limit)))
        for source, limit in ((options.train, options.images), (options.test, options.tests))
    )
    settings = dataclasses.replace(PRESETS["finetune"], epochs=options.epochs, size=options.size)
    spec = registry.resolve(options.model)
    scores = []
    # from scratch nothing is learnt yet that a quicker classifier could build on, and it does better at the rate of the rest
    for each, head_lr in ((spec, settings.head_lr), (registry.random_twin(spec), 1.0)):
        own = dataclasses.replace(settings, head_lr=head_lr)
        made = finetune(train, each, test=test, settings=own, device=options.device, workers=1)
        seconds = sum(epoch.seconds for epoch in made.epochs)
        scores.append(made.score)
        print(
            f"{each.name}: {100 * made.score.value:.1f} ± {100 * made.score.interval():.1f} after {seconds:.0f} s, "
            f"loss {made.epochs[-1].loss:.3f}",
            flush=True,
        )
    print(f"difference {compare(*scores)}; {scores[0].protocol}")


if __name__ == "__main__":
    main()
