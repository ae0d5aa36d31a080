"""sslzoo: self-supervised image encoders by name, for embedding, search, evaluation and transfer.

Public names are imported when they are first used, so that `import sslzoo` is quick and imports neither torch nor faiss.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslzoo.embeddings import Embeddings
    from sslzoo.encoder import Encoder, load
    from sslzoo.errors import (
        ImageError,
        InputError,
        MissingExtra,
        OutputExists,
        SpaceMismatch,
        SslzooError,
        UnknownModel,
        WeightsError,
    )
    from sslzoo.index import ExactIndex, Neighbours, build_index
    from sslzoo.pipeline.run import embed
    from sslzoo.registry import list_models
    from sslzoo.spec import EncoderSpec, Preprocess
    from sslzoo.transfer.classifier import Classifier
    from sslzoo.transfer.finetune import finetune
    from sslzoo.transfer.predict import predict

    open_embeddings = Embeddings.open

__version__ = "0.1.0"

_HOME = {
    "Classifier": "transfer.classifier",
    "Embeddings": "embeddings",
    "Encoder": "encoder",
    "EncoderSpec": "spec",
    "ExactIndex": "index",
    "ImageError": "errors",
    "InputError": "errors",
    "MissingExtra": "errors",
    "Neighbours": "index",
    "OutputExists": "errors",
    "Preprocess": "spec",
    "SpaceMismatch": "errors",
    "SslzooError": "errors",
    "UnknownModel": "errors",
    "WeightsError": "errors",
    "build_index": "index",
    "embed": "pipeline.run",
    "finetune": "transfer.finetune",
    "list_models": "registry",
    "load": "encoder",
    "predict": "transfer.predict",
}

__all__ = [*_HOME, "open_embeddings"]


def __getattr__(name: str) -> Any:
    if name == "open_embeddings":
        return import_module("sslzoo.embeddings").Embeddings.open
    if name in _HOME:
        return getattr(import_module(f"sslzoo.{_HOME[name]}"), name)
    raise AttributeError(f"module 'sslzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
