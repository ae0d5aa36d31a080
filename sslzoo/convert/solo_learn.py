"""solo-learn (PyTorch Lightning): the backbone; CIFAR networks have a 3x3 stem with padding 2. Old files say `encoder`."""

import dataclasses

from sslzoo.convert.layout import Layout

HEADS = (
    "classifier.",
    "projector.",
    "predictor",  # and All4One's predictor2
    "prototypes.",
    "momentum_",
    "queue",
    "key_",
    "head.",
    "mlp.",
    "dino_loss_func.",
    "local_memory_",  # DeepCluster-v2's
    "transformer_encoder.",  # All4One's
    "pos_enc.",
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
