"""The one training loop, for every method: a generator that yields after each epoch, stops at any step and resumes exactly.

All randomness of a step is a function of (seed, step) and the order of an epoch one of (seed, epoch), so a checkpoint
needs no generator state, and a resumed run repeats an unbroken one bit for bit on a CPU in fp32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sslzoo import backbones
from sslzoo.backends.processor import native_bf16
from sslzoo.errors import InputError, SslzooError
from training import checkpoint, distributed, norms, optim, small_maps
from training.augment import make_view, normalize
from training.data import Images, ImageSet
from training.finite import Watch
from training.methods import METHODS, Method
from training.methods.base import collapse
from training.recipe import Recipe


@dataclass(frozen=True)
class Progress:
    """Where a run stands: means over the steps since the last report, after step `since` and `seconds` ago; `done` is true at
    the run's end."""

    since: int
    step: int
    steps: int
    epoch: float
    loss: float
    std: float
    rank: float
    learning_rate: float
    images_per_second: float
    seconds: float
    done: bool

    @property
    def collapsed(self) -> bool:
        """Whether all outputs are nearly the same, after the first epoch: a tenth of the spread of healthy ones is left."""
        return self.std < 0.1 and self.epoch >= 1


class Diverged(SslzooError):
    """The loss, or a weight, is not a number any more."""


def build(recipe: Recipe, weights: Mapping[str, Tensor] | None = None) -> Method:
    """The method with freshly initialised weights, which depend on the recipe's seed alone; `weights` are a backbone's."""
    if recipe.method not in METHODS:
        raise InputError(f"unknown method {recipe.method!r}; there are: {', '.join(METHODS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        geometry = dataclasses.asdict(recipe.geometry)
        backbone = backbones.build(recipe.backbone, **geometry, zero_init_residual=recipe.zero_init_residual)
        if weights is not None:
            backbone.load_state_dict(weights)
        small_maps.use(backbone)
        cls = METHODS[recipe.method]
        _check_views(recipe, cls)
        known = {
            p.name: p.default
            for c in cls.__mro__
            if issubclass(c, Method)
            for p in inspect.signature(c).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        if unknown := sorted(recipe.method_options.keys() - known.keys()):
            raise InputError(f"method_options has no {unknown[0]!r}; {recipe.method} has: {', '.join(sorted(known))}")
        for name, value in recipe.method_options.items():
            kind = type(known[name])
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise InputError(f"method_options.{name} is {value!r}; it must be of the kind of {known[name]!r}")
        return cls(backbone, backbone.dim, **recipe.method_options)


def _check_views(recipe: Recipe, cls: type[Method]) -> None:
    sizes = [view.size for view in recipe.views for _ in range(view.count)]
    if len(sizes) < 2 or cls.views not in (None, len(sizes)) or sizes[0] != sizes[1]:
        wants = "two views of one size" if cls.views else "two or more views, the first two of one size"
        raise InputError(
            f"{recipe.method} takes {wants} of an image, and the recipe has {', '.join(f'{s} px' for s in sizes) or 'none'};"
            " change views.0.count or views.0.size"
        )


def train(
    method: Method,
    images: Tensor | Images,
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    report_seconds: float = 30.0,
    save_seconds: float = 60.0,
) -> Iterator[Progress]:
    """Trains `method` in place on uint8 images `[n, 3, h, w]`, yielding about every `report_seconds` and after each epoch.

    The images are in memory or streamed; a stream gives the same batches.
    With `out`, a checkpoint is written there when the loop ends and after an epoch, where epochs are short not more often
    than every `save_seconds`, where they are long every ten times as much; `resume` continues from it.
    `stop` is asked before every step and ends the loop cleanly. Raises Diverged when the loss or a weight is not finite.
    Under torchrun each process computes its part of every batch; the loss is the mean over all of them.
    """
    batch, world, rank = recipe.batch_size, distributed.world(), distributed.rank()
    parts = world * recipe.accumulate
    require_batch(images, recipe)
    if batch % parts or batch // parts < 2:
        raise InputError(
            f"batch_size {batch} can't be split over {parts} parts (processes x accumulate) of two or more"
        )
    per_epoch = len(images) // batch  # the last, smaller batch is dropped: batch statistics want a constant size
    steps = recipe.steps(len(images))
    images = ImageSet(images, [None] * len(images), []) if isinstance(images, Tensor) else images
    method.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if world > 1 and recipe.sync_bn:
        if method.own_norms:
            raise InputError(f"{recipe.method} needs BN's statistics of each process; add --set sync_bn=false")
        norms.synchronize(method, device)
    if recipe.compile:
        for network in method.children():
            if any(isinstance(layer, nn.Conv2d) for layer in network.modules()):  # a head has nothing to gain
                network.compile()  # in place, so that the checkpoint's names stay
    model = distributed.parallel(method)
    optimizer = optim.build(method, recipe)
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and native_bf16(device))

    step = checkpoint.load(out, method, optimizer, recipe, images) if resume and out is not None else 0
    if world > 1 and distributed.any_rank(step * world != int(distributed.total(torch.tensor(step)))):
        raise InputError(
            f"the processes found different checkpoints in {out}; put it where all machines see one folder"
        )
    if out is not None and rank == 0:
        checkpoint.clear(out)
    saved, saved_at = -1, time.monotonic() - save_seconds  # the first epoch's end is saved however short
    feed = images.batches(rows_from(step, steps, images, recipe), device)
    total, watch = torch.zeros((), device=device), Watch(method, steps, device)
    counted, began, output = 0, time.perf_counter(), torch.zeros(2, 2)
    rate = 0.0
    while step < steps:
        if distributed.any_rank(stop()):
            break
        progress = step / steps
        torch.manual_seed(_seed(recipe.seed, 2, step))  # the same in every process
        rate = optim.set_learning_rate(optimizer, recipe, progress)

        optimizer.zero_grad(set_to_none=True)
        for part in range(rank * recipe.accumulate, (rank + 1) * recipe.accumulate):
            noise = generator(recipe.seed, 1, step, *([part] if part else []), device=device)
            views = make_views(next(feed), recipe, progress, noise)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                loss, outputs = model(views, progress)
            (loss / recipe.accumulate).backward()
            total += distributed.total(loss.detach()) / parts
        watch.note(step, outputs["z"], total)
        if recipe.clip_grad:
            torch.nn.utils.clip_grad_norm_(method.parameters(), recipe.clip_grad)
        optimizer.step()
        method.after_step(progress)
        step += 1

        counted, output = counted + 1, outputs["z"]
        end_of_epoch = step % per_epoch == 0 or step == steps  # epochs may be a fraction
        # all processes look at the same step, or one would end, and all with it, before the first has told why
        if end_of_epoch or distributed.any_rank(time.perf_counter() - began > report_seconds):
            if watch.earliest() < steps or _spoilt(method):
                break
            report = _report(step, counted, steps, per_epoch, total / counted, output, rate, batch, began)
            wait = save_seconds if end_of_epoch else 10 * save_seconds
            if out is not None and rank == 0 and time.monotonic() - saved_at >= wait:
                checkpoint.save(out, method, optimizer, recipe, step, images)
                saved, saved_at = step, time.monotonic()
            yield report
            total, counted, began = torch.zeros_like(total), 0, time.perf_counter()
    feed.close()  # ends the threads that decode ahead
    spoilt = _spoilt(method) if counted else []
    if (bad := min(watch.earliest(), step - 1 if spoilt else steps)) < steps:
        found = watch.found(bad) or [f"the weight {name}" for name in spoilt]
        where = f"the first was {found[0]}"
        if out is not None and rank == 0:
            where += f"; see {_dump(out, method, images, recipe, bad, found, rate, device)}"
        distributed.any_rank(False)  # the others wait until it is written
        again = "begin anew in another --output with" if out is not None and checkpoint.exists(out) else "try"
        raise Diverged(
            f"the loss or a weight is not finite at step {bad} of {steps}; {where}; {again} --set"
            f" lr_per_256={recipe.lr_per_256 / 3:.3g}"
        )
    if out is not None and saved != step and rank == 0:
        checkpoint.save(out, method, optimizer, recipe, step, images)
    if step < steps and counted:
        yield _report(step, counted, steps, per_epoch, total / counted, output, rate, batch, began)


def _spoilt(method: Method) -> list[str]:
    """The weights that are not finite."""
    parameters = dict(method.named_parameters())
    if torch.stack([p.isfinite().all() for p in parameters.values()]).all():
        return []
    return [name for name, p in parameters.items() if not p.isfinite().all()]


def _dump(
    out: Path,
    method: Method,
    images: Images,
    recipe: Recipe,
    step: int,
    found: list[str],
    rate: float,
    device: str,
) -> Path:
    """Writes what was not finite at a step, and on which images; the views of the first process are made again."""
    epoch, position = divmod(step, len(images) // recipe.batch_size)
    batch = torch.split(images.order(generator(recipe.seed, 0, epoch)), recipe.batch_size)[position]
    noise, parts = generator(recipe.seed, 1, step, device=device), distributed.world() * recipe.accumulate
    with contextlib.closing(images.batches([batch.chunk(parts)[0]], device)) as feed:
        views = make_views(next(feed), recipe, step / recipe.steps(len(images)), noise)
    return checkpoint.dump(out, method, views, [images.name(row) for row in batch.tolist()], step, found, rate)


def require_batch(images: Images | Tensor, recipe: Recipe) -> None:
    """Raises InputError when there are fewer images than a batch takes."""
    if len(images) < recipe.batch_size:
        more = "name more images" if len(images) < 2 else f"add --set batch_size={max(2, len(images) // 4)}"
        raise InputError(f"{len(images)} images don't fill a batch of {recipe.batch_size}; {more}")


def rows_from(step: int, steps: int, images: Images, recipe: Recipe) -> Iterator[Tensor]:
    """The numbers of the images of each part that this process computes, from a step of the run on."""
    world, rank = distributed.world(), distributed.rank()
    per_epoch, mine = len(images) // recipe.batch_size, slice(rank * recipe.accumulate, (rank + 1) * recipe.accumulate)
    order, ordered = torch.empty(0, dtype=torch.long), -1
    for now in range(step, steps):
        epoch, position = divmod(now, per_epoch)
        if epoch != ordered:
            order, ordered = images.order(generator(recipe.seed, 0, epoch)), epoch
        rows = order[position * recipe.batch_size : (position + 1) * recipe.batch_size]
        yield from rows.chunk(world * recipe.accumulate)[mine]


def make_views(
    images: Tensor | Sequence[Tensor], recipe: Recipe, progress: float, noise: torch.Generator
) -> list[Tensor]:
    """The normalised views of a batch, in the recipe's order."""
    views = []
    for view in recipe.views:
        size = recipe.view_size(view, progress)
        views += [normalize(make_view(images, view, size, noise), recipe.mean, recipe.std) for _ in range(view.count)]
    return views


def _report(
    step: int,
    counted: int,
    steps: int,
    per_epoch: int,
    loss: Tensor,
    z: Tensor,
    rate: float,
    batch: int,
    began: float,
) -> Progress:
    signs = {name: float(value) for name, value in collapse(z).items()}
    seconds = time.perf_counter() - began
    epoch, speed, since = step / per_epoch, counted * batch / seconds, step - counted
    std, rank = signs["std"], signs["rank"]
    return Progress(since, step, steps, epoch, float(loss), std, rank, rate, speed, seconds, step == steps)


def _seed(*stream: int) -> int:
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*stream: int, device: str = "cpu") -> torch.Generator:
    """A generator whose numbers depend on the integers alone."""
    return torch.Generator(device).manual_seed(_seed(*stream))
