"""Vectors with the structure that images have: clusters."""

import numpy as np

from sslzoo.embeddings import Embeddings


def clustered(n=5000, dim=32, seed=0):
    """n vectors around fifty centres, which are the same for every seed."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(50, dim))
    vectors = (centres[rng.integers(0, 50, n)] + 0.6 * rng.normal(size=(n, dim))).astype(np.float32)
    return Embeddings(vectors, [f"{i}.jpg" for i in range(n)], space="s", model="m")
