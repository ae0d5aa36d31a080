"""Generated pictures whose class is a texture, and the settings with which a tiny network learns it in seconds.

For comparisons of methods that anyone can repeat without data: pixels and the network's random weights are near chance (a
quarter), since colour and phase say nothing. The settings are for this network and these pictures, not recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslzoo.embeddings import Embeddings
from sslzoo.evaluate.knn import knn
from training import recipe
from training.methods import METHODS, Method

Labelled = tuple[Tensor, list[Any]]

# epochs, learning rate at a batch of 256, and the method's options: small networks want other settings than the papers'
SETTINGS: dict[str, tuple[int, float, dict[str, Any]]] = {
    "simclr": (6, 0.008, {"hidden": 64, "projection": 32, "temperature": 0.2}),
    "mocov1": (25, 0.008, {"projection": 32, "queue": 256, "momentum": 0.98, "splits": 2, "temperature": 0.2}),
    "mocov2": (12, 0.008, {"projection": 32, "queue": 256, "momentum": 0.98, "splits": 2, "symmetric": True}),
    "byol": (60, 0.008, {"hidden": 256, "projection": 64, "tau": 0.96}),
    "simsiam": (25, 0.003, {"projection": 256, "prediction": 128, "projector_layers": 2}),
    # a sharp assignment over an older queue and a soft prediction: else all scores become equal, and the loss ln(prototypes)
    "swav": (
        30,
        0.002,
        {
            "hidden": 128,
            "projection": 32,
            "prototypes": 128,
            "epsilon": 0.02,
            "temperature": 0.5,
            "freeze_until": 0.2,
            "queue": 512,
            "queue_from": 0.05,
        },
    ),
}


class TinyNet(nn.Sequential):
    """Three convolutions with BN, a network that can be trained in seconds; features `[n, 64]`."""

    dim = 64

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def gratings(n: int, seed: int, size: int = 32) -> Labelled:
    """Images uint8 `[n, 3, size, size]` of stripes in four directions, the label; colours, period and phase are random."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] - size / 2
    labels = rng.integers(0, 4, n)
    images = np.empty((n, size, size, 3))
    for i, label in enumerate(labels):
        angle = (label + rng.uniform(-0.35, 0.35)) * np.pi / 4
        phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / rng.uniform(4, 8) + rng.uniform(0, 2 * np.pi)
        dark, light = rng.uniform(0, 255, (2, 3))
        while abs(dark - light).sum() < 200:
            light = rng.uniform(0, 255, 3)
        images[i] = np.where(np.sin(phase)[..., None] > 0, light, dark)
    images += rng.normal(0, 8, images.shape)
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous(), labels.tolist()


def settings(method: str, options: dict[str, Any] | None = None, **changes: Any) -> recipe.Recipe:
    """The recipe for one method, with some of its options and of the recipe's keys changed."""
    epochs, rate, defaults = SETTINGS[method]
    view = {"count": 2, "size": 32, "scale": [0.5, 1.0], "ratio": [1.0, 1.0], "flip": 0.0, "grey_p": 0.3}
    values = {
        "name": "gratings",
        "method": method,
        "backbone": "resnet18",  # must be named; TinyNet takes its place
        "store_size": 32,
        "epochs": epochs,
        "batch_size": 64,
        "optimizer": "adamw",
        "lr_per_256": rate,
        "weight_decay": 1e-4,
        "warmup_epochs": 1.0,
        "precision": "fp32",
        "method_options": defaults | (options or {}),
        "views": [view | {"jitter": [0.8, 0.8, 0.8, 0.5], "jitter_p": 1.0}],
    }
    return recipe.from_dict(values | changes)


def build(recipe: recipe.Recipe) -> Method:
    """The recipe's method around a TinyNet."""
    torch.manual_seed(recipe.seed)
    return METHODS[recipe.method](TinyNet(), TinyNet.dim, **recipe.method_options)


def features(network: Method) -> Callable[[Tensor], np.ndarray[Any, Any]]:
    """What the backbone makes of images."""

    def of(images: Tensor) -> np.ndarray[Any, Any]:
        network.eval()
        with torch.no_grad():
            out = torch.cat([network.backbone((part / 255 - 0.45) / 0.25) for part in images.split(1000)])
        network.train()
        return out.numpy()

    return of


def accuracy(vectors: Callable[[Tensor], np.ndarray[Any, Any]], bank: Labelled, test: Labelled) -> float:
    """The share of the test images whose class kNN finds in the bank (cosine, k 20, T 0.07)."""
    sets = [
        Embeddings(vectors(images), [str(i) for i in range(len(images))], space="gratings", labels=labels)
        for images, labels in (bank, test)
    ]
    return knn(*sets, protocols=[(20, 0.07)])[0].value
