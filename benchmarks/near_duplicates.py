"""Training images without the near-duplicates of images that an encoder will be judged on.

`python -m benchmarks.near_duplicates TRAIN … --against JUDGE … -o FOLDER`, where all are Parquet in the Hugging Face image
layout. Two images count as the same picture when `MODEL` gives them a cosine of at least `COSINE`, and their grey thumbnails
correlate by at least `CORRELATION`, plain, mirrored, or with up to a fifth of the judging picture's sides cropped away. How many
changed copies of the judging images this finds is measured and printed. FOLDER gets train.parquet without the duplicates (each
row's bytes as they were), dropped.json, which names them, and the vectors.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

import sslzoo
from sslzoo.embeddings import normalize

MODEL = "simclr-r18.tin_cpu_1h"  # by which the training files of hub_cards were made; others drop other pictures
SIDE = 16
COSINE, CORRELATION = 0.9, 0.85  # generous: a few different pictures are dropped with the duplicates
SHARES = (1.0, 0.9, 0.8)  # of the judging picture's sides that a copy may show
PLACES = (0.0, 0.5, 1.0)

Array = NDArray[np.float32]


def images(path: Path) -> Iterator[Image.Image]:
    for batch in pq.ParquetFile(path).iter_batches(1000, columns=["image"]):
        for value in batch.column("image").to_pylist():
            yield Image.open(io.BytesIO(value["bytes"]))


def thumbnail(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Array:
    """A grey picture as a vector of mean 0 and norm 1, `[SIDE * SIDE]`."""
    x = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, box), np.float32).ravel()
    x -= x.mean()
    return x / max(float(np.linalg.norm(x)), 1e-3)


def crops(image: Image.Image) -> Iterator[tuple[float, float, float, float]]:
    width, height = image.size
    for share in SHARES:
        for across in PLACES if share < 1 else (0.0,):
            for down in PLACES if share < 1 else (0.0,):
                left, top = across * (1 - share) * width, down * (1 - share) * height
                yield left, top, left + share * width, top + share * height


def variants(image: Image.Image) -> Array:
    """Thumbnails of what a copy may show, plain and mirrored, `[2 * 19, SIDE * SIDE]`."""
    mirrored = ImageOps.mirror(image)
    return np.stack([thumbnail(each, box) for each in (image, mirrored) for box in crops(each)])


def changed_copy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """What a copy in another collection may look like: cropped, mirrored, squashed to 64 px and saved as a poor JPEG."""
    width, height = image.size
    share = rng.uniform(0.8, 1.0)
    left, top = rng.uniform(0, 1 - share, 2) * (width, height)
    image = image.resize((64, 64), Image.Resampling.BICUBIC, (left, top, left + share * width, top + share * height))
    buffer = io.BytesIO()
    (ImageOps.mirror(image) if rng.random() < 0.5 else image).save(buffer, "JPEG", quality=70)
    return Image.open(buffer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("--against", nargs="+", type=Path, required=True)
    parser.add_argument(
        "--precision",
        default="fp32",
        help="of the training images' vectors; bf16 for those that hub_cards learned from",
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    paths = [str(path) for path in args.train]
    train = sslzoo.embed(
        paths, MODEL, out=args.output / "train.emb", precision=args.precision, resume=True, progress=True
    )
    bank = normalize(train.vectors)
    small = np.stack([thumbnail(image.convert("L")) for path in args.train for image in images(path)])
    if len(small) != len(bank):
        raise SystemExit("some training images can't be read; leave them out of the Parquet files first")
    rng, encoder = np.random.default_rng(0), sslzoo.load(MODEL, device="cpu")
    drop: dict[int, str] = {}
    for path in args.against:
        judging = list(images(path))
        copies = [changed_copy(image, rng) for image in judging]
        queries, changed = (normalize(encoder.encode(each)) for each in (judging, copies))
        found = 0
        for number, (image, copy) in enumerate(zip(judging, copies, strict=True)):
            near = np.flatnonzero(bank @ queries[number] >= COSINE)
            shown = variants(image.convert("L"))
            same = near[(small[near] @ shown.T).max(1, initial=-1) >= CORRELATION]
            drop |= {int(row): f"{path.name} row {number}" for row in same}
            correlation = float((shown @ thumbnail(copy.convert("L"))).max())
            found += bool(queries[number] @ changed[number] >= COSINE and correlation >= CORRELATION)
        print(f"{path}: {len(judging)} images; changed copies found: {found / len(judging):.1%}")
    (args.output / "dropped.json").write_text(json.dumps({str(k): v for k, v in sorted(drop.items())}, indent=1) + "\n")
    keep = pa.array(np.isin(np.arange(len(bank)), list(drop), invert=True))
    table = pa.concat_tables([pq.read_table(path) for path in args.train]).filter(keep)
    pq.write_table(table, args.output / "train.parquet", row_group_size=1000, compression="none")
    print(f"{len(drop)} of {len(bank)} training images dropped; {args.output / 'train.parquet'} has {len(table)}")


if __name__ == "__main__":
    main()
