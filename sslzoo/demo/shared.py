"""What all tabs share: the collection, the queries of the open pages, and how files and errors cross the border to gradio."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from sslzoo.demo import sessions
from sslzoo.demo.collection import Photos
from sslzoo.demo.sessions import Query, Sessions, Uploads
from sslzoo.demo.shelf import Shelf
from sslzoo.errors import ImageError, SslzooError

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}  # events of the page alone
LATEST = PRIVATE | {"trigger_mode": "always_last"}  # one at a time, so that no earlier result comes after a later one
MOST_ASKED = 1000  # neighbours that an API client may ask for
ASSETS = Path(__file__).parent / "assets"


def asset(name: str) -> str:
    """A file of `assets`."""
    return (ASSETS / name).read_text(encoding="utf-8")


def picture_input(**options: Any) -> gr.Image:
    """An image input that gives the path of an upload of ours, as it was sent: nothing is converted.

    It is no subclass, as gradio would write a stub of one beside its source.
    """
    made = gr.Image(type="filepath", **options)
    made.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return made


class Page(gr.Blocks):
    """Blocks that take files from the folder of uploads alone: no address is fetched, no other path is opened."""

    uploads: Uploads

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> Any:
        _refuse(inputs, self.uploads)
        return await super().preprocess_data(block_fn, inputs, *args, **options)


def _refuse(value: Any, uploads: Uploads) -> None:
    """Raises for anything that gradio would take for a file and that is no upload."""
    if isinstance(value, dict):
        if "path" in value and not uploads.holds(value["path"]):
            raise gr.Error("Only an uploaded picture can be searched for.", print_exception=False)
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            _refuse(each, uploads)


def said(function: Callable[..., Any]) -> Callable[..., Any]:
    """Shows an error of ours as its sentence."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **options: Any) -> Any:
            with _sentences():
                yield from function(*args, **options)

        return stream

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        with _sentences():
            return function(*args, **options)

    return wrapped


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        reason = error.reason[:1].upper() + error.reason[1:]
        raise gr.Error(f"That picture can't be used. {reason}.", print_exception=False) from None
    except SslzooError as error:
        raise gr.Error(str(error), print_exception=False) from None


def number(name: str, value: object, least: float, most: float, *, whole: bool = False) -> float:
    """A number from a browser or an API client; a sentence for anything else, and for what lies outside of the limits."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if known and least <= value <= most and not (whole and value % 1):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    kind = "whole number" if whole else "number"
    raise gr.Error(f"{name} is {value!r:.40}; it is a {kind} between {least:g} and {most:g}.", print_exception=False)


class Demo:
    """All that the pages share."""

    def __init__(self, photos: Photos, uploads: Uploads, photo_url: str, *, downloads: bool = True) -> None:
        self.photos, self.uploads, self.photo_url = photos, uploads, photo_url
        self.sessions = Sessions()
        self.shelf = Shelf(photos, downloads=downloads)

    def search(self, query: Query, k: int, threshold: float) -> tuple[list[tuple[int, str, float]], float]:
        """The k nearest that reach the threshold, without the query itself: row, id, cosine; and the milliseconds it took."""
        start = time.perf_counter()
        itself = [query.row] if query.box is None else None
        limit = None if threshold <= 0 else threshold
        found = self.photos.index.search(query.vector[None], k, exclude=itself, threshold=limit)
        took = 1000 * (time.perf_counter() - start)
        return list(zip(found.rows[0].tolist(), found.ids[0], found.scores[0].tolist(), strict=True)), took

    def by_id(self, id_: object) -> Query:
        """The query that a photo's id makes, from an API client."""
        row = self.photos.row_of.get(id_) if isinstance(id_, str) else None
        if row is None:
            raise gr.Error("The collection has no photo of that id.", print_exception=False)
        return sessions.from_row(self.photos, row)

    def upload(self, path: str, session: str) -> Query:
        """The query that an upload makes."""
        return sessions.from_upload(self.photos, self.uploads.read(path, session))

    def pick(self, event: gr.EventData, request: gr.Request) -> None:
        """Makes the photo that was clicked on the page's query; anything else that a browser may send is ignored."""
        row = event._data.get("row")
        if self.photos.has(row):
            self.sessions.set(request.session_hash or "", sessions.from_row(self.photos, row))
