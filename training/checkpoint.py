"""A run's folder: the checkpoint with everything needed to go on, and a report of what went wrong when it diverged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslzoo.errors import InputError
from training import recipe as recipes
from training.data import Images
from training.methods import Method
from training.recipe import Recipe

# in a run folder
FILE = "checkpoint.pt"
DUMP = "diverged.json"
LOG = "log.jsonl"
FACTS = "run.json"

LEFT_OUT = 3  # the exit code of a finished run without some of its images, as `sslzoo embed` has it
UNFINISHED = 75  # the exit code of what was stopped and can go on: EX_TEMPFAIL of sysexits.h, try again


def save(
    out: Path, method: Method, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, images: Images
) -> None:
    """Writes the checkpoint under a temporary name and renames it, so that a kill leaves the last one whole."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "images": len(images),
        "names": images.names_hash,
        "recipe": recipe.to_dict(),
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    temporary = out / (FILE + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, out / FILE)


def read(path: Path, *, facts: bool = False) -> dict[str, Any]:
    """What a checkpoint holds; raises InputError where the file is damaged.

    With `facts` its tensors stay on disk, for who asks for recipe, images or step alone.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=facts)
    except Exception as error:  # torch raises whatever its unpickler or zip reader meets
        what = str(error).partition("\n")[0]
        raise InputError(f"{path} can't be read ({what}); begin anew with another --output") from None
    return state


def require(run: Path) -> Path:
    """A run's checkpoint; raises InputError where there is none."""
    if not exists(run):
        raise InputError(f"{run} has no {FILE}; train first: python -m training RECIPE --data PATH -o {run}")
    return run / FILE


def finished(out: Path) -> bool:
    """Whether a run folder's training has come to its end."""
    if not exists(out):
        return False
    state = read(out / FILE, facts=True)
    return bool(state["step"] == recipes.from_dict(state["recipe"]).steps(state["images"]))


def changed(state: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """What a checkpoint was made with, and what the recipe has in its place; a key that is new counts as its default."""
    ours, theirs = recipe.to_dict(), recipes.from_dict(state["recipe"]).to_dict()
    return [f"{key} {theirs[key]!r}, not {ours[key]!r}" for key in sorted(ours) if ours[key] != theirs[key]]


def require_recipe(out: Path, state: Mapping[str, Any], recipe: Recipe) -> None:
    """Raises InputError when the checkpoint of a run folder is of another recipe."""
    if otherwise := changed(state, recipe):
        raise InputError(
            f"{out / FILE} was made with {'; '.join(otherwise)}. Repeat the recipe and every --set it began with, or choose"
            " another --output"
        )


def load(out: Path, method: Method, optimizer: torch.optim.Optimizer, recipe: Recipe, images: Images) -> int:
    """Restores method and optimiser and returns the step; 0 when there is no checkpoint yet.

    Raises InputError when the checkpoint is of another recipe or of other images, as far as their number and names tell,
    since the run would then be neither the old one nor the new one.
    """
    path = out / FILE
    if not exists(out):
        return 0
    state = read(path)
    require_recipe(out, state, recipe)
    if state["images"] != len(images):
        raise InputError(
            f"{path} was made on {state['images']} images and there are {len(images)} now; restore them, or choose"
            " another --output"
        )
    if state.get("names") and images.names_hash and state["names"] != images.names_hash:
        raise InputError(
            f"{path} was made on images of other names; name those with --data, or choose another --output"
        )
    try:
        method.load_state_dict(state["method"])
    except RuntimeError:  # a queue has a part for each process
        raise InputError(
            f"{path} does not fit; go on with as many processes as it began with, or choose another --output"
        ) from None
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def exists(out: Path) -> bool:
    """Whether a run folder has something to go on from."""
    return (out / FILE).is_file()


def clear(out: Path) -> None:
    """Removes what an earlier run left that can't be gone on with: of a folder with a checkpoint, the dump alone."""
    for name in (DUMP,) if exists(out) else (DUMP, LOG, FACTS):
        (out / name).unlink(missing_ok=True)


def dump(
    out: Path, method: Method, views: list[Tensor], images: list[str], step: int, found: list[str], rate: float
) -> Path:
    """Writes what was first not finite, in which images, and how large inputs, weights and gradients are, to `DUMP`."""
    tensors = {f"view {i}": view for i, view in enumerate(views)}
    for name, p in method.named_parameters():
        tensors |= {f"weight {name}": p.detach()} | ({f"gradient {name}": p.grad} if p.grad is not None else {})
    finite = {name: bool(value.isfinite().all()) for name, value in tensors.items()}
    report = {
        "first step that is not finite": step,
        "what was not finite then, in the order it was computed": found,
        "images of that step": images,
        "learning rate": rate,
        "not finite when the run ended": [name for name, good in finite.items() if not good],
        "largest": {name: value.abs().max().item() for name, value in tensors.items() if finite[name]},
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / DUMP
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path
