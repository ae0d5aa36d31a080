"""Finds the images of a folder (recursively, in a fixed order) or of Parquet files, one after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from sslzoo.errors import ImageError, InputError

EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ico",
        ".cur",
        ".icns",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pfm",
        ".tga",
        ".psd",
        ".qoi",
        ".dds",
        ".pcx",
        ".sgi",
        ".jp2",
        ".j2k",
        ".jpx",
        ".jpf",
        ".avif",
        ".avifs",
        ".heic",
        ".heif",
        ".svg",
        ".eps",
        ".wmf",
        ".emf",
    ]
)


Opened = bytes | BinaryIO | Image.Image


@dataclass(frozen=True)
class Item:
    """One input: an id (its path relative to the input, with "/"), how to open it, and a label where one is known."""

    id: str
    open: Callable[[], Opened]
    label: str | int | None = None


@dataclass
class Summary:
    """What discovery left out, counted by reason; filled while the items stream."""

    left_out: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


Source = str | Path | list[Path]


def discover(source: Source, summary: Summary | None = None) -> Iterator[Item]:
    """The images of `source` as a stream: a folder of images, one image, a Parquet file, or a folder or a list of Parquet files.

    In a folder every regular file that is not hidden and has a still image's extension counts, entries sorted folder by
    folder; the first folder below `source` is the label. A linked file or folder is followed once. Parquet needs an
    `image` column in the Hugging Face layout (bytes and path); a `label` column is passed on.
    Raises InputError at once when `source` is missing.
    """
    if not isinstance(source, list) and not Path(source).exists():
        raise InputError(f"{source} does not exist; name a folder of images, an image or a Parquet file")
    if shards := _shards(source):
        return _parquet(shards)
    assert not isinstance(source, list)
    path = Path(source)
    if path.is_dir():
        return _folder(path, summary if summary is not None else Summary())
    return iter([Item(path.name, path.read_bytes)])


def count(source: Source) -> int:
    """How many items `discover` will give, without opening an image."""
    if shards := _shards(source):
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(shard).num_rows for shard in shards)
    return sum(1 for _ in discover(source))


def _shards(source: Source) -> list[Path]:
    if isinstance(source, list):
        return source
    path = Path(source)
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []


def split(source: str | Path, *names: str) -> list[Path]:
    """The Parquet shards of the first split in `names` that the folder has (`train.parquet`, `train-00000-of-….parquet`)."""
    for name in names:
        if found := sorted([*Path(source).glob(f"{name}.parquet"), *Path(source).glob(f"{name}-*.parquet")]):
            return found
    return []


def _folder(root: Path, summary: Summary) -> Iterator[Item]:
    seen: set[tuple[int, int]] = set()
    for path in _walk(root, seen, summary):
        relative = path.relative_to(root)
        label = relative.parts[0] if len(relative.parts) > 1 else None
        yield Item(relative.as_posix(), path.read_bytes, label)


def _walk(folder: Path, seen: set[tuple[int, int]], summary: Summary) -> Iterator[Path]:
    try:
        stat = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        summary.count("unreadable folder")
        return
    if (stat.st_dev, stat.st_ino) in seen:
        summary.count("link to a folder that was seen")
        return
    seen.add((stat.st_dev, stat.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            summary.count("hidden")
        elif entry.is_dir():
            yield from _walk(Path(entry.path), seen, summary)
        elif os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
            summary.count("not an image's extension")
        elif not entry.is_file() and not entry.is_symlink():
            summary.count("not a regular file")
        elif entry.is_symlink() and _seen_file(entry, seen):
            summary.count("link to a file that was seen")
        else:
            yield Path(entry.path)


def _seen_file(entry: os.DirEntry[str], seen: set[tuple[int, int]]) -> bool:
    """Whether a link leads to a file that another link has led to; a broken link counts as new and fails when opened."""
    try:
        stat = entry.stat()
    except OSError:
        return False
    key = (stat.st_dev, stat.st_ino)
    if key in seen:
        return True
    seen.add(key)
    return False


def _parquet(files: list[Path]) -> Iterator[Item]:
    import pyarrow.parquet as pq

    for file in files:
        try:
            shard = pq.ParquetFile(file)
        except Exception as error:
            raise InputError(f"{file} is not a Parquet file that can be read ({error})") from None
        if "image" not in shard.schema_arrow.names:
            columns = ", ".join(shard.schema_arrow.names)
            raise InputError(
                f"{file} has no column 'image' (it has {columns}); the Hugging Face image layout is needed"
            )
        wanted = [name for name in ("image", "label") if name in shard.schema_arrow.names]
        names = _class_names(shard.schema_arrow.metadata or {})
        row = 0
        for batch in shard.iter_batches(256, columns=wanted):
            images = batch["image"]
            labels = batch["label"].to_pylist() if "label" in wanted else [None] * len(images)
            for value, label in zip(images, labels, strict=True):
                cell = value.as_py()
                if isinstance(label, int) and 0 <= label < len(names):
                    label = names[label]
                yield Item(f"{file.name}/{row}", _opener(cell), label)
                row += 1


def _opener(cell: dict[str, object] | bytes | None) -> Callable[[], Opened]:
    data = cell.get("bytes") if isinstance(cell, dict) else cell

    def open_cell() -> Opened:
        if not isinstance(data, bytes):
            raise ImageError("the row holds no image bytes")
        return data

    return open_cell


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Class names from the Hugging Face schema metadata, or none."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return []
