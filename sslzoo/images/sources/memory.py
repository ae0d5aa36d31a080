"""Images that are in memory already: PIL images, encoded bytes, uint8 arrays and tensors, mixed with paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslzoo.errors import InputError
from sslzoo.images.sources.item import Item, Opened, Summary
from sslzoo.images.sources.location import contents, stamp_of


class MemoryReader:
    """A list of images of any kind; a path is its own id, anything else is "input 0", "input 1" …"""

    columns: Mapping[str, str] = {}

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    def count(self) -> int | None:
        """As many as were given."""
        return len(self.values)

    def items(self, summary: Summary) -> Iterator[Item]:
        """One each, in the order given."""
        return (as_item(value, position) for position, value in enumerate(self.values))


def as_item(value: Any, position: int) -> Item:
    """One image of any kind as an item; raises InputError for what isn't an image.

    Arrays and tensors are uint8 `[height, width]`, `[height, width, 1, 3 or 4]`, tensors also channels first.
    """
    if isinstance(value, str | Path):
        return Item(str(value), contents(value), stamp=stamp_of(value))
    name = f"input {position}"
    if hasattr(value, "detach"):  # a torch tensor, told without importing torch
        value = value.detach().cpu().numpy()
        if value.ndim == 3 and value.shape[0] in (1, 3, 4) and value.shape[2] not in (1, 3, 4):
            value = value.transpose(1, 2, 0)  # channels first, as torchvision has them
    if isinstance(value, np.ndarray):
        if value.ndim == 3 and value.shape[2] == 1:
            value = value[..., 0]
        if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4))):
            raise InputError(f"{name} has shape {value.shape} and type {value.dtype}; give uint8 [height, width, 3]")
        value = Image.fromarray(np.ascontiguousarray(value))
    if isinstance(value, Image.Image | bytes):
        opened: Opened = value
        return Item(name, lambda: opened)
    kinds = "a path, bytes, a PIL image, or a uint8 array [height, width, 3]"
    raise InputError(f"{name} is a {type(value).__name__}; give {kinds}")
