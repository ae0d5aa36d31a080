"""Training images as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from training.data.memory import free_on
from training.data.rows import hash_of, spread


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 `[n, 3, size, size]`, labels `[n]` (None where there are none), what could not be read, and the names."""

    images: Tensor
    labels: list[str | int | None]
    failures: list[tuple[str, str]]
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, row: int) -> str:
        """What an image is called where it came from; its number where that is not known."""
        return self.names[row] if self.names else str(row)

    @cached_property
    def names_hash(self) -> str:
        """A hash of all names; nothing where they are not known."""
        return hash_of(self.names) if self.names else ""

    def order(self, generator: torch.Generator) -> Tensor:
        """The order of an epoch: a permutation of the row numbers."""
        return torch.randperm(len(self), generator=generator)

    def batches(self, rows: Iterable[Tensor], device: str) -> Generator[Tensor, None, None]:
        """The images of each list of row numbers, on the device."""
        images = self.images.to(device) if self.images.nbytes <= free_on(device) // 2 else self.images
        for numbers in rows:
            if images.device.type == "cuda":
                numbers = numbers.pin_memory().to(device, non_blocking=True)
            yield images[numbers].to(device)

    def sample(self, limit: int) -> tuple[Tensor, list[str | int | None]]:
        """Evenly spaced images with their labels."""
        rows = spread(len(self), limit)
        return self.images[rows], [self.labels[row] for row in rows.tolist()]
