"""Lightly's benchmark checkpoints (PyTorch Lightning): `backbone`, which in BYOL and MoCo is the momentum network."""

from sslzoo.convert.layout import Layout

HEADS = ("projection_head.", "online_classifier.")

LAYOUT = Layout(
    "lightly",
    encoder="backbone.",
    heads=(
        *HEADS,
        "prediction_head.",
        "prototypes.",
        "queues.",
        "criterion.",
        "student_",
        "teacher_",
        "query_",
        "key_",
    ),
    needs=HEADS,
    linear="online_classifier.classification_head.",
)
