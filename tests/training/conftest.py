import pytest
import torch

from benchmarks.gratings import TinyNet
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


@pytest.fixture
def tiny_net(monkeypatch):
    """Makes the loop build TinyNet whatever backbone the recipe names."""
    monkeypatch.setattr(engine.backbones, "build", lambda name, **options: TinyNet())
