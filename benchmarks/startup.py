"""What is paid before any work: importing the library, `--help`, and a first answer, each beside a bare interpreter and peers.

`python -m benchmarks.startup [--repeats 9]`. Every run is a process of its own; the runs take turns (A B C A B C …), the first
round only warms the disk's cache, and medians of the others are printed, with what each adds to an interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
PEERS = ("torch", "torchvision", "timm", "lightly.loss", "transformers")  # `import lightly` alone imports nothing


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sslzoo", *arguments]


def runs(folder: Path) -> dict[str, list[str]]:
    """What is timed, by name: ours, then importing what a script with another library imports first."""
    emb = str(folder / "photos.emb")
    subprocess.run(command("embed", str(PHOTOS), "-o", emb, "-q"), check=True, capture_output=True)
    one = folder / "one"
    one.mkdir()
    (one / "panda.jpg").write_bytes((PHOTOS / "panda-1.jpg").read_bytes())
    code = {
        "an interpreter that does nothing": "pass",
        "import sslzoo": "import sslzoo",
        "sslzoo.list_models()": "import sslzoo; sslzoo.list_models()",
        "sslzoo.load('simclr-r18')": "import sslzoo; sslzoo.load('simclr-r18', device='cpu')",
    }
    timed = {name: [sys.executable, "-c", text] for name, text in code.items()}
    timed |= {
        "sslzoo --help": command("--help"),
        "sslzoo embed --help": command("embed", "--help"),
        "sslzoo models": command("models"),
        "sslzoo search, a query by id": command("search", emb, "panda-1.jpg"),
        "sslzoo embed, one photo": command("embed", str(one), "-o", str(folder / "one.emb"), "--overwrite", "-q"),
    }
    found = [name for name in PEERS if importlib.util.find_spec(name.partition(".")[0])]
    return timed | {f"import {name}": [sys.executable, "-c", f"import {name}"] for name in found}


def main() -> None:
    """Prints a row a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        timed = runs(Path(name))
        times: dict[str, list[float]] = {key: [] for key in timed}
        for _ in range(options.repeats + 1):
            for key, arguments in timed.items():
                began = time.perf_counter()
                subprocess.run(arguments, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
                times[key].append(time.perf_counter() - began)
    medians = {key: statistics.median(seconds[1:]) for key, seconds in times.items()}
    nothing = next(iter(medians.values()))
    print("| what | ms | ms more than a bare interpreter |\n|---|---:|---:|")
    for key, seconds in medians.items():
        print(f"| {key} | {1e3 * seconds:.0f} | {1e3 * (seconds - nothing):.0f} |")


if __name__ == "__main__":
    main()
