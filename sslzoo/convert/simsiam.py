"""SimSiam (facebookresearch/simsiam): the encoder; its projector stands in `encoder.fc`, the predictor beside it."""

from sslzoo.convert.layout import Layout

LAYOUT = Layout(
    "simsiam",
    encoder="encoder.",
    heads=("encoder.fc.", "predictor."),
    needs=("predictor.", "encoder.fc."),
    method="simsiam",
)
