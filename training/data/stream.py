"""Training images that are read and decoded as they are needed, ahead of the step, by a pool of threads."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sslzoo.errors import ImageError, InputError
from sslzoo.images.decode import Policy, Seen, decode
from sslzoo.images.read import ordered, pixels, processors
from sslzoo.spec import Preprocess
from training import distributed
from training.data import jpeg
from training.data.rows import Items, Rows, hash_of, spread
from training.data.whole import whole

AHEAD = 4  # batches that are decoded before they are asked for
AHEAD_WHOLE = 1  # of whole pictures, which are several times as large


class Stream:
    """Like ImageSet, but no pixels are kept. `kept` are the numbers of the rows that can be decoded.

    With `decode` "cpu" the pixels are those of the one decode policy, equal to an ImageSet's; with "device" the JPEG
    files are decoded and scaled on the device that trains, which differs a little (see `jpeg.decode`). With `shown`, which
    prepares what `sample` gives, batches hold whole pictures, scaled down where the short side is longer than `size`.
    A file that has gone since it was checked is noted in `lost`, and another of its batch is taken twice in its place:
    the shuffle, split and gather of a batch count on its size.
    """

    def __init__(
        self,
        rows: Rows,
        kept: Tensor,
        size: int,
        failures: list[tuple[str, str]],
        *,
        decode: str = "cpu",
        shown: Preprocess | None = None,
    ) -> None:
        self.rows, self.kept, self.size, self.failures, self.decode = rows, kept, size, failures, decode
        self.square, self.shown = shown is None, shown or Preprocess(resize=size, size=size)
        self.labels = [rows.labels[row] for row in kept.tolist()]
        self.fingerprint = rows.fingerprint
        self.lost: dict[int, tuple[str, str]] = {}

    @classmethod
    def checked(
        cls,
        rows: Rows,
        size: int,
        *,
        decode: str = "cpu",
        shown: Preprocess | None = None,
        known: Mapping[str, Any] | None = None,
        quiet: bool = False,
    ) -> Stream:
        """A stream of the rows that can be decoded, found by decoding each once; each process does its share.

        `known` is the summary of an earlier stream, which spares that where the files are the same.
        """
        if known is not None and known.get("fingerprint") == rows.fingerprint:
            failed = [(f["row"], f["path"], f["reason"]) for f in known["failures"]]
        else:
            preprocess = shown or Preprocess(resize=size, size=size)
            failed = sorted(distributed.join(_undecodable(rows, preprocess, quiet=quiet)))
        good = torch.ones(len(rows), dtype=torch.bool)
        good[[row for row, _, _ in failed]] = False
        if not good.any():
            first = f"; the first: {failed[0][1]}, {failed[0][2]}" if failed else ""
            raise InputError(f"no readable image among {len(rows)}{first}")
        failures = [(name, reason) for _, name, reason in failed]
        return cls(rows, good.nonzero()[:, 0], size, failures, decode=decode, shown=shown)

    def __len__(self) -> int:
        return len(self.kept)

    def failed_rows(self) -> list[int]:
        """The numbers of the rows that can't be decoded, in the order of `failures`."""
        return sorted(set(range(len(self.rows))) - set(self.kept.tolist()))

    def name(self, row: int) -> str:
        """What an image is called where it comes from."""
        return self.rows.item(int(self.kept[row])).id

    @cached_property
    def names_hash(self) -> str:
        """A hash of all names, as an ImageSet has it; nothing for a table's rows, which would have to be read for it."""
        return hash_of(map(self.name, range(len(self)))) if isinstance(self.rows, Items) else ""

    def order(self, generator: torch.Generator) -> Tensor:
        """The order of an epoch: the permutation that an ImageSet takes, brought together by the rows' windows."""
        order = torch.randperm(len(self), generator=generator)
        windows = self.rows.windows(generator)
        return order if windows is None else order[windows[self.kept[order]].argsort(stable=True)]

    def batches(self, lists: Iterable[Tensor], device: str) -> Generator[Tensor | list[Tensor], None, None]:
        """The images of each list of numbers, uint8 `[n, 3, size, size]` on the device, decoded ahead of time.

        Whole pictures are n of `[3, h, w]`. Raises InputError where no file of a list can be read any more.
        """
        work = self._encoded if self.decode == "device" else self._squares if self.square else self._whole
        with contextlib.closing(self._ahead(work, lists)) as results:
            for batch in results:
                if self.decode == "device":
                    images = jpeg.decode(batch, self.size, device, square=self.square)
                    yield torch.stack(images) if self.square else images
                elif self.square:
                    yield _send(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous(), device)
                else:  # in one piece, since many small copies are slow
                    flat = _send(torch.from_numpy(np.concatenate([image.reshape(-1) for image in batch])), device)
                    parts = torch.split(flat, [image.size for image in batch])
                    yield [x.view(image.shape).permute(2, 0, 1) for x, image in zip(parts, batch, strict=True)]

    def sample(self, limit: int) -> tuple[Tensor, list[str | int | None]]:
        """Evenly spaced images, squares of one size, with their labels."""
        rows = spread(len(self), limit)
        with contextlib.closing(self._ahead(self._squares, torch.split(rows, 128))) as results:
            images = np.concatenate([np.stack(batch) for batch in results])
        return torch.from_numpy(images).permute(0, 3, 1, 2), [self.labels[row] for row in rows.tolist()]

    def _ahead(self, work: Callable[[int], Any], lists: Iterable[Tensor]) -> Generator[list[Any], None, None]:
        """What `work` makes of the rows of each list, computed ahead of time by a pool of threads."""
        lists = iter(lists)
        if (first := next(lists, None)) is None:
            return
        lengths: deque[int] = deque()

        def rows() -> Iterator[int]:
            for numbers in itertools.chain([first], lists):
                lengths.append(len(numbers))
                yield from self.kept[numbers].tolist()

        ahead = (AHEAD_WHOLE if work == self._whole else AHEAD) * len(first)
        with contextlib.closing(ordered(work, rows(), workers=processors(), ahead=ahead)) as results:
            for result in results:
                yield self._filled([result, *itertools.islice(results, lengths.popleft() - 1)])

    def _filled(self, batch: list[tuple[int, Any]]) -> list[Any]:
        """What was made of each row, with the place of one that can't be read taken by one that can."""
        lost = {row: error for row, error in batch if isinstance(error, ImageError)}
        self.lost |= {row: (self.rows.item(row).id, error.reason) for row, error in lost.items()}
        good = [value for row, value in batch if row not in lost]
        if not good:
            name, reason = self.lost[next(iter(lost))]
            raise InputError(
                f"none of {len(lost)} files of a batch can be read any more; the first: {name}, {reason}; restore them and"
                " --resume"
            )
        return [good[i % len(good)] if row in lost else value for i, (row, value) in enumerate(batch)]

    def _squares(self, row: int) -> Any:
        result = pixels(self.rows.item(row), self.shown)
        return result if isinstance(result, ImageError) else result[0]

    def _whole(self, row: int) -> Any:
        def kept_whole(source: Any, _: Preprocess, policy: Policy) -> tuple[NDArray[np.uint8], Seen] | None:
            try:
                decoded = decode(source, target=self.size, policy=policy)
            except ImageError:
                return None  # `pixels` finds the reason again and tells it
            return whole(decoded.image, self.size), decoded.seen

        result = pixels(self.rows.item(row), self.shown, fast=kept_whole)
        return result if isinstance(result, ImageError) else result[0]

    def _encoded(self, row: int) -> Any:
        item = self.rows.item(row)
        try:
            return item.open()
        except (OSError, ImageError) as error:
            return error if isinstance(error, ImageError) else ImageError(f"can't be opened: {error.strerror}", item.id)


def _send(x: Tensor, device: str) -> Tensor:
    return x.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else x.to(device)


def _undecodable(rows: Rows, preprocess: Preprocess, *, quiet: bool) -> list[tuple[int, str, str]]:
    """The rows of this process's share that can't be decoded, with their names and the reasons."""
    failed = []
    share = range(len(rows))[distributed.rank() * len(rows) // distributed.world() :]
    share = share[: (distributed.rank() + 1) * len(rows) // distributed.world() - share.start]

    def verdict(row: int) -> tuple[str, str] | None:
        item = rows.item(row)
        result = pixels(item, preprocess)
        return (item.id, result.reason) if isinstance(result, ImageError) else None

    checks = ordered(verdict, share, workers=processors(), ahead=64)
    for row, bad in tqdm(checks, desc="checking", unit="img", total=len(share), disable=quiet or None):
        if bad:
            failed.append((row, *bad))
    return failed
