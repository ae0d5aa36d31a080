"""Item, one input of a stream; Reader, what gives them; Summary, what a reader left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from PIL import Image

EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .ico .cur .icns .ppm .pgm .pbm .pnm .pfm .tga "
    ".psd .qoi .dds .pcx .sgi .jp2 .j2k .jpx .jpf .avif .avifs .heic .heif .svg .eps .wmf .emf".split()
)

#: the columns that an embeddings folder has of its own; one of a table that is called so gets a "_" behind its name
OWN_COLUMNS = frozenset({"path", "embedding", "width", "height", "flags", "label", "bytes", "mtime_ns"})

Opened = bytes | BinaryIO | Image.Image


@dataclass(frozen=True)
class Item:
    """One input: an id, how to open it, a label where one is known, further columns, and (bytes, mtime in ns) of a file.

    `open` is called in a worker thread, once, and may raise ImageError or OSError.
    """

    id: str
    open: Callable[[], Opened]
    label: str | int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    stamp: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """Which input this is and, for a file, in which state."""
        return self.id if self.stamp is None else f"{self.id}\0{self.stamp[0]}\0{self.stamp[1]}"


@dataclass
class Summary:
    """What discovery left out, counted by reason; filled while the items stream."""

    left_out: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        """One more."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def note(self, reason: str) -> None:
        """One, however often it is said: what every shard of a table has."""
        self.left_out[reason] = 1


class Reader(Protocol):
    """One kind of input. `columns` are those that items carry beside the label, as names of Arrow types."""

    @property
    def columns(self) -> Mapping[str, str]: ...
    def items(self, summary: Summary) -> Iterator[Item]: ...
    def count(self) -> int | None: ...


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like that of a still image, in any case."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in EXTENSIONS


def is_hidden(path: str) -> bool:
    """Whether any part of a path inside an archive begins with a dot, or is one of macOS's side folders."""
    parts = path.removeprefix("./").split("/")  # `tar -C folder .` begins every name so
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
