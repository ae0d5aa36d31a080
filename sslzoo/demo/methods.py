"""The five methods in words: what each does, what it needs, its paper, its code; and what each costs, where that was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent.parent
COSTS = Path(__file__).parent / "costs.json"


@dataclass(frozen=True)
class Method:
    """A method as its page tells it."""

    name: str
    paper: str
    idea: str
    trick: str


METHODS = {
    "simclr": Method(
        "SimCLR",
        "arXiv:2002.05709",
        "Two random views of each picture go through one encoder f and one projector g. The two projections z of a picture "
        "shall be alike, and unlike those of every other picture in the batch.",
        "Without the others in the batch all vectors would become one. That is why SimCLR likes large batches.",
    ),
    "moco": Method(
        "MoCo",
        "arXiv:1911.05722",
        "A query q shall match the key k of the same picture among the keys of thousands of others, which wait in a queue. "
        "The encoder f_k of the keys is a slow moving average of f_q, so that old keys stay comparable.",
        "The queue gives many negatives with a small batch; only the query's side is trained by gradients.",
    ),
    "byol": Method(
        "BYOL",
        "arXiv:2006.07733",
        "An online network predicts, through its predictor q_θ, what a target network says of another view. The target is a "
        "moving average of the online network and gets no gradient (sg).",
        "There are no negatives at all: the predictor and the slow target keep the vectors from becoming one.",
    ),
    "simsiam": Method(
        "SimSiam",
        "arXiv:2011.10566",
        "The same encoder f sees both views. A predictor h turns one side into p_1, which shall point to the other side's z_2; "
        "then the sides change places.",
        "It needs no negatives and no moving average: the stop-gradient and the predictor keep the vectors from becoming one, "
        "and it fails without either.",
    ),
    "swav": Method(
        "SwAV",
        "arXiv:2006.09882",
        "Each view's vector z is compared with trained prototypes C. The assignment q of one view, made even over the batch by "
        "Sinkhorn's algorithm, is predicted from the other view.",
        "Clusters take the place of negatives, and many small crops of a picture come almost for free.",
    ),
}

COLUMNS = {
    "method": "method",
    "negatives": "negatives",
    "momentum_encoder": "momentum encoder",
    "queue": "queue",
    "trained_parameters": "trained parameters",
    "held_parameters": "held parameters",
    "gflop_per_image": "GFLOP an image",
    "peak_memory_mb": "peak memory, MB",
    "ms_per_image": "ms an image",
}


def code_of(method: str) -> str | None:
    """The file that trains a method, where this is a checkout; None for a name that is none of the five."""
    path = CHECKOUT / "training" / "methods" / f"{method}.py"
    return path.read_text(encoding="utf-8") if method in METHODS and path.is_file() else None


def costs() -> list[dict[str, Any]]:
    """What each method costs: a row a method with the keys of COLUMNS, as measured; none where nothing was."""
    try:
        rows: list[dict[str, Any]] = json.loads(COSTS.read_text(encoding="utf-8"))
    except OSError:
        return []
    return rows
