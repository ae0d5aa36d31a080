"""kNN classification and the linear probe's sweep, side by side with what people use: ratios within one run.

    python benchmarks/probe.py                              the sizes of the goals; some minutes
    python benchmarks/probe.py --rows 5000 --queries 1000   seconds
    python benchmarks/probe.py --embedded TRAIN TEST --tolerance 1e-7 --float float64 --iterations 5000
                                                            the sweep alone, on two outputs of `sslzoo embed`

The one-hot loop is the one that MoCo's notebook, lightly and others copy from InstDisc. scikit-learn's 45 fits are timed on
every `--every`-th penalty, and the sum is scaled up. The data is generated: ReLU features with a decaying spectrum.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch

from sslzoo.embeddings import Embeddings
from sslzoo.evaluate import logistic
from sslzoo.evaluate.knn import knn
from sslzoo.evaluate.linear import GRID, moments
from sslzoo.evaluate.score import codes


def generate(rows, dim, classes, separation, seed):
    random = np.random.default_rng(seed)
    world = np.random.default_rng(1234)
    scales = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    mix = world.standard_normal((dim, dim), np.float32) / dim**0.5
    centres = separation * world.standard_normal((classes, dim), np.float32)
    labels = random.integers(0, classes, rows)
    hidden = (centres[labels] + random.standard_normal((rows, dim), np.float32)) * scales
    return np.maximum(hidden @ mix, 0), labels


def one_hot_loop(bank, labels, probes, truth, classes, k, temperature, batch=512):
    """As it stands in the SSL repositories: a one-hot matrix of all neighbours of a batch, weighed and summed."""
    keys, right = bank.T.contiguous(), 0
    for start in range(0, len(probes), batch):
        similarity = torch.mm(probes[start : start + batch], keys)
        weights, nearest = similarity.topk(k=k, dim=-1)
        n = len(weights)
        voters = torch.gather(labels.expand(n, -1), dim=-1, index=nearest)
        weights = (weights / temperature).exp()
        one_hot = torch.zeros(n * k, classes, device=bank.device)
        one_hot = one_hot.scatter(dim=-1, index=voters.view(-1, 1), value=1.0)
        scores = torch.sum(one_hot.view(n, -1, classes) * weights.unsqueeze(dim=-1), dim=1)
        right += (scores.argsort(dim=-1, descending=True)[:, 0] == truth[start : start + batch]).float().sum().item()
    return right / len(probes)


def timed(run, device):
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def best(run, device, repeats=2):
    return min((timed(run, device) for _ in range(repeats)), key=lambda pair: pair[0])


def compare_knn(options):
    x, y = generate(options.rows + options.queries, options.dim, 100, 0.5, 0)
    train, test = (
        Embeddings(x[rows], [str(i) for i in range(len(x[rows]))], space="s", labels=y[rows].tolist())
        for rows in (slice(options.rows), slice(options.rows, None))
    )
    device = options.device
    bank, probes = (torch.tensor(e.normalized, device=device) for e in (train, test))
    labels, truth = (torch.tensor(e.labels, device=device) for e in (train, test))
    loop, accuracy = best(lambda: one_hot_loop(bank, labels, probes, truth, 100, 200, 0.07), device)
    print(
        f"kNN, {options.rows} x {options.queries}, dim {options.dim}, k=200: one-hot loop {loop:.2f} s ({accuracy:.4f})"
    )
    for precision in ("fp32", "bf16"):
        for name, protocols in (("one protocol", [(200, 0.07)]), ("twelve protocols", None)):
            arguments = [protocols] if protocols else [[(k, t) for t in (0.07, 0.1) for k in (1, 5, 10, 20, 100, 200)]]
            seconds, scores = best(
                lambda a=arguments, p=precision: knn(train, test, *a, device=device, precision=p), device
            )
            value = {s.protocol.split()[0]: s.value for s in scores}["knn_top1@k=200,T=0.07"]
            print(f"  sslzoo {precision}, {name}: {seconds:.2f} s ({value:.4f}), {loop / seconds:.1f}x the loop")


def generated_sets(options, dim, classes, separation):
    x, y = generate(options.rows + options.queries, dim, classes, separation, 0)
    return x[: options.rows], x[options.rows :], y[: options.rows], y[options.rows :], classes


def embedded_sets(folders):
    train, test = map(Embeddings.open, folders)
    classes, labels, truth = codes(train, test, "a linear probe")
    return train.vectors, test.vectors, labels, truth, len(classes)


def compare_sweep(options, train, test, labels, truth, classes):
    from sklearn.linear_model import LogisticRegression

    train, test = torch.tensor(train), torch.tensor(test)
    mean, std = moments(train)
    train, test = ((x - mean) / std for x in (train, test))
    device = options.device
    on_device = train.to(device), torch.tensor(labels, device=device)
    seconds, solutions = timed(lambda: logistic.fit(*on_device, classes, GRID), device)
    ours = (solutions.logits(test.to(device)).argmax(2).cpu().numpy() == truth).mean(1)
    rows, dim = train.shape
    print(f"sweep, {rows} x {dim}, {classes} classes: sslzoo {seconds:.1f} s for 45, {solutions.rounds} rounds")
    array = train.numpy().astype(options.float)
    total, some = 0.0, range(0, len(GRID), options.every)
    for i in some:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            c = (2 if classes == 2 else 1) / GRID[i]  # of two classes scikit-learn penalises one weight vector
            fit = LogisticRegression(C=c, max_iter=options.iterations, tol=options.tolerance)
            took, _ = timed(lambda f=fit: f.fit(array, labels), "cpu")
        total += took
        print(
            f"  λ={GRID[i]:8.2g}: scikit-learn {took:.1f} s, {fit.n_iter_[0]} iterations, "
            f"{fit.score(test.numpy(), truth):.4f}; sslzoo {ours[i]:.4f}",
            flush=True,
        )
    whole = total * len(GRID) / len(some)
    print(f"  45 separate fits {whole:.1f} s, {whole / seconds:.1f}x the sweep")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--every", type=int, default=6, help="of the 45 penalties, how many scikit-learn skips")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of scikit-learn's fits")
    parser.add_argument("--iterations", type=int, default=1000, help="of scikit-learn's fits, at most")
    parser.add_argument("--float", choices=("float32", "float64"), default="float32", help="of scikit-learn's fits")
    parser.add_argument("--embedded", nargs=2, metavar=("TRAIN", "TEST"), help="the sweep on these instead")
    parser.add_argument("--only", choices=("knn", "sweep"))
    parser.add_argument("--hard", action="store_true", help="the sweep also at 2048 features and 100 classes")
    options = parser.parse_args()
    if options.embedded:
        if options.only == "knn" or options.hard:
            parser.error("--embedded is for the sweep alone, without --only knn and --hard")
        compare_sweep(options, *embedded_sets(options.embedded))
        return
    if options.only != "sweep":
        compare_knn(options)
    if options.only != "knn":
        compare_sweep(options, *generated_sets(options, options.dim, 10, 0.2))
        if options.hard:
            compare_sweep(options, *generated_sets(options, 2048, 100, 0.35))


if __name__ == "__main__":
    main()
