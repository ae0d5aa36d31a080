"""A folder of images, walked depth first with entries sorted, following each link once; and single image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sslzoo.images.sources.item import Item, Summary, is_hidden, is_image_name
from sslzoo.images.sources.location import contents, file_system, is_url


class FolderReader:
    """Every regular file below `root` that is not hidden and named like an image; the first folder is the label."""

    columns: Mapping[str, str] = {}

    def __init__(self, root: Path) -> None:
        self.root = root

    def count(self) -> int | None:
        """A second walk."""
        return sum(1 for _ in self.items(Summary()))

    def items(self, summary: Summary) -> Iterator[Item]:
        """The images in order."""
        for entry in _walk(self.root, set(), summary):
            relative = Path(entry.path).relative_to(self.root)
            label = relative.parts[0] if len(relative.parts) > 1 else None
            yield Item(relative.as_posix(), contents(entry.path), label, stamp=_stamp(entry))


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        stat = entry.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _walk(folder: str | Path, seen: set[tuple[int, int]], summary: Summary) -> Iterator[os.DirEntry[str]]:
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
            yield from _walk(entry.path, seen, summary)
        elif not is_image_name(entry.name):
            summary.count("not an image's extension")
        elif not entry.is_file() and os.path.exists(entry.path):  # a pipe or a device, or a link to one
            summary.count("not a regular file")
        elif entry.is_symlink() and _seen_file(entry, seen):
            summary.count("link to a file that was seen")
        else:
            yield entry


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


class RemoteFolderReader:
    """The same for a folder on a file system that fsspec opens."""

    columns: Mapping[str, str] = {}

    def __init__(self, url: str) -> None:
        self.fs, self.root = file_system(url)

    def count(self) -> int | None:
        """Not known before the walk, which may be slow."""
        return None

    def items(self, summary: Summary) -> Iterator[Item]:
        """The images in order."""
        for folder, folders, files in self.fs.walk(self.root):
            folders.sort()
            for name in sorted(files):
                path = f"{folder}/{name}" if folder else name
                relative = path.removeprefix(self.root).lstrip("/")
                if is_hidden(relative):
                    summary.count("hidden")
                elif not is_image_name(name):
                    summary.count("not an image's extension")
                else:
                    label = relative.split("/")[0] if "/" in relative else None
                    yield Item(relative, self._opening(path), label)

    def _opening(self, path: str) -> Callable[[], bytes]:
        return lambda: bytes(self.fs.cat_file(path))


class FileReader:
    """Named image files, whatever their extension, with the names given as ids."""

    columns: Mapping[str, str] = {}

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def count(self) -> int | None:
        """As many as were named."""
        return len(self.paths)

    def items(self, summary: Summary) -> Iterator[Item]:
        """One each, in the order given."""
        for path in self.paths:
            id_ = path.rsplit("/", 1)[-1] if len(self.paths) == 1 and is_url(path) else path
            yield Item(id_, contents(path))
