"""All benchmarks that this machine can run, one command: `python -m benchmarks` writes `benchmarks/RESULTS.md`.

    python -m benchmarks                          all; an hour or two on two cores, and nothing else should run beside
    python -m benchmarks --only startup,search    these; the other sections of RESULTS.md stay as they are
    python -m benchmarks --quick -o /tmp/r.md     small sizes, to see that everything works; not figures to quote
    python -m benchmarks --only finetune-cifar10 --data FOLDER                 labelled sets as Parquet: FOLDER/cifar10/…
    python -m benchmarks --only embed --python thingsvision=VENV/bin/python    a peer of `embed` in an environment of its own

Every section states its command, day, processor, versions and how busy the machine was when it began, and by which statistic
it sums up its runs. What lacks a package, a GPU or a run is listed with the reason; one that fails leaves its section as it was.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.embed import processor

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "RESULTS.md"
PHOTOS = ROOT / "examples" / "photos"
SHOWN = (
    "numpy",
    "torch",
    "torchvision",
    "openvino",
    "nncf",
    "faiss-cpu",
    "scikit-learn",
    "timm",
    "transformers",
    "lightly",
)

TITLE = """# Results

Written by `python -m benchmarks`: peers beside ours in the same run; each section says whether its figures are medians or the
quickest of several runs. Ratios mean more than times, and both hold for the machine that a section names. Where a peer wins,
it says so here as well.
"""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its arguments after `python`, those for a quick look, what it needs, and what it shows."""

    arguments: str
    quick: str
    shows: str
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    data: tuple[str, ...] = ()  # files in the folder of --data
    environment: tuple[str, ...] = ()  # NAME=VALUE


BENCHMARKS = {
    "startup": Benchmark(
        "-m benchmarks.startup",
        "-m benchmarks.startup --repeats 1",
        "What is paid before any work: medians of nine runs.",
    ),
    "embed": Benchmark(
        "benchmarks/embed.py {photos}",
        "benchmarks/embed.py {photos} --repeats 1 --peers plain,torch-fp32",
        "Whole commands from a folder of photos to vectors on disk, beside other tools: medians of three rounds.",
    ),
    "embed-peers": Benchmark(
        "benchmarks/embed.py {photos} --peers plain,timm,transformers,thingsvision,lightly-train,openvino-fp32,openvino-int8,"
        "torch-fp32",
        "benchmarks/embed.py {photos} --repeats 1 --peers plain,torch-fp32",
        "The same beside every tool that could be installed, without bf16: medians of three rounds.",
    ),
    "embed-large": Benchmark(
        "benchmarks/embed.py {photos} --large 30",
        "benchmarks/embed.py {photos} --large 2 --repeats 1 --peers plain,torch-fp32",
        "The same on generated photos of 12 megapixels, where decoding is most of the work: medians of three rounds.",
    ),
    "search": Benchmark(
        "benchmarks/search.py --rows 200000 --dim 256",
        "benchmarks/search.py --rows 5000 --dim 32 --queries 16 --kinds exact,pq",
        "Every kind of index beside raw FAISS with the same structure, numpy and torch: the quickest of three runs.",
        ("faiss",),
    ),
    "search-million": Benchmark(
        "benchmarks/search.py --rows 1000000 --dim 512 --kinds exact,pq --only-ours",
        "benchmarks/search.py --rows 20000 --dim 32 --queries 16 --kinds exact,pq --only-ours",
        "A million vectors (2 GB on disk): the quickest of three runs.",
        ("faiss",),
    ),
    "search-large": Benchmark(
        "benchmarks/search.py --rows 10000000 --dim 256 --kinds exact,pq --only-ours",
        "benchmarks/search.py --rows 20000 --dim 32 --queries 16 --kinds exact,pq --only-ours",
        "Ten million vectors (10 GB on disk), read in bounded memory: the quickest of three runs.",
        ("faiss",),
    ),
    "probe": Benchmark(
        "benchmarks/probe.py",
        "benchmarks/probe.py --rows 2000 --queries 500 --dim 32 --every 20",
        "kNN beside the loop that most repositories copy: the quicker of two runs; 45 linear probes beside scikit-learn: one "
        "run.",
        ("sklearn",),
    ),
    "finetune-caltech101": Benchmark(
        "-m benchmarks.finetune {data}/caltech101/train.parquet {data}/caltech101/test.parquet --size 64 --epochs 8",
        "-m benchmarks.finetune {data}/caltech101/train.parquet {data}/caltech101/test.parquet --size 32 --epochs 1 "
        "--tests 50",
        "The encoder inside the package, fine-tuned, beside the same network trained from scratch for as many epochs: one run "
        "of each.",
        data=("caltech101/train.parquet", "caltech101/test.parquet"),
    ),
    "finetune-cifar10": Benchmark(
        "-m benchmarks.finetune {data}/cifar10/train-00000-of-00002.parquet {data}/cifar10/test.parquet --images 3000 "
        "--tests 1000 --size 48 --epochs 5",
        "-m benchmarks.finetune {data}/cifar10/train-00000-of-00002.parquet {data}/cifar10/test.parquet --images 256 "
        "--tests 50 --size 32 --epochs 1",
        "The same on 3,000 images of 32 px: one run of each.",
        data=("cifar10/train-00000-of-00002.parquet", "cifar10/test.parquet"),
    ),
    "train": Benchmark(
        "-m benchmarks.train --repeats 3",
        "-m benchmarks.train --methods simclr",
        "Source images a second of the training loop beside lightly's, by the median step: medians of three runs.",
        ("lightly",),
    ),
    "train-avx2": Benchmark(
        "-m benchmarks.train",
        "-m benchmarks.train --methods simclr",
        "The same on a processor kept from instructions beyond AVX2, as the first line tells: one run.",
        ("lightly",),
        environment=("ATEN_CPU_CAPABILITY=avx2", "ONEDNN_MAX_CPU_ISA=AVX2", "MKL_ENABLE_INSTRUCTIONS=AVX2"),
    ),
    "progressive": Benchmark(
        "-m benchmarks.progressive --data {data}/tinyimagenet",
        "-m benchmarks.progressive --data {data}/tinyimagenet --minutes 0.2 --images 512",
        "What a low resolution first gains in ten minutes of one thread: one run of each.",
        data=("tinyimagenet/train-00000-of-00002.parquet", "tinyimagenet/val.parquet"),
    ),
    "methods": Benchmark(
        "-m benchmarks.methods", "-m benchmarks.methods --batch 16", "What each method costs: median steps."
    ),
    "fidelity": Benchmark(
        "-m benchmarks.fidelity",
        "-m benchmarks.fidelity",
        "Losses, gradients and weights beside independent implementations: relative differences, which no repetition changes.",
        ("lightly",),
    ),
    "demo": Benchmark(
        "-m benchmarks.demo",
        "-m benchmarks.demo --rows 500 --map-rows 600",
        "How quickly the demo's page is there, and answers: one run of each.",
        ("gradio", "playwright"),
        programs=("chromium",),
    ),
    "probe-gpu": Benchmark(
        "benchmarks/probe.py --device cuda",
        "benchmarks/probe.py --device cuda --rows 2000 --queries 500 --dim 32 --every 20",
        "kNN and linear probes on a GPU: the quicker of two runs.",
        ("sklearn",),
        programs=("nvidia-smi",),
    ),
    "train-gpu": Benchmark(
        "-m benchmarks.train --device cuda --recipes simsiam-r18.cifar10,simclr-r18.cifar10,simsiam-r50.tin",
        "-m benchmarks.train --device cuda --recipes simclr-r18.cifar10",
        "The training loop on a GPU: images a second, MFU, and where a step's time goes, by the median step.",
        programs=("nvidia-smi",),
    ),
}


def missing(benchmark: Benchmark, data: Path | None) -> str:
    """Why this machine can't run it, or nothing."""
    if lacking := [name for name in benchmark.data if data is None or not (data / name).is_file()]:
        return f"it needs --data FOLDER with {', '.join(lacking)}"
    if absent := [name for name in benchmark.packages if importlib.util.find_spec(name) is None]:
        return f"{', '.join(absent)} is not installed"
    absent = [name for name in benchmark.programs if shutil.which(name) is None]
    return f"there is no {', '.join(absent)} here" if absent else ""


def machine() -> list[str]:
    """Where it runs and with what, in lines."""
    packages = []
    for name in SHOWN:
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    lines = [
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        f"sslzoo {version('sslzoo')} at commit {commit or 'unknown'}, {', '.join(packages)}",
    ]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        lines.append(subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
    return lines


def versions(pythons: list[str]) -> list[str]:
    """What peers in environments of their own are, in lines."""
    lines = []
    for name, path in (pair.split("=", 1) for pair in pythons):
        code = "from importlib.metadata import distributions; print({d.name: d.version for d in distributions()})"
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=True)
        found = ast.literal_eval(done.stdout)
        own = name.partition("-bf16")[0]  # of peers that run twice, such as timm-bf16
        lines.append(f"{name}: {', '.join(f'{each} {found[each]}' for each in (own, 'torch') if each in found)}")
    return lines


def run(name: str, arguments: list[str], pythons: list[str], *, quick: bool = False) -> str:
    """A benchmark's section: where, how and when it ran, and what it printed; raises CalledProcessError if it fails."""
    where = [*machine(), *versions(pythons)]
    busy = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    began = time.monotonic()
    environment = BENCHMARKS[name].environment
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | dict(pair.split("=", 1) for pair in environment),
    )
    minutes = (time.monotonic() - began) / 60
    shown = shlex.join([*environment, "python", *arguments])
    facts = [
        f"`{shown}`",
        *where,
        f"{datetime.date.today()}, {minutes:.1f} minutes, load before it {busy}",
    ]
    shows = "Small sizes, to see that it works; no figures to quote." if quick else BENCHMARKS[name].shows
    head = f"## {name}\n\n{shows}\n\n" + "\n".join(f"- {fact}" for fact in facts) + "\n\n"
    return head + layout(done.stdout)


def layout(output: str) -> str:
    """What a benchmark printed as Markdown: its tables as they are, everything else as it stood."""
    parts = []
    for block in re.split(r"\n\s*\n", output.strip("\n")):
        lines: list[str] = []
        for line in block.splitlines():
            if lines and line.startswith("|") != lines[-1].startswith("|"):
                parts.append(lines)
                lines = []
            lines.append(line)
        parts.append(lines)
    texts = ("\n".join(lines) for lines in parts if lines)
    return "\n".join(f"{text}\n" if text.startswith("|") else f"```text\n{text}\n```\n" for text in texts)


def sections(path: Path) -> dict[str, str]:
    """The sections of the file by their names."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return dict(re.findall(r"<!-- ([\w -]+) -->\n(.*?)<!-- / -->\n", text, re.S))


def write(path: Path, name: str, section: str) -> None:
    """Puts a section into the file, in the order of BENCHMARKS, in the place of an earlier one; an empty one is dropped."""
    there = sections(path) | {name: section}
    order = [*BENCHMARKS, "left out"]
    body = "".join(f"\n<!-- {key} -->\n{there[key]}<!-- / -->\n" for key in order if there.get(key))
    path.write_text(TITLE + body, encoding="utf-8")


def main() -> None:
    """Runs them one after the other and writes each section as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="with commas: %(default)s")
    parser.add_argument("--photos", type=Path, help="a folder of photos; by default the project's own, ten times")
    parser.add_argument("--data", type=Path, help="a folder of labelled sets as Parquet, such as cifar10/test.parquet")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="an embed peer's interpreter"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; not figures to quote")
    parser.add_argument("-o", "--output", type=Path, help="by default benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.quick and options.output is None:
        parser.error("--quick needs -o FILE: its figures are none for benchmarks/RESULTS.md")
    output = options.output or RESULTS
    options.data = options.data and options.data.resolve()  # benchmarks run in the repository's folder
    names = options.only.split(",")
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        photos = options.photos or copies(Path(temporary), 1 if options.quick else 10)
        for name in names:
            if missing(BENCHMARKS[name], options.data):
                continue
            print(f"{name} …", file=sys.stderr, flush=True)
            chosen = BENCHMARKS[name].quick if options.quick else BENCHMARKS[name].arguments
            pythons = options.python if name.startswith("embed") else []
            arguments = [part.format(photos=photos, data=options.data) for part in shlex.split(chosen)]
            try:
                section = run(
                    name, [*arguments, *(f"--python={pair}" for pair in pythons)], pythons, quick=options.quick
                )
            except subprocess.CalledProcessError as error:
                failed[name] = f"it failed with exit code {error.returncode}"
                print(f"{error.stdout}{name}: {failed[name]}", file=sys.stderr)
                continue
            data = [str(options.data)] if options.data else []
            for private in (temporary, *data, *(pair.split("=", 1)[1] for pair in pythons)):
                section = section.replace(private, "…")
            write(output, name, section)
    absent = [name for name in BENCHMARKS if name not in sections(output)]
    reasons = [
        f"- {name}: {missing(BENCHMARKS[name], options.data) or failed.get(name) or 'not run yet'}" for name in absent
    ]
    write(output, "left out", "## Not run here\n\n" + "\n".join(reasons) + "\n" if reasons else "")
    print(output)
    if failed:
        sys.exit(1)


def copies(folder: Path, times: int) -> Path:
    """The project's photos so many times, under different names."""
    out = folder / "photos"
    out.mkdir()
    for path in sorted(PHOTOS.glob("*.jpg")):
        for number in range(times):
            shutil.copy(path, out / f"{path.stem}-{number}.jpg")
    return out


if __name__ == "__main__":
    main()
