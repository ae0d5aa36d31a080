"""The self-supervised methods by name; each is a loss and what moves after a step."""

from training.methods.base import Method
from training.methods.simclr import SimCLR
from training.methods.simsiam import SimSiam

__all__ = ["METHODS", "Method", "SimCLR", "SimSiam"]

METHODS: dict[str, type[Method]] = {"simclr": SimCLR, "simsiam": SimSiam}
