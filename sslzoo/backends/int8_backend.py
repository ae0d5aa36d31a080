"""The forward pass in 8-bit integers: OpenVINO's graph quantised by NNCF, calibrated on the user's own images.

Quantisation changes vectors noticeably, so they live in a space of their own, which the quantised graph belongs to: it is
kept in the embeddings folder (`int8.xml`, `int8.bin`), where queries and resumed runs find it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslzoo import hub
from sslzoo.backends.openvino_backend import OpenVinoBackend, build_graph, import_openvino
from sslzoo.errors import InputError, MissingExtra
from sslzoo.spec import EncoderSpec
from sslzoo.user_cache import cache_key, user_cache

if TYPE_CHECKING:
    import openvino as ov

FILES = ("int8.xml", "int8.bin", "int8.json")

Samples = Callable[[], NDArray[np.uint8]]


def import_nncf() -> Any:
    """The one door to NNCF; its telemetry is stopped with OpenVINO's."""
    import_openvino()
    try:
        import nncf
    except ImportError:
        raise MissingExtra("int8 needs another package; pip install 'sslzoo[int8]'") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


class Int8Backend(OpenVinoBackend):
    """Runs a quantised graph, which lies in `folder`."""

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec)
        self.precision, self.folder = "int8", folder
        self.files = tuple(folder / name for name in FILES)
        #: how its vectors compare with fp32's on the images that it was calibrated on
        self.agreement = json.loads((folder / "int8.json").read_text())

    @cached_property
    def space(self) -> str:
        """A space of its own: fp32's and the quantised graph's."""
        graph = "".join(hub.sha256(self.folder / name) for name in ("int8.xml", "int8.bin"))
        return hashlib.sha256(f"{super().space} int8 {graph}".encode()).hexdigest()

    def native_bf16(self) -> bool:
        """Never asked: the precision was chosen."""
        return False

    def _graph(self, size: int) -> ov.Model:
        model = self._core.read_model(self.folder / "int8.xml")
        model.reshape([size, self.spec.preprocess.size, self.spec.preprocess.size, 3])
        return model


def calibrated(spec: EncoderSpec, samples: Samples) -> Int8Backend:
    """The encoder in int8, its ranges taken from `samples` (uint8 `[n, size, size, 3]`); kept in the user's cache.

    Raises MissingExtra without NNCF, and InputError when there is no image to calibrate on.
    """
    full = OpenVinoBackend(spec)
    images = samples()
    if not len(images):
        raise InputError("int8 is calibrated on your images and none of the first could be read; use --precision fp32")
    key = cache_key(full.space, hashlib.sha256(images.tobytes()).hexdigest(), engine="nncf")
    folder = user_cache() / "int8" / key
    if not folder.exists():
        _quantize(full, images, folder)
    return Int8Backend(spec, folder)


def _quantize(full: OpenVinoBackend, images: NDArray[np.uint8], folder: Path) -> None:
    """Writes the quantised graph and its agreement with `full` into `folder`, which appears whole."""
    ov, nncf = import_openvino(), import_nncf()
    model = build_graph(hub.read(full.spec), full.spec)
    data = nncf.Dataset([image[None] for image in images])
    with contextlib.redirect_stdout(io.StringIO()):  # stdout is for results; NNCF draws its progress there
        quantized = nncf.quantize(model, data, subset_size=len(images))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"the quantised graph can't be kept in {folder.parent} ({error.strerror}); set SSLZOO_CACHE to a folder"
        ) from None
    try:
        ov.save_model(quantized, beside / "int8.xml", compress_to_fp16=False)
        (beside / "int8.json").write_text("{}")
        low = Int8Backend(full.spec, beside)
        vectors = [np.concatenate([run(images[i : i + 16]) for i in range(0, len(images), 16)]) for run in (full, low)]
        (beside / "int8.json").write_text(json.dumps(agreement(*vectors)))
        with contextlib.suppress(OSError):  # another process was quicker, with the same result
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def agreement(full: NDArray[np.float32], low: NDArray[np.float32]) -> dict[str, float]:
    """The mean and lowest cosine between two sets of vectors `[n, dim]`, and the share of ten nearest neighbours kept."""
    a, b = (v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (full, low))
    cosines = (a * b).sum(1)
    facts = {"images": len(a), "mean_cosine": float(cosines.mean()), "lowest_cosine": float(cosines.min())}
    k = min(10, len(a) - 1)
    if k:
        near = []
        for vectors in (a, b):
            scores = vectors @ vectors.T
            np.fill_diagonal(scores, -np.inf)
            near.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
        facts["neighbours_kept"] = float(np.mean([len(set(x) & set(y)) / k for x, y in zip(*near, strict=True)]))
    return facts
