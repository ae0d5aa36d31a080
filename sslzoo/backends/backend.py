"""What a back end is: it maps uint8 batches `[n, size, size, 3]` to vectors `[n, dim]` and knows the space they live in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sslzoo.spec import EncoderSpec


class Backend(Protocol):
    """A forward pass with the encoder it belongs to."""

    @property
    def spec(self) -> EncoderSpec: ...
    @property
    def weights(self) -> str: ...
    @property
    def space(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def files(self) -> tuple[Path, ...]: ...  # what belongs beside its vectors
    @property
    def agreement(self) -> Mapping[str, float]: ...  # with fp32, where that was measured
    @property
    def batch_size(self) -> int: ...  # how many images at once suit it, where nobody says
    def native_bf16(self) -> bool: ...
    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]: ...
    def begin(
        self, batch: NDArray[np.uint8]
    ) -> Callable[[], NDArray[np.float32]]: ...  # gives what waits for the vectors


class Immediate:
    """A back end whose batches are done when they are begun, as a CPU's are."""

    batch_size = 16

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise NotImplementedError

    def begin(self, batch: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Computes the batch and hands it out when asked."""
        vectors = self(batch)
        return lambda: vectors
