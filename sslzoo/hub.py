"""The one door to model folders: `fetch` finds the folder of an encoder, `read` opens it, `write` makes one.

A model folder is `model.safetensors`, `config.json` (an EncoderSpec) and `README.md` (the card). The file's sha256 is
checked whenever it is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError, OutputExists, WeightsError
from sslzoo.spec import EncoderSpec

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
PACKAGE = Path(__file__).parent / "weights"

Tensors = Mapping[str, NDArray[Any]]


def fetch(spec: EncoderSpec) -> Path:
    """The model folder of an encoder, from the first of its sources that has it; raises WeightsError when none does."""
    for source in spec.sources:
        kind, _, location = source.partition(":")
        folder = PACKAGE / location if kind == "package" else Path(location) if kind == "local-dir" else None
        if folder is not None and (folder / WEIGHTS).is_file():
            return folder
    tried = ", ".join(spec.sources) or "it has no source"
    raise WeightsError(f"no weights of {spec.name} could be had (tried: {tried}); see: sslzoo show {spec.name}")


def read_config(folder: Path) -> EncoderSpec:
    """The encoder that a model folder describes; its only source is the folder itself."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not a model folder: it has no {CONFIG}; see: sslzoo models")
    try:
        spec = EncoderSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); get the model folder again") from None
    return dataclasses.replace(spec, sources=(f"local-dir:{folder}",))


def read(spec: EncoderSpec) -> dict[str, NDArray[Any]]:
    """The encoder's tensors by name, in the file's own precision; raises WeightsError when the file isn't the pinned one."""
    import safetensors
    from safetensors.numpy import load_file

    path = fetch(spec) / WEIGHTS
    if not spec.sha256:
        raise WeightsError(f"{spec.name} states no sha256 for {path}; write the model folder again to pin it")
    if (actual := sha256(path)) != spec.sha256:
        raise WeightsError(
            f"{path} is damaged or was exchanged: its sha256 is {actual[:16]}… and {spec.name} has {spec.sha256[:16]}…; "
            "get the model folder (or reinstall sslzoo) again"
        )
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} can't be read ({error}); get the model folder again") from None


def write(folder: Path, spec: EncoderSpec, tensors: Tensors, card: str) -> EncoderSpec:
    """Writes a model folder and returns its spec with hash and size; raises OutputExists rather than replace anything."""
    from safetensors.numpy import save_file

    if folder.exists():
        raise OutputExists(f"{folder} already exists; remove it or choose another output")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(weights, temporary / WEIGHTS, metadata={"name": spec.name, "license": spec.license})
    path = temporary / WEIGHTS
    path.chmod(0o644)  # safetensors makes it readable for its owner only
    spec = dataclasses.replace(spec, sources=(), sha256=sha256(path), size_bytes=path.stat().st_size)
    (temporary / CONFIG).write_text(spec.to_json(), encoding="utf-8")
    (temporary / CARD).write_text(card, encoding="utf-8")
    os.replace(temporary, folder)
    return spec


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tensors: Tensors) -> str:
    """A hash of the weights themselves, whatever file or precision holds them: names, shapes and values as fp32.

    Integer tensors (BN's batch counters) have no part in a forward pass and are left out.
    """
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if np.issubdtype(value.dtype, np.floating):
            hashed.update(f"{name}{value.shape}".encode())
            hashed.update(np.ascontiguousarray(value, np.float32).data)
    return hashed.hexdigest()
