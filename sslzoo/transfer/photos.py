"""Labelled photos for fine-tuning: random crops for training, which depend on (seed, epoch, row) alone, and whole images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import ImageError, InputError
from sslzoo.evaluate.score import SetId, set_id_of
from sslzoo.images.decode import decode
from sslzoo.images.discover import Item, Source, Summary, archives_state, open_source
from sslzoo.images.preprocess import FILTERS
from sslzoo.images.read import opened, ordered, processors, read
from sslzoo.spec import Preprocess


@dataclass(frozen=True)
class Photos:
    """Items with the number of each one's class. Those of a folder are opened anew in each epoch; a table's stay in memory.

    `failures` gets the id and the reason of each that turns out to be unreadable, for all that were taken from one source.
    `archives` is the state of the tables and archives that they lie in.
    """

    items: Sequence[Item]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    failures: dict[str, str] = field(default_factory=dict)
    archives: str = ""

    @classmethod
    def open(cls, source: Source, classes: Sequence[str] = ()) -> Photos:
        """All of a source; raises InputError for an image without a label, or with none of `classes` where they are given.

        Without these it needs images of at least two classes.
        """
        reader = open_source(source)
        items = list(reader.items(Summary()))
        names = sorted({str(item.label) for item in items if item.label is not None})
        if not items or any(item.label is None for item in items):
            raise InputError(
                f"{source} has images without a label; give a folder with one sub-folder a class, or a 'label' column"
            )
        if unknown := sorted(set(names) - set(classes or names)):
            raise InputError(f"{source} has the class {unknown[0]!r}, which the training images don't have")
        names = list(classes or names)
        if len(names) < 2:
            raise InputError(
                f"{source} has the one class {names[0]!r}; give at least two, such as a folder with a sub-folder for each"
            )
        number = {name: i for i, name in enumerate(names)}
        codes = np.array([number[str(item.label)] for item in items], np.int64)
        return cls(items, codes, tuple(names), archives=archives_state(reader) or "")

    def take(self, rows: NDArray[np.int64]) -> Photos:
        """Some of them."""
        return Photos([self.items[r] for r in rows], self.codes[rows], self.classes, self.failures, self.archives)

    @property
    def readable(self) -> Photos:
        """Those that have not failed."""
        return self.take(np.flatnonzero([item.id not in self.failures for item in self.items]))

    @property
    def id(self) -> SetId:
        """Which images with which labels."""
        return set_id_of([item.id for item in self.items], [self.classes[c] for c in self.codes])

    @property
    def files(self) -> str:
        """A hash of ids, sizes and times of the files; it changes with the images, as far as these can tell."""
        keys = [*(item.key for item in self.items), self.archives]
        return hashlib.sha256("\0".join(keys).encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def crops(
        self, rows: NDArray[np.int64], seed: tuple[int, ...], preprocess: Preprocess, min_crop: float, workers: int
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Row and random crop, uint8 `[size, size, 3]`, of each of `rows` in order; images that can't be read are left out."""

        def crop(row: int) -> NDArray[np.uint8] | ImageError:
            item = self.items[row]
            source = opened(item)
            if isinstance(source, ImageError):
                return source
            try:
                image = decode(source, name=item.id).image
            except ImageError as error:
                return error
            random = np.random.default_rng((*seed, row))
            box = random_box(*image.size, random, min_crop)
            size = (preprocess.size, preprocess.size)
            pixels = np.asarray(image.resize(size, FILTERS[preprocess.interpolation], box=box))
            return pixels[:, ::-1] if random.random() < 0.5 else pixels

        for row, pixels in ordered(crop, map(int, rows), workers=workers or processors(), ahead=256):
            if isinstance(pixels, ImageError):
                self.failures[self.items[row].id] = pixels.reason
            else:
                yield row, pixels

    def whole(self, preprocess: Preprocess, workers: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Row and pixels of each image as the encoder sees it; images that can't be read are left out."""
        for row, (item, result) in enumerate(read(self.items, preprocess, workers=workers)):
            if isinstance(result, ImageError):
                self.failures[item.id] = result.reason
            else:
                yield row, result[0]


def random_box(
    width: int, height: int, random: np.random.Generator, min_area: float
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a random part, as torchvision's RandomResizedCrop draws it with ratios of 3/4 to 4/3."""
    for _ in range(10):
        area = width * height * random.uniform(min_area, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
