"""A recipe: every hyper-parameter of a training run, read from TOML, with unknown keys refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslzoo.errors import InputError
from sslzoo.spec import Geometry, Preprocess
from training.augment import View

RECIPES = Path(__file__).parent / "recipes"
KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "str": ("a text", (str,)),
    "bool": ("true or false", (bool,)),
}


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of one run.

    `stem`, `padding` and `bn_eps` are those of `spec.Geometry`. `lr_per_256` is scaled linearly with the batch (Goyal et
    al., arXiv:1706.02677). `store_size` is the side in px of the centre squares that the images are kept as; where `square`
    is false they are whole, scaled down where the short side is longer, and streamed. The encoder takes its images at
    `test_size` px (0: the first view's), the centre of one whose short side is `test_resize` px (0: as much), resampled as
    the first view is. `progressive` lists (from which share of the run, factor of the views' size). `precision` is "auto"
    (bf16 where the processor computes it natively), "bf16" or "fp32". `method_options` are the keyword arguments of the
    method's class. `optimizer` is "sgd", "lars" or "adamw". The rate warms up from `start_lr` and follows half a cosine
    down to `final_lr`, or is divided by ten at each share of the run in `lr_steps`. `epochs` may be a fraction.
    `batch_size` counts the images of one optimiser step, over all processes and the `accumulate` parts that it is computed
    in. `clip_grad` bounds the gradient's norm (0: no bound). `sync_bn` takes BN's statistics over all processes. `compile`
    compiles the backbone and its slow copy. `storage` is "auto" (in memory where half of what is free holds the images),
    "memory" or "stream"; `decode` says where a stream's JPEG files are decoded, "cpu" or on the "device".
    """

    name: str
    method: str
    backbone: str
    store_size: int
    epochs: float
    batch_size: int
    lr_per_256: float
    weight_decay: float
    views: tuple[View, ...]
    stem: str = "imagenet"
    padding: str = "torchvision"
    bn_eps: float = 1e-5
    zero_init_residual: bool = True
    momentum: float = 0.9
    warmup_epochs: float = 0.0
    final_lr: float = 0.0
    decay_norms: bool = True
    optimizer: str = "sgd"
    start_lr: float = 0.0
    lr_steps: tuple[float, ...] = ()
    clip_grad: float = 0.0
    accumulate: int = 1
    sync_bn: bool = True
    compile: bool = False
    progressive: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    test_size: int = 0
    test_resize: int = 0
    square: bool = True
    precision: str = "auto"
    storage: str = "auto"
    decode: str = "cpu"
    seed: int = 0
    method_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise InputError(f"batch_size is {self.batch_size}; batch statistics need at least 2")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; give a whole number of 0 or more")
        if self.epochs <= 0:
            raise InputError(f"epochs is {self.epochs}; give how often each image is seen, for example --set epochs=10")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"warmup_epochs is {self.warmup_epochs:g}; it must be 0 or more and less than the run's {self.epochs:g} epochs,"
                f" or the rate would never reach its peak; add --set warmup_epochs={self.epochs / 10:.2g}, or 0"
            )
        if self.precision not in ("auto", "bf16", "fp32"):
            raise InputError(f"precision is {self.precision!r}; use auto, bf16 or fp32")
        if self.optimizer not in ("sgd", "lars", "adamw"):
            raise InputError(f"optimizer is {self.optimizer!r}; use sgd, lars or adamw")
        if self.storage not in ("auto", "memory", "stream"):
            raise InputError(f"storage is {self.storage!r}; use auto, memory or stream")
        if self.decode not in ("cpu", "device"):
            raise InputError(f"decode is {self.decode!r}; use cpu or device")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise InputError(f"accumulate is {self.accumulate}, which does not divide batch_size {self.batch_size}")
        if self.lr_per_256 < 0:
            raise InputError(
                f"lr_per_256 is {self.lr_per_256}; give a rate of 0 or more, for example --set lr_per_256=0.1"
            )
        starts = [start for start, _ in self.progressive]
        if not starts or starts[0] != 0 or starts != sorted(starts) or not all(0 < f <= 1 for _, f in self.progressive):
            raise InputError(
                f"progressive is {self.progressive}; it must begin at share 0.0 of the run, rise, and have factors up to 1,"
                " for example [[0.0, 0.625], [0.7, 1.0]]"
            )
        if (len(self.mean), len(self.std)) != (3, 3):
            raise InputError(
                f"mean is {self.mean} and std {self.std}; give three numbers each, for red, green and blue"
            )
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std}; every number must be above 0, since the images are divided by them")
        _ = self.geometry, self.preprocess  # what could not be exported is refused before it is trained

    @property
    def geometry(self) -> Geometry:
        """How the backbone computes."""
        return Geometry(self.stem, self.padding, self.bn_eps)

    @property
    def preprocess(self) -> Preprocess:
        """How the encoder takes its images once it is trained."""
        size = self.test_size or self.views[0].size
        return Preprocess(self.test_resize or size, size, self.views[0].interpolation, self.mean, self.std)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate at this batch size."""
        return self.lr_per_256 * self.batch_size / 256

    def steps(self, images: int) -> int:
        """How many optimiser steps the run takes on so many images."""
        return max(1, round(images // self.batch_size * self.epochs))

    def view_size(self, view: View, progress: float) -> int:
        """The side in px of a view at this point of the run: a multiple of 8, or the full size."""
        factor = [f for start, f in self.progressive if start <= progress][-1]
        return view.size if factor == 1 else max(8, round(view.size * factor / 8) * 8)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as TOML or JSON take them; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """A file that `load` reads back; for these values TOML's syntax is JSON's, and a table is a heading."""
        values = self.to_dict()
        options, views = values.pop("method_options"), values.pop("views")
        tables = [("", values), ("\n[method_options]\n", options), *(("\n[[views]]\n", view) for view in views)]
        return "".join(
            heading + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for heading, table in tables
        )


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; raises InputError for an unknown or missing key, suggesting near ones."""
    values = dict(values)
    _check(values, Recipe, "recipe")
    if not all(isinstance(view, Mapping) for view in values.get("views", ())):
        raise InputError(f"views is {values['views']!r}; write [[views]] with size and scale, one table each")
    for view in values.get("views", ()):
        _check(view, View, "views")
    values["views"] = tuple(View(**{k: _frozen(v) for k, v in view.items()}) for view in values.get("views", ()))
    required = [f.name for f in dataclasses.fields(Recipe) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if values.get(name) in (None, "", ())]:
        raise InputError(f"the recipe lacks {', '.join(missing)}")
    return Recipe(**{k: v if k == "method_options" else _frozen(v) for k, v in values.items()})


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name in `training/recipes`, or a TOML file; `overrides` are "key=value" in TOML's own syntax."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES.glob("*.toml"))
        near = difflib.get_close_matches(name_or_path, known, n=3, cutoff=0.4)
        raise InputError(
            f"no recipe {name_or_path!r}; {'did you mean' if near else 'there are'}: {', '.join(near or known)}"
        )
    values = _read(path)
    values.setdefault("name", path.stem)
    for item in overrides:
        _override(values, item)
    return from_dict(values)


def changes(settings: Recipe) -> list[str]:
    """What differs from the recipe of that name in `training/recipes`, as `key = value`; nothing where there is none."""
    if not (RECIPES / f"{settings.name}.toml").is_file():
        return []
    usual = load(settings.name).to_dict()
    return [f"{key} = {json.dumps(value)}" for key, value in settings.to_dict().items() if value != usual[key]]


def _read(path: Path) -> dict[str, Any]:
    """A recipe's keys over those of the one it names as its `base`; lists are replaced, and another method's options too."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    if "base" not in values:
        return values
    base = path.with_name(values.pop("base") + ".toml")
    if not base.is_file():
        raise InputError(f"{path} has the base {base.stem!r}, and there is no {base}")
    under = _read(base)
    options = values.get("method_options", {})
    if values.get("method", under["method"])[:4] == under["method"][:4]:  # MoCo v1 and v2 share theirs
        options = under.get("method_options", {}) | options
    return under | values | {"method_options": options}


def _override(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals:
        raise InputError(f"--set {item!r} has no '='; write --set key=value, for example --set epochs=10")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word, so that strings need no quotes
    *parents, leaf = key.split(".")
    target: Any = values
    try:
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
        target[leaf] = value
    except (LookupError, ValueError, TypeError, AttributeError):
        raise InputError(f"--set {key!r} names no place in the recipe; lists count from 0: views.0.size") from None


def _check(values: Mapping[str, Any], cls: type[Any], where: str) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise InputError(f"unknown key {key!r} in {where}; {hint}")
    for f in dataclasses.fields(cls):
        wanted, kinds = KINDS.get(str(f.type), ("a list in [ ]", (list, tuple)))
        value = values.get(f.name)
        good = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if value is not None and not good and f.name != "method_options":
            raise InputError(f"{f.name} in {where} is {value!r}; it must be {wanted}")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
