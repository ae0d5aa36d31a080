"""MoCo v3 (facebookresearch/moco-v3): the base encoder, which is the one that the authors probe, not the momentum one."""

from sslzoo.convert.layout import Layout

LAYOUT = Layout(
    "mocov3",
    encoder="base_encoder.",
    heads=("base_encoder.fc.", "momentum_encoder.", "predictor."),
    method="mocov3",
)
