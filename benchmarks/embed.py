"""`sslzoo embed` side by side with what people use today, as whole commands: images/s, memory, first image, ratio, cosine.

    python benchmarks/embed.py PHOTOS                                     ours and the peers installed here, three rounds
    python benchmarks/embed.py PHOTOS --python lightly-train=VENV/bin/python --peers plain,openvino-bf16,lightly-train
    python benchmarks/embed.py PHOTOS --large 30                          30 generated photos of 4000x3000 instead

Every run is a process of its own and start-up counts; the runs take turns (A B C A B C …) and medians are printed. The
ratio is that of times to the plain torchvision script. "first image" is the whole command on a folder with one image.
The first round also pays for what is kept afterwards: a compiled graph, int8's calibration on the photos. Memory is the
peak of the process tree (shared pages counted once). The cosine is the lowest to the plain script's vectors.
The encoder is a ResNet-50 with random weights unless `--model` names another: speed doesn't depend on them (cosine does).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

PEERS = Path(__file__).with_name("peers.py")
OURS = {
    "openvino-fp32": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
    "openvino-int8": ("openvino", "int8"),
    "torch-fp32": ("torch", "fp32"),
    "torch-bf16": ("torch", "bf16"),
    "package": ("auto", "auto"),
}
THEIRS = ("plain", "timm", "timm-bf16", "transformers", "thingsvision", "lightly-train")


def command(name, folder, out, model, pythons):
    """The command line that embeds `folder` into `out`."""
    if name in OURS:
        backend, precision = OURS[name]
        chosen = [] if name == "package" else ["-m", f"local-dir:{model}", "--backend", backend]
        start = [sys.executable, "-m", "sslzoo", "embed", str(folder), "-o", str(out)]
        return [*start, *chosen, "--precision", precision, "-q", "--device", "cpu"]
    return [pythons.get(name, sys.executable), str(PEERS), name, str(folder), str(out), str(model)]


def run(arguments, environment):
    """Seconds and peak megabytes of a command with all its processes; None when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    reader.join()
    if process.returncode not in (0, 3):
        print(f"  failed ({process.returncode}): {errors[0].strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return seconds, peak


def memory(pid):
    """Megabytes that a process and its descendants hold: resident if it is alone, else proportional (shared counted once)."""
    tree = [pid, *descendants(pid)]
    total = 0
    for one in tree:
        try:
            if len(tree) == 1:
                total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            else:
                lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
                total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1e6


def descendants(pid):
    try:
        children = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *descendants(child))]


def vectors(out):
    """Vectors by file name as a run left them, or nothing where it used another network or another preprocessing."""
    if out.is_dir():
        import sslzoo

        made = sslzoo.open_embeddings(out)
        return dict(zip(made.ids, made.vectors, strict=True))
    if not out.exists():
        return {}
    with np.load(out) as saved:
        return dict(zip(saved["names"].tolist(), saved["vectors"], strict=True))


def lowest_cosine(ours, plain):
    if not plain or set(ours) != set(plain) or len(next(iter(ours.values()))) != len(next(iter(plain.values()))):
        return None
    a, b = (np.stack([side[name] for name in plain]).astype(np.float64) for side in (ours, plain))
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def neighbours_kept(ours, plain, k=10):
    """The share of each photo's ten nearest that stay its ten nearest."""
    if lowest_cosine(ours, plain) is None or len(plain) <= k:
        return None
    lists = []
    for side in (ours, plain):
        z = np.stack([side[name] for name in plain]).astype(np.float64)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        scores = z @ z.T
        np.fill_diagonal(scores, -2)
        lists.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*lists, strict=True)]))


def mosaics(photos, folder, count):
    """Camera-sized photos of 4000x3000 px, tiled from others."""
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    rng = np.random.default_rng(0)
    for i in range(count):
        large = Image.new("RGB", (4000, 3000))
        for x in range(0, 4000, 500):
            for y in range(0, 3000, 375):
                with Image.open(files[rng.integers(len(files))]) as tile:
                    large.paste(tile.convert("RGB").resize((500, 375)), (x, y))
        large.save(folder / f"{i:03d}.jpg", quality=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--peers", default=",".join((*THEIRS, *OURS)), help="which, with commas: %(default)s")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a model folder, by default a ResNet-50 with random weights")
    parser.add_argument("--large", type=int, default=0, help="generate so many photos of 12 megapixels and use them")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="a peer's own interpreter")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in options.python)
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(options, pythons, Path(temporary))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def measure(options, pythons, scratch):
    photos, model = options.photos, options.model
    environment = os.environ | {"SSLZOO_CACHE": str(scratch / "cache"), "HF_HUB_OFFLINE": "1"}
    # a peer that sends usage events (lightly-train does unless told not to) shan't during a benchmark
    environment |= {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    if options.large:
        (scratch / "large").mkdir()
        mosaics(photos, scratch / "large", options.large)
        photos = scratch / "large"
    if model is None:
        model = scratch / "model"
        made = "import sys, sslzoo; sslzoo.load('random-r50', device='cpu').save_pretrained(sys.argv[1])"
        subprocess.run([sys.executable, "-c", made, str(model)], check=True, env=environment)
    files = sorted(p for p in photos.rglob("*") if p.is_file())
    (scratch / "one").mkdir()
    (scratch / "one" / files[0].name).write_bytes(files[0].read_bytes())
    names = options.peers.split(",")
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    found = {}
    for round_ in range(options.repeats):
        for name in list(names):
            first, out = scratch / f"first-{name}-{round_}.npz", scratch / f"{name}-{round_}.npz"
            single = run(command(name, scratch / "one", first, model, pythons), environment)
            whole = run(command(name, photos, out, model, pythons), environment) if single else None
            if single is None or whole is None:
                print(f"left out: {name}, which does not run here (not installed?)")
                names.remove(name)
                continue
            times[name].append((whole[0], whole[1], single[0]))
            found[name] = vectors(out)
            print(f"  round {round_ + 1}: {name:<14} {whole[0]:7.2f} s", file=sys.stderr, flush=True)
    plain = statistics.median(t[0] for t in times["plain"]) if times.get("plain") else None
    print(f"\n{len(files)} photos, medians of {options.repeats}, {processor()}, {os.cpu_count()} cores\n")
    print("| run | img/s | whole s | x plain | first round s | peak MB | first image s | cosine | 10 neighbours kept |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    results = []
    for name in names:
        seconds, peak, first = (statistics.median(column) for column in zip(*times[name], strict=True))
        cosine = lowest_cosine(found[name], found.get("plain"))
        row = {
            "name": name,
            "images_per_second": len(files) / seconds,
            "seconds": seconds,
            "ratio": plain and plain / seconds,
            "first_round_s": times[name][0][0],
            "peak_mb": peak,
            "first_image_s": first,
            "cosine": cosine,
            "neighbours_kept": neighbours_kept(found[name], found.get("plain")),
        }
        results.append(row)
        cells = (f"{row[key]:.{digits}f}" if row[key] is not None else "" for key, digits in
                 (("images_per_second", 1), ("seconds", 2), ("ratio", 2), ("first_round_s", 2), ("peak_mb", 0),
                  ("first_image_s", 2), ("cosine", 6), ("neighbours_kept", 3)))  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")
    return results


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "an unknown processor"
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    flags = {k.strip(): v for k, v in facts.items()}.get("flags", "").split()
    name = next((v.strip() for k, v in facts.items() if k.strip() == "model name"), "a processor")
    return f"{name} ({', '.join(f for f in ('avx2', 'avx512_bf16', 'avx512_vnni', 'amx_tile') if f in flags)})"


if __name__ == "__main__":
    main()
