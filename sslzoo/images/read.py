"""Decodes a stream of inputs in worker threads, keeping their order: the i-th result belongs to the i-th input."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import ImageError
from sslzoo.images.decode import DEFAULT, Policy, Seen, decode
from sslzoo.images.discover import Item
from sslzoo.images.preprocess import resize_crop
from sslzoo.images.sources.item import Opened
from sslzoo.spec import Preprocess

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")

#: another decoder, for what it can decode: source, preprocessing and policy to pixels and what was found, or None
Fast = Callable[[object, Preprocess, Policy], tuple[NDArray[np.uint8], Seen] | None]


def ordered(
    function: Callable[[T], R], inputs: Iterable[T], *, workers: int, ahead: int
) -> Generator[tuple[T, R], None, None]:
    """`(input, function(input))` in order, computed by `workers` threads at most `ahead` inputs in advance."""
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="decode") as pool:
        pending: deque[tuple[T, Future[R]]] = deque()
        try:
            for value in inputs:
                pending.append((value, pool.submit(function, value)))
                if len(pending) > ahead:
                    value, future = pending.popleft()
                    yield value, future.result()
            while pending:
                value, future = pending.popleft()
                yield value, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def processors() -> int:
    """How many processors this process may use (fewer than there are, in many a container)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def opened(item: Item) -> Opened | ImageError:
    """What an input holds, or the reason why it can't be opened."""
    try:
        return item.open()
    except ImageError as error:
        return error
    except Exception as error:  # a damaged archive can raise anything, and must not stop a run
        if isinstance(error, FileNotFoundError) and not error.strerror and isinstance(error.__cause__, Exception):
            error = error.__cause__  # fsspec's own says the URL again, and this why
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ImageError(f"can't be opened: {cause}", item.id)


def pixels(
    item: Item, preprocess: Preprocess, policy: Policy = DEFAULT, fast: Fast | None = None
) -> tuple[NDArray[np.uint8], Seen] | ImageError:
    """One input as uint8 `[size, size, 3]` with what decoding found, or the reason why there is none.

    `fast` may decode it first; where it gives nothing, Pillow does. The full picture isn't kept: it may be large.
    """
    source = opened(item)
    if isinstance(source, ImageError):
        return source
    if fast is not None and (found := fast(source, preprocess, policy)) is not None:
        return found
    try:
        decoded = decode(source, name=item.id, target=preprocess.resize, policy=policy)
        return resize_crop(decoded.image, preprocess), decoded.seen
    except ImageError as error:
        return error


def read_or_reuse(
    items: Iterable[tuple[Item, K | None]],
    preprocess: Preprocess,
    policy: Policy = DEFAULT,
    *,
    workers: int = 0,
    ahead: int = 64,
    fast: Fast | None = None,
) -> Iterator[tuple[Item, K | tuple[NDArray[np.uint8], Seen] | ImageError]]:
    """Like `read`, but an item that comes with something known of it gives that back, in its place, without being opened."""

    def step(pair: tuple[Item, K | None]) -> K | tuple[NDArray[np.uint8], Seen] | ImageError:
        item, known = pair
        return pixels(item, preprocess, policy, fast) if known is None else known

    for (item, _), result in ordered(step, items, workers=workers or processors(), ahead=ahead):
        yield item, result


def read(
    items: Iterable[Item], preprocess: Preprocess, policy: Policy = DEFAULT, *, workers: int = 0, ahead: int = 64
) -> Iterator[tuple[Item, tuple[NDArray[np.uint8], Seen] | ImageError]]:
    """Every item with its pixels or its error, in order; `workers` 0 takes one thread per processor."""
    step = partial(pixels, preprocess=preprocess, policy=policy)
    yield from ordered(step, items, workers=workers or processors(), ahead=ahead)
