"""Sessions: what each open page is searching for, kept in memory alone and gone with the page; and the uploads on disk."""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sslzoo.demo.collection import Photos
from sslzoo.errors import ImageError
from sslzoo.images.decode import Policy, decode

PIXEL_LIMIT = 64_000_000  # of an upload; a phone's photo has 12 to 50 million, and a little more
KEPT_SIDE = 1280  # px; what is kept of an upload, to show it and to cut a part out of it
SESSIONS = 500  # at most; the one that was idle longest gives way
SWEEP_SECONDS = 5
AGAIN_SECONDS = 2  # within which two pages may have sent the same picture, which is one file
UPLOAD_SECONDS = 120  # after which an upload is deleted from disk, whoever sent it

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of width and height


@dataclass(frozen=True)
class Query:
    """What is searched for: a photo of the collection (`row`) or an upload (`image`), or the part of it in `box`.

    `whole` keeps an upload's own vector, which that of the smaller `image` is not.
    """

    name: str
    vector: NDArray[np.float32]  # [dim]
    row: int | None = None
    image: bytes | None = None  # JPEG
    box: Box | None = None
    whole: NDArray[np.float32] | None = None  # [dim]


def from_row(photos: Photos, row: int) -> Query:
    """A photo of the collection; its stored vector is used."""
    return Query(photos.id(row), photos.vector(row), row=row)


def from_upload(photos: Photos, data: bytes) -> Query:
    """An upload; raises ImageError with a sentence when it can't be read or has too many pixels."""
    policy = Policy(photos.policy.background, photos.policy.allow_truncated, PIXEL_LIMIT)
    image = decode(data, target=KEPT_SIDE, policy=policy).image
    vector = photos.embed(data)
    image.thumbnail((KEPT_SIDE, KEPT_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return Query("your picture", vector, image=buffer.getvalue(), whole=vector)


def part(photos: Photos, query: Query, box: Box | None) -> Query:
    """The same picture, searched by the part of it in `box`, or by the whole."""
    if box is None and query.row is not None:
        return from_row(photos, query.row)
    query = replace(query, box=box)
    if box is None and query.whole is not None:
        return replace(query, vector=query.whole)
    return replace(query, vector=photos.embed(picture(photos, query)))


def vector_by(other: Photos, photos: Photos, query: Query) -> NDArray[np.float32]:
    """A query to `photos` as the encoder of another collection sees it, float32 `[dim]`."""
    if other is photos:
        return query.vector
    row = other.row_of.get(query.name) if query.row is not None and query.box is None else None
    return other.embed(picture(photos, query)) if row is None else other.vector(row)


def picture(photos: Photos, query: Query) -> Image.Image:
    """What is searched for in RGB, cut to its part; raises ImageError where it is not there any more."""
    image = _whole(photos, query)
    if query.box is None:
        return image
    left, top, right, bottom = (
        round(share * side) for share, side in zip(query.box, (image.width, image.height) * 2, strict=True)
    )
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _whole(photos: Photos, query: Query) -> Image.Image:
    if query.image is not None:
        return decode(query.image).image
    file = photos.file(query.row) if query.row is not None else None
    if file is None:
        raise ImageError("the photo isn't where it was when the folder was embedded")
    try:
        return decode(file.read_bytes(), name=file.name, policy=photos.policy).image
    except OSError as error:
        raise ImageError(f"the photo can't be opened: {error.strerror}") from None


def valid_box(values: object) -> Box | None:
    """A box from a browser: four numbers in [0, 1] that enclose at least 2 % of each side; None for anything else."""
    if not (isinstance(values, list) and len(values) == 4 and all(isinstance(v, int | float) for v in values)):
        return None
    left, top, right, bottom = (min(max(float(v), 0.0), 1.0) for v in values)
    return (left, top, right, bottom) if right - left >= 0.02 and bottom - top >= 0.02 else None


class Sessions:
    """The query of each open page, by the page's secret."""

    def __init__(self) -> None:
        self._queries: OrderedDict[str, Query] = OrderedDict()
        self._making: dict[str, object] = {}  # a mark of the query that is being made for a page
        self._lock = threading.Lock()

    def get(self, session: str) -> Query | None:
        """What this page is searching for."""
        with self._lock:
            if session in self._queries:
                self._queries.move_to_end(session)
            return self._queries.get(session)

    def set(self, session: str, query: Query) -> None:
        """Remembers what this page searches for from now on."""
        with self._lock:
            self._making.pop(session, None)
            self._put(session, query)

    def end(self, session: str) -> None:
        """Forgets it."""
        with self._lock:
            self._making.pop(session, None)
            self._queries.pop(session, None)

    def make(self, session: str, make: Callable[[], Query]) -> None:
        """Remembers what `make` returns, unless the page is closed, or searches for something else, by then."""
        mark, query = object(), None
        with self._lock:
            self._making[session] = mark
        try:
            query = make()
        finally:
            with self._lock:
                if self._making.get(session) is mark:
                    del self._making[session]
                    if query is not None:
                        self._put(session, query)

    def _put(self, session: str, query: Query) -> None:
        self._queries[session] = query
        self._queries.move_to_end(session)
        if len(self._queries) > SESSIONS:
            self._queries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._queries)


@dataclass
class Uploads:
    """A folder of our own for what gradio writes of an upload; each file leaves it with its session, at the latest soon after."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="sslzoo-demo-")).resolve())
    seconds: float = UPLOAD_SECONDS
    _of: dict[str, set[Path]] = field(default_factory=dict)
    _ended: set[Path] = field(default_factory=set)

    def holds(self, path: object) -> bool:
        """Whether it is a path inside the folder, links followed."""
        if not isinstance(path, str) or "\0" in path:
            return False
        try:
            found = Path(path).resolve()
        except (OSError, RuntimeError):
            return False
        return found.is_relative_to(self.folder) and found != self.folder

    def read(self, path: str, session: str) -> bytes:
        """An upload's bytes; it now belongs to that session. Raises ImageError when it isn't there (any more)."""
        try:
            data = Path(path).read_bytes()
        except OSError:
            raise ImageError("the upload isn't there any more; drop the picture again") from None
        self._of.setdefault(session, set()).add(Path(path))
        return data

    def end(self, session: str) -> None:
        """Deletes a session's uploads; one that somebody may have sent again this very moment goes with the next sweep."""
        for path in self._of.pop(session, set()):
            if not self._delete(path, older_than=AGAIN_SECONDS):
                self._ended.add(path)

    def sweep(self) -> None:
        """Deletes what ended sessions have left, and every upload older than `seconds`, broken-off ones among them."""
        self._ended = {path for path in list(self._ended) if not self._delete(path, older_than=AGAIN_SECONDS)}
        for entry in _inside(self.folder):
            for path in _inside(entry) or [entry]:
                self._delete(path, older_than=self.seconds)
        for session, paths in list(self._of.items()):
            if not any(path.exists() for path in list(paths)):
                self._of.pop(session, None)

    def sweep_for_ever(self) -> None:
        """Sweeps from time to time, in a thread that ends with the process."""

        def run() -> None:
            while self.folder.exists():
                time.sleep(SWEEP_SECONDS)
                self.sweep()

        threading.Thread(target=run, name="uploads", daemon=True).start()

    @staticmethod
    def _delete(path: Path, *, older_than: float) -> bool:
        """Whether it is gone."""
        try:
            if time.time() - path.stat().st_mtime <= older_than:
                return False
            path.unlink()
            path.parent.rmdir()
        except OSError:
            pass  # gone already, or its folder holds another name of the same picture
        return True


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder; nothing when it is gone, or is a file."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
