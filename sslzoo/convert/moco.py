"""MoCo v1 and v2 (facebookresearch/moco): the query encoder, without its head, the key encoder and the queue."""

from sslzoo.convert.layout import Layout

LAYOUT = Layout(
    "moco",
    encoder="encoder_q.",
    heads=("encoder_q.fc.", "encoder_k.", "queue"),
    method="mocov2",
)
