"""The one training loop, for every method: a generator that yields after each epoch, stops at any step and resumes exactly.

All randomness of a step is a function of (seed, step) and the order of an epoch one of (seed, epoch), so a checkpoint
needs no generator state, and a resumed run repeats an unbroken one bit for bit on a CPU in fp32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslzoo import backbones
from sslzoo.backends.processor import native_bf16
from sslzoo.errors import InputError, SslzooError
from training import optim
from training.augment import make_view, normalize
from training.methods import METHODS, Method
from training.methods.base import collapse
from training.recipe import Recipe

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Progress:
    """Where a run stands: means over the steps since the last report; `done` is true at the run's end."""

    step: int
    steps: int
    epoch: float
    loss: float
    std: float
    rank: float
    learning_rate: float
    images_per_second: float
    done: bool


class Diverged(SslzooError):
    """The loss is not a number any more."""


def build(recipe: Recipe) -> Method:
    """The method with freshly initialised weights, which depend on the recipe's seed alone."""
    if recipe.method not in METHODS:
        raise InputError(f"unknown method {recipe.method!r}; there are: {', '.join(METHODS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = backbones.build(recipe.backbone, stem=recipe.stem, zero_init_residual=recipe.zero_init_residual)
        return METHODS[recipe.method](backbone, backbone.dim, **recipe.method_options)


def train(
    method: Method,
    images: Tensor,
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    report_seconds: float = 30.0,
) -> Iterator[Progress]:
    """Trains `method` in place on uint8 images `[n, 3, h, w]`, yielding about every `report_seconds` and after each epoch.

    With `out`, a checkpoint is written there after each epoch and when the loop ends; `resume` continues from it.
    `stop` is asked before every step and ends the loop cleanly. Raises Diverged when the loss is not finite.
    """
    batch = recipe.batch_size
    if len(images) < batch:
        raise InputError(
            f"{len(images)} images don't fill a batch of {batch}; add --set batch_size={max(2, len(images) // 4)}"
        )
    per_epoch = len(images) // batch  # the last, smaller batch is dropped: batch statistics want a constant size
    steps = per_epoch * recipe.epochs
    images = images.to(device)
    method.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = optim.build(method, recipe)
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and native_bf16(device))

    step = load_checkpoint(out, method, optimizer, recipe, len(images)) if resume and out is not None else 0
    saved = -1
    order = torch.empty(0, dtype=torch.long)
    total = torch.zeros((), device=device)
    counted, began, output = 0, time.perf_counter(), torch.zeros(2, 2)
    rate = 0.0
    while step < steps:
        if stop():
            break
        epoch, position = divmod(step, per_epoch)
        if position == 0 or len(order) == 0:
            order = torch.randperm(len(images), generator=generator(recipe.seed, 0, epoch))
        progress = step / steps
        rows = order[position * batch : (position + 1) * batch].to(device)
        noise = generator(recipe.seed, 1, step, device=device)
        torch.manual_seed(_seed(recipe.seed, 2, step))
        rate = optim.set_learning_rate(optimizer, recipe, progress)

        views = make_views(images[rows], recipe, progress, noise)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            loss, outputs = method.loss(views, progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        method.after_step(progress)
        step += 1

        total += loss.detach()
        counted, output = counted + 1, outputs["z"].detach()
        end_of_epoch = step % per_epoch == 0
        if end_of_epoch or time.perf_counter() - began > report_seconds:
            if not torch.isfinite(total):
                lower = recipe.lr_per_256 / 3
                raise Diverged(
                    f"the loss is not finite before step {step} of {steps}; try --set lr_per_256={lower:.3g}"
                )
            report = _report(step, steps, per_epoch, total / counted, output, rate, counted * batch, began)
            if end_of_epoch and out is not None:
                save_checkpoint(out, method, optimizer, recipe, step, len(images))
                saved = step
            yield report
            total, counted, began = torch.zeros_like(total), 0, time.perf_counter()
    if out is not None and saved != step:
        save_checkpoint(out, method, optimizer, recipe, step, len(images))
    if step < steps and counted:
        yield _report(step, steps, per_epoch, total / counted, output, rate, counted * batch, began)


def make_views(images: Tensor, recipe: Recipe, progress: float, noise: torch.Generator) -> list[Tensor]:
    """The normalised views of a batch, in the recipe's order."""
    views = []
    for view in recipe.views:
        size = recipe.view_size(view, progress)
        views += [normalize(make_view(images, view, size, noise), recipe.mean, recipe.std) for _ in range(view.count)]
    return views


def _report(
    step: int, steps: int, per_epoch: int, loss: Tensor, z: Tensor, rate: float, seen: int, began: float
) -> Progress:
    signs = {name: float(value) for name, value in collapse(z).items()}
    speed = seen / (time.perf_counter() - began)
    return Progress(step, steps, step / per_epoch, float(loss), signs["std"], signs["rank"], rate, speed, step == steps)


def _seed(*stream: int) -> int:
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*stream: int, device: str = "cpu") -> torch.Generator:
    """A generator whose numbers depend on the integers alone."""
    return torch.Generator(device).manual_seed(_seed(*stream))


def save_checkpoint(
    out: Path, method: Method, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, images: int
) -> None:
    """Everything needed to go on, written under a temporary name and renamed, so that a kill leaves the last one whole."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "images": images,
        "recipe": recipe.to_dict(),
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    temporary = out / (CHECKPOINT + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, out / CHECKPOINT)


def load_checkpoint(out: Path, method: Method, optimizer: torch.optim.Optimizer, recipe: Recipe, images: int) -> int:
    """Restores method and optimiser and returns the step; 0 when there is no checkpoint yet.

    Raises InputError when the checkpoint is of another recipe or another number of images, since the run would then be
    neither the old one nor the new one.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    ours, theirs = recipe.to_dict(), state["recipe"]
    if changed := sorted(key for key in ours if ours[key] != theirs.get(key)):
        raise InputError(
            f"{path} was made with another {', '.join(changed)}; resume without --set, or choose another --output"
        )
    if state["images"] != images:
        raise InputError(
            f"{path} was made on {state['images']} images and there are {images} now; choose another --output"
        )
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
