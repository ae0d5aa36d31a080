"""Authors' checkpoints to model folders: `convert(file)` gives the encoder's tensors under torchvision's names, and a spec.

A format is a `Layout` in a file of its own and a line in `FORMATS`; nothing in a checkpoint is ever run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.convert import (
    byol,
    lightly,
    mmselfsup,
    moco,
    mocov3,
    simclr,
    simsiam,
    solo_learn,
    swav,
    torchvision,
    vissl,
)
from sslzoo.convert.layout import (
    Layout,
    State,
    check,
    encoder_tensors,
    hint,
    identify,
    linear_head,
    under,
    without_common,
)
from sslzoo.convert.read import read_checkpoint
from sslzoo.errors import InputError, WeightsError
from sslzoo.spec import Checkpoint, EncoderSpec, feature_dim

# In the order in which `detect` asks: what is more particular stands first.
FORMATS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        vissl.LAYOUT,
        byol.LAYOUT,
        simclr.V2,
        moco.V1,
        moco.LAYOUT,
        mocov3.LAYOUT,
        solo_learn.LAYOUT,
        solo_learn.OLD,
        simsiam.LAYOUT,
        swav.LAYOUT,
        lightly.LAYOUT,
        mmselfsup.LAYOUT,
        torchvision.BACKBONE,
        torchvision.LAYOUT,
        simclr.V1,
    )
}
# What may hold a linear classifier: any of these, or a file of nothing else.
HEAD_FORMATS = FORMATS | {swav.LINEAR.name: swav.LINEAR}


@dataclass(frozen=True)
class Converted:
    """An encoder out of a checkpoint: its tensors by torchvision's names, its spec, the format, and what was dropped.

    `head` is the trained linear classifier beside it (`weight`, `bias`), empty where the file has none.
    """

    tensors: dict[str, NDArray[Any]]
    spec: EncoderSpec
    format: str
    dropped: list[str]
    head: dict[str, NDArray[Any]]


def convert(
    path: Path,
    *,
    format: str = "auto",
    spec: EncoderSpec | None = None,
    name: str = "",
    source: str = "",
    license: str = "",
    prefix: str = "",
    drop: Sequence[str] = (),
) -> Converted:
    """The encoder in a checkpoint file, in the file's own precision.

    A known encoder comes with its `spec`, which the file must fit; for any other file one is made from the format, with
    `name`, `source` and `license` where they are given. With `prefix`, the entries that start so are the file, and all
    others are dropped. Raises InputError for an unknown format, and WeightsError when
    an entry has no place, a tensor is missing, or the file can't be read without running it.
    """
    if format not in ("auto", *FORMATS):
        raise InputError(f"unknown format {format!r}; there are auto, {', '.join(FORMATS)}")
    checkpoint = read_checkpoint(path)
    others: list[str] = []
    if prefix:
        checkpoint, others = under(checkpoint, prefix)
    layout, checkpoint = detect(checkpoint) if format == "auto" else (FORMATS[format], checkpoint)
    tensors, dropped = encoder_tensors(layout, checkpoint, drop)
    backbone, stem = identify(tensors, layout)
    if spec is None:
        spec = _spec(layout, backbone, stem, name, path, source, license)
    elif spec.backbone != backbone:
        raise WeightsError(
            f"{path} holds a {backbone} where {spec.name} is a {spec.backbone}; see: sslzoo show {spec.name}"
        )
    check(tensors, backbone, spec.geometry)
    return Converted(tensors, spec, layout.name, [*dropped, *others], linear_head(layout, checkpoint))


def convert_head(path: Path, encoder: State, spec: EncoderSpec, *, format: str = "auto") -> dict[str, NDArray[Any]]:
    """The linear classifier in a file of its own: `weight` float32 `[classes, dim]`, `bias` float32 `[classes]`.

    Where the file holds the network too, its tensors must be those of `encoder`. Raises WeightsError when they aren't,
    or there is no classifier of this width.
    """
    checkpoint = read_checkpoint(path)
    layout, checkpoint = detect(checkpoint) if format == "auto" else (HEAD_FORMATS[format], checkpoint)
    head = linear_head(layout, checkpoint)
    if not head or head["weight"].shape[1] != spec.dim or head["bias"].shape != head["weight"].shape[:1]:
        raise WeightsError(f"{path} holds no linear classifier of {spec.dim} features in the format {layout.name}")
    if layout.encoder + layout.stem in layout.state(checkpoint):
        theirs, _ = encoder_tensors(layout, checkpoint)
        for name in sorted(theirs.keys() | encoder.keys()):
            if name not in theirs or name not in encoder or not np.array_equal(theirs[name], encoder[name]):
                raise WeightsError(f"the classifier in {path} was trained on another network than {spec.name}: {name}")
    return head


def detect(checkpoint: Any) -> tuple[Layout, Any]:
    """The format of a checkpoint, by its names, and the checkpoint without what stands before them all (`model.`).

    Raises WeightsError naming some, or the places where an encoder may be, when it is none that is known.
    """
    found = checkpoint if isinstance(checkpoint, Mapping) else {}
    while found:
        for layout in FORMATS.values():
            if layout.recognises(found):
                return layout, found
        found = without_common(found)
    try:
        seen = ", ".join(str(key) for key in list(checkpoint)[:6]) or "nothing"
    except TypeError:
        seen = type(checkpoint).__name__
    advice = hint(checkpoint) or f"name one with --format: {', '.join(FORMATS)}"
    raise WeightsError(f"no known format: the file holds {seen}; {advice}")


def _spec(layout: Layout, backbone: str, stem: str, name: str, path: Path, source: str, license: str) -> EncoderSpec:
    preprocess = layout.preprocess
    if stem != "imagenet":  # small stems are for pictures of 32 px
        preprocess = dataclasses.replace(preprocess, resize=32, size=32)
    tag = re.sub(r"[^a-z0-9_]+", "_", path.name.split(".")[0].lower()).strip("_") or "converted"
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return EncoderSpec(
        name=name or f"{layout.method}-{backbone.replace('resnet', 'r')}.{tag}",
        method=layout.method,
        backbone=backbone,
        dim=feature_dim(backbone),
        preprocess=preprocess,
        geometry=dataclasses.replace(layout.geometry, stem=stem),
        license=license,
        checkpoints=(Checkpoint(source, layout.name, f"sha256:{sha256}", path.stat().st_size),),
    )
