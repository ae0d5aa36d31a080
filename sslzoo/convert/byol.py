"""DeepMind's BYOL: Haiku's online parameters and BN averages in a pickle, to torch's axes and torchvision's names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.convert.layout import Layout, State
from sslzoo.spec import Geometry, Preprocess

# Haiku's name of an entry within its module, and torch's.
PARAMETERS = {"w": "weight", "b": "bias", "scale": "weight", "offset": "bias"}
AVERAGES = {"mean_ema": "running_mean", "var_ema": "running_var"}
HEADS = ("projector/", "predictor/", "classifier/")


def _online(checkpoint: Any) -> State:
    """`path/to/module/weight` -> array: parameters, and the moving averages of the state; empty when this is no BYOL."""
    state = checkpoint.get("experiment_state") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not state.keys() >= {"online_params", "online_state"}:
        return {}
    flat: dict[str, NDArray[Any]] = {}
    for module, entries in state["online_params"].items():
        for name, value in entries.items():
            flat[f"{_path(module)}/{PARAMETERS.get(name, name)}"] = _torch_axes(np.asarray(value))
    for module, entries in state["online_state"].items():
        batchnorm, _, which = module.rpartition("/~/")
        if which in AVERAGES:
            flat[f"{_path(batchnorm)}/{AVERAGES[which]}"] = np.ravel(entries["average"])
        else:
            flat[f"{module}/state"] = np.zeros(())  # nothing that is known: it will be left over, and named
    return flat


def _path(module: str) -> str:
    """`res_net50/~/block_group_0/~/block_1/~/conv_0` as `block_group_0/block_1/conv_0`; heads keep their first name."""
    parts = [part for part in module.split("/") if part != "~"]
    return "/".join(parts if f"{parts[0]}/" in HEADS else parts[1:])


def _torch_axes(value: NDArray[Any]) -> NDArray[Any]:
    """Haiku's kernels are [height, width, in, out], torch's [out, in, height, width]; linear ones [in, out] and
    [out, in]; BN vectors come as [1, 1, 1, c]."""
    if value.ndim == 4 and value.shape[:3] == (1, 1, 1):
        return value.reshape(-1)
    if value.ndim == 2:  # the linear layers of the heads
        return np.ascontiguousarray(value.T)
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if value.ndim == 4 else value


LAYOUT = Layout(
    "byol",
    heads=HEADS,
    stem="initial_conv/weight",
    state=_online,
    renames=(
        (r"^initial_conv/", "conv1/"),
        (r"^initial_batchnorm/", "bn1/"),
        (r"^block_group_0/", "layer1/"),
        (r"^block_group_1/", "layer2/"),
        (r"^block_group_2/", "layer3/"),
        (r"^block_group_3/", "layer4/"),
        (r"/block_(\d+)/", r"/\1/"),
        (r"/shortcut_conv/", "/downsample/0/"),
        (r"/shortcut_batchnorm/", "/downsample/1/"),
        (r"/conv_0/", "/conv1/"),
        (r"/conv_1/", "/conv2/"),
        (r"/conv_2/", "/conv3/"),
        (r"/batchnorm_0/", "/bn1/"),
        (r"/batchnorm_1/", "/bn2/"),
        (r"/batchnorm_2/", "/bn3/"),
        (r"/", "."),
    ),
    method="byol",
    linear="classifier/",
    preprocess=Preprocess(resize=256, size=224, interpolation="bicubic"),
    geometry=Geometry(padding="same"),
)
