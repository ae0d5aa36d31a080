"""What an exported network takes: normalised images as torch has them, or plain pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sslzoo.spec import EncoderSpec


@dataclass(frozen=True)
class Input:
    """The type and layout of a batch; `normalization` says who subtracts the mean and divides by the deviation."""

    type: str
    channels_first: bool
    normalization: str

    def describe(self, spec: EncoderSpec) -> dict[str, Any]:
        """The input as `export.json` states it, the batch being "n": any size."""
        size = spec.preprocess.size
        shape: list[Any] = ["n", 3, size, size] if self.channels_first else ["n", size, size, 3]
        return {"name": "images", "type": self.type, "shape": shape, "normalization": self.normalization}


NORMALIZED = Input("float32", True, "yours: values in [0, 1], minus mean, divided by std")
PIXELS = Input("uint8", False, "inside the network: give RGB pixels of 0 to 255")
