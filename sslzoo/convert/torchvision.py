"""torchvision's (and timm's) own names, bare or under `backbone.`: Barlow Twins, VICReg, mmselfsup 0.x, and most others."""

from sslzoo.convert.layout import Layout

LAYOUT = Layout("torchvision", heads=("fc.",), linear="fc.")
# the full checkpoints of Barlow Twins and VICReg, and of many training scripts
BACKBONE = Layout("backbone", encoder="backbone.", heads=("backbone.fc.", "projector.", "bn."))
