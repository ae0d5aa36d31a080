"""MoCo v1 and v2 (facebookresearch/moco): the query encoder, without its head, the key encoder and the queue."""

import dataclasses

from sslzoo.convert.layout import Layout

LAYOUT = Layout(
    "moco",
    encoder="encoder_q.",
    heads=("encoder_q.fc.", "encoder_k.", "queue"),
    method="mocov2",
)
# one linear layer is v1's head; v2's has two, fc.0 and fc.2
V1 = dataclasses.replace(LAYOUT, name="mocov1", needs=("encoder_q.fc.weight",), method="mocov1")
