"""solo-learn (PyTorch Lightning): the backbone; CIFAR networks have a 3x3 stem with padding 2. Old files say `encoder`."""

import dataclasses

from sslzoo.convert.layout import Layout

HEADS = (
    "classifier.",
    "projector.",
    "predictor.",
    "prototypes.",
    "momentum_",
    "queue",
    "key_",
    "head.",
    "mlp.",
)

LAYOUT = Layout(
    "solo-learn",
    encoder="backbone.",
    heads=HEADS,
    needs=("classifier.",),
    cifar_stem="cifar-pad2",
    linear="classifier.",
)
OLD = dataclasses.replace(LAYOUT, name="solo-learn-old", encoder="encoder.")
