"""A checkpoint is data: nothing in it may run, whatever container it comes in."""

import argparse
import collections
import contextlib
import datetime
import functools
import os
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from sslzoo import convert
from sslzoo.convert import pickles
from sslzoo.convert.read import read_checkpoint
from sslzoo.errors import WeightsError


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def attacks(mark):
    import builtins
    import functools
    import operator
    import subprocess

    yield Attack(os.system, f"touch {mark}")
    yield Attack(os.mkdir, str(mark))
    yield Attack(builtins.exec, f"open({str(mark)!r}, 'w')")
    yield Attack(builtins.eval, f"open({str(mark)!r}, 'w')")
    yield Attack(builtins.open, str(mark), "w")
    yield Attack(subprocess.Popen, ["touch", str(mark)])
    yield Attack(functools.partial, os.mkdir, str(mark))
    yield Attack(operator.methodcaller, "mkdir")
    yield Attack(torch.load, str(mark))
    yield Attack(torch.storage._load_from_bytes, b"x")
    yield Attack(__import__, "os")


@pytest.mark.parametrize("number", range(11))
@pytest.mark.parametrize("container", ["zip", "legacy", "pickle2", "pickle4"])
def test_nothing_runs(number, container, tmp_path):
    mark = tmp_path / "mark"
    value = {"state_dict": {"conv1.weight": torch.ones(2)}, "args": list(attacks(mark))[number]}
    path = tmp_path / "c.pth"
    if container.startswith("pickle"):
        path.write_bytes(pickle.dumps({"experiment_state": value["args"]}, protocol=int(container[-1])))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(WeightsError, match="is refused"):
        read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "lines", [b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cos\nsystem\n", b"cnumpy\nload\n", b"ctorch\nload\n"]
)
def test_by_hand(lines, tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "c.pkl").write_bytes(b"\x80\x02" + lines + b"(V" + f"touch {mark}".encode() + b"\ntR.")
    with pytest.raises(WeightsError, match="is refused"):
        read_checkpoint(tmp_path / "c.pkl")
    assert not mark.exists()


def test_a_stand_in_keeps_and_runs_nothing(tmp_path):
    namespace = argparse.Namespace(a=1)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"x": namespace}, protocol=2))
    found = read_checkpoint(tmp_path / "c.pkl")["x"]
    assert not isinstance(found, argparse.Namespace)
    assert not vars(found)


def test_arrays_as_dill_writes_them(tmp_path, monkeypatch):
    def _create_array(make, arguments, state, dictionary=None):
        raise AssertionError("written by name only")

    module = types.ModuleType("dill._dill")
    module._create_array = _create_array
    monkeypatch.setattr(_create_array, "__module__", "dill._dill")
    monkeypatch.setattr(_create_array, "__qualname__", "_create_array")
    monkeypatch.setitem(sys.modules, "dill._dill", module)
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    make, arguments, state = value.__reduce__()
    content = pickle.dumps(Attack(_create_array, make, arguments, state, None), protocol=2)
    (tmp_path / "c.pkl").write_bytes(content)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "c.pkl"), value)


def test_getattr_looks_nothing_up(tmp_path):
    """mmengine's HistoryBuffer, beside the tensors of mmselfsup 1.x, names its methods by getattr."""
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"x": Attack(getattr, "", "join")}, protocol=2))
    found = read_checkpoint(tmp_path / "c.pkl")["x"]
    assert not callable(found)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_partial_and_a_defaultdict_are_read_without_a_call(legacy, tmp_path):
    """solo-learn's SimSiam: its scheduler's state holds a partial of a scheduler's method, and that an optimiser."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1)
    optimizer.state["x"] = collections.defaultdict(dict, a=1)
    state = {"get_lr": functools.partial(getattr, optimizer.state, "clear")}
    torch.save(
        {"state_dict": {"conv1.weight": torch.ones(2)}, "lr_schedulers": [state], "counts": optimizer.state},
        tmp_path / "c.ckpt",
        _use_new_zipfile_serialization=not legacy,
    )
    read = read_checkpoint(tmp_path / "c.ckpt")
    assert isinstance(read["lr_schedulers"][0]["get_lr"], pickles.Ignored)
    assert read["counts"] == {"x": {"a": 1}}
    assert type(read["counts"]) is dict
    assert torch.equal(read["state_dict"]["conv1.weight"], torch.ones(2))


def named_class(monkeypatch, full):
    """A class of that full name, which the file will name: `pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint`."""
    module, _, name = full.rpartition(".")
    parts = module.split(".")
    for i in range(len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[: i + 1]), types.ModuleType(".".join(parts[: i + 1])))
    made = type(name, (), {"__module__": module})
    monkeypatch.setattr(sys.modules[module], name, made, raising=False)
    return made


@pytest.mark.parametrize(
    "full",
    [
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
        "lightning_fabric.utilities.data.AttributeDict",
        "pathlib._local.PosixPath",  # as Python 3.13 writes it
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_classes_of_training_programs_are_stood_in_for(full, legacy, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        theirs = named_class(patch, full)
        value = {"state_dict": {"conv1.weight": torch.ones(2)}, "callbacks": {theirs: {"best": 1.0}, 2: theirs()}}
        torch.save(value, tmp_path / "c.ckpt", _use_new_zipfile_serialization=not legacy)
        found = read_checkpoint(tmp_path / "c.ckpt")
    key = next(iter(found["callbacks"]))
    assert issubclass(key, pickles.Ignored) and not issubclass(key, theirs)
    assert isinstance(found["callbacks"][2], pickles.Ignored)
    assert torch.equal(found["state_dict"]["conv1.weight"], torch.ones(2))


@pytest.mark.parametrize(
    "value",
    [
        collections.Counter([3, 4]),
        torch.float16,
        torch.strided,
        pathlib.Path("runs"),
        pathlib.PurePosixPath("runs"),
        datetime.datetime(2021, 3, 4),
        datetime.timedelta(1),
        bytearray(b"x"),
        frozenset([1]),
        1j,
        slice(1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_settings_beside_the_weights_are_no_hindrance(value, legacy, tmp_path):
    checkpoint = {"state_dict": {"conv1.weight": torch.ones(2)}, "args": argparse.Namespace(lr=0.1), "value": value}
    torch.save(checkpoint, tmp_path / "c.pth", _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(tmp_path / "c.pth")
    assert torch.equal(found["state_dict"]["conv1.weight"], torch.ones(2))
    assert isinstance(found["value"], dict | pickles.Ignored) or issubclass(found["value"], pickles.Ignored)


@pytest.mark.parametrize(
    ("module", "name", "whose"),
    [
        ("torch._utils", "_rebuild_tensor_v2", torch._utils._rebuild_tensor_v2),
        ("_codecs", "encode", pickles._bytes),
        ("numpy.core.multiarray", "_reconstruct", pickles._empty_array),
        ("argparse", "Namespace", pickles.Ignored),
        ("numpy", "dtype", pickles._Dtype),
        ("collections", "OrderedDict", collections.OrderedDict),
    ],
)
@pytest.mark.parametrize("slots", [False, True], ids=["dict", "slots"])
def test_a_file_changes_nothing_in_the_running_program(module, name, whose, slots, tmp_path):
    """BUILD sets attributes of whatever it is given: defaults of torch's own function, and with them all later loads."""
    state = b"}X\x0c\x00\x00\x00__defaults__(X\x01\x00\x00\x00aX\x01\x00\x00\x00btsX\x04\x00\x00\x00evilK\x01s"
    state = b"(N" + state + b"t" if slots else state
    before = getattr(whose, "__defaults__", None), set(vars(whose))
    (tmp_path / "c.pkl").write_bytes(b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b"b.")
    with contextlib.suppress(WeightsError):
        read_checkpoint(tmp_path / "c.pkl")
    assert (getattr(whose, "__defaults__", None), set(vars(whose))) == before


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("c/constants.pkl", b"")
        archive.writestr("c/data.pkl", b"")
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x82\xa6params\x81", "Flax"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzipped"),
        (b"", "none of these"),
        (b"PK\x03\x04 cut short", "can't be read"),
        (bytes.fromhex("80028a0a6cfc9c46"), "can't be read"),
        (b"\x80\x04cut", "can't be read"),
        (b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1}', "can't be read"),
    ],
)
def test_what_is_no_checkpoint_is_told_by_its_content(content, message, tmp_path):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        convert.convert(tmp_path / "c.pth")


@pytest.mark.parametrize("dtype", ["O", "V8", "U4", "S8", "M8[ns]"])
def test_arrays_of_anything_but_numbers_are_refused(dtype, tmp_path):
    """Raw bytes as an array of objects would be pointers of the file's choosing."""
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps({"conv1.weight": Attack(np.ndarray, (4,), np.dtype(dtype), b"ABCDEFGH" * 4)}))
    with pytest.raises(WeightsError, match="refused"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_array_made_by_hand_is_refused(protocol, tmp_path):
    path = tmp_path / "c.pkl"
    value = {"conv1.weight": Attack(np.ndarray, (4,), np.dtype("f8"), b"ABCDEFGH" * 4)}
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(WeightsError, match="by hand"):
        read_checkpoint(path)


def test_an_array_of_objects_is_refused(tmp_path):
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps({"conv1.weight": np.array([{}, []], dtype=object)}))
    with pytest.raises(WeightsError, match="no checkpoint needs"):
        read_checkpoint(path)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "f2", "i8", "u1", "?", "c8"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_numbers_are_read_as_they_are(dtype, protocol, tmp_path):
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps({"conv1.weight": array}, protocol))
    with path.open("rb") as file:
        read = pickles.load(file)["conv1.weight"]
    assert read.dtype == array.dtype.newbyteorder("=") and np.array_equal(read, array)
