"""The one door to encoders' weights: `fetch` finds or gets a model folder, `read` opens it, `write` makes one, `push` uploads it.

A source is a model folder in the package, on disk or on the Hugging Face Hub, or a checkpoint of the authors, which is
converted once and cached.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sslzoo import architectures
from sslzoo.errors import WeightsError
from sslzoo.hub import cache, folder, licenses, repository
from sslzoo.hub.cache import CONVERSION, pinned_url
from sslzoo.hub.card import HERE, benchmark_results, card, example, metadata
from sslzoo.hub.folder import (
    CARD,
    CONFIG,
    HEAD,
    WEIGHTS,
    Tensors,
    check_weights,
    digest,
    fill,
    new_folder,
    read_config,
    read_weights,
    save,
    sha256,
    weight_files,
    weights_sha256,
    write,
    write_texts,
)
from sslzoo.hub.licenses import license_id
from sslzoo.hub.repository import HUB_PREFIX, push, push_space
from sslzoo.spec import EncoderSpec
from sslzoo.user_cache import keep, user_cache

__all__ = [
    "CARD",
    "CARDS",
    "CONFIG",
    "CONVERSION",
    "HEAD",
    "HERE",
    "PACKAGE",
    "WEIGHTS",
    "Tensors",
    "benchmark_results",
    "card",
    "describe",
    "digest",
    "example",
    "fetch",
    "fill",
    "is_cached",
    "is_published",
    "license_id",
    "metadata",
    "new_folder",
    "pinned_url",
    "push",
    "push_space",
    "read",
    "read_config",
    "read_head",
    "save",
    "sha256",
    "weights_digest",
    "weights_sha256",
    "write",
    "write_texts",
]

PACKAGE = Path(__file__).parent.parent / "weights"
CARDS = PACKAGE.parent.parent / "hub_cards"  # there in a checkout of the project alone


def fetch(spec: EncoderSpec) -> Path:
    """The model folder of an encoder, from the first of its sources that has it, else converted from its checkpoints.

    Raises WeightsError, saying what was tried, when none does.
    """
    causes = []
    for source in spec.sources:
        try:
            if source.startswith(HUB_PREFIX) and not repository.is_downloaded(source):
                licenses.tell(spec)
            found = _folder(source)
        except WeightsError as error:
            causes.append(str(error))
            continue
        if found is not None and weight_files(found):
            return found
    if spec.checkpoints:
        return cache.converted(spec)
    if not is_published(spec):
        raise WeightsError(f"{spec.name} is known but not published yet; for those that can be had see: sslzoo models")
    tried = "; ".join(causes) or ", ".join(spec.sources)
    raise WeightsError(f"no weights of {spec.name} could be had (tried: {tried}); see: sslzoo show {spec.name}")


def read(spec: EncoderSpec) -> dict[str, NDArray[Any]]:
    """The encoder's tensors by name, in the file's own precision; raises WeightsError when the file isn't the pinned one.

    Where the spec pins nothing (others' weights, before their first use), the cached folder's own pin is compared.
    """
    tensors = read_weights(*_pinned(spec))
    architectures.check(spec, tensors)
    return tensors


def weights_digest(spec: EncoderSpec) -> str:
    """The `digest` of an encoder's weights, whose file is checked; it is remembered by the file's sha256."""
    path = user_cache() / "digest" / f"{check_weights(*_pinned(spec))}.txt"
    with contextlib.suppress(OSError):
        if len(known := path.read_text()) == 64:
            return known
    found = digest(read(spec))
    keep(path, found.encode())
    return found


def _pinned(spec: EncoderSpec) -> tuple[Path, EncoderSpec]:
    """The model folder, and the spec that says what its weights must be."""
    folder = fetch(spec)
    return folder, spec if spec.sha256 or not spec.checkpoints else read_config(folder)


def read_head(spec: EncoderSpec) -> dict[str, NDArray[Any]]:
    """The linear classifier that the encoder's authors published: `weight` float32 `[classes, dim]`, `bias` `[classes]`.

    It is downloaded when it is first asked for, unless the encoder's own file holds it. Raises WeightsError where none
    was published.
    """
    place = fetch(spec)
    if not (place / HEAD).is_file():
        cache.add_head(place, spec)
    return folder.read_head(place, spec if spec.head and spec.head.sha256 else read_config(place))


def describe(name: str) -> EncoderSpec:
    """The encoder in a repository of the Hub, "hf-hub:ORG/REPO[@REVISION]", without its weights."""
    spec = read_config(repository.download(name, weights=False))
    return dataclasses.replace(spec, sources=(name,), checkpoints=())


def is_cached(spec: EncoderSpec) -> bool:
    """Whether the encoder can be loaded without a network."""
    local = (_folder(s) for s in spec.sources if not s.startswith(HUB_PREFIX))
    return any(f is not None and weight_files(f) for f in local) or cache.cached(spec) is not None


def is_published(spec: EncoderSpec) -> bool:
    """Whether the weights can be had outside of a checkout of the project."""
    return bool(spec.checkpoints) or not all(source.startswith("checkout:") for source in spec.sources)


def _folder(source: str) -> Path | None:
    kind, _, location = source.partition(":")
    if kind == "hf-hub":
        return repository.download(source)
    places = {"package": PACKAGE / location, "checkout": CARDS / location, "local-dir": Path(location)}
    return places.get(kind)
