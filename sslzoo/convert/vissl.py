"""VISSL: the trunk, deep inside the classy_state_dict; its heads and the loss's networks stand outside of it."""

from collections.abc import Mapping
from typing import Any

from sslzoo.convert.layout import Layout, State


def _trunk(checkpoint: Any) -> State:
    for key in ("classy_state_dict", "base_model", "model", "trunk"):
        checkpoint = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
    return checkpoint if isinstance(checkpoint, Mapping) else {}


LAYOUT = Layout("vissl", encoder="_feature_blocks.", state=_trunk)
