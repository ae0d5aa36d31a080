"""A folder of images, walked depth first with entries sorted, following each link once; and single image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from stat import S_ISREG

from sslzoo.images.sources.item import Item, Summary, is_hidden, is_image_name
from sslzoo.images.sources.location import contents, file_system, is_url, stamp, stamp_of

Seen = set[tuple[int, int]]  # device and inode of what was reached


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
        for relative, stat in _walk(str(self.root), summary, set()):
            label = relative.partition("/")[0] if "/" in relative else None
            yield Item(relative, contents(os.path.join(self.root, relative)), label, stamp=stamp(stat))


class FoldersReader:
    """The images of several folders under the names that were given; the label is that of the folder.

    What is reached from two of them, through links or because one lies in the other, is read once.
    """

    columns: Mapping[str, str] = {}

    def __init__(self, roots: list[str]) -> None:
        self.roots = roots

    def count(self) -> int | None:
        """A second walk."""
        return sum(1 for _ in self.items(Summary()))

    def items(self, summary: Summary) -> Iterator[Item]:
        """The images in order."""
        seen: Seen = set()
        for root in self.roots:
            label = os.path.basename(root.rstrip("/"))
            for relative, stat in _walk(root, summary, seen):
                path = os.path.join(root, relative)
                yield Item(path, contents(path), label, stamp=stamp(stat))


def folders(root: str) -> Iterator[str]:
    """`root` ("" or with a / at its end) and every folder below it that is not hidden, each once, in the walk's order."""
    seen: Seen = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        stat = _stat(folder or ".")
        if stat is not None and (stat.st_dev, stat.st_ino) not in seen:
            yield folder
            entries = list(_listing(folder or ".", seen, Summary()))
            waiting += [
                f"{folder}{name}/" for name, is_folder, _ in reversed(entries) if is_folder and not name.startswith(".")
            ]


def _walk(root: str, summary: Summary, seen: Seen) -> Iterator[tuple[str, os.stat_result | None]]:
    """The images below `root`: paths relative to it, and what the file system says of each (nothing of a broken link)."""
    open_folders = [("", _listing(root, seen, summary))]
    while open_folders:
        prefix, entries = open_folders[-1]
        if (entry := next(entries, None)) is None:
            open_folders.pop()
            continue
        name, is_folder, is_link = entry
        path = os.path.join(root, prefix + name)
        if name.startswith("."):
            summary.count("hidden")
        elif is_folder:
            open_folders.append((f"{prefix}{name}/", _listing(path, seen, summary)))
        elif not is_image_name(name):
            summary.count("not an image's extension")
        else:
            stat = _stat(path)
            if stat is not None and not S_ISREG(stat.st_mode):
                summary.count("not a regular file")
            elif stat is not None and is_link and (stat.st_dev, stat.st_ino) in seen:
                summary.count("link to a file that was seen")
            else:
                if stat is not None and is_link:
                    seen.add((stat.st_dev, stat.st_ino))
                yield prefix + name, stat


def _listing(folder: str, seen: Seen, summary: Summary) -> Iterator[tuple[str, bool, bool]]:
    """The entries of a folder that wasn't seen before, sorted: name, whether a folder, whether a link."""
    names: list[str] = []
    folders, links = set(), set()  # apart from the names, since a folder may hold millions of files
    stat = _stat(folder)
    if stat is not None and (stat.st_dev, stat.st_ino) in seen:
        summary.count("link to a folder that was seen")
        return
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if _is_folder(entry):
                    folders.add(entry.name)
                if entry.is_symlink():
                    links.add(entry.name)
    except OSError:
        summary.count("unreadable folder")
        return
    if stat is not None:
        seen.add((stat.st_dev, stat.st_ino))
    names.sort()
    for name in names:
        yield name, name in folders, name in links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


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
            yield Item(id_, contents(path), stamp=stamp_of(path))
