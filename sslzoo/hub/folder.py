"""Model folders: `model.safetensors` (or its shards), `config.json` (an EncoderSpec) and `README.md` (the card).

The weights' sha256 is checked whenever they are opened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.errors import InputError, OutputExists, WeightsError
from sslzoo.hub.card import benchmark_results
from sslzoo.spec import EncoderSpec, Head

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
CARD = "README.md"
HEAD = "head.safetensors"

Tensors = Mapping[str, NDArray[Any]]


def not_a_model(folder: Path) -> InputError:
    """What is said of a folder that is none or holds no model; that of a training run, or where a killed one has none yet."""
    if (folder / "model" / CONFIG).is_file():
        return InputError(f"{folder} is the folder of a training run; its encoder is {folder / 'model'}")
    for run in (folder, folder.parent):
        if (run / "checkpoint.pt").is_file():
            export = f"python -m training export {run} -o {run / 'model'}"
            return InputError(f"{folder} is not a model folder; write one from the run's checkpoint: {export}")
    if folder.is_dir():
        return InputError(f"{folder} is not a model folder: it has no {CONFIG}; see: sslzoo models")
    return InputError(f"there is no model folder {folder}; check the path, or see: sslzoo models")


def read_config(folder: Path) -> EncoderSpec:
    """The encoder that a model folder describes; its only source is the folder itself."""
    path = folder / CONFIG
    if not path.is_file():
        raise not_a_model(folder)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and "sslzoo" in values:  # a classifier's, in timm's form (see `transfer.folder`)
            values = values["sslzoo"]["encoder"]
        spec = EncoderSpec.from_dict(values)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); get the model folder again") from None
    # wherever an embeddings folder is used that keeps it
    return dataclasses.replace(spec, sources=(f"local-dir:{folder.absolute()}",))


def read_weights(folder: Path, spec: EncoderSpec) -> dict[str, NDArray[Any]]:
    """The tensors of a model folder by name; raises WeightsError when the files aren't the ones that the spec pins."""
    import safetensors
    from safetensors.numpy import load_file

    check_weights(folder, spec)
    try:
        tensors = {name: value for path in weight_files(folder) for name, value in load_file(path).items()}
        return {name: value for name, value in tensors.items() if not name.startswith("fc.")}  # a classifier's
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{folder / WEIGHTS} can't be read ({error}); get the model folder again") from None


def check_weights(folder: Path, spec: EncoderSpec) -> str:
    """The sha256 of a model folder's weights; raises WeightsError unless it is the one that the spec pins."""
    if not spec.sha256:
        raise WeightsError(
            f"{spec.name} states no sha256 for {folder / WEIGHTS}; write the model folder again to pin it"
        )
    if (actual := weights_sha256(folder)) != spec.sha256:
        raise WeightsError(
            f"{folder / WEIGHTS} is damaged or was exchanged: its sha256 is {actual[:16]}… and {spec.name} has "
            f"{spec.sha256[:16]}…; get the model folder (or reinstall sslzoo) again"
        )
    return actual


def read_head(folder: Path, spec: EncoderSpec) -> dict[str, NDArray[Any]]:
    """The linear classifier of a model folder, `weight` and `bias`; raises WeightsError when it isn't the pinned one."""
    from safetensors.numpy import load_file

    path = folder / HEAD
    pinned = spec.head.sha256 if spec.head else ""
    if (actual := sha256(path)) != pinned:
        raise WeightsError(
            f"{path} is damaged or was exchanged: its sha256 is {actual[:16]}… and {spec.name} has "
            f"{pinned[:16] or 'none'}…; get the model folder again"
        )
    head: dict[str, NDArray[Any]] = load_file(path)
    return head


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: `model.safetensors`, or the shards that the Hub's index file names; else none."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    if wrong := [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name)]:
        raise WeightsError(f"{folder / INDEX} names {wrong[0]}, which is no file beside it; get the model folder again")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise WeightsError(f"{folder} lacks {missing[0]}; get the model folder again")
    return [folder / name for name in names]


def weights_sha256(folder: Path) -> str:
    """The sha256 of `model.safetensors`; of shards, that of their hexadecimal sha256 sums, one a line, by file name."""
    sums = [sha256(path) for path in weight_files(folder)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(f"{s}\n" for s in sums).encode()).hexdigest()


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name `folder` when all is well, and else is gone.

    Raises OutputExists rather than replace anything, be it that somebody else has made `folder` meanwhile.
    """
    exists = OutputExists(f"{folder} already exists; remove it or choose another output")
    if folder.exists():
        raise exists
    # a name of its own, since two may be writing the same folder
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            raise exists
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(
    folder: Path,
    spec: EncoderSpec,
    tensors: Tensors,
    card: str,
    *,
    head: Tensors | None = None,
    shard_size: str = "",
) -> EncoderSpec:
    """Writes a model folder and returns its spec with hash and size; raises OutputExists rather than replace anything.

    `head` is a linear classifier for `head.safetensors`. With `shard_size`, such as "15MB", no file of weights is larger
    and they lie as the Hub lays out shards; else there is one file.
    """
    with new_folder(folder) as temporary:
        return fill(temporary, spec, tensors, card, head=head, shard_size=shard_size)


def fill(
    folder: Path,
    spec: EncoderSpec,
    tensors: Tensors,
    card: str,
    *,
    head: Tensors | None = None,
    shard_size: str = "",
) -> EncoderSpec:
    """As `write`, into a folder that is there and empty."""
    weights = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    parts = _shards(weights, shard_size)
    for name, part in parts.items():
        save(part, folder / name)
    files = [folder / name for name in parts]
    if len(files) > 1:
        places = {key: name for name, part in parts.items() for key in part}
        index = {"metadata": {"total_size": sum(v.nbytes for v in weights.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    spec = dataclasses.replace(
        spec, sources=(), sha256=weights_sha256(folder), size_bytes=sum(path.stat().st_size for path in files)
    )
    if head:
        save(head, folder / HEAD)
        checkpoint = spec.head.checkpoint if spec.head else None
        spec = dataclasses.replace(spec, head=Head(checkpoint, sha256(folder / HEAD)))
    write_texts(folder, spec, card)
    return spec


def write_texts(folder: Path, spec: EncoderSpec, card: str) -> None:
    """Writes what stands beside the weights: `config.json`, the card, and the results on the Hub's benchmarks."""
    write_config(folder, spec)
    (folder / CARD).write_text(card, encoding="utf-8")
    for name, text in benchmark_results(spec).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def write_config(folder: Path, spec: EncoderSpec) -> None:
    """Writes `config.json`, whole or not at all."""
    temporary = folder / f"{CONFIG}.tmp"
    temporary.write_text(spec.to_json(), encoding="utf-8")
    os.replace(temporary, folder / CONFIG)


def save(tensors: Tensors, path: Path) -> None:
    """One safetensors file, whole or not at all."""
    from safetensors.numpy import save_file

    temporary = path.with_name(f"{path.name}.tmp")
    # one entry of metadata: the order of more isn't stable
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)  # safetensors makes it readable for its owner only
    os.replace(temporary, path)


def _shards(weights: dict[str, NDArray[Any]], size: str) -> dict[str, dict[str, NDArray[Any]]]:
    """The tensors by the file that they go into."""
    if not size:
        return {WEIGHTS: weights}
    from huggingface_hub import split_state_dict_into_shards_factory

    if not re.fullmatch(r"\d+(\.\d+)?(KB|MB|GB)", size):
        raise InputError(f"shard size is {size!r}; write it as 15MB or 5GB")
    split = split_state_dict_into_shards_factory(
        weights,
        get_storage_size=lambda value: value.nbytes + 200,  # its entry in the file's head: shorter than that
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=size,
    )
    return {file: {name: weights[name] for name in names} for file, names in split.filename_to_tensors.items()}


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
