"""A pickle reader that runs nothing: a few named globals are admitted, some are replaced by stand-ins, all others refused.

Pickles name functions and call them, so a bare `pickle.load` of somebody's checkpoint is running somebody's program.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections import OrderedDict
from typing import IO, Any

import numpy as np

from sslzoo.errors import WeightsError


class Ignored:
    """Stands for an object that no encoder needs (arguments, optimiser state, histories); it keeps nothing it is given."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, _: Any, __: Any) -> None: ...
    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...
    def add(self, _: Any) -> None: ...


def _bytes(text: str, encoding: str = "latin1") -> bytes:
    """What `_codecs.encode` is in pickles of protocol 2: bytes that were written as text."""
    if encoding != "latin1":
        raise WeightsError(f"the pickle asks for the codec {encoding!r}, which no checkpoint needs; it is refused")
    return text.encode("latin1")


def _mapping(*_: Any) -> dict[Any, Any]:
    """What a `defaultdict` is here: a dict, without what it would call for a missing key."""
    return {}


def _record(_: str, fields: Any, *__: Any) -> Any:
    """What dill's `_create_namedtuple` is here: a maker of plain dicts with these fields."""

    class Record:
        def __new__(cls, *values: Any) -> Any:
            return dict(zip(fields, values, strict=True))

    return Record


def _dill_array(make: Any, arguments: Any, state: Any, *_: Any) -> Any:
    """What dill's `_create_array` does: an empty array by numpy's own function (an admitted one), then its content."""
    array = make(*arguments)
    array.__setstate__(state)
    return array


class _Dtype:
    """A dtype of plain numbers; that of Python objects, whose arrays hold pointers, is refused."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.code, self.order = str(name).lstrip("<>|="), "="
        if not re.fullmatch(r"[biufc]\d{1,2}|\?", self.code):
            raise WeightsError(
                f"the pickle asks for an array of {str(name)[:40]!r}, which no checkpoint needs; it is refused"
            )

    def __setstate__(self, state: Any) -> None:
        self.order = "=" if state[1] in ("|", "=") else str(state[1])  # all else is derived from the code

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array(np.ndarray[Any, Any]):
    """An array made from a dtype of numbers and exactly its bytes."""

    def __setstate__(self, state: Any) -> None:
        *version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise WeightsError("the pickle holds an array that is not one of numbers; it is refused")
        super().__setstate__((*version, shape, dtype.numpy, fortran, raw))


def _empty_array(*_: Any) -> _Array:
    """What numpy's `_reconstruct` is here: an empty array, whose content comes with its state."""
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _not_called(*_: Any, **__: Any) -> Any:
    """What `numpy.ndarray` is here: a name that `_reconstruct` is given; called by itself it could forge any content."""
    raise WeightsError("the pickle makes an array by hand, which no checkpoint needs; it is refused")


def _numpy_globals() -> dict[str, Any]:
    names: dict[str, Any] = {"numpy.dtype": _Dtype, "numpy.ndarray": _not_called}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names |= {f"{module}._reconstruct": _empty_array, f"{module}.scalar": Ignored}
    return names


ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _mapping,
    "collections.Counter": dict,  # made from one dict; in a MultiStepLR's state
    "builtins.dict": dict,
    "__builtin__.dict": dict,
    "builtins.set": set,
    "__builtin__.set": set,
    "_codecs.encode": _bytes,
    # Haiku's mappings are made from one dict (dm-haiku 0.0.2, data_structures.py), so a dict does as well
    "haiku._src.data_structures.frozendict": dict,
    "haiku._src.data_structures.FlatMapping": dict,
    "dill.dill._create_array": _dill_array,
    "dill._dill._create_array": _dill_array,
    "dill.dill._create_namedtuple": _record,
    "dill._dill._create_namedtuple": _record,
    **_numpy_globals(),
}
# The state of a BYOL run (byol_experiment.py of deepmind-research), where the pickle names the class instead of remaking it
BYOL_STATE = ("online_params", "target_params", "online_state", "target_state", "opt_state")
# torch's own, by name so that torch need not be imported; none of these runs anything but the building of a tensor
TORCH = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
# Objects that real checkpoints hold beside their tensors, all replaced by `Ignored`.
IGNORED = frozenset(
    {
        "argparse.Namespace",
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",  # by which objects name their own methods; replaced, so it looks nothing up
        "__builtin__.getattr",
        "functools.partial",  # in schedulers; replaced, so it calls nothing
        "torch.device",
        "torch.Size",
        "torch.serialization._get_layout",
        *(f"{m}.{n}" for m in ("builtins", "__builtin__") for n in ("bytearray", "complex", "frozenset", "slice")),
    }
)
# Whole packages whose objects are only ever optimiser state or settings next to the weights. Lightning up to 1.4 keys its
# callbacks by their class; Python 3.13 writes paths as pathlib._local's.
IGNORED_PACKAGES = (
    "optax", "jax", "jaxlib", "omegaconf", "mmcv", "byol", "solo",
    "pytorch_lightning", "lightning", "lightning_fabric", "pathlib", "datetime",
)  # fmt: skip


def _own(value: Any) -> Any:
    """What a pickle is given for one of the above: its own, since a pickle can set attributes of what it is given."""
    if not isinstance(value, type):
        return lambda *arguments: value(*arguments)
    return (
        type(value.__name__, (value,), {}) if value.__module__ == __name__ else value
    )  # Python's own can't be changed


def _is_dtype(module: str, name: str) -> bool:
    """Whether this is one of torch's dtypes, which a pickle names like a function."""
    torch = sys.modules.get("torch")
    return torch is not None and module == "torch" and isinstance(vars(torch).get(name), torch.dtype)


class Unpickler(pickle.Unpickler):
    """Reads a pickle with the globals above; raises WeightsError, naming it, for any other."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ADMITTED:
            return _own(ADMITTED[full])
        if name == "_ByolExperimentState":
            return _record(name, BYOL_STATE)
        if module == "torch._utils" and name in TORCH:
            import torch

            return _own(getattr(torch._utils, name))
        if full in IGNORED or module.partition(".")[0] in IGNORED_PACKAGES or _is_dtype(module, name):
            return _own(Ignored)
        raise WeightsError(
            f"the file asks to run {full}, which no checkpoint needs; it is refused. If you trust it, save its weights "
            "as safetensors with the program that made it, and convert that file"
        )


def load(file: IO[bytes], **options: Any) -> Any:
    """Reads one pickle from an open file; `options` are those of `pickle.Unpickler`."""
    return Unpickler(file, **options).load()
