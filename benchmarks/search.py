"""Search side by side with raw FAISS, numpy, torch, and hnswlib and usearch where installed: ratios within one run.

    python benchmarks/search.py --rows 200000 --dim 256            a few minutes
    python benchmarks/search.py --rows 10000000 --dim 256 --kinds ivfpq --only-ours

The vectors are generated: clusters, written as an embeddings folder part by part in bounded memory. Reported are queries per
second in bulk, milliseconds for a single query, recall@10 against exact search, build time, and the most memory so far: that
of the process itself (on Linux; elsewhere with the pages of mapped files, which the system may take back). Each kind of ours
stands beside raw FAISS with the same structure, refined on a flat copy; exact search beside FAISS's flat index.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sslzoo.embeddings import MANIFEST, part_name
from sslzoo.index import faiss_door, folder
from sslzoo.index.exact import ExactIndex, exact

PART = 1024  # rows, as embed writes them


def generate(path, rows, dim, seed=0):
    """An embeddings folder of clustered vectors: 1 centre per 1000 rows, at least 50, spread in 64 dimensions around it.

    Returns a function that draws as many more.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(50, rows // 1000), dim), np.float32)
    spread = rng.standard_normal((64, dim), np.float32) * (0.6 / 8)

    def draw(n):
        return centres[rng.integers(0, len(centres), n)] + rng.standard_normal((n, 64), np.float32) @ spread

    path.mkdir()
    for number, start in enumerate(range(0, rows, PART)):
        n = min(PART, rows - start)
        vectors = pa.array(draw(n).ravel())
        columns = {
            "path": pa.array([f"{start + i}.jpg" for i in range(n)]),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors, dim),
            "label": pa.nulls(n, pa.string()),
        }
        pq.write_table(pa.table(columns), path / part_name(number), compression="NONE", use_dictionary=False)
    manifest = {"format": 1, "model": "generated", "dim": dim, "space": "s", "rows": rows, "complete": True}
    (path / MANIFEST).write_text(json.dumps(manifest))
    return draw


class Memory:
    """The most memory of this process since it began, in MB, looked at twenty times a second."""

    def __init__(self):
        self.most = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            self.most = max(self.most, self._now())
            time.sleep(0.05)

    def _now(self):
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def best(run, repeats=3):
    """The shortest of some runs, in seconds; other processes only ever lengthen one."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return min(times), result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--kinds", default="exact,flat,pq,ivfpq,rabitq,ivf,hnsw")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--only-ours", action="store_true", help="for collections that the others can't hold")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    memory = Memory()

    def report(name, build, run, one, truth, beside=None):
        bulk, rows = best(run)
        single, _ = best(lambda: [one(i) for i in range(10)])
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)])
        line = {
            "build_s": build,
            "qps": len(truth) / bulk,
            "one_ms": 100 * single,
            "recall": float(recall),
            "peak_mb": memory.most,
        }
        text = (
            f"{name:<28} build {build:8.2f} s  {line['qps']:9.0f} q/s  one {line['one_ms']:8.2f} ms  "
            f"recall {recall:.3f}  peak {line['peak_mb']:6.0f} MB"
        )
        if beside in results:
            ours, theirs = (line, results[beside]) if name.startswith("sslzoo") else (results[beside], line)
            line["ours_to_theirs"] = ours["qps"] / theirs["qps"], theirs["one_ms"] / ours["one_ms"]
            text += "  ours: {:.2f}x in bulk, {:.2f}x for one".format(*line["ours_to_theirs"])
        results[name] = line
        print(text, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "e"
        start = time.perf_counter()
        draw = generate(path, options.rows, options.dim)
        queries = draw(options.queries)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        print(f"{options.rows} x {options.dim} generated in {time.perf_counter() - start:.0f} s", flush=True)
        start = time.perf_counter()
        index = folder.write_index(path, "exact")
        stored = time.perf_counter() - start
        truth = exact(index.collection, queries, 10)[0]
        bank = np.asarray(index.collection.normalized)
        for kind in options.kinds.split(","):
            start = time.perf_counter()
            index = (
                folder.write_index(path, kind, recall=options.recall)
                if kind != "exact"
                else ExactIndex(index.collection)
            )
            build = time.perf_counter() - start if kind != "exact" else stored
            report(
                f"sslzoo {kind}",
                build,
                lambda index=index: index.search(queries, 10).rows,
                lambda i, index=index: index.search(queries[i : i + 1], 10),
                truth,
            )
            if hasattr(index, "structure") and not options.only_ours:
                raw(index, queries, truth, report)
        command = [sys.executable, "-m", "sslzoo", "search", str(path), "7.jpg", "-k", "5"]
        seconds, _ = best(lambda: subprocess.run(command, check=True, capture_output=True))
        print(f"one query by id from a shell, {index.kind}, start-up included: {seconds:.2f} s")
        if not options.only_ours:
            others(bank, queries, truth, report)
            ours = ExactIndex(index.collection)  # now that torch is loaded
            report(
                "sslzoo exact with torch",
                0,
                lambda: ours.search(queries, 10).rows,
                lambda i: ours.search(queries[i : i + 1], 10),
                truth,
                "raw FAISS flat",
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def raw(index, queries, truth, report):
    """The same FAISS structure at the same effort, refined by FAISS itself on a flat copy."""
    faiss = faiss_door.load()
    value, factor = index.facts.efforts[index.effort]
    flat = faiss.IndexFlatIP(index.collection.dim)
    flat.add(np.asarray(index.collection.normalized))
    refined = faiss.IndexRefine(index.structure, flat)
    m = max(32, factor * 11)
    refined.k_factor = m / 10
    if index.facts.knob == "efSearch":
        index.structure.hnsw.efSearch = max(value, m)
    elif index.facts.knob:
        index.structure.nprobe = value
    report(
        f"raw FAISS {index.kind}",
        0,
        lambda: refined.search(queries, 10)[1],
        lambda i: refined.search(queries[i : i + 1], 10),
        truth,
        f"sslzoo {index.kind}",
    )


def others(bank, queries, truth, report):
    """Brute force by raw FAISS, numpy and torch; graphs by hnswlib and usearch where installed."""
    faiss = faiss_door.load()
    start = time.perf_counter()
    flat = faiss.IndexFlatIP(bank.shape[1])
    flat.add(bank)
    report(
        "raw FAISS flat",
        time.perf_counter() - start,
        lambda: flat.search(queries, 10)[1],
        lambda i: flat.search(queries[i : i + 1], 10),
        truth,
        "sslzoo exact",
    )

    def by_numpy(q):
        near = q @ bank.T
        rows = np.argpartition(-near, 9, axis=1)[:, :10]
        return np.take_along_axis(rows, np.argsort(-np.take_along_axis(near, rows, 1), axis=1), 1)

    report("numpy", 0, lambda: by_numpy(queries), lambda i: by_numpy(queries[i : i + 1]), truth)
    if importlib.util.find_spec("hnswlib"):
        import hnswlib

        start = time.perf_counter()
        graph = hnswlib.Index("ip", bank.shape[1])
        graph.init_index(len(bank), M=32, ef_construction=40)
        graph.add_items(bank, num_threads=1)
        graph.set_ef(64)
        build = time.perf_counter() - start
        report(
            "hnswlib",
            build,
            lambda: graph.knn_query(queries, 10)[0],
            lambda i: graph.knn_query(queries[i : i + 1], 10),
            truth,
        )
    if importlib.util.find_spec("usearch"):
        from usearch.index import Index

        start = time.perf_counter()
        graph = Index(ndim=bank.shape[1], metric="ip", dtype="bf16")
        graph.add(np.arange(len(bank)), bank)
        build = time.perf_counter() - start
        report(
            "usearch bf16", build, lambda: graph.search(queries, 10).keys, lambda i: graph.search(queries[i], 10), truth
        )
    import torch  # last: where it is loaded, our exact search uses it too

    keys = torch.from_numpy(np.array(bank)).T

    def by_torch(q):
        return torch.topk(torch.from_numpy(q) @ keys, 10, dim=1).indices.numpy()

    report("torch", 0, lambda: by_torch(queries), lambda i: by_torch(queries[i : i + 1]), truth)


if __name__ == "__main__":
    main()
