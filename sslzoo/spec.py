"""What is known of an encoder (preprocessing, geometry, provenance, license, scores) as frozen records with JSON in and out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from sslzoo.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

IMAGENET_VAL = "ImageNet-1k val"

# Raised whenever decoding changes the pixels of any file: vectors made before and after can't be compared.
DECODE_POLICY = 4

PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"})


class Record:
    """JSON for frozen dataclasses: nested records and tuples go in and out, unknown keys are refused."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        if not isinstance(values, Mapping):
            raise InputError(f"{cls.__name__} is {values!r}; it is a JSON object")
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise InputError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        hints = typing.get_type_hints(cls)
        try:
            return cls(**{name: _parse(value, hints[name]) for name, value in values.items()})
        except TypeError as error:  # a missing field
            raise InputError(f"{cls.__name__}: {error}") from None


def _parse(value: Any, hint: Any) -> Any:
    """`value` from JSON as the type that the field declares: lists become tuples, objects become records."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _parse(value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return tuple(_parse(v, arguments[0]) for v in value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    return value


@dataclass(frozen=True)
class Preprocess(Record):
    """From a decoded RGB image to the network's input.

    The short side is scaled to `resize` px, the centre square of `size` px is cut out, and values in [0, 1] become
    (x - mean) / std.
    """

    resize: int
    size: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 0 < self.size <= self.resize:
            raise InputError(f"preprocessing needs 0 < size <= resize, got size={self.size}, resize={self.resize}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise InputError(f"interpolation is {self.interpolation!r}; use bilinear or bicubic")


STEMS = ("imagenet", "cifar", "cifar-pad2")
PADDINGS = ("torchvision", "same-pool", "same")


@dataclass(frozen=True)
class Geometry(Record):
    """Where a backbone differs from torchvision's: its stem, its padding, and the epsilon of its BN.

    `stem` is "imagenet" (7x7 stride 2 and max-pool), "cifar" (3x3 stride 1, no pool), or "cifar-pad2" (solo-learn's: the
    same with padding 2). `padding` is "torchvision" (symmetric), "same-pool" (TensorFlow's SAME at the max-pool, as in
    Google's SimCLR), or "same" (SAME at the stem, the pool and every strided 3x3, as in DeepMind's BYOL).
    """

    stem: str = "imagenet"
    padding: str = "torchvision"
    bn_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise InputError(f"stem is {self.stem!r}; use {', '.join(STEMS)}")
        if self.padding not in PADDINGS:
            raise InputError(f"padding is {self.padding!r}; use {', '.join(PADDINGS)}")


@dataclass(frozen=True)
class ReportedScore(Record):
    """A score in [0, 1] with what is needed to compare it: data set, protocol, and the same backbone with random weights.

    `interval` is half the width of the 95 % interval over the test items, and `gain_interval` that of the paired difference
    to random weights. `benchmark` names the data set as the Hub knows
    it where it is one of its registered benchmarks: "ORG/DATASET:TASK".
    """

    dataset: str
    metric: str
    protocol: str
    value: float
    interval: float | None = None
    random_weights: float | None = None
    raw_pixels: float | None = None
    gain_interval: float | None = None
    source: str = ""
    benchmark: str = ""

    def __post_init__(self) -> None:
        if self.benchmark and not re.fullmatch(r"[\w.-]+/[\w.-]+:[\w.-]+", self.benchmark):
            raise InputError(
                f"benchmark is {self.benchmark!r}; write ORG/DATASET:TASK, as its eval.yaml on the Hub has it"
            )


@dataclass(frozen=True)
class Canary(Record):
    """The first numbers of the embedding of one built-in photo, to tell whether weights and code still fit together."""

    image: str
    values: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True)
class Checkpoint(Record):
    """A file of the encoder's authors, converted on first use: where it lies and in which of `convert.FORMATS` it is.

    `hash` is what is known of the file, whole or its first digits: "md5:a04e12f8…" or "sha256:85fcc4de". `drop` are
    beginnings of names to leave out.
    """

    url: str
    format: str = "auto"
    hash: str = ""
    size_bytes: int = 0
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hash and not re.fullmatch(r"(md5|sha256):[0-9a-f]{8,64}", self.hash):
            raise InputError(f"hash is {self.hash!r}; write md5:… or sha256:… with at least 8 digits")


@dataclass(frozen=True)
class Head(Record):
    """The linear ImageNet-1k classifier that the authors trained on the frozen features.

    It lies in a `checkpoint` of its own, or in the encoder's where there is none. `sha256` is that of `head.safetensors`.
    """

    checkpoint: Checkpoint | None = None
    sha256: str = ""


@dataclass(frozen=True)
class EncoderSpec(Record):
    """One known encoder: one id is one set of weights.

    `sources` are model folders, tried in order ("package:NAME", "checkout:NAME", "local-dir:PATH", "hf-hub:ORG/REPO@REVISION");
    `checkpoints` are the authors' files of the same weights, tried after them. `sha256` and `size_bytes` are those of
    `model.safetensors`; `head` is the authors' linear classifier, where one was published.
    `license` covers the weights, the stricter one where two statements contradict each other (`license_note` has both);
    `data_terms` says under which terms their training pictures stand. `default` marks the tag that answers to the bare
    name. `verified` is "none", "format" (the conversion was proven with the authors' code, on this network or a sibling
    in another size), or "online" (with the file itself).
    """

    name: str
    method: str
    backbone: str
    dim: int
    preprocess: Preprocess
    geometry: Geometry = field(default_factory=Geometry)
    sources: tuple[str, ...] = ()
    sha256: str = ""
    size_bytes: int = 0
    checkpoints: tuple[Checkpoint, ...] = ()
    head: Head | None = None
    license: str = ""
    license_note: str = ""
    data_terms: str = ""
    trained_on: str = ""
    epochs: float | None = None
    verified: str = "none"
    recipe: str = ""
    commit: str = ""
    paper: str = ""
    scores: tuple[ReportedScore, ...] = ()
    canary: Canary | None = None
    default: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.verified not in ("none", "format", "online"):
            raise InputError(f"verified is {self.verified!r}; use none, format or online")

    @property
    def permissive(self) -> bool:
        """Whether the license of the weights allows commercial use (their `data_terms` may still restrict it)."""
        return self.license.lower() in PERMISSIVE

    @property
    def plain(self) -> bool:
        """Whether timm's network of the backbone's name computes this one: no doubled channels, and its geometry."""
        return "w" not in self.backbone and self.geometry == Geometry()

    @property
    def linear_top1(self) -> float | None:
        """The reported linear-probe accuracy in [0, 1] on ImageNet-1k, where there is one."""
        return next((s.value for s in self.scores if s.metric == "linear_top1" and s.dataset == IMAGENET_VAL), None)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


_BACKBONE = re.compile(r"(?:resnet|rn|r)-?(\d+)(?:[wx](\d))?")


def backbone_name(text: str) -> str | None:
    """The full backbone name behind "r50", "rn50", "resnet50", "r50w2"; None when it is none of these."""
    if (match := _BACKBONE.fullmatch(text)) and match[1] in ("18", "34", "50", "101", "152", "200"):
        return f"resnet{match[1]}" + (f"w{match[2]}" if match[2] and match[2] != "1" else "")
    return None


def feature_dim(backbone: str) -> int:
    """The length of a backbone's pooled features: 512 for ResNet-18 and -34, 2048 above, times the width."""
    depth, _, width = backbone.removeprefix("resnet").partition("w")
    return (512 if depth in ("18", "34") else 2048) * int(width or 1)


def space_id(weights: str, preprocess: Preprocess, geometry: Geometry) -> str:
    """The space that vectors live in: a hash of the weights' digest, the preprocessing and the decode policy.

    Only vectors of one space can be compared. The precision of the computation is left out on purpose: fp32, fp16 and
    bf16 give the same vectors to a cosine of 0.999 or better.
    """
    parts = {"weights": weights, **preprocess.to_dict(), **geometry.to_dict(), "decode": DECODE_POLICY}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def timm_config(spec: EncoderSpec, classes: Sequence[str] = ()) -> dict[str, Any]:
    """timm's description of a model (`config.json`): architecture, classes if any, and the preprocessing of these weights."""
    p = spec.preprocess
    return {
        "architecture": spec.backbone,
        "num_classes": len(classes),
        "num_features": spec.dim,
        **({"label_names": list(classes)} if classes else {"global_pool": "avg"}),
        "pretrained_cfg": {
            "tag": spec.name.partition(".")[2],
            "input_size": [3, p.size, p.size],
            "fixed_input_size": False,
            "interpolation": p.interpolation,
            "crop_pct": p.size / p.resize,
            "crop_mode": "center",
            "mean": list(p.mean),
            "std": list(p.std),
            "num_classes": len(classes),
            "first_conv": "conv1",
            "classifier": "fc",
            "license": spec.license or "not stated",
        },
    }
