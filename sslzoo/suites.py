"""Suites of labelled sets: four small Parquet sets, and the twelve of SimCLR's and BYOL's transfer tables.

The twelve with their metrics: SimCLR, arXiv:2002.05709, appendix B.8; BYOL, arXiv:2006.07733, appendix D. torchvision reads
them in their official layouts (Birdsnap, Caltech-101 with its background class, and SUN397's official split are read here);
nothing is downloaded. λ is chosen on the official validation images where there are some, and on a drawn fifth elsewhere.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from sslzoo.errors import InputError, MissingExtra
from sslzoo.evaluate.linear import draw
from sslzoo.images.sources.item import Item, Summary
from sslzoo.images.sources.location import contents, stamp_of
from sslzoo.labelled import LabelledSet, open_set
from sslzoo.spec import EncoderSpec

SMALL = {"cifar10": "top1", "caltech101": "mean_per_class", "imagenette": "top1", "fashion_mnist": "top1"}
CALTECH_SHOTS = 30  # training images of each class, the others are for the test
VAL = "val/"


@dataclass(frozen=True)
class Suite:
    """The sets of a suite that are there and can be read, and by name why the others that are there can't."""

    sets: list[LabelledSet]
    broken: Mapping[str, str]


class ListReader:
    """Items that are listed already."""

    columns: Mapping[str, str] = {}

    def __init__(self, items: Sequence[Item]) -> None:
        self.listed = items

    def count(self) -> int | None:
        """As many as are listed."""
        return len(self.listed)

    def items(self, summary: Summary) -> Iterator[Item]:
        """One each, in order."""
        return iter(self.listed)


def small(root: str | Path) -> Suite:
    """Those of cifar10, caltech101, imagenette and fashion_mnist that lie below `root` as Parquet."""
    return _found(root, {name: (name, partial(_parquet, name, metric)) for name, metric in SMALL.items()})


def twelve(root: str | Path) -> Suite:
    """Those of the twelve sets that lie below `root`, each in its official layout."""
    return _found(root, {name: (FOLDERS[name], read) for name, read in TWELVE.items()})


SUITES: Mapping[str, Callable[[str | Path], Suite]] = {"small": small, "twelve": twelve}


def papers_input(spec: EncoderSpec) -> EncoderSpec:
    """The encoder with the twelve sets' preprocessing: the short side bicubic to the network's size, then the centre."""
    size = spec.preprocess.size
    changed = dataclasses.replace(spec.preprocess, resize=size, interpolation="bicubic")
    return dataclasses.replace(spec, preprocess=changed)


def _found(root: str | Path, suite: Mapping[str, tuple[str, Callable[[Path], LabelledSet]]]) -> Suite:
    """Reads the sets whose folder is below `root`; each has its folder and its reader."""
    there = {name: read for name, (folder, read) in suite.items() if (Path(root) / folder).exists()}
    if not there:
        raise InputError(
            f"{root} holds none of the suite's sets ({', '.join(folder for folder, _ in suite.values())}); name the folder "
            "that they lie in"
        )
    sets, broken = [], dict[str, str]()
    for name, read in there.items():
        try:
            sets.append(read(Path(root)))
        except ImportError as error:
            raise MissingExtra(
                f"some of these sets come as .mat files ({error}); pip install 'sslzoo[suites]'"
            ) from None
        except Exception as error:  # a damaged file makes torchvision, scipy, json, csv and pickle raise all kinds
            broken[name] = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    if not sets:
        raise InputError("; ".join(f"{name} can't be read: {cause}" for name, cause in broken.items()))
    return Suite(sets, broken)


def _parquet(name: str, metric: str, root: Path) -> LabelledSet:
    return open_set(root / name, metric)


def _items(prefix: str, data: Any, labels: Sequence[Any]) -> list[Item]:
    """A torchvision data set as items, with the stamps of its files where it has some; the label is a class's name."""
    files = next((getattr(data, name) for name in ("_image_files", "_images", "images") if hasattr(data, name)), None)
    if hasattr(data, "_samples"):
        files = [file for file, _ in data._samples]
    stamps = [None] * len(labels) if files is None else [stamp_of(file) for file in files]
    return [
        Item(f"{prefix}{i:06}", partial(_picture, data, i), label, stamp=stamp)
        for i, (label, stamp) in enumerate(zip(labels, stamps, strict=True))
    ]


def _file(id_: str, path: str | Path, label: str) -> Item:
    return Item(id_, contents(str(path)), label, stamp=stamp_of(path))


def _picture(data: Any, row: int) -> Image.Image:
    image: Image.Image = data[row][0]
    return image


def _named(data: Any, numbers: Sequence[int]) -> list[str]:
    names = getattr(data, "classes", None)
    return [f"{number:03}" if names is None else str(names[number]) for number in numbers]


def _set(name: str, parts: Iterable[list[Item]], metric: str = "top1") -> LabelledSet:
    train, test = parts
    held_out = VAL if any(item.id.startswith(VAL) for item in train) else ""
    return LabelledSet(name, ListReader(train), ListReader(test), metric, held_out)


def _food(root: Path) -> LabelledSet:
    from torchvision.datasets import Food101

    parts = [(s, Food101(root, s)) for s in ("train", "test")]
    return _set("food101", (_items(f"{s}/", d, _named(d, d._labels)) for s, d in parts))


def _cifar(name: str) -> Callable[[Path], LabelledSet]:
    def read(root: Path) -> LabelledSet:
        from torchvision import datasets

        kind = getattr(datasets, name)
        parts = [(s, kind(root, train=s == "train")) for s in ("train", "test")]
        return _set(name.lower(), (_items(f"{s}/", d, _named(d, d.targets)) for s, d in parts))

    return read


def _birdsnap(root: Path) -> LabelledSet:
    """birdsnap.tgz with the images that its script downloads: images.txt, test_images.txt, download/images/SPECIES/*.jpg."""
    folder = root / "birdsnap"
    tests = {row["path"] for row in _table(folder / "test_images.txt")}
    parts: list[list[Item]] = [[], []]
    for row in _table(folder / "images.txt"):
        path = folder / "download" / "images" / row["path"]
        if path.is_file():  # not every picture can still be had
            parts[row["path"] in tests].append(_file(row["path"], path, row["path"].split("/")[0]))
    return _set("birdsnap", parts)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if "path" not in (rows.fieldnames or ()):
            raise InputError(f"{path} has no column 'path' (its first line is {rows.fieldnames}); unpack it again")
        return list(rows)


def _sun(root: Path) -> LabelledSet:
    """SUN397 with Training_01.txt and Testing_01.txt of its Partitions.zip beside ClassName.txt."""
    folder = root / "SUN397"
    parts = []
    for name in ("Training_01.txt", "Testing_01.txt"):
        lines = [line.strip().lstrip("/") for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        parts.append([_file(p, folder / p, "/".join(p.split("/")[1:-1])) for p in lines if p])
    return _set("sun397", parts)


def _cars(root: Path) -> LabelledSet:
    from torchvision.datasets import StanfordCars

    parts = [(s, StanfordCars(root, s)) for s in ("train", "test")]
    return _set("cars", (_items(f"{s}/", d, _named(d, [n for _, n in d._samples])) for s, d in parts))


def _three(name: str, open_part: Callable[[str], Any], metric: str = "top1") -> LabelledSet:
    """A set with training, validation and test parts; the first two are trained on in the end."""
    parts = {s: open_part(s) for s in ("train", "val", "test")}
    train, val, test = (_items(f"{s}/", d, _named(d, d._labels)) for s, d in parts.items())
    return _set(name, (train + val, test), metric)


def _aircraft(root: Path) -> LabelledSet:
    from torchvision.datasets import FGVCAircraft

    return _three("aircraft", lambda split: FGVCAircraft(root, split), "mean_per_class")


def _dtd(root: Path) -> LabelledSet:
    from torchvision.datasets import DTD

    return _three("dtd", lambda split: DTD(root, split, partition=1))


def _flowers(root: Path) -> LabelledSet:
    from torchvision.datasets import Flowers102

    return _three("flowers", lambda split: Flowers102(root, split), "mean_per_class")


def _pets(root: Path) -> LabelledSet:
    from torchvision.datasets import OxfordIIITPet

    parts = [(s, OxfordIIITPet(root, s)) for s in ("trainval", "test")]
    return _set("pets", (_items(f"{s}/", d, _named(d, d._labels)) for s, d in parts), "mean_per_class")


def _caltech(root: Path) -> LabelledSet:
    """101_ObjectCategories with BACKGROUND_Google, 102 classes: 30 drawn images of each are trained on."""
    from torchvision.datasets import ImageFolder

    data = ImageFolder(str(root / "caltech101" / "101_ObjectCategories"))
    ids = ["/".join(Path(path).parts[-2:]) for path, _ in data.samples]
    items = [_file(i, path, data.classes[c]) for i, (path, c) in zip(ids, data.samples, strict=True)]
    drawn = set(draw(ids, np.array(data.targets), shots=CALTECH_SHOTS).tolist())
    parts = [[item for row, item in enumerate(items) if (row in drawn) == used] for used in (True, False)]
    return _set("caltech101", parts, "mean_per_class")


def _voc(root: Path) -> LabelledSet:
    from torchvision.datasets import VOCDetection

    parts = []
    for split in ("train", "val", "test"):
        data = VOCDetection(root, year="2007", image_set=split)
        parts.append(_items(f"{split}/", data, [_objects(path) for path in data.annotations]))
    return _set("voc2007", (parts[0] + parts[1], parts[2]), "mAP11")


def _objects(path: str) -> str:
    """The classes in an annotation, "cat|?chair": a class whose objects are all difficult has a question mark."""
    clear: dict[str, bool] = {}
    for each in ElementTree.parse(path).getroot().iter("object"):
        name = each.findtext("name", "")
        clear[name] = clear.get(name, False) or each.findtext("difficult", "0") != "1"
    return "|".join(name if sure else f"?{name}" for name, sure in sorted(clear.items()))


TWELVE: Mapping[str, Callable[[Path], LabelledSet]] = {
    "food101": _food,
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "birdsnap": _birdsnap,
    "sun397": _sun,
    "cars": _cars,
    "aircraft": _aircraft,
    "voc2007": _voc,
    "dtd": _dtd,
    "pets": _pets,
    "caltech101": _caltech,
    "flowers": _flowers,
}

#: the folder that each lies in; a set without it isn't there
FOLDERS: Mapping[str, str] = {
    "food101": "food-101",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "birdsnap": "birdsnap",
    "sun397": "SUN397",
    "cars": "stanford_cars",
    "aircraft": "fgvc-aircraft-2013b",
    "voc2007": "VOCdevkit/VOC2007",
    "dtd": "dtd",
    "pets": "oxford-iiit-pet",
    "caltech101": "caltech101/101_ObjectCategories",
    "flowers": "flowers-102",
}
