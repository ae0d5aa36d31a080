"""Training images, in memory where they fit and streamed where not, without a difference that training could notice.

Both kinds give the same pixels in the same order at the same seed (but for Parquet that is streamed, see `rows.Tables`).
What can't be decoded is known before the first step: it is listed, has no number, and nothing stands in for it. A file that
goes away later is listed too (`Stream.lost`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sslzoo.errors import ImageError, InputError
from sslzoo.images import discover
from sslzoo.images.read import read
from sslzoo.spec import Preprocess
from training import distributed
from training.data.memory import available_memory
from training.data.resident import ImageSet
from training.data.rows import Items, Rows, Tables, rows_of, spread
from training.data.stream import Stream

__all__ = ["ImageSet", "Images", "Items", "Rows", "Stream", "Tables", "load", "splits", "summary"]

SHARE = 0.5  # of the memory that is free; the rest is for the network, its activations and the system

Images = ImageSet | Stream


def load(
    path: discover.Source,
    size: int,
    *,
    limit: int | None = None,
    storage: str = "auto",
    decode: str = "cpu",
    whole: Preprocess | None = None,
    known: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Images:
    """The images of `path`, scaled so that the short side is `size` and cropped to the centre square.

    Images that are `size` px square already keep their pixels. An image that can't be decoded is left out and listed;
    raises InputError when none is left. `storage` "auto" keeps them in memory where half of what is free holds them;
    "memory" and "stream" force it. A stream decodes every file once before it is used, to find those that can't be;
    `known`, an earlier `summary` of the same files, spares that, and decides "auto" of Parquet as it was decided then.
    `decode` is `Stream`'s. `limit` keeps so many in memory,
    taken evenly from the whole: a folder's first images are all of its first class. With `whole` the pictures are not
    cropped and at most `size` px on the short side, which a stream alone can give; what `limit` keeps and a stream's
    `sample` are prepared by it.
    """
    if whole is not None and storage == "memory":
        raise InputError("whole pictures differ in size and are streamed; add --set storage=auto, or --set square=true")
    rows = rows_of(path)
    if storage == "auto" and known and isinstance(rows, Tables):  # whose order depends on it
        storage = str(known.get("storage", storage))
    streamed = storage == "stream" or whole is not None
    if limit is None and storage != "memory":
        if rows is None and streamed:
            raise InputError(f"{path} can only be read from front to back; unpack it, or use uncompressed .tar shards")
        if rows is not None and distributed.any_rank(streamed or not _fits(len(rows), size)):
            return Stream.checked(rows, size, decode=decode, shown=whole, known=known, quiet=quiet)
    items = discover.discover(path)
    if limit is not None and rows is not None:
        items = (rows.item(row) for row in spread(len(rows), limit).tolist())
    # filled in place, since `_fits` counts one copy; rows that are never written to cost no memory
    room = limit or (1024 if rows is None else len(rows))
    preprocess = whole or Preprocess(resize=size, size=size)
    images = torch.empty((room, 3, preprocess.size, preprocess.size), dtype=torch.uint8)
    labels: list[str | int | None] = []
    names: list[str] = []
    failures: list[tuple[str, str]] = []
    with tqdm(desc=f"reading {path}", unit="img", disable=quiet or None) as bar:
        for item, result in read(items, preprocess):
            if isinstance(result, ImageError):
                failures.append((item.id, result.reason))
                continue
            bar.update()
            if len(labels) == len(images):  # a source that does not tell how many it holds
                images = torch.cat([images, torch.empty_like(images)])
            images.numpy()[len(labels)] = result[0].transpose(2, 0, 1)
            labels.append(item.label)
            names.append(item.id)
            if limit is not None and len(labels) >= limit:
                break
    if not labels:
        raise InputError(f"no readable image in {path}; name a folder of images or Parquet files with an image column")
    return ImageSet(images[: len(labels)], labels, failures, names)


def splits(path: str) -> tuple[discover.Source, discover.Source | None]:
    """What to train on, and what to judge by where the source tells them apart, which is then never trained on.

    Parquet files named `train` and `val` (or `test`), or sub-folders of those names. Raises InputError for a test split
    without a train split.
    """
    train, test = discover.split(path, "train"), discover.split(path, "val", "test")
    if test and not train:
        raise InputError(f"{path} has {test[0].name} and no train.parquet; name the files to train on: --data FILE")
    if train:
        return train, test or None
    folder = Path(path)
    tests = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if tests and (folder / "train").is_dir():
        return folder / "train", tests[0]
    return path, None


def summary(images: Images) -> dict[str, Any]:
    """What a run folder records of its images: how many, how they are held, and each that could not be read, with why."""
    facts: dict[str, Any] = {"images": len(images), "storage": "memory"}
    failures: list[dict[str, Any]] = [{"path": path, "reason": reason} for path, reason in images.failures]
    if isinstance(images, Stream):
        facts |= {"storage": "stream", "fingerprint": images.fingerprint}
        failures = [{"row": row} | f for row, f in zip(images.failed_rows(), failures, strict=True)]
        if images.lost:
            lost = sorted(images.lost.items())
            facts["lost"] = [{"row": row, "path": path, "reason": reason} for row, (path, reason) in lost]
    return facts | {"failures": failures}


def _fits(images: int, size: int) -> bool:
    """Whether as many images fit in memory, where each process of this machine keeps its own copy."""
    return images * 3 * size * size * distributed.local_world() <= SHARE * available_memory()
