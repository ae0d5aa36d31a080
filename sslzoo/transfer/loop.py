"""The fine-tuning loop: one for whole networks, last stages and linear probes, yielding after each epoch.

The crops of an epoch depend on (seed, epoch, row) and all else that is random on (seed, epoch, step), so a run that goes
on from a checkpoint repeats an unbroken one.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sslzoo.backends.processor import native_bf16
from sslzoo.backends.torch_backend import TorchBackend, normalize
from sslzoo.errors import InputError
from sslzoo.optim import LARS, learning_rate
from sslzoo.transfer.classifier import Classifier
from sslzoo.transfer.folder import CHECKPOINT, UNFINISHED
from sslzoo.transfer.photos import Photos
from sslzoo.transfer.settings import Settings

PARTS = (("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1"))  # the stages, from the classifier down

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Epoch:
    """Where a run stands: the epoch's mean loss, the accuracy on the held-out images where there are any, and its seconds."""

    number: int
    epochs: int
    loss: float
    held_out: float | None
    seconds: float


def train(
    classifier: Classifier,
    photos: Photos,
    settings: Settings,
    *,
    held_out: Photos | None = None,
    folder: Path | None = None,
    call: Mapping[str, Any] = {},
    done: list[Epoch] | None = None,
    workers: int = 0,
) -> Iterator[Epoch]:
    """Trains `classifier` in place, yielding after each epoch; when it ends, the weights are those to keep.

    With `folder` a checkpoint is written there after each epoch, and one that is there is gone on from. Raises InputError
    when it is of another `call` (see `require_same`), or the loss is not finite. `done` gets all epochs of the run, those
    before the checkpoint first.
    """
    done = [] if done is None else done
    n = len(photos.items)
    batch = min(settings.batch_size, n)
    if batch < 2:
        raise InputError(f"there are {n} training images; fine-tuning needs at least 2")
    steps = n // batch  # the last, smaller batch is left out
    classifier.to(memory_format=torch.channels_last)
    device, spec = next(classifier.parameters()).device, classifier.encoder.spec
    low = settings.precision == "bf16" or (settings.precision == "auto" and native_bf16(device))
    warmup = settings.warmup_epochs / settings.epochs
    optimizer, mix, keep = build_optimizer(classifier, settings), mixer(settings, len(photos.classes)), Best(settings)
    if folder is not None:
        done += load(folder, classifier, optimizer, keep, photos, call)
    for epoch in range(len(done), settings.epochs):
        if keep.enough:
            break
        began, total, taken = time.perf_counter(), torch.zeros((), device=device), 0
        prepare(classifier, settings.stages)
        order = np.random.default_rng((settings.seed, epoch)).permutation(n)
        if epoch:  # the first epoch opens every image, so that all are known that can't be read
            readable = np.array([item.id not in photos.failures for item in photos.items])
            order = order[readable[order]][: steps * batch]
        crops = photos.crops(order, (settings.seed, epoch), spec.preprocess, settings.min_crop, workers)
        for step in range(steps):
            some = list(itertools.islice(crops, batch))
            if len(some) < 2:  # so many could not be read
                if step == 0:
                    id_, reason = next(iter(photos.failures.items()))
                    raise InputError(
                        f"fewer than 2 of the {n} training images could be read; see that they are images ({id_}: {reason})"
                    )
                break
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_seed(settings.seed, epoch, step))
                x = randaugment([pixels for _, pixels in some], settings.randaugment)
                y = torch.from_numpy(photos.codes[[row for row, _ in some]]).to(device)
                x, y = mix(normalize(x.to(device), spec), y)
            progress = (epoch * steps + step) / (settings.epochs * steps)
            rate = learning_rate(progress, base=settings.lr * batch / 256, warmup=warmup, steps=settings.lr_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                logits = classifier(x)
            loss = functional.cross_entropy(logits.float(), y, label_smoothing=settings.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
            taken += 1
        collections.deque(crops, maxlen=0)  # the rest of the first epoch's
        if not total.isfinite():
            raise InputError(
                f"the loss is not finite in epoch {epoch + 1}; type a lower rate: --lr {settings.lr / 3:.2g}"
            )
        right = None if held_out is None else float(hits(classifier, held_out, workers)[1].mean())
        keep.see(right, classifier)
        done.append(Epoch(epoch + 1, settings.epochs, float(total) / taken, right, time.perf_counter() - began))
        if folder is not None:
            save(folder, classifier, optimizer, keep, photos, call, done)
        yield done[-1]
    keep.restore(classifier)
    classifier.eval().requires_grad_(True)


def prepare(classifier: Classifier, stages: int) -> None:
    """Training mode, but for the stages that stay as they are: these are in evaluation mode, and without gradients."""
    classifier.train()
    for part in PARTS[stages:]:
        for name in part:
            classifier.encoder.backbone.get_submodule(name).eval().requires_grad_(False)


def build_optimizer(classifier: Classifier, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser over what is trained; each group's `scale` is its share of the scheduled rate."""
    layers: list[tuple[list[nn.Module], float]] = [([classifier.fc], settings.head_lr)]
    for depth, part in enumerate(PARTS[: settings.stages], start=1):
        modules = [classifier.encoder.backbone.get_submodule(name) for name in part]
        layers.append((modules, settings.layer_decay**depth))
    groups: list[dict[str, Any]] = []
    for modules, scale in layers:
        weights = [p for module in modules for p in module.parameters()]
        for decayed in (True, False):
            params = [p for p in weights if (p.ndim > 1) == decayed]
            groups.append({"params": params, "weight_decay": settings.weight_decay * decayed, "scale": scale})
    if settings.optimizer == "lars":
        return LARS(groups, momentum=settings.momentum)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0)
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov)


def randaugment(pixels: Sequence[NDArray[np.uint8]], magnitude: int) -> Tensor:
    """A batch uint8 `[n, size, size, 3]`, each image changed by torchvision's RandAugment of two steps unless it is 0."""
    batch = torch.from_numpy(np.stack(pixels))
    if not magnitude:
        return batch
    from torchvision.transforms import v2

    change = v2.RandAugment(num_ops=2, magnitude=magnitude)
    return torch.stack([change(image.permute(2, 0, 1)).permute(1, 2, 0) for image in batch])


def mixer(settings: Settings, classes: int) -> Mix:
    """torchvision's MixUp, CutMix, or one of the two at random; images and labels as they are where neither is asked for."""
    if not (settings.mixup or settings.cutmix):
        return lambda x, y: (x, y)
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
    return v2.RandomChoice([kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha])  # type: ignore[no-any-return]


def hits(classifier: Classifier, photos: Photos, workers: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of the images that can be read, and whether the largest logit of each is its class, 1.0 or 0.0; in fp32."""
    run = TorchBackend(classifier.encoder.backbone, classifier.encoder.spec)
    weight, bias = (p.detach().float().cpu().numpy() for p in (classifier.fc.weight, classifier.fc.bias))
    whole = photos.whole(classifier.encoder.spec.preprocess, workers)
    rows: list[int] = []
    found: list[int] = []
    while some := list(itertools.islice(whole, 64)):
        rows += [row for row, _ in some]
        found += (run(np.stack([pixels for _, pixels in some])) @ weight.T + bias).argmax(1).tolist()
    if not rows:
        raise InputError(f"none of the {len(photos.items)} images to score on could be read; see that they are images")
    return np.array(rows), np.asarray(np.array(found) == photos.codes[rows], np.float32)


class Best:
    """The best weights so far by accuracy on held-out images; without those, the last ones count."""

    def __init__(self, settings: Settings) -> None:
        self.patience, self.value, self.since = settings.patience, -1.0, 0
        self.state: dict[str, Tensor] | None = None

    @property
    def enough(self) -> bool:
        """Whether it has not become better for too long."""
        return 0 < self.patience <= self.since

    def see(self, value: float | None, classifier: Classifier) -> None:
        """Keeps the weights when they are better than any before."""
        if value is None:
            return
        self.since += 1
        if value > self.value:
            self.value, self.since = value, 0
            self.state = {name: tensor.detach().clone() for name, tensor in classifier.state_dict().items()}

    def restore(self, classifier: Classifier) -> None:
        """Puts the best weights back."""
        if self.state is not None:
            classifier.load_state_dict(self.state)


def save(
    folder: Path,
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    keep: Best,
    photos: Photos,
    call: Mapping[str, Any],
    done: Sequence[Epoch],
) -> None:
    """Writes the checkpoint under a temporary name and renames it, so that a kill leaves the last one whole."""
    state = {
        "call": dict(call),
        "epochs": [dataclasses.asdict(epoch) for epoch in done],
        "failures": photos.failures,
        "classifier": classifier.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": [keep.value, keep.since, keep.state],
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / UNFINISHED)
    os.replace(folder / UNFINISHED, folder / CHECKPOINT)


def load(
    folder: Path,
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    keep: Best,
    photos: Photos,
    call: Mapping[str, Any],
) -> list[Epoch]:
    """Restores what `save` wrote and returns the epochs that are done; none where there is no checkpoint."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        begun, done = state["call"], [Epoch(**epoch) for epoch in state["epochs"]]
    except OSError:
        raise
    except Exception as error:  # what a damaged file raises is various
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); remove it, and the same command begins anew"
        ) from None
    require_same(path, begun, call)
    classifier.load_state_dict(state["classifier"])
    optimizer.load_state_dict(state["optimizer"])
    keep.value, keep.since, keep.state = state["best"]
    photos.failures.update(state["failures"])
    return done


def require_same(path: Path, begun: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    """Raises InputError unless what a run was called with (model, weights, images, files, settings) is what is asked for now."""
    before, now = ({**facts, **facts.get("settings", {})} for facts in (begun, call))
    before.setdefault("files", now.get("files"))  # an older run doesn't tell
    changed = [f"{k} {before.get(k)}, not {v}" for k, v in now.items() if k != "settings" and before.get(k) != v]
    if changed:
        raise InputError(f"{path} is of a run with {'; '.join(changed)}: resume without changes, or choose another -o")


def _seed(*stream: int) -> int:
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))
