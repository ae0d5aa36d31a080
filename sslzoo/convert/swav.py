"""SwAV, DeepCluster-v2 and SeLa-v2 (facebookresearch/swav): bare names beside a projection head and prototypes."""

from sslzoo.convert.layout import Layout
from sslzoo.spec import Preprocess

# the file of the authors' linear probe (eval_linear.py) holds nothing else
LINEAR = Layout("swav-linear", linear="linear.")

LAYOUT = Layout(
    "swav",
    heads=("projection_head.", "prototypes."),
    needs=("projection_head.", "prototypes."),
    method="swav",
    # src/multicropdataset.py of facebookresearch/swav has 0.228 for red, where everyone else has 0.229
    preprocess=Preprocess(resize=256, size=224, std=(0.228, 0.224, 0.225)),
)
