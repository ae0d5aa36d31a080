"""Methods learn: on pictures whose class is a texture, kNN on what a tiny network learned beats the network it began as.

Pixels and the random network are near chance (a quarter), since colour and phase say nothing.
"""

import numpy as np
import pytest
import torch

from sslzoo.embeddings import Embeddings
from sslzoo.evaluate.knn import knn
from training import engine, recipe

# epochs, learning rate at a batch of 256, and the method's options: small networks want other settings than the papers'
SETTINGS = {
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


def gratings(n, seed, size=32):
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


def accuracy(vectors, train, test):
    """kNN on a bank of 100 images."""
    bank, queries = (
        Embeddings(vectors(images), [str(i) for i in range(len(images))], space="test", labels=labels)
        for images, labels in ((train[0][:100], train[1][:100]), test)
    )
    return knn(bank, queries)[0].value


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "simclr" else pytest.mark.slow) for name in SETTINGS]
)
def test_it_learns(method, tiny_net):
    epochs, rate, options = SETTINGS[method]
    view = {"count": 2, "size": 32, "scale": [0.5, 1.0], "ratio": [1.0, 1.0], "flip": 0.0, "grey_p": 0.3}
    settings = recipe.from_dict(
        {
            "name": "gratings",
            "method": method,
            "backbone": "resnet18",
            "store_size": 32,
            "epochs": epochs,
            "batch_size": 64,
            "optimizer": "adamw",
            "lr_per_256": rate,
            "weight_decay": 1e-4,
            "warmup_epochs": 1.0,
            "precision": "fp32",
            "method_options": options,
            "views": [view | {"jitter": [0.8, 0.8, 0.8, 0.5], "jitter_p": 1.0}],
        }
    )
    train, test = gratings(1024, 0), gratings(400, 1)
    network = engine.build(settings)

    def features(images):
        network.eval()
        with torch.no_grad():
            out = network.backbone((images / 255 - 0.45) / 0.25).numpy()
        network.train()
        return out

    pixels = accuracy(lambda images: images.flatten(1).float().numpy() - 127, train, test)
    random = accuracy(features, train, test)
    assert max(pixels, random) < 0.42
    for _ in engine.train(network, train[0], settings):
        pass
    assert accuracy(features, train, test) > random + 0.2
