"""At which size of the input an encoder is best: `python -m benchmarks.resolution MODEL … --judge NAME=PARQUET …`.

Leave-one-out kNN accuracy (k=20, T=0.07) in % inside labelled training files, in fp32 on the CPU, with the same network at random
weights beside it; a size is chosen by training files so that the test files are left for the report.
"""

from __future__ import annotations

import argparse

from benchmarks.bakeoff import score
from sslzoo import registry


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
    for name, spec in {s.name: s for s in (*specs, *map(registry.random_twin, specs))}.items():
        found = score(spec, judges, args.sizes).values()
        print(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in found)} |", flush=True)


if __name__ == "__main__":
    main()
