"""Tells what kind of input a source is and gives its images as a stream: folder, file, glob, list, tar, zip, Parquet, URL."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sslzoo.errors import InputError
from sslzoo.images.sources.archive import TAR, ZSTD, TarReader, ZipReader
from sslzoo.images.sources.folder import FileReader, FolderReader, FoldersReader, RemoteFolderReader, folders
from sslzoo.images.sources.item import Item, Reader, Summary, is_image_name
from sslzoo.images.sources.location import file_system, is_url, stamp_of
from sslzoo.images.sources.memory import MemoryReader
from sslzoo.images.sources.table import DatasetReader, ParquetReader, common_type, holds_images

__all__ = [
    "Item",
    "Reader",
    "Source",
    "Summary",
    "archives_state",
    "class_names",
    "discover",
    "open_source",
    "parts",
    "split",
    "state",
]

LISTS = (".txt", ".lst", ".list")
IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF87a", b"GIF89a")  # how those begin that are likeliest piped in
LISTED = ("-", "a list of paths")  # in a manifest: what was no file, and whose ids are paths all the same

Source = Any  # a path or URL, a list of inputs, or a datasets.Dataset


def open_source(source: Source) -> Reader:
    """The reader of a source; raises InputError at once when there is nothing of that name.

    - a folder: every image below it (or, where Parquet files at its top hold the images, those);
    - a file: an image, a tar, a zip, a Parquet file, or a .txt with one path a line ("-": such a list on stdin);
    - a pattern: `photos/**/*.jpg`, `photos/{cat,dog}` (folders, whose names are labels), `shards/{000..099}.tar`;
    - a URL that fsspec opens (s3://, https://, memory:// …), of a folder or of any of these files;
    - a list of folders, images, archives and tables, in Python also of bytes, PIL images, uint8 arrays and tensors;
    - a `datasets.Dataset`, and a Reader.
    """
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return _of_list(list(source))
    if hasattr(source, "features") and hasattr(source, "cast_column"):
        return DatasetReader(source)
    if hasattr(source, "items") and hasattr(source, "count"):
        return source  # type: ignore[no-any-return]  # a Reader
    if not isinstance(source, str | Path):
        return MemoryReader([source])
    if source == "-":
        return _of_list(_lines(getattr(sys.stdin, "buffer", sys.stdin).read()))
    if isinstance(source, str) and is_url(source):
        return _of_url(source)
    path = Path(source)
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        return _of_file(path)
    named = expand(str(source).replace(os.sep, "/"))
    found = [matches(pattern) for pattern in named]
    if any(found) and (lost := [name for name, some in zip(named, found, strict=True) if not some]):
        raise InputError(f"{lost[0]} does not exist, one of {len(named)} that {source} stands for; name those that do")
    if any(found):
        # in the order of a folder's walk
        walked = sorted(itertools.chain.from_iterable(found), key=lambda match: match.split("/"))
        return _of_matches(walked, deep="**" in str(source))
    raise InputError(
        f"{source} does not exist; name a folder of images, an image, a tar, zip or Parquet file, or a pattern"
    )


def parts(reader: Reader) -> list[Reader]:
    """The readers that a chain of files is made of; of any other reader, itself."""
    return [part for one in reader.readers for part in parts(one)] if isinstance(reader, _Chain) else [reader]


def discover(source: Source, summary: Summary | None = None) -> Iterator[Item]:
    """The images of a source as a stream, in a fixed order; `summary` counts what is left out."""
    return open_source(source).items(summary if summary is not None else Summary())


def state(source: Source) -> str:
    """A hash of what a source lists: ids, labels, sizes and times of files, and of tables and archives their own.

    It changes with the images, as far as that can be told without reading them; of images in memory it holds the ids alone.
    """
    digest = hashlib.sha256()
    for reader in parts(open_source(source)):
        if (location := getattr(reader, "location", None)) is not None:
            keys: Iterator[str] = iter([f"{location}\0{stamp_of(location)}"])
        else:
            keys = (f"{item.key}\0{item.label}" for item in reader.items(Summary()))
        for key in keys:
            digest.update(f"{key}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def archives_state(reader: Reader) -> str | None:
    """A hash of the sizes and times of the local archives and tables that are read, wherever they lie; None without any."""
    locations = (getattr(part, "location", None) for part in parts(reader))
    stamps = [stamp_of(location) for location in locations if location is not None]
    return hashlib.sha256(repr(stamps).encode()).hexdigest() if any(stamps) else None


def class_names(source: Source) -> list[str]:
    """The names of all classes in the order of their numbers, where a Parquet file or a dataset knows them; else none."""
    return list(getattr(parts(open_source(source))[0], "class_names", []))


def split(source: str | Path, *names: str) -> list[Path]:
    """The Parquet shards of the first split in `names` that the folder has (`train.parquet`, `train-00000-of-….parquet`)."""
    for name in names:
        if found := sorted([*Path(source).glob(f"{name}.parquet"), *Path(source).glob(f"{name}-*.parquet")]):
            return found
    return []


def expand(pattern: str) -> list[str]:
    """Every name that a pattern with {000..099} or {a,b} stands for, as WebDataset writes shards."""
    if not (match := re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)):
        return [pattern]
    first, last, words = match.groups()
    values = words.split(",") if words else [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return [name for value in values for name in expand(pattern[: match.start()] + value + pattern[match.end() :])]


def matches(pattern: str) -> list[str]:
    """What a pattern matches, as `glob` does; but through `**` each folder is entered once, whatever links lead to it."""
    head, deep, rest = _split_deep(pattern)
    if not deep:
        return glob.glob(pattern)
    bases = glob.glob(head) if head else [""]
    below = itertools.chain.from_iterable(folders(base) for base in bases)
    return list(dict.fromkeys(itertools.chain.from_iterable(matches(glob.escape(folder) + rest) for folder in below)))


def _split_deep(pattern: str) -> tuple[str, str, str]:
    """A pattern around its first `**`, which stands for any folders only as a whole part of the path; a last one for all."""
    if not (match := re.search(r"(?:^|(?<=/))\*\*(?:/+|$)", pattern)):
        return pattern, "", ""
    return pattern[: match.start()], match[0], pattern[match.end() :] or ("" if match[0].endswith("/") else "*")


def _of_matches(found: list[str], *, deep: bool) -> Reader:
    """The files that a pattern matches, and the images in the folders that it does; not in those that `**` only went through."""
    files = [match for match in found if not Path(match).is_dir()]
    named = [match for match in found if Path(match).is_dir()] if not (deep and files) else []
    readers = ([_of_list(files)] if files else []) + ([FoldersReader(named)] if named else [])
    return readers[0] if len(readers) == 1 else _Chain(readers)


def _of_folder(path: Path) -> Reader:
    """The tables at the folder's top where they hold the images, or where there is no image file; else its files."""
    tables, files = sorted(path.glob("*.parquet")), FolderReader(path)
    if any(holds_images(table) for table in tables[:1]) or (tables and next(files.items(Summary()), None) is None):
        return _Tables(tables, files)
    return files


def _of_file(location: str | Path, *, within: str = "") -> Reader:
    """The reader of a file, which is called `within` in the ids of what it holds; a file on its own isn't in them."""
    name, prefix = str(location).lower(), within and f"{within}/"
    if name.endswith(TAR):
        return TarReader(location, prefix)
    if name.endswith(ZSTD):
        raise InputError(f"{location} is compressed by zstd, which is not read here; unpack it: zstd -d {location}")
    if name.endswith(".zip"):
        return ZipReader(location, prefix)
    if name.endswith(".parquet"):
        return ParquetReader(location, within)
    if name.endswith(LISTS) and isinstance(location, Path):
        return _of_list(_lines(location.read_bytes()))
    return FileReader([str(location)]) if isinstance(location, str) else _NamedFile(location)


def _lines(text: bytes | str) -> list[str]:
    """The lines of a list of paths, whatever ends them (`find -print0`: NUL); names that aren't UTF-8 stay what they are."""
    if isinstance(text, bytes):
        if text.startswith(IMAGES):
            raise InputError("a list of paths was expected and this is an image; name its file: sslzoo embed FILE")
        text = text.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]


def _of_url(url: str) -> Reader:
    names = expand(url)
    if len(names) > 1:
        return _of_list(names)
    fs, path = file_system(url)
    try:
        is_folder = not re.search(r"\.\w{2,8}$", path) and fs.isdir(path)
    except (OSError, FileNotFoundError) as error:
        raise InputError(f"{url} can't be opened: {error}") from None
    return RemoteFolderReader(url) if is_folder else _of_file(url)


def _of_list(values: list[Any]) -> Reader:
    """A list is of images, or of archives and tables, whose members then carry the file's name before theirs."""
    if not values:
        raise InputError("the list of inputs is empty")
    if not all(isinstance(value, str | Path) for value in values):
        return MemoryReader(values)
    if any(not is_image_name(str(value)) and Path(value).is_dir() for value in values):
        return _of_matches([str(value) for value in values], deep=False)
    containers = (*TAR, *ZSTD, ".zip", ".parquet")
    if all(str(value).lower().endswith(containers) for value in values):
        locations = [value if isinstance(value, Path) or is_url(value) else Path(value) for value in values]
        names = _short_names([str(place) for place in locations])
        return _Chain([_of_file(place, within=name) for place, name in zip(locations, names, strict=True)])
    return MemoryReader(values)


def _short_names(paths: list[str]) -> list[str]:
    """The paths by their last part, or by as many of the last as tell them all apart."""
    split_paths = [path.split("/") for path in paths]
    for depth in range(1, max(map(len, split_paths))):
        names = ["/".join(path[-depth:]) for path in split_paths]
        if len(set(names)) == len(set(paths)):
            return names
    return paths


class _NamedFile(FileReader):
    """One local image file; its id is its name."""

    def __init__(self, path: Path) -> None:
        super().__init__([str(path)])
        self.name = path.name

    def items(self, summary: Summary) -> Iterator[Item]:
        return (replace(item, id=self.name) for item in super().items(summary))


class _Chain:
    """Several readers one after the other."""

    def __init__(self, readers: list[Reader]) -> None:
        self.readers = readers

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """Those of all, of types that hold the values of all; raises InputError where there is none."""
        kinds, places = dict[str, str](), dict[str, str]()
        for reader in self.readers:
            place = str(getattr(reader, "location", ""))
            for name, kind in reader.columns.items():
                try:
                    joined = common_type(kinds.get(name, kind), kind)
                except TypeError:
                    raise InputError(
                        f"column {name} is {kinds[name]} in {places[name]} and {kind} in {place}; "
                        "give it one type in both, or embed them into folders of their own"
                    ) from None
                if joined != kinds.get(name):
                    kinds[name], places[name] = joined, place
        return kinds

    def count(self) -> int | None:
        counts = [reader.count() for reader in self.readers]
        return None if None in counts else sum(count or 0 for count in counts)

    def items(self, summary: Summary) -> Iterator[Item]:
        return itertools.chain.from_iterable(reader.items(summary) for reader in self.readers)


class _Tables(_Chain):
    """The Parquet files of a folder, which stand for it; image files beside them are left out."""

    def __init__(self, tables: list[Path], files: FolderReader) -> None:
        super().__init__([ParquetReader(table) for table in tables])
        self.files = files

    def items(self, summary: Summary) -> Iterator[Item]:
        yield from super().items(summary)
        for _ in self.files.items(Summary()):
            summary.count("image file beside tables")
