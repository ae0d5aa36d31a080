"""Every setting of a fine-tuning run, and by name those of the papers' linear probes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sslzoo.errors import InputError
from sslzoo.spec import Record

STAGES = 5  # the stem, and layer1 … layer4
RANDAUGMENT = 30  # the greatest magnitude of the 31 that torchvision's RandAugment has


@dataclass(frozen=True)
class Settings(Record):
    """`stages` of the network are trained, counted from its end: 5 is all of it, 1 is layer4, 0 the classifier alone.

    `lr` is for 256 images and scaled linearly with the batch (Goyal et al., arXiv:1706.02677); the classifier's is
    `head_lr` times that, and each stage's `layer_decay` times that of the one above it (the classifier is above layer4).
    The rate warms up for `warmup_epochs` and follows half a cosine to zero, or is divided by ten at each share of the run
    in `lr_steps`. Biases and norms don't decay. A crop takes at least `min_crop` of the image's area and is `size` px
    wide (0: the encoder's). `randaugment` is the magnitude (0: none), `mixup` and `cutmix` their alpha (0: none).
    After `patience` epochs without a better accuracy on a held-out tenth the run stops, and the best weights are kept
    (0: nothing is held out). `precision` is auto (bf16 where the processor computes it natively), bf16 or fp32. Raises
    InputError for a value that can't be meant.
    """

    stages: int = STAGES
    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.2
    head_lr: float = 5.0
    layer_decay: float = 1.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    warmup_epochs: float = 1.0
    lr_steps: tuple[float, ...] = ()
    size: int = 0
    min_crop: float = 0.25
    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    patience: int = 0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("optimizer", ("sgd", "lars", "adamw")), ("precision", ("auto", "bf16", "fp32"))):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name} is {value!r}; use {', '.join(known)}")
        for name, fits, allowed in (
            ("stages", 0 <= self.stages <= STAGES, f"0 (the classifier alone) to {STAGES} (the whole network)"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("lr", 0 < self.lr < math.inf, "a rate above 0, such as 0.2"),
            ("head_lr", 0 < self.head_lr < math.inf, "a multiple of the rate above 0, such as 5"),
            ("layer_decay", 0 < self.layer_decay < math.inf, "a factor above 0, such as 0.7"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more, such as 1e-4"),
            ("momentum", 0 <= self.momentum < 1, "0 or more and less than 1, such as 0.9"),
            ("warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, f"0 to all {self.epochs} epochs"),
            ("lr_steps", all(0 < step < 1 for step in self.lr_steps), "shares of the run, such as 0.6 and 0.8"),
            ("size", self.size >= 0, "a side in px, or 0 for the encoder's"),
            ("min_crop", 0 < self.min_crop <= 1, "a share of the image's area, such as 0.25"),
            ("randaugment", 0 <= self.randaugment <= RANDAUGMENT, f"0 (none) to {RANDAUGMENT}"),
            ("mixup", 0 <= self.mixup < math.inf, "0 (none) or more, such as 0.2"),
            ("cutmix", 0 <= self.cutmix < math.inf, "0 (none) or more, such as 1"),
            ("label_smoothing", 0 <= self.label_smoothing <= 1, "a share, such as 0.1"),
            ("patience", self.patience >= 0, "a number of epochs, or 0 to run them all"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                raise InputError(f"{name} is {getattr(self, name)}; use {allowed}")


def _probe(**changes: object) -> Settings:
    """A linear probe: frozen backbone, random crops (torchvision's default scale) and flips, no decay, no warm-up."""
    fixed = {
        "stages": 0,
        "head_lr": 1.0,
        "weight_decay": 0.0,
        "warmup_epochs": 0.0,
        "min_crop": 0.08,
        "nesterov": False,
    }
    return Settings(**fixed | changes)  # type: ignore[arg-type]


PRESETS = {
    "finetune": Settings(),
    # He et al., arXiv:1911.05722, section 4.1, and the authors' main_lincls.py
    "moco-linear": _probe(lr=30.0, batch_size=256, epochs=100, lr_steps=(0.6, 0.8)),
    # Chen et al., arXiv:2002.05709, appendix B.6
    "simclr-linear": _probe(lr=0.1, batch_size=4096, epochs=90, nesterov=True),
    # Grill et al., arXiv:2006.07733, appendix C.1: the rate is chosen from 0.4, 0.3, 0.2, 0.1 and 0.05 on held-out images
    "byol-linear": _probe(lr=0.2, batch_size=1024, epochs=80, nesterov=True),
    # Chen and He, arXiv:2011.10566, appendix A: 0.02; the released code has 0.1 beside its LARS
    "simsiam-linear": _probe(lr=0.1, optimizer="lars", batch_size=4096, epochs=90),
    # Caron et al., arXiv:2006.09882, the authors' eval_linear.py
    "swav-linear": _probe(lr=0.3, batch_size=256, epochs=100, weight_decay=1e-6),
}


def preset(name: str) -> Settings:
    """The settings of that name; raises InputError listing the names."""
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; use {', '.join(PRESETS)}")
    return PRESETS[name]
