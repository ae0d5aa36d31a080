"""A labelled set whose classes are told apart by colour, and a classifier that was fine-tuned on it."""

import numpy as np
import pytest
from PIL import Image

from sslzoo.registry import PACKAGE_ENCODER
from sslzoo.transfer.finetune import finetune
from sslzoo.transfer.settings import Settings

FAST = {"size": 32, "epochs": 4, "batch_size": 8, "precision": "fp32"}


def paint(folder, seed, each):
    random = np.random.default_rng(seed)
    for name, colour in (("blue", (40, 60, 200)), ("green", (40, 180, 60)), ("red", (200, 40, 50))):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            noise = random.integers(-40, 40, (40, 48, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    root = tmp_path_factory.mktemp("colours")
    return paint(root / "train", 0, 8), paint(root / "test", 1, 4)


@pytest.fixture(scope="session")
def tuned(colours, tmp_path_factory):
    """The folder, and what `finetune` returned."""
    folder = tmp_path_factory.mktemp("tuned") / "by-colour"
    return folder, finetune(colours[0], PACKAGE_ENCODER, folder, colours[1], settings=Settings(**FAST), device="cpu")
