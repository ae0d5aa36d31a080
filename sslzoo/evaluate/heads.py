"""Top-1 of a ready linear classifier on frozen features: the share of images whose largest logit, w·x + b, is their class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.score import Score, features_of, require_finite, set_id

SYNSETS = Path(__file__).parent / "imagenet_synsets.txt"


def head_top1(test: Embeddings, head: Mapping[str, NDArray[Any]], class_names: Sequence[str] = ()) -> Score:
    """Top-1 accuracy in [0, 1] of `head` (`weight` `[classes, dim]`, `bias` `[classes]`) on labelled vectors.

    Vectors are taken as they are, not normalised: so were the features that such a head was trained on. Labels are as
    in `class_numbers`. Raises InputError when there are none, or the head is for vectors of another length.
    """
    weight, bias = head["weight"], head["bias"]
    if weight.shape[1] != test.dim:
        raise InputError(f"the classifier is for {weight.shape[1]} features and the vectors have {test.dim} numbers")
    if test.labels is None:
        raise InputError("top-1 needs labels: a folder with one sub-folder a class, or a 'label' column in Parquet")
    require_finite(test)
    answers = class_numbers(test.labels, len(weight), class_names)
    rows = (slice(start, start + 4096) for start in range(0, len(test), 4096))  # the logits of all would be large
    found = np.concatenate([(test.vectors[part] @ weight.T + bias).argmax(1) for part in rows])
    hits = (found == answers).astype(np.float32)
    return Score(
        float(hits.mean()),
        hits,
        f"linear_top1@authors-head ({len(weight)} classes, {len(hits)} images)",
        test=set_id(test),
        features=features_of(test),
    )


def class_numbers(labels: Sequence[Any], classes: int, class_names: Sequence[str] = ()) -> NDArray[np.int64]:
    """The class number of each label, int64 `[n]`, as ImageNet-1k counts: the 1,000 WordNet ids in their sorted order.

    A label is a WordNet id (the name of a class's folder, such as n01440764), a number, or one of `class_names`, which
    name all classes in order. Raises InputError naming the first label that is none of these.
    """
    known = {name: number for number, name in enumerate(class_names)} if len(class_names) == classes else {}
    if classes == len(_synsets()):
        known |= _synsets()
    numbers = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        text = str(label)
        number = known.get(text, int(text) if re.fullmatch(r"\d{1,6}", text) else -1)
        if not 0 <= number < classes:
            raise InputError(
                f"label {text!r} is none of the classifier's {classes} classes; name class folders by WordNet id "
                "(n01440764 …), or give a 'label' column of class numbers"
            )
        numbers[row] = number
    return numbers


@cache
def _synsets() -> dict[str, int]:
    return {name: number for number, name in enumerate(SYNSETS.read_text(encoding="utf-8").split())}
