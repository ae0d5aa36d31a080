"""Encoders for other people's programs: ONNX, `torch.export`, timm's safetensors, OpenVINO, each compared with torch first.

A folder holds the network, `export.json` (input, output, preprocessing, origin, license, and how far its vectors are from
torch's) and `README.md` with code that needs no sslzoo.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sslzoo import hub
from sslzoo.backends.torch_backend import fold_norms, normalize
from sslzoo.encoder import Encoder, load
from sslzoo.errors import InputError, OutputExists, SslzooError
from sslzoo.export import onnx_graph, readme, timm_folder
from sslzoo.export.input import NORMALIZED, PIXELS, Input
from sslzoo.images.decode import decode
from sslzoo.images.preprocess import resize_crop

RECORD = "export.json"
TOLERANCE = 1e-3
#: what `Preprocess` leaves unsaid, for a program that decodes and scales by itself
DECODE = {
    "orientation": "applied as EXIF states it",
    "alpha": "composited over white",
    "depth": "more than 8 bits a channel are scaled to 8, not cut",
    "rounding": "the long side after scaling is cut to whole px, half the margin of the crop is rounded (half to even), "
    "scaled values are rounded to uint8",
}

Run = Callable[[NDArray[Any]], NDArray[np.float32]]
Write = Callable[[Encoder, Path], Run]


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far an export's vectors are from torch's, on so many photos, in a batch of one and in one of all.

    Absolute differences, the largest also over the largest number in torch's vectors; the lowest cosine.
    """

    images: int
    max_difference: float
    mean_difference: float
    relative_difference: float
    cosine: float


def _onnx(encoder: Encoder, folder: Path) -> Run:
    path = folder / "encoder.onnx"
    onnx_graph.save(_tensors(encoder), encoder.spec, path)
    return onnx_graph.runner(path)


def _torch(encoder: Encoder, folder: Path) -> Run:
    path = folder / "encoder.pt2"
    size = encoder.spec.preprocess.size
    example = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        program = torch.export.export(
            fold_norms(encoder.backbone), (example,), dynamic_shapes=({0: torch.export.Dim("n")},)
        )
    torch.export.save(program, path)
    module = torch.export.load(path).module()
    return lambda x: module(torch.from_numpy(x)).detach().numpy()


def _safetensors(encoder: Encoder, folder: Path) -> Run:
    timm_folder.write(_tensors(encoder), encoder.spec, folder)
    network = timm_folder.read(folder, encoder.spec)
    return lambda x: network(torch.from_numpy(x)).detach().numpy()


def _openvino(encoder: Encoder, folder: Path) -> Run:
    from sslzoo.backends.openvino_backend import build_graph, import_openvino, new_core

    ov = import_openvino()
    path = folder / "encoder.xml"
    ov.save_model(build_graph(_tensors(encoder), encoder.spec), path, compress_to_fp16=False)
    compiled = new_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: np.array(compiled(x)[0])


#: by name: what the network takes, who writes and then runs it, and the packages it was made with
FORMATS: dict[str, tuple[Input, Write, tuple[str, ...]]] = {
    "onnx": (NORMALIZED, _onnx, ("onnx", "onnxruntime")),
    "torch": (NORMALIZED, _torch, ("torch",)),
    "safetensors": (NORMALIZED, _safetensors, ("safetensors", "torchvision")),
    "openvino": (PIXELS, _openvino, ("openvino",)),
}


def export(
    model: str | Encoder, folder: str | Path, format: str = "onnx", *, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Writes an encoder (by name, or in memory with its present weights) into a new folder and returns its `export.json`.

    The file that was written is run on the photos inside the package and compared with torch in fp32. Raises SslzooError,
    and leaves nothing behind, where the largest difference is above `tolerance` times the largest number in torch's
    vectors; OutputExists when the folder is there; InputError for a network that the format can't hold.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise InputError(f"format is {format!r}; use {', '.join(FORMATS)}")
    if folder.exists():
        raise OutputExists(f"{folder} already exists; remove it or choose another -o")
    encoder = load(model, device="cpu") if isinstance(model, str) else copy.deepcopy(model).cpu()
    encoder.eval()
    takes, write, packages = FORMATS[format]
    with hub.new_folder(folder) as temporary:
        run = write(encoder, temporary)
        parity = compare(run, encoder, takes)
        if not parity.relative_difference <= tolerance:
            raise SslzooError(
                f"the {format} export of {encoder.spec.name} differs from torch by {parity.relative_difference:.2g} of the "
                f"largest number, allowed are {tolerance:g} (--tolerance); nothing was written"
            )
        record = _record(encoder, format, takes, parity, packages)
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(readme.render(encoder.spec, format, record), encoding="utf-8")
    return record


def compare(run: Run, encoder: Encoder, takes: Input) -> Parity:
    """An exported network beside torch's on the photos inside the package."""
    files = sorted((hub.PACKAGE / "photos").glob("*.jpg"))
    p = encoder.spec.preprocess
    pixels = np.stack([resize_crop(decode(file.read_bytes(), target=p.resize).image, p) for file in files])
    x = pixels if takes is PIXELS else normalize(torch.from_numpy(pixels), encoder.spec).contiguous().numpy()
    truth = encoder.encode([*files, files[0]]).astype(np.float64)
    found = np.concatenate([run(x), run(x[:1])]).astype(np.float64)
    difference = np.abs(found - truth)
    cosine = (found * truth).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(truth, axis=1)
    return Parity(
        len(files),
        float(difference.max()),
        float(difference.mean()),
        float(difference.max() / np.abs(truth).max()),
        float(cosine.min()),
    )


def _tensors(encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    state = encoder.backbone.state_dict()
    return {name: value.float().numpy() for name, value in state.items() if value.is_floating_point()}


def _record(encoder: Encoder, format: str, takes: Input, parity: Parity, packages: tuple[str, ...]) -> dict[str, Any]:
    """Everything that somebody who has only this folder needs to know."""
    spec = encoder.spec
    names = ("name", "method", "backbone", "license", "license_note", "data_terms", "trained_on", "paper")
    return {
        **{name: getattr(spec, name) for name in names},
        "format": format,
        "space": encoder.space,
        "input": takes.describe(spec),
        "output": {"name": "features", "type": "float32", "shape": ["n", spec.dim], "normalized": False},
        "preprocess": {**spec.preprocess.to_dict(), **DECODE},
        "parity": dataclasses.asdict(parity),
        "software": {package: version(package) for package in ("sslzoo", *packages)},
    }
