"""How a kind of checkpoint is laid out, as data, and the one strict way from there to torchvision's names.

Every entry of the file is used exactly once, named as a head that is dropped, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError, WeightsError
from sslzoo.spec import Geometry, Preprocess

IMAGENET = Preprocess(resize=256, size=224)
TORCHVISION = Geometry()
WRAPPERS = ("state_dict", "model", "net", "simclr_state", "model_state_dict")
PARALLEL = ("module.", "_orig_mod.")  # put before every name by DataParallel and by torch.compile
STEM = "conv1.weight"
DEEPEST = 8  # mappings within mappings; VISSL's, the deepest known, has four
FLOATS = ("float16", "bfloat16", "float32", "float64")  # what a model folder may hold
# No part of a forward pass: BN's batch counters, and what the profiler thop leaves in a model.
COUNTERS = ("num_batches_tracked", "total_ops", "total_params")

State = Mapping[str, Any]


def state_dict(checkpoint: Any) -> State:
    """Names and tensors, from under the usual wrapper keys or bare, without DataParallel's prefix."""
    state = checkpoint if isinstance(checkpoint, Mapping) else {}
    for _ in range(DEEPEST):
        inner = _unwrapped(state)
        if inner is None:
            return state
        state = inner
    raise WeightsError(
        f"its mappings are nested more than {DEEPEST} deep, or hold themselves; save a plain state_dict()"
    )


def _unwrapped(state: State) -> State | None:
    """What the outermost wrapper key or prefix holds; None where there is neither."""
    for key in WRAPPERS:
        if isinstance(state.get(key), Mapping):
            return state[key]  # type: ignore[no-any-return]
    for prefix in PARALLEL:
        if state and all(str(name).startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items()}
    return None


def without_common(checkpoint: Any) -> State:
    """The entries without the first component that all their names share (`model.backbone.…`); empty where none is."""
    state = state_dict(checkpoint)
    first = {str(name).partition(".")[0] for name in state}
    if len(first) != 1:
        return {}
    return {rest: value for name, value in state.items() if (rest := str(name).partition(".")[2])}


def under(checkpoint: Any, prefix: str) -> tuple[State, list[str]]:
    """The entries whose names start with the prefix, without it, and the names of all others.

    Mappings within mappings are joined by dots, as in `teacher.backbone.conv1.weight`. Raises InputError naming where an
    encoder may be when nothing starts so.
    """
    state = dict(_tensors(state_dict(checkpoint)))
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not found:
        raise InputError(f"no entry starts with {prefix!r}; {hint(checkpoint) or 'it has ' + _some(list(state))}")
    return found, [name for name in state if not name.startswith(prefix)]


def hint(checkpoint: Any) -> str:
    """Where in the file something begins as a ResNet of torchvision's names does, in words; empty where nothing does."""
    names = {name for name, _ in _tensors(state_dict(checkpoint))}
    starts = [name.removesuffix(STEM) for name in names if name.endswith(STEM)]
    starts = sorted(start for start in starts if start and f"{start}layer1.0.conv1.weight" in names)
    return f"name the encoder in it: {' or '.join(f'--prefix {start}' for start in starts)}" if starts else ""


def _tensors(state: State, start: str = "", depth: int = DEEPEST) -> Iterator[tuple[str, Any]]:
    """All tensors in nested mappings, by their names joined with dots."""
    for name, value in state.items():
        if isinstance(value, Mapping) and depth:
            yield from _tensors(value, f"{start}{name}.", depth - 1)
        elif hasattr(value, "shape"):
            yield f"{start}{name}", value


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    `encoder` stands before the encoder's own names, `heads` are beginnings of names that are dropped (they are looked
    at first), and `renames` are regular expressions that lead to torchvision's names. A file is recognised when it has
    the encoder's `stem` and a name that starts with one of `needs`. `state` finds names and tensors in the file.
    `linear` stands before the weight (and, but for `linear_bias`, the bias) of a trained ImageNet classifier.
    """

    name: str
    encoder: str = ""
    heads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("",)
    renames: tuple[tuple[str, str], ...] = ()
    stem: str = STEM
    state: Callable[[Any], State] = state_dict
    method: str = "unknown"
    preprocess: Preprocess = IMAGENET
    geometry: Geometry = TORCHVISION
    cifar_stem: str = "cifar"  # which of the two 3x3 stems this format's authors use
    linear: str = ""
    linear_bias: bool = True

    def recognises(self, checkpoint: Any) -> bool:
        """Whether the file looks like this format."""
        state = self.state(checkpoint)
        return self.encoder + self.stem in state and any(str(n).startswith(self.needs) for n in state)


def encoder_tensors(
    layout: Layout, checkpoint: Any, drop: Sequence[str] = ()
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The encoder's tensors by torchvision's names, and the names that were dropped.

    `drop` are further beginnings of names to leave out. Raises WeightsError naming what is left over, or what two
    entries claim at once.
    """
    tensors: dict[str, NDArray[Any]] = {}
    dropped, left = [], []
    for name, value in layout.state(checkpoint).items():
        if not isinstance(name, str):
            raise WeightsError(
                f"an entry is named {name!r}, of type {type(name).__name__}; names are text, as in state_dict()"
            )
        if name.endswith(COUNTERS):
            continue
        if name.startswith((*layout.heads, *drop)):
            dropped.append(name)
            continue
        if not name.startswith(layout.encoder) or not hasattr(value, "shape"):
            left.append(name)
            continue
        target = name.removeprefix(layout.encoder)
        for pattern, replacement in layout.renames:
            target = re.sub(pattern, replacement, target)
        if target in tensors:
            raise WeightsError(
                f"two entries of the file claim {target}, the second is {name}; add --drop for one of them"
            )
        tensors[target] = _array(name, value)
    if left:
        raise _left_over(left)
    return tensors, dropped


def linear_head(layout: Layout, checkpoint: Any) -> dict[str, NDArray[np.float32]]:
    """The linear classifier in the file, `weight` `[classes, dim]` and `bias` `[classes]`; empty where there is none."""
    state = layout.state(checkpoint)
    names = f"{layout.linear}weight", f"{layout.linear}bias"
    weight, bias = (state.get(name) for name in names)
    if not layout.linear or weight is None or np.ndim(weight) != 2:
        return {}
    rows = np.asarray(_array(names[0], weight), np.float32)
    if bias is None or not layout.linear_bias:
        return {"weight": rows, "bias": np.zeros(len(rows), np.float32)}
    return {"weight": rows, "bias": np.asarray(_array(names[1], bias), np.float32).reshape(-1)}


def identify(tensors: Mapping[str, NDArray[Any]], layout: Layout) -> tuple[str, str]:
    """The backbone and stem that these names and shapes are; raises WeightsError where they are no ResNet of ours."""
    from sslzoo.architectures import RESNETS
    from sslzoo.backbones.resnet import STAGES

    blocks = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"{stage}.")}) for stage in STAGES)
    basic = "layer1.0.conv3.weight" not in tensors
    found = [n for n, (bottleneck, depths) in RESNETS.items() if depths == blocks and bottleneck != basic]
    stem = tensors.get("conv1.weight")
    if not found or stem is None or stem.ndim != 4 or stem.shape[0] % 64:
        raise WeightsError(f"this is no ResNet: {blocks} blocks, first names {', '.join(sorted(tensors)[:3])}")
    width = stem.shape[0] // 64
    return found[0] + (f"w{width}" if width > 1 else ""), "imagenet" if stem.shape[-1] == 7 else layout.cifar_stem


def check(tensors: Mapping[str, NDArray[Any]], backbone: str, geometry: Geometry) -> None:
    """Raises WeightsError unless names and shapes are exactly the backbone's, all is finite and all variances positive."""
    import torch

    from sslzoo import backbones

    with torch.device("meta"):
        state = backbones.build(backbone, **geometry.to_dict()).state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items() if not name.endswith(COUNTERS)}
    if surplus := sorted(tensors.keys() - wanted.keys()):
        raise _left_over(surplus)
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise WeightsError(f"the file lacks {len(missing)} of a {backbone}'s tensors: {_some(missing)}")
    for name, shape in wanted.items():
        value = tensors[name]
        if value.shape != shape:
            raise WeightsError(f"{name} has shape {value.shape} where a {backbone} has {shape}")
        if not np.isfinite(value).all() or (name.endswith("running_var") and not (value > 0).all()):
            raise WeightsError(f"{name} holds values that no trained network has; download the file again")


def _left_over(names: Sequence[str]) -> WeightsError:
    return WeightsError(
        f"{len(names)} entries have no place in the encoder: {_some(names)}; add --drop PREFIX to leave them out on purpose"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _array(name: str, value: Any) -> NDArray[Any]:
    """A numpy array of a tensor in its own precision; bf16, which numpy lacks, becomes fp32 without loss."""
    dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    layout, device = (str(getattr(value, what, "")) for what in ("layout", "device"))
    if dtype not in FLOATS or layout not in ("", "torch.strided") or device == "meta":
        kind = f"{dtype}{', without values (meta)' if device == 'meta' else ', sparse' if 'sparse' in layout else ''}"
        raise WeightsError(f"{name} is {kind}; an encoder's tensors are dense, of {', '.join(FLOATS)}: save them so")
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if dtype == "bfloat16" else value).numpy()
    return np.asarray(value)
