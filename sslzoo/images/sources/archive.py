"""Images inside tar files (WebDataset shards among them) and zip files, without unpacking them."""

from __future__ import annotations

import contextlib
import io
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sslzoo.errors import ImageError, InputError
from sslzoo.images.sources.item import Item, Summary, is_hidden, is_image_name
from sslzoo.images.sources.location import check_bytes, opener

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)  # what a damaged tar raises
ZSTD = (".tar.zst", ".tzst")  # which Python reads from 3.14 on


class TarReader:
    """The images of a tar file in its order. In a WebDataset shard, `KEY.cls` beside `KEY.jpg` is the label.

    Members of an uncompressed local file are read by their position, so that a resumed run skips what it has without
    reading it; a compressed or remote one is read from front to back, and where it has hard links twice more, to put what
    these stand for aside.
    """

    columns: Mapping[str, str] = {}

    def __init__(self, location: str | Path, prefix: str = "") -> None:
        self.location, self.prefix, self.open = location, prefix, opener(location)
        self.direct = isinstance(location, Path) and location.suffix == ".tar"

    def count(self) -> int | None:
        """From the headers; not known of a file that would have to be read whole."""
        return sum(1 for _ in self.items(Summary())) if self.direct else None

    def items(self, summary: Summary) -> Iterator[Item]:
        """The images in the file's order."""
        linked: tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]] | None = None
        group: list[Item] = []
        key, label, some = "", None, False
        try:
            with self._opened() as tar, contextlib.ExitStack() as aside:
                for member in _members(tar):
                    some = True
                    holder = tar
                    contents: tarfile.TarInfo | None = member
                    if member.islnk():
                        if linked is None:
                            linked = (tar, self._linked()) if self.direct else aside.enter_context(self._put_aside())
                        holder, contents = linked[0], linked[1].get(member.linkname)
                    if contents is None or not contents.isfile():
                        if not member.isdir():
                            summary.count("link inside an archive")
                        continue
                    folder, _, name = member.name.rpartition("/")
                    if (present := f"{folder}/{name.partition('.')[0]}") != key:
                        yield from _labelled(group, label)
                        group, key, label = [], present, None
                    if member.name.endswith(".cls"):
                        label = (holder.extractfile(contents) or _EMPTY).read().decode("utf-8", "replace").strip()
                    elif is_hidden(member.name):
                        summary.count("hidden")
                    elif not is_image_name(name):
                        summary.count("not an image's extension")
                    else:
                        group.append(Item(self.prefix + member.name, self._opening(holder, contents)))
                yield from _labelled(group, label)
        except BROKEN as error:
            if not some and not self.prefix:
                raise InputError(f"{self.location} can't be read as a tar file ({error}); is it whole?") from None
            yield from _labelled(group, label)
            yield _broken(self, f"the archive can't be read further: {error}")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        with self.open() as file, tarfile.open(fileobj=file, mode="r:" if self.direct else "r|*") as tar:
            yield tar

    def _targets(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        """The files that hard links to images and labels stand for: two more walks, so that no others are held."""
        names = set()
        with contextlib.suppress(*BROKEN), self._opened() as tar:  # what breaks is said by who reads it
            for member in _members(tar):
                if member.islnk() and (is_image_name(member.name) or member.name.endswith(".cls")):
                    names.add(member.linkname)
        with contextlib.suppress(*BROKEN), self._opened() as tar:
            for member in _members(tar):
                if member.name in names and member.isfile():
                    yield tar, member

    def _linked(self) -> dict[str, tarfile.TarInfo]:
        """What hard links stand for, by name."""
        return {member.name: member for _, member in self._targets()}

    @contextlib.contextmanager
    def _put_aside(self) -> Iterator[tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
        """What hard links stand for, by name, in a temporary tar that isn't compressed, where it can be gone back to."""
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w:") as copy:
                for tar, member in self._targets():
                    try:
                        check_bytes(member.size)
                        data = (tar.extractfile(member) or _EMPTY).read()
                    except (ImageError, *BROKEN):  # too large for an image, or cut off
                        continue
                    plain = tarfile.TarInfo(member.name)  # without what its header says of holes
                    plain.size = len(data)
                    copy.addfile(plain, io.BytesIO(data))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield tar, {member.name: member for member in _members(tar)}

    def _opening(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
        if self.direct and not member.issparse():
            return partial(_read_at, self.open, member.offset_data, member.size)  # holds nothing of the tar itself
        try:
            check_bytes(member.size)
        except ImageError as error:
            return partial(_fail, error.reason)
        data = (tar.extractfile(member) or _EMPTY).read()
        return lambda: data


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
        yield member


class _Empty:
    def read(self) -> bytes:
        return b""


_EMPTY = _Empty()


def _read_at(open_: Callable[[], BinaryIO], offset: int, size: int) -> bytes:
    check_bytes(size)
    with open_() as file:
        file.seek(offset)
        return file.read(size)


def _fail(reason: str) -> bytes:
    raise ImageError(reason)


def _broken(archive: TarReader | ZipReader, reason: str) -> Item:
    """A failure under the archive's own name, which stands for whatever else it held."""
    name = archive.prefix.removesuffix("/") or str(archive.location).rsplit("/", 1)[-1]
    return Item(name, partial(_fail, reason))


def _labelled(group: list[Item], label: str | None) -> Iterator[Item]:
    for item in group:
        yield item if label is None else Item(item.id, item.open, label)


class ZipReader:
    """The images of a zip file in its order; the first folder is the label."""

    columns: Mapping[str, str] = {}

    def __init__(self, location: str | Path, prefix: str = "") -> None:
        self.location, self.prefix = location, prefix

    def _members(self, archive: zipfile.ZipFile, summary: Summary) -> Iterator[zipfile.ZipInfo]:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if is_hidden(info.filename):
                summary.count("hidden")
            elif not is_image_name(info.filename):
                summary.count("not an image's extension")
            else:
                yield info

    def count(self) -> int | None:
        """From the zip's table of contents."""
        return sum(1 for _ in self.items(Summary()))

    def items(self, summary: Summary) -> Iterator[Item]:
        """The images in the order of the table of contents."""
        try:
            archive = self._archive()  # stays open until the last item is read, so it is closed by its last user
        except InputError as error:
            if not self.prefix:
                raise
            yield _broken(self, str(error))
            return
        for info in self._members(archive, summary):
            folder, slash, _ = info.filename.partition("/")
            yield Item(self.prefix + info.filename, _member(archive, info), folder if slash else None)

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.location if isinstance(self.location, Path) else opener(self.location)())
        except Exception as error:  # a damaged table of contents can raise anything
            raise InputError(f"{self.location} can't be read as a zip file ({error}); is it whole?") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        check_bytes(info.file_size)
        return archive.read(info)  # zipfile takes turns by itself when threads read at once

    return read  # by its entry, not by its name: a zip file may have several of one name
