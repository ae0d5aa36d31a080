"""Choosing the precision: bf16 only where the processor computes it natively and it was seen to give fp32's vectors.

The comparison is made once for an encoder, on a few photos inside the package, and its cosine is kept in the user's cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sslzoo import hub
from sslzoo.images.decode import decode
from sslzoo.images.preprocess import resize_crop
from sslzoo.spec import Preprocess
from sslzoo.user_cache import cache_key, keep, user_cache

TRUSTED = 0.999  # the cosine from which on vectors of two precisions share a space

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def bf16_cosine(space: str, engine: str, preprocess: Preprocess, open_run: Callable[[str], Run]) -> float:
    """The lowest cosine between bf16's and fp32's vectors of the photos in the package, from the cache where it is known.

    `open_run` gives a forward pass for a precision; `space` and `engine` (with versions and processor) key the cache.
    """
    path = user_cache() / "bf16" / f"{cache_key(space, engine=engine)}.json"
    try:
        return float(json.loads(path.read_text())["cosine"])
    except (OSError, ValueError, KeyError):
        pass
    photos = [
        resize_crop(decode(file.read_bytes()).image, preprocess)
        for file in sorted((hub.PACKAGE / "photos").glob("*.jpg"))
    ]
    full, low = (open_run(precision)(np.stack(photos)).astype(np.float64) for precision in ("fp32", "bf16"))
    cosine = float(((full * low).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(low, axis=1)).min())
    keep(path, json.dumps({"cosine": cosine}).encode())
    return cosine
