"""Known encoders by name: `list_models("byol*")`, and `resolve(name)` with aliases and suggestions; reads `zoo/*.json`."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sslzoo import hub
from sslzoo.errors import InputError, UnknownModel
from sslzoo.hub.folder import not_a_model
from sslzoo.hub.licenses import NOT_STATED
from sslzoo.spec import EncoderSpec, Preprocess, backbone_name, feature_dim

ZOO = Path(__file__).parent / "zoo"
PACKAGE_ENCODER = "simclr-r18.tin_cpu_long"  # the one whose weights ship with the package


@cache
def known() -> dict[str, EncoderSpec]:
    """Every encoder of the zoo by its full name, sorted."""
    specs = [EncoderSpec.from_dict(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(ZOO.glob("*.json"))]
    return {spec.name: spec for spec in specs}


def list_models(pattern: str = "*", *, license: str | None = None) -> list[str]:
    """Full names of the known encoders that match a shell pattern, or hold a part of a name such as "byol".

    `license="permissive"` or one license id narrows it.
    """
    if not set(pattern) & set("*?["):
        pattern = f"*{pattern.lower()}*"
    return [name for name, spec in known().items() if fnmatch.fnmatch(name, pattern) and _allowed(spec, license)]


def resolve(name: str, *, license: str | None = None) -> EncoderSpec:
    """The encoder behind a name, without opening its weights.

    Understood are full names (`simsiam-r50.fair_in1k_100ep`), bare ones (`simsiam-r50`: the default tag), spellings
    such as `simsiam_resnet50` and `simsiam/r50`, `random-r18` (seeded random weights), and model folders
    (`local-dir:PATH`, `hf-hub:ORG/REPO[@REVISION]`, or a path that exists). Raises UnknownModel with near names otherwise,
    and for an encoder whose license isn't `license`; random weights, and model folders here that state none, have no limit.
    """
    license = license or os.environ.get("SSLZOO_LICENSE")
    if name.startswith("hf-hub:"):
        return _choose([hub.describe(name)], name, license)
    if name.startswith("local-dir:"):
        return _of_folder(Path(name.removeprefix("local-dir:")).expanduser(), license)
    canonical = _canonical(name)
    if canonical in known():
        return _choose([known()[canonical]], name, license)
    if random := _random(canonical):
        return random
    if tags := [spec for full, spec in known().items() if full.partition(".")[0] == canonical]:
        return _choose(tags, name, license)
    if Path(name).is_dir():
        return _of_folder(Path(name), license)
    raise _unknown(name, canonical)


def maker(manifest: Mapping[str, Any]) -> str:
    """The name by which `resolve` finds the encoder of an embeddings folder: of one without a name here, where it came from."""
    name, source = str(manifest["model"]), str(manifest.get("model_source", ""))
    elsewhere = source.startswith("hf-hub:") and name not in known()
    return source if elsewhere or source.startswith("local-dir:") else name


def maker_of(folder: Path | None, manifest: Mapping[str, Any]) -> str:
    """The `maker` of an embeddings folder; raises InputError naming that where the model folder is there no more."""
    name = maker(manifest)
    place = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") and not (place / hub.CONFIG).is_file():
        raise InputError(
            f"{folder or 'the collection'} was made by {manifest['model']} in the model folder {place}, which is not there; "
            "put it back, or embed again: sslzoo embed … --overwrite -m FOLDER"
        )
    return name


def of_checkpoint(path: Path) -> EncoderSpec | None:
    """The known encoder whose published hash this checkpoint file has, with that file as its only checkpoint."""
    sums: dict[str, str] = {}
    for spec in known().values():
        for checkpoint in spec.checkpoints:
            algorithm, _, digits = checkpoint.hash.partition(":")
            if not digits:
                continue
            if algorithm not in sums:
                with path.open("rb") as file:
                    sums[algorithm] = hashlib.file_digest(file, algorithm).hexdigest()
            if sums[algorithm].startswith(digits):
                exact = dataclasses.replace(
                    checkpoint, hash=f"{algorithm}:{sums[algorithm]}", size_bytes=path.stat().st_size
                )
                return dataclasses.replace(spec, sources=(), checkpoints=(exact,), default=False)
    return None


def random_twin(spec: EncoderSpec, seed: int = 0) -> EncoderSpec:
    """The same network and preprocessing with seeded random weights: the baseline beside every score."""
    twin = resolve(f"random-{spec.backbone}")
    return dataclasses.replace(twin, preprocess=spec.preprocess, geometry=spec.geometry, sources=(f"random:{seed}",))


def _canonical(name: str) -> str:
    """`SimSiam/resnet50.Tag` as `simsiam-r50.tag`; what doesn't look like a name comes back as it is, in lower case."""
    stem, dot, tag = name.lower().partition(".")
    method, _, backbone = stem.replace("/", "-").replace("_", "-").partition("-")
    full = backbone_name(backbone)
    return f"{method}-{full.replace('resnet', 'r')}{dot}{tag}" if full else name.lower()


def _random(canonical: str) -> EncoderSpec | None:
    method, _, backbone = canonical.partition("-")
    full = backbone_name(backbone)
    if method != "random" or full is None:
        return None
    return EncoderSpec(
        name=canonical,
        method="random",
        backbone=full,
        dim=feature_dim(full),
        preprocess=known()[PACKAGE_ENCODER].preprocess if full == "resnet18" else Preprocess(resize=256, size=224),
        sources=("random:0",),
        license="CC0-1.0",
        data_terms="none: no data was used",
    )


def _allowed(spec: EncoderSpec, license: str | None) -> bool:
    if license is None:
        return True
    return spec.permissive if license == "permissive" else spec.license.lower() == license.lower()


def _of_folder(folder: Path, license: str | None) -> EncoderSpec:
    spec = hub.read_config(folder)
    stated = spec.method != "random" and spec.license.lower() not in NOT_STATED
    return _choose([spec], str(folder), license) if stated else spec


def _choose(tags: list[EncoderSpec], name: str, license: str | None) -> EncoderSpec:
    allowed = [spec for spec in tags if _allowed(spec, license)]
    if not allowed:
        have = ", ".join(f"{spec.name} ({spec.license or 'not stated'})" for spec in tags)
        raise UnknownModel(
            f"no {name} has a license that is {license}; there are: {have}", [spec.name for spec in tags]
        )
    # of equals to a tenth of a percent, as papers report, the one whose authors' classifier can tell that it is right
    return max(allowed, key=lambda spec: (spec.default, round(spec.linear_top1 or 0, 3), spec.head is not None))


def _unknown(name: str, canonical: str) -> InputError | UnknownModel:
    if name.startswith((".", "/", "~")) or "\\" in name or name.endswith("/"):
        return not_a_model(Path(name))
    names = list(dict.fromkeys([*known(), *(full.partition(".")[0] for full in known()), "random-r18", "random-r50"]))
    near = difflib.get_close_matches(canonical, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see: sslzoo models"
    return UnknownModel(f"unknown model {name!r}; {hint} (a model folder is named by its path, ./FOLDER)", near)
