"""Labelled data sets: a name, training and test images, and the metric that papers report on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sslzoo.errors import InputError
from sslzoo.evaluate.score import require_metric
from sslzoo.images.discover import Source, split

TRAIN, TEST = ("train",), ("test", "val", "validation")


@dataclass(frozen=True)
class LabelledSet:
    """Where a set's images are. `metric` is one of `evaluate.score.METRICS`; raises InputError for another.

    `held_out` is how the ids of those training images begin that a probe's penalty is chosen on; where it is empty,
    a fixed fifth of them is drawn.
    """

    name: str
    train: Source
    test: Source
    metric: str = "top1"
    held_out: str = ""

    def __post_init__(self) -> None:
        require_metric(self.metric)


def open_set(path: str | Path, metric: str = "top1") -> LabelledSet:
    """A folder with a training and a test (or val) part: Parquet shards, or sub-folders with one folder a class."""
    folder = Path(path)
    train, test = _part(folder, TRAIN), _part(folder, TEST)
    if train is None or test is None:
        raise InputError(
            f"{path} is no labelled set: it needs train and test (or val) inside, as sub-folders with one folder a class, "
            "or as train*.parquet and test*.parquet"
        )
    return LabelledSet(folder.resolve().name, train, test, metric)


def _part(folder: Path, names: tuple[str, ...]) -> Source | None:
    if shards := split(folder, *names):
        return shards
    return next((folder / name for name in names if (folder / name).is_dir()), None)
