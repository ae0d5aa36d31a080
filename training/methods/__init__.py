"""The self-supervised methods by name; each is a loss and what moves after a step."""

from training.methods.base import Method
from training.methods.byol import BYOL
from training.methods.moco import MoCo, MoCoV1
from training.methods.simclr import SimCLR
from training.methods.simsiam import SimSiam
from training.methods.swav import SwAV

__all__ = ["BYOL", "METHODS", "Method", "MoCo", "SimCLR", "SimSiam", "SwAV"]

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "mocov1": MoCoV1,
    "mocov2": MoCo,
    "byol": BYOL,
    "simsiam": SimSiam,
    "swav": SwAV,
}
