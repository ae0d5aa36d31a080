"""Training speed beside lightly's: source images per second (two views each), same machine, data, network and precision.

`python -m benchmarks.train [--size 40] [--methods simclr,byol]`. Ours is the loop of `training` on the recipe of an
hour; theirs is what lightly's own examples do (its transform in a DataLoader, its heads and loss), in the same
precision and channels_last, at the best of 0, 1 and 2 workers. Both train a ResNet-18 on the same generated JPEGs
of 64 px; a few steps are thrown away. It needs `pip install lightly`. Every measurement is a process of its own, set up
as its side sets it up (ours keeps freed memory), and the sides are interleaved.
"""

from __future__ import annotations

import argparse
import copy
import io
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

from sslzoo.backends.allocator import keep_freed_memory
from sslzoo.backends.processor import native_bf16
from training import data, engine, recipe, small_maps
from training.__main__ import processor_name

SKIP, COUNT = 4, 12


def make_images(folder: Path, n: int) -> None:
    """JPEGs of 64 px with structure at all scales, as photos have it."""
    rng = np.random.default_rng(0)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (64, 64, 3))
        Image.fromarray((np.asarray(small) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)


def ours(method: str, folder: Path, size: int, device: str) -> float:
    """Images per second of our loop: the median step."""
    keep_freed_memory()  # as `python -m training` does
    settings = recipe.load(f"{method}-r18.tin_cpu_1h", [f"progressive=[[0.0, {size / 64}]]", "epochs=1000"])
    images = data.load(str(folder), 64, quiet=True).images
    network, times = engine.build(settings), [time.perf_counter()]

    def stop() -> bool:  # asked before every step
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        return len(times) > SKIP + COUNT + 1

    for _ in engine.train(network, images, settings, device=device, stop=stop, report_seconds=1e9):
        pass
    return settings.batch_size / statistics.median(b - a for a, b in zip(times[SKIP:], times[SKIP + 1 :], strict=False))


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
            self.head = heads.SimSiamProjectionHead(512, options["projection"], options["projection"])
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
    parser.add_argument("--layers", action="store_true", help="time the convolutions on small maps alone")
    options = parser.parse_args()
    precision = "bf16" if native_bf16(options.device) else "fp32"
    where = processor_name() if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, {precision}, {options.size} px")
    if options.layers:
        layers()
        return
    print(
        "| method | | ours, images/s | lightly, images/s with 0 / 1 / 2 workers | ratio to its best |\n|---|---|---|---|"
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder, 1024)
        for method in options.methods.split(","):
            mine: list[float] = []
            theirs: dict[int, list[float]] = {0: [], 1: [], 2: []}
            for _ in range(options.repeats):
                mine.append(alone(ours, method, folder, options.size, options.device))
                for workers, speeds in theirs.items():
                    speeds.append(alone(lightly, method, folder, options.size, workers, options.device))
            medians = [statistics.median(v) for v in theirs.values()]
            speed = statistics.median(mine)
            cells = " / ".join(f"{m:.0f}" for m in medians)
            print(f"| {method} | {speed:.0f} | {cells} | {speed / max(medians):.2f} |", flush=True)


if __name__ == "__main__":
    main()
