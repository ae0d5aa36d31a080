"""Training images as one uint8 tensor in memory, read from a folder or from Parquet in the Hugging Face image layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslzoo.errors import ImageError, InputError
from sslzoo.images import discover
from sslzoo.images.read import read
from sslzoo.spec import Preprocess


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 `[n, 3, size, size]`, labels `[n]` (None where there are none), and what could not be read."""

    images: Tensor
    labels: list[str | int | None]
    failures: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.images)


def load(path: discover.Source, size: int, *, limit: int | None = None, quiet: bool = False) -> ImageSet:
    """Reads the images of `path`, scaled so that the short side is `size` and cropped to the centre square.

    Images that are `size` px square already keep their pixels. An image that can't be decoded is left out and listed;
    raises InputError when none is left. `limit` stops after so many.
    """
    arrays: list[np.ndarray] = []
    labels: list[str | int | None] = []
    failures: list[tuple[str, str]] = []
    with tqdm(desc=f"reading {path}", unit="img", disable=quiet) as bar:
        for item, result in read(discover.discover(path), Preprocess(resize=size, size=size)):
            if isinstance(result, ImageError):
                failures.append((item.id, result.reason))
                continue
            bar.update()
            arrays.append(result[0])
            labels.append(item.label)
            if limit is not None and len(arrays) >= limit:
                break
    if not arrays:
        raise InputError(f"no readable image in {path}; name a folder of images or Parquet files with an image column")
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, labels, failures)
