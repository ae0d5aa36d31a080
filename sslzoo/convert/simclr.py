"""Google's SimCLR through its two PyTorch ports: v1 (tonylins/simclr-converter) and v2 (Separius/SimCLRv2-Pytorch).

Both feed images in [0, 1] without mean and std, and TensorFlow pads the max-pool at its end only. The linear head of the
v1 files has a random bias (the port sets it on the wrong object), so only its weight is used.
"""

from collections.abc import Mapping
from typing import Any

from sslzoo.convert.layout import Layout, State
from sslzoo.spec import Geometry, Preprocess

PLAIN = Preprocess(resize=256, size=224, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SAME_POOL = Geometry(padding="same-pool")

# The names are torchvision's, so nothing tells such a file from any other: it must be named, and is never guessed.
V1 = Layout(
    "simclr-v1",
    heads=("fc.",),
    method="simclr",
    preprocess=PLAIN,
    geometry=SAME_POOL,
    linear="fc.",
    linear_bias=False,
)


def _resnet(checkpoint: Any) -> State:
    network = checkpoint.get("resnet") if isinstance(checkpoint, Mapping) else None
    return network if isinstance(network, Mapping) else {}


V2 = Layout(
    "simclr-v2",
    heads=("fc.",),
    stem="net.0.0.weight",
    state=_resnet,
    renames=(
        (r"^net\.0\.0\.", "conv1."),
        (r"^net\.0\.1\.0\.", "bn1."),
        (r"^net\.(\d)\.blocks\.(\d+)\.", r"layer\1.\2."),
        (r"\.projection\.shortcut\.", ".downsample.0."),
        (r"\.projection\.bn\.0\.", ".downsample.1."),
        (r"\.net\.0\.", ".conv1."),
        (r"\.net\.1\.0\.", ".bn1."),
        (r"\.net\.2\.", ".conv2."),
        (r"\.net\.3\.0\.", ".bn2."),
        (r"\.net\.4\.", ".conv3."),
        (r"\.net\.5\.0\.", ".bn3."),
    ),
    linear="fc.",
    method="simclrv2",
    preprocess=PLAIN,
    geometry=SAME_POOL,
)
