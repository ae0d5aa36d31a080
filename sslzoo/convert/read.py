"""Opens a checkpoint file, told apart by its content: safetensors, both of torch's containers, or a plain pickle."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

from sslzoo.convert import pickles
from sslzoo.errors import InputError, WeightsError

ZIP = b"PK\x03\x04"
TORCH_LEGACY = bytes.fromhex("80028a0a6cfc9c46")  # torch's magic number, pickled with protocol 2
OTHERS = {
    b"\x82\xa6params": "a Flax msgpack file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "gzipped; unpack it first",
    b"<": "a web page, not a checkpoint; download it again",
}


def read_checkpoint(path: Path) -> Any:
    """What the file holds: mappings, with tensors (of torch, on the CPU) or numpy arrays as leaves.

    Nothing in the file is run. Raises InputError when there is no such file, WeightsError when it can't be read safely.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; name a checkpoint (.pth, .pth.tar, .ckpt, .pkl, .safetensors)")
    with path.open("rb") as file:
        head = file.read(16)
    try:
        if head[8:9] == b"{" and not head.startswith(ZIP):
            from safetensors.torch import load_file  # numpy has no bf16

            return load_file(path)
        if head.startswith((ZIP, TORCH_LEGACY)):
            return _torch(path)
        if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            with path.open("rb") as file:
                return pickles.load(file)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can fail in any way
        raise WeightsError(f"{path} can't be read ({type(error).__name__}: {error}); download it again") from error
    kind = next((text for start, text in OTHERS.items() if head.startswith(start)), "none of these")
    raise WeightsError(f"{path} is no safetensors, torch or pickle file: it is {kind}")


def _torch(path: Path) -> Any:
    """torch's own reader with weights only; where that refuses, the same reader with our list of harmless globals."""
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise WeightsError("it is a TorchScript program, not a checkpoint; save its state_dict() instead")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=pickles)
