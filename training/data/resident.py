"""Training images as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.memory import free_on


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 `[n, 3, size, size]`, labels `[n]` (None where there are none), and what could not be read."""

    images: Tensor
    labels: list[str | int | None]
    failures: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.images)

    def order(self, generator: torch.Generator) -> Tensor:
        """The order of an epoch: a permutation of the row numbers."""
        return torch.randperm(len(self), generator=generator)

    def batches(self, rows: Iterable[Tensor], device: str) -> Generator[Tensor, None, None]:
        """The images of each list of row numbers, on the device."""
        images = self.images.to(device) if self.images.nbytes <= free_on(device) // 2 else self.images
        for numbers in rows:
            yield images[numbers.to(images.device)].to(device)

    def head(self, limit: int) -> tuple[Tensor, list[str | int | None]]:
        """The first images with their labels."""
        return self.images[:limit], self.labels[:limit]
