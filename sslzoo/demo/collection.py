"""A collection as the pages show it: its index, the groups its photos fall into, small pictures, and its encoder for queries."""

from __future__ import annotations

import re
import threading
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sslzoo.backends import open_backend
from sslzoo.backends.backend import Backend
from sslzoo.embeddings import Embeddings, read_manifest
from sslzoo.errors import ImageError, InputError, SpaceMismatch
from sslzoo.images.decode import Policy
from sslzoo.images.discover import Item
from sslzoo.images.read import pixels
from sslzoo.index.folder import open_index
from sslzoo.registry import maker_of
from sslzoo.thumbnails import cached_jpeg, image_file

AGREEMENT_K, AGREEMENT_T = 5, 0.07
AGREEMENT_MAX = 20_000  # photos; every one of them is compared with every other, and of more a sample


class Photos:
    """The photos of one embeddings folder; rows are the only names by which a browser can ask for one."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.folder, self.device = folder, device
        self.index = open_index(folder)
        self.collection = self.index.collection
        self.manifest = read_manifest(folder)
        self.policy = Policy.of(self.manifest)
        self.failed = int(self.manifest.get("failed", 0))
        self.rows: NDArray[np.int64] = np.flatnonzero(self.collection.alive)
        self._lock = threading.Lock()
        self._once: dict[str, threading.Lock] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def model(self) -> str:
        """The name of the encoder that made the vectors."""
        return self.collection.model

    @property
    def source(self) -> Path:
        """The folder that was embedded."""
        return Path(self.manifest.get("source", ""))

    def has(self, row: object) -> bool:
        """Whether this is a row that may be shown."""
        if not isinstance(row, int) or isinstance(row, bool):
            return False
        return 0 <= row < len(self.collection) and bool(self.collection.alive[row])

    def id(self, row: int) -> str:
        """A row's id: the photo's path relative to the source."""
        return self.collection.ids_at([row])[0]

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each id."""
        ids = self.collection.ids_at(self.rows)
        return dict(zip(reversed(ids), reversed(self.rows.tolist()), strict=True))

    def vector(self, row: int) -> NDArray[np.float32]:
        """A row's vector, float32 `[dim]` of length 1."""
        return np.asarray(self.collection.vectors_at(np.array([row]))[0])

    def file(self, row: int) -> Path | None:
        """The photo's file, or None where there is none that may be opened."""
        return image_file(self.id(row), self.manifest)

    def jpeg(self, row: int, longest: int) -> bytes | None:
        """A small picture, made once and kept in the user's cache; None where the photo can't be had (any more)."""
        path = self.file(row)
        try:
            return None if path is None else cached_jpeg(path, longest, self.policy)
        except (ImageError, OSError):
            return None

    @cached_property
    def groups(self) -> Groups:
        """What the photos are grouped by: the label or folder of each, else the beginning of its name."""
        return _groups(self)

    @cached_property
    def encoder(self) -> Backend:
        """The encoder that made the vectors, opened when the first query needs it."""
        encoder, precision = maker_of(self.folder, self.manifest), self.manifest.get("precision", "fp32")
        run = open_backend(encoder, device=self.device, precision=precision, int8=self.folder)
        if self.policy.space(run.space) != self.collection.space:
            raise SpaceMismatch(
                f"{self.model} has other weights now than those that made {self.folder}; embed it again"
            )
        return run

    def ready(self) -> None:
        """Opens the encoder, and lets it compute once, before anybody waits for it."""
        self.embed(Image.new("RGB", (64, 64)))

    def embed(self, image: bytes | Image.Image) -> NDArray[np.float32]:
        """The vector of a picture that is not in the collection, float32 `[dim]`; raises ImageError."""
        with self._lock:
            run = self.encoder
            read = pixels(Item("the picture", lambda: image), run.spec.preprocess, self.policy)
            if isinstance(read, ImageError):
                raise read
            return np.asarray(run(np.stack([read[0]]))[0])

    def once(self, what: str) -> threading.Lock:
        """A lock around what is computed for all visitors and kept: who asks meanwhile waits for it."""
        return self._once.setdefault(what, threading.Lock())

    @property
    def agreement_possible(self) -> bool:
        """Whether `agreement` can be told."""
        return bool(self.groups.names)

    @property
    def agreement(self) -> Agreement | None:
        """How often a photo's nearest neighbours vote for its own group, or None where there are no groups."""
        with self.once("agreement"):
            return self._agreement if self.agreement_possible else None

    @cached_property
    def _agreement(self) -> Agreement:
        from sslzoo.evaluate.knn import knn

        known = np.flatnonzero(self.groups.codes >= 0)
        if len(known) > AGREEMENT_MAX:
            drawn = np.sort(np.random.default_rng(0).choice(known, AGREEMENT_MAX, replace=False))
            if len(np.unique(self.groups.codes[drawn])) < 2:  # nearly all are of one group; kNN needs another beside it
                drawn = np.union1d(drawn, known[np.unique(self.groups.codes[known], return_index=True)[1]])
            known = drawn
        vectors = self.collection.vectors_at(self.rows[known])
        labels = [str(code) for code in self.groups.codes[known]]
        bank = Embeddings(vectors, [str(i) for i in known], labels=labels, space=self.collection.space)
        score = knn(bank, None, [(AGREEMENT_K, AGREEMENT_T)])[0]
        right = np.full(len(self), -1, np.int8)
        right[known] = score.items > 0
        return Agreement(score.value, score.interval(), right)


class Agreement:
    """The share of photos whose neighbours vote for their group, and half its 95 % interval.

    `right` `[n]` is 1 for these, 0 for those whose neighbours vote for another, and -1 for those that nobody asked.
    """

    def __init__(self, value: float, interval: float, right: NDArray[np.int8]) -> None:
        self.value, self.interval, self.right = value, interval, right
        self.asked = int((right >= 0).sum())


class Groups:
    """Names of groups, and for each photo the number of its group, -1 for none `[n]`; `kind` says what they are."""

    def __init__(self, names: list[str], codes: NDArray[np.int64], kind: str) -> None:
        self.names, self.codes, self.kind = names, codes, kind


def _groups(photos: Photos) -> Groups:
    collection, rows = photos.collection, photos.rows
    labels = collection.take("label", rows) if "label" in collection.column_names else []
    values = [None if label is None else str(label) for label in labels]
    kind = "folder"
    if len({value for value in values if value is not None}) < 2:
        # a flat folder: windmill-1.jpg and windmill-2.jpg belong together
        kind, values = "name", [_stem(id_) for id_ in collection.ids_at(rows)]
        often = Counter(values)
        values = [value if often[value] > 1 else None for value in values]
    names = sorted({value for value in values if value is not None})
    number = {name: i for i, name in enumerate(names)}
    if not 2 <= len(names) <= max(2, len(photos) // 2):
        return Groups([], np.full(len(photos), -1), "")
    return Groups(names, np.array([-1 if v is None else number[v] for v in values], np.int64), kind)


def _stem(id_: str) -> str | None:
    match = re.match(r"[^\W\d_]{3,}", id_.rsplit("/", 1)[-1])
    return match[0].lower() if match else None


def require_photos(folder: Path) -> None:
    """Raises InputError for an embeddings folder without a single row."""
    if not read_manifest(folder).get("rows"):
        raise InputError(f"{folder} holds no vectors; embed a folder of images first")
