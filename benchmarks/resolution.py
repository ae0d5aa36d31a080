"""At which size of the input an encoder is best: `python -m benchmarks.resolution MODEL … --judge NAME=PARQUET …`.

Leave-one-out kNN accuracy (k=20, T=0.07) in % inside labelled training files, in fp32 on the CPU, with the same network at random
weights and raw pixels beside it; a size, and which of two encoders is kept, are chosen by training files so that the test files
are left for the report. Of several encoders, the others have their paired difference to the first, with its 95 % interval.
"""

from __future__ import annotations

import argparse

from benchmarks.bakeoff import judged, raw_pixels
from sslzoo import registry
from sslzoo.evaluate.score import Score, compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--judge", nargs="+", required=True, metavar="NAME=PARQUET")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 80, 96, 112, 128, 160], metavar="PIXELS")
    args = parser.parse_args()
    judges = dict(item.split("=", 1) for item in args.judge)
    print(f"| encoder | {' | '.join(f'{name}, {size} px' for name in judges for size in args.sizes)} |")
    print("|---" * (len(judges) * len(args.sizes) + 1) + "|")
    specs = [registry.resolve(model) for model in args.models]
    first: dict[str, Score] = {}
    for spec in {s.sha256 or s.name: s for s in (*specs, *map(registry.random_twin, specs))}.values():
        found = judged(spec, judges, args.sizes)
        first = first or found
        print(f"| {spec.name} | {' | '.join(cell(each, first[key]) for key, each in found.items())} |", flush=True)
    rest = " |" * (len(args.sizes) - 1)  # pixels have one size
    print(f"| raw pixels | {' | '.join(f'{100 * value:.1f}{rest}' for value in raw_pixels(judges).values())} |")


def cell(score: Score, first: Score) -> str:
    """An accuracy, and its paired difference to that of the first encoder."""
    if score is first:
        return f"{100 * score.value:.1f}"
    gain = compare(score, first)
    return f"{100 * score.value:.1f}, {100 * gain.difference:+.1f} ± {100 * gain.interval:.1f}"


if __name__ == "__main__":
    main()
