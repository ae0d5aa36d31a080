"""Training speed beside lightly's: source images per second (two views each), same machine, data, network and precision.

`python -m benchmarks.train [--size 40] [--methods simclr,byol]`. Ours is the loop of `training` on the recipe of an
hour; theirs is what lightly's own examples do (its transform in a DataLoader, its heads and loss), in the same
precision and channels_last, at the best of 0, 1 and 2 workers. Both train a ResNet-18 on the same generated JPEGs
of 64 px; a few steps are thrown away. It needs `pip install lightly`. Every measurement is a process of its own, set up
as its side sets it up (ours keeps freed memory), and the sides are interleaved.

`--recipes simsiam-r18.cifar10,simsiam-r50.tin` measures ours alone, on recipes of any size, so `--device cuda` too. Both
print MFU (of a large matrix product measured at the same time) and how a step divides into augmentation, forward,
backward and the rest (optimiser, target); on a GPU that is a second run, which waits after each part.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sslzoo.backends.allocator import keep_freed_memory
from sslzoo.backends.processor import native_bf16
from training import cost, data, engine, recipe, small_maps
from training.facts import processor_name

SKIP, COUNT = 4, 12


def make_images(folder: Path, n: int) -> None:
    """JPEGs of 64 px with structure at all scales, as photos have it."""
    rng = np.random.default_rng(0)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (64, 64, 3))
        Image.fromarray((np.asarray(small) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)


PARTS = ("augmentation", "forward", "backward", "rest")


def ours(settings: recipe.Recipe, folder: Path | None, device: str) -> dict[str, float]:
    """Our loop: images per second by the median step, MFU, and the parts' shares of a step.

    Without a folder the images are noise, as many as a few batches take.
    """
    keep_freed_memory()  # as `python -m training` does
    if folder is None:
        shape = (4 * settings.batch_size, 3, settings.store_size, settings.store_size)
        images: data.Images | Tensor = torch.randint(0, 256, shape, dtype=torch.uint8)
    else:
        images = data.load(str(folder), settings.store_size, quiet=True)
    bf16 = settings.precision != "fp32" and native_bf16(device)
    costs = cost.Cost(cost.stages(settings), cost.peak_flops(device, bf16=bf16))
    times, marks = timed(settings, images, device, wait=False)
    speed = settings.batch_size / statistics.median(times)
    if device != "cpu":
        times, marks = timed(settings, images, device, wait=True)
    result = {"speed": speed, "MFU": speed * costs.flops(0, 1) / costs.peak}
    parts = {part: statistics.median(seconds[SKIP:]) / statistics.median(times) for part, seconds in marks.items()}
    return result | parts | {"rest": 1 - sum(parts.values())}


def timed(
    settings: recipe.Recipe, images: data.Images | Tensor, device: str, *, wait: bool
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each step after the first few, and of its parts; with `wait` a GPU ends each part before the next."""
    network = engine.build(settings)
    began: list[float] = []
    marks: dict[str, list[float]] = {part: [] for part in PARTS[:-1]}
    finished = 0.0  # when the forward pass was

    def now(*, always: bool = False) -> float:
        if device != "cpu" and (wait or always):
            torch.cuda.synchronize()
        return time.perf_counter()

    def clocked(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal finished
            start = now()
            result = function(*arguments)
            finished = now()
            marks[part].append(finished - start)
            return result

        return call

    def stop() -> bool:  # asked before every step
        began.append(now(always=True))
        return len(began) > SKIP + COUNT

    network.loss = clocked(network.loss, "forward")  # type: ignore[method-assign]
    views, engine.make_views = engine.make_views, clocked(engine.make_views, "augmentation")
    hook = register_optimizer_step_pre_hook(lambda *_: marks["backward"].append(now() - finished))
    try:
        for _ in engine.train(network, images, settings, device=device, stop=stop, report_seconds=1e9):
            pass
    finally:
        engine.make_views = views
        hook.remove()
    return [b - a for a, b in itertools.pairwise(began[SKIP:])], marks


class Peer(nn.Module):
    """lightly's heads and loss of one method around torchvision's ResNet-18, with the sizes of our recipe."""

    def __init__(self, method: str) -> None:
        super().__init__()
        import torchvision
        from lightly import loss
        from lightly.models.modules import heads

        options = recipe.load(f"{method}-r18.tin_cpu_1h").method_options
        self.method, self.backbone = method, torchvision.models.resnet18(zero_init_residual=True)
        self.backbone.fc = nn.Identity()
        if method == "simclr":
            self.head = heads.SimCLRProjectionHead(512, options["hidden"], options["projection"])
            self.loss = loss.NTXentLoss(temperature=options["temperature"])
        elif method == "mocov2":
            self.head = heads.MoCoProjectionHead(512, 512, 128)
            self.loss = loss.NTXentLoss(temperature=options["temperature"], memory_bank_size=(options["queue"], 128))
        elif method == "byol":
            self.head = heads.BYOLProjectionHead(512, options["hidden"], options["projection"])
            self.predict = heads.BYOLPredictionHead(options["projection"], options["hidden"], options["projection"])
            self.loss = loss.NegativeCosineSimilarity()
        elif method == "simsiam":
            # lightly's own has three layers, the recipe two
            width = options["projection"]
            last = (width, width, nn.BatchNorm1d(width, affine=False), None)
            self.head = heads.ProjectionHead([(512, width, nn.BatchNorm1d(width), nn.ReLU()), last])
            self.predict = heads.SimSiamPredictionHead(
                options["projection"], options["prediction"], options["projection"]
            )
            self.loss = loss.NegativeCosineSimilarity()
        else:
            self.head = heads.SwaVProjectionHead(512, options["hidden"], options["projection"])
            self.prototypes = heads.SwaVPrototypes(options["projection"], options["prototypes"])
            self.loss = loss.SwaVLoss()
        if method in ("mocov2", "byol"):
            self.momentum = copy.deepcopy(nn.Sequential(self.backbone, self.head)).requires_grad_(False)

    def forward(self, views: list[Tensor]) -> Tensor:
        from lightly.models.utils import update_momentum

        a, b = views
        if self.method in ("mocov2", "byol"):
            update_momentum(nn.Sequential(self.backbone, self.head), self.momentum, m=0.99)
        if self.method == "mocov2":
            with torch.no_grad():
                key = self.momentum(b)
            return self.loss(self.head(self.backbone(a)), key)  # type: ignore[no-any-return]
        z = [self.head(self.backbone(view)) for view in views]
        if self.method == "simclr":
            return self.loss(*z)  # type: ignore[no-any-return]
        if self.method == "swav":
            self.prototypes.normalize()
            scores = [self.prototypes(nn.functional.normalize(v, dim=1)) for v in z]
            return self.loss(scores, [])  # type: ignore[no-any-return]
        with torch.no_grad():
            t = [self.momentum(view) for view in views] if self.method == "byol" else [v.detach() for v in z]
        return (self.loss(self.predict(z[0]), t[1]) + self.loss(self.predict(z[1]), t[0])) / 2  # type: ignore[no-any-return]


class Pictures(torch.utils.data.Dataset[Any]):
    """Encoded files in memory, opened and transformed when asked for, as an image folder does it."""

    def __init__(self, folder: Path, transform: Callable[..., Any]) -> None:
        self.files, self.transform = [p.read_bytes() for p in sorted(folder.iterdir())], transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        return self.transform(Image.open(io.BytesIO(self.files[i])).convert("RGB"))


def lightly(method: str, folder: Path, size: int, workers: int, device: str) -> float:
    """Images per second of lightly's transform, loader, heads and loss."""
    from lightly.transforms import SimCLRTransform

    warnings.simplefilter("ignore")
    transform = SimCLRTransform(
        input_size=size, cj_bright=0.4, cj_contrast=0.4, cj_sat=0.4, cj_hue=0.1, min_scale=0.2, gaussian_blur=0.0
    )
    model = Peer(method).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    loader = torch.utils.data.DataLoader(
        Pictures(folder, transform),
        128,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def endless() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    times = []
    for step, views in enumerate(endless()):
        views = [v.to(device, memory_format=torch.channels_last) for v in views[:2]]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=native_bf16(device)):
            loss = model(views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        times.append(time.perf_counter())
        if step >= SKIP + COUNT:
            break
    gaps = [b - a for a, b in zip(times[SKIP:], times[SKIP + 1 :], strict=False)]
    return 128 / (sum(gaps) / len(gaps))  # the mean: a loader's steps come in bursts


def alone(measure: Callable[..., float], *arguments: Any) -> float:
    """The measurement in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def layers() -> None:
    """Prints forward and backward of the last stage's convolutions, torch's own and ours, at a batch of 256 views."""
    dtype = torch.bfloat16 if native_bf16("cpu") else torch.float32
    print("| convolution | torch, ms | ours, ms | ratio |\n|---|---|---|---|")
    for inputs, side, stride in ((512, 2, 1), (256, 4, 2), (256, 3, 2)):
        plain = nn.Conv2d(inputs, 512, 3, stride, padding=1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fast = nn.Sequential(copy.deepcopy(plain))
        small_maps.use(fast)
        x = torch.randn(256, inputs, side, side).to(dtype, memory_format=torch.channels_last).requires_grad_()
        times: list[list[float]] = [[], []]
        for _ in range(SKIP + COUNT):
            for layer, seen in zip((plain, fast), times, strict=True):
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    y = layer(x)
                y.backward(torch.ones_like(y))
                seen.append(1e3 * (time.perf_counter() - began))
        theirs, mine = (statistics.median(seen[SKIP:]) for seen in times)
        name = f"{inputs} to 512 channels, {side} x {side}, stride {stride}, {str(dtype).removeprefix('torch.')}"
        print(f"| {name} | {theirs:.1f} | {mine:.1f} | {theirs / mine:.2f} |", flush=True)


def main() -> None:
    """Prints a row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=40, help="the views' side in px")
    parser.add_argument("--methods", default="simclr,mocov2,byol,simsiam,swav")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipes", default="", help="ours alone, on these recipes and noise")
    parser.add_argument("--layers", action="store_true", help="time the convolutions on small maps alone")
    options = parser.parse_args()
    precision = "bf16" if native_bf16(options.device) else "fp32"
    where = processor_name() if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, {precision}")
    if options.layers:
        layers()
        return
    if options.recipes:
        print(f"| recipe | images/s | {HEADINGS} |\n|---|---|---|---|---|---|---|")
        for name in options.recipes.split(","):
            runs = [alone(ours, recipe.load(name, LONG), None, options.device) for _ in range(options.repeats)]
            median = middle(runs)
            print(f"| {name} | {median['speed']:.0f} | {cells(median)} |", flush=True)
        return
    print(f"views of {options.size} px\n")
    print(f"| method | ours, images/s | lightly, images/s with 0 / 1 / 2 workers | ratio to its best | {HEADINGS} |")
    print("|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder, 1024)
        for method in options.methods.split(","):
            settings = recipe.load(f"{method}-r18.tin_cpu_1h", [*LONG, f"progressive=[[0.0, {options.size / 64}]]"])
            mine: list[dict[str, float]] = []
            theirs: dict[int, list[float]] = {0: [], 1: [], 2: []}
            for _ in range(options.repeats):
                mine.append(alone(ours, settings, folder, options.device))
                for workers, speeds in theirs.items():
                    speeds.append(alone(lightly, method, folder, options.size, workers, options.device))
            medians = [statistics.median(v) for v in theirs.values()]
            median = middle(mine)
            speeds_of_theirs = " / ".join(f"{m:.0f}" for m in medians)
            ratio = median["speed"] / max(medians)
            row = f"| {method} | {median['speed']:.0f} | {speeds_of_theirs} | {ratio:.2f} | {cells(median)} |"
            print(row, flush=True)


LONG = ["epochs=1000"]  # more than is measured
HEADINGS = "MFU, % | " + " | ".join(f"{part}, %" for part in PARTS)


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def cells(result: dict[str, float]) -> str:
    """MFU and the parts' shares as cells of a row."""
    return " | ".join(f"{100 * result[key]:.0f}" for key in ("MFU", *PARTS))


if __name__ == "__main__":
    main()
