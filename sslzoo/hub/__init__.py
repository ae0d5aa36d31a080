"""The one door to encoders' weights: `fetch` finds or gets a model folder, `read` opens it, `write` makes one, `push` uploads it.

A source is a model folder in the package, on disk or on the Hugging Face Hub, or a checkpoint of the authors, which is
converted once and cached.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sslzoo.errors import WeightsError
from sslzoo.hub import cache, repository
from sslzoo.hub.folder import (
    CARD,
    CONFIG,
    WEIGHTS,
    Tensors,
    card,
    digest,
    read_config,
    read_weights,
    sha256,
    weight_files,
    weights_sha256,
    write,
)
from sslzoo.hub.repository import HUB_PREFIX, push
from sslzoo.spec import EncoderSpec

__all__ = [
    "CARD",
    "CONFIG",
    "PACKAGE",
    "WEIGHTS",
    "Tensors",
    "card",
    "describe",
    "digest",
    "fetch",
    "is_cached",
    "push",
    "read",
    "read_config",
    "sha256",
    "weights_sha256",
    "write",
]

PACKAGE = Path(__file__).parent.parent / "weights"


def fetch(spec: EncoderSpec) -> Path:
    """The model folder of an encoder, from the first of its sources that has it, else converted from its checkpoints.

    Raises WeightsError, saying what was tried, when none does.
    """
    causes = []
    for source in spec.sources:
        try:
            folder = _folder(source)
        except WeightsError as error:
            causes.append(str(error))
            continue
        if folder is not None and weight_files(folder):
            return folder
    if spec.checkpoints:
        return cache.converted(spec)
    tried = "; ".join(causes) or ", ".join(spec.sources) or "it has no source"
    raise WeightsError(f"no weights of {spec.name} could be had (tried: {tried}); see: sslzoo show {spec.name}")


def read(spec: EncoderSpec) -> dict[str, NDArray[Any]]:
    """The encoder's tensors by name, in the file's own precision; raises WeightsError when the file isn't the pinned one.

    Where the spec pins nothing (others' weights, before their first use), the cached folder's own pin is compared.
    """
    folder = fetch(spec)
    return read_weights(folder, spec if spec.sha256 or not spec.checkpoints else read_config(folder))


def describe(name: str) -> EncoderSpec:
    """The encoder in a repository of the Hub, "hf-hub:ORG/REPO[@REVISION]", without its weights."""
    spec = read_config(repository.download(name, weights=False))
    return dataclasses.replace(spec, sources=(name,), checkpoints=())


def is_cached(spec: EncoderSpec) -> bool:
    """Whether the encoder can be loaded without a network."""
    local = (_folder(s) for s in spec.sources if not s.startswith(HUB_PREFIX))
    return any(f is not None and weight_files(f) for f in local) or cache.cached(spec) is not None


def _folder(source: str) -> Path | None:
    kind, _, location = source.partition(":")
    if kind == "hf-hub":
        return repository.download(source)
    return PACKAGE / location if kind == "package" else Path(location) if kind == "local-dir" else None
