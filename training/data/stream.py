"""Training images that are read and decoded as they are needed, ahead of the step, by a pool of threads."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslzoo.errors import ImageError, InputError
from sslzoo.images.read import ordered, pixels, processors
from sslzoo.spec import Preprocess
from training import distributed
from training.data import jpeg
from training.data.rows import Rows, spread

AHEAD = 4  # batches that are decoded before they are asked for


class Stream:
    """Like ImageSet, but no pixels are kept. `kept` are the numbers of the rows that can be decoded.

    With `decode` "cpu" the pixels are those of the one decode policy, equal to an ImageSet's; with "device" the JPEG
    files are decoded and scaled on the device that trains, which differs a little (see `jpeg.decode`).
    """

    def __init__(
        self, rows: Rows, kept: Tensor, size: int, failures: list[tuple[str, str]], *, decode: str = "cpu"
    ) -> None:
        self.rows, self.kept, self.size, self.failures, self.decode = rows, kept, size, failures, decode
        self.labels = [rows.labels[row] for row in kept.tolist()]
        self.fingerprint = rows.fingerprint

    @classmethod
    def checked(
        cls, rows: Rows, size: int, *, decode: str = "cpu", known: Mapping[str, Any] | None = None, quiet: bool = False
    ) -> Stream:
        """A stream of the rows that can be decoded, found by decoding each once; each process does its share.

        `known` is the summary of an earlier stream, which spares that where the files are the same.
        """
        if known is not None and known.get("fingerprint") == rows.fingerprint:
            failed = [(f["row"], f["path"], f["reason"]) for f in known["failures"]]
        else:
            failed = sorted(distributed.join(_undecodable(rows, size, quiet=quiet)))
        good = torch.ones(len(rows), dtype=torch.bool)
        good[[row for row, _, _ in failed]] = False
        if not good.any():
            first = f"; the first: {failed[0][1]}, {failed[0][2]}" if failed else ""
            raise InputError(f"no readable image among {len(rows)}{first}")
        return cls(rows, good.nonzero()[:, 0], size, [(name, reason) for _, name, reason in failed], decode=decode)

    def __len__(self) -> int:
        return len(self.kept)

    def failed_rows(self) -> list[int]:
        """The numbers of the rows that can't be decoded, in the order of `failures`."""
        return sorted(set(range(len(self.rows))) - set(self.kept.tolist()))

    def name(self, row: int) -> str:
        """What an image is called where it comes from."""
        return self.rows.item(int(self.kept[row])).id

    def order(self, generator: torch.Generator) -> Tensor:
        """The order of an epoch: the permutation that an ImageSet takes, brought together by the rows' windows."""
        order = torch.randperm(len(self), generator=generator)
        windows = self.rows.windows(generator)
        return order if windows is None else order[windows[self.kept[order]].argsort(stable=True)]

    def batches(self, lists: Iterable[Tensor], device: str) -> Generator[Tensor, None, None]:
        """The images of each list of numbers, uint8 `[n, 3, size, size]` on the device, decoded ahead of time.

        Raises InputError when a file that could be decoded before can't be any more.
        """
        lists = iter(lists)
        if (first := next(lists, None)) is None:
            return
        lengths: deque[int] = deque()

        def rows() -> Iterator[int]:
            for numbers in itertools.chain([first], lists):
                lengths.append(len(numbers))
                yield from self.kept[numbers].tolist()

        work = self._encoded if self.decode == "device" else self._pixels
        with contextlib.closing(ordered(work, rows(), workers=processors(), ahead=AHEAD * len(first))) as results:
            for _, result in results:
                batch = [result, *(value for _, value in itertools.islice(results, lengths.popleft() - 1))]
                if self.decode == "device":
                    yield jpeg.decode(batch, self.size, device)
                else:
                    x = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous()
                    yield x.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else x.to(device)

    def sample(self, limit: int) -> tuple[Tensor, list[str | int | None]]:
        """Evenly spaced images with their labels."""
        rows = spread(len(self), limit)
        with contextlib.closing(self.batches(torch.split(rows, 128), "cpu")) as batches:
            return torch.cat(list(batches)), [self.labels[row] for row in rows.tolist()]

    def _pixels(self, row: int) -> Any:
        item = self.rows.item(row)
        result = pixels(item, Preprocess(resize=self.size, size=self.size))
        if isinstance(result, ImageError):
            raise _changed(item.id, result.reason)
        return result[0]

    def _encoded(self, row: int) -> Any:
        item = self.rows.item(row)
        try:
            return item.open()
        except (OSError, ImageError) as error:
            raise _changed(item.id, str(error)) from None


def _changed(name: str, reason: str) -> InputError:
    return InputError(f"{name} could be read when the run began and can't be now ({reason}); restore it and --resume")


def _undecodable(rows: Rows, size: int, *, quiet: bool) -> list[tuple[int, str, str]]:
    """The rows of this process's share that can't be decoded, with their names and the reasons."""
    failed = []
    share = range(len(rows))[distributed.rank() * len(rows) // distributed.world() :]
    share = share[: (distributed.rank() + 1) * len(rows) // distributed.world() - share.start]

    def verdict(row: int) -> tuple[str, str] | None:
        item = rows.item(row)
        result = pixels(item, Preprocess(resize=size, size=size))
        return (item.id, result.reason) if isinstance(result, ImageError) else None

    checks = ordered(verdict, share, workers=processors(), ahead=64)
    for row, bad in tqdm(checks, desc="checking", unit="img", total=len(share), disable=quiet or None):
        if bad:
            failed.append((row, *bad))
    return failed
