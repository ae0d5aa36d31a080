import numpy as np
import pytest
import torch
from torch import nn

from training import engine, recipe


@pytest.fixture
def images():
    """40 random images, uint8 [40, 3, 20, 20]."""
    return torch.randint(0, 256, (40, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny():
    """A recipe small enough for a test: two epochs of four steps."""

    def make(method="simclr", **changes):
        options = {
            "simclr": {"hidden": 32, "projection": 16},
            "mocov1": {"projection": 16, "queue": 24, "splits": 2},
            "mocov2": {"projection": 16, "queue": 24, "splits": 2, "symmetric": True},
            "byol": {"hidden": 32, "projection": 16},
            "simsiam": {"projection": 32, "prediction": 8},
            "swav": {
                "hidden": 32,
                "projection": 16,
                "prototypes": 12,
                "queue": 20,
                "queue_from": 0.4,
                "freeze_until": 0.2,
            },
        }
        values = {
            "name": "tiny",
            "method": method,
            "backbone": "resnet18",
            "store_size": 20,
            "epochs": 2,
            "batch_size": 10,
            "lr_per_256": 1.0,
            "weight_decay": 1e-4,
            "warmup_epochs": 0.5,
            "precision": "fp32",
            "progressive": [[0.0, 0.5], [0.6, 1.0]],
            "method_options": options[method],
            "views": [{"count": 2, "size": 16}],
        }
        return recipe.from_dict(values | changes)

    return make


class TinyNet(nn.Sequential):
    """Three convolutions with BN, a network that a test can train in seconds; features `[n, 64]`."""

    dim = 64

    def __init__(self):
        layers = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def tiny_net(monkeypatch):
    """Makes the loop build TinyNet whatever backbone the recipe names."""
    monkeypatch.setattr(engine.backbones, "build", lambda name, **options: TinyNet())


def shapes(n, seed, size=32):
    """Images uint8 `[n, 3, size, size]` of four classes and their labels.

    The class is the shape alone (disk, ring, cross, stripes); its colour, size and place and the background's two colours
    and slope are random.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    labels = rng.integers(0, 4, n)
    images = np.empty((n, size, size, 3))
    for i, label in enumerate(labels):
        radius = rng.uniform(0.2, 0.3)
        cx, cy = rng.uniform(radius, 1 - radius, 2)
        dx, dy = (x - cx) / radius, (y - cy) / radius
        r = np.hypot(dx, dy)
        inside = [
            r < 0.85,
            (r < 1.1) & (r > 0.65),
            (np.maximum(abs(dx), abs(dy)) < 1.1) & (np.minimum(abs(dx), abs(dy)) < 0.3),
            (np.maximum(abs(dx), abs(dy)) < 1.1) & (np.floor(dy * 2.3 + 20) % 2 == 0),
        ][label]
        slope = (x * rng.normal() + y * rng.normal())[..., None]
        low, high, colour = rng.uniform(0, 255, (3, 3))
        background = low + (high - low) * (slope - slope.min()) / np.ptp(slope)
        images[i] = np.where(inside[..., None], colour, background)
    images += rng.normal(0, 4, images.shape)
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous(), labels
