"""mmselfsup 1.x, and files trained with 0.x: the backbone in a full model; released 0.x files have bare names (torchvision)."""

from typing import Any

import numpy as np

from sslzoo.convert.layout import Layout, State, state_dict
from sslzoo.errors import WeightsError
from sslzoo.spec import IMAGENET_MEAN, IMAGENET_STD


def _checked(checkpoint: Any) -> State:
    """The state dict, after a look at the normalisation that some files carry (in 0 … 255)."""
    state = state_dict(checkpoint)
    for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        carried = state.get(f"data_preprocessor.{name}")
        if carried is not None and not np.allclose(np.ravel(carried) / 255, usual, atol=1e-4):
            raise WeightsError(f"the file was trained with another {name} than ImageNet's: {np.ravel(carried)}")
    return state


HEADS = (
    "neck.",
    "head.",
    "target_net.",
    "online_net.",
    "encoder.",  # 0.x names the same tensors twice
    "encoder_q.",
    "encoder_k.",
    "momentum_encoder.",
    "base_encoder.",
)

LAYOUT = Layout(
    "mmselfsup",
    encoder="backbone.",
    heads=(*HEADS, "data_preprocessor.", "queue"),
    needs=(*HEADS, "data_preprocessor."),
    state=_checked,
    linear="head.fc.",
)
