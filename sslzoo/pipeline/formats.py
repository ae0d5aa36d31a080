"""Embeddings in the formats of other tools: numpy shards as clip-retrieval lays them out, and CSV."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np

from sslzoo.embeddings import part_files, read_manifest
from sslzoo.errors import InputError, OutputError

FORMATS = ("npy", "csv")


def convert(folder: Path, kind: str) -> Path:
    """Writes a finished embeddings folder in another format into a sub-folder of it, part by part, and returns that.

    What is there from before is replaced once the new is whole.

    "npy" is `img_emb/img_emb_00000.npy` (float32 `[n, dim]`, to be memory-mapped) with `metadata/metadata_00000.parquet`
    (image_path and the other columns); "csv" is one `vectors.csv` with path, label and one column a dimension.
    """
    if kind not in FORMATS:
        raise InputError(f"format is {kind!r}; use parquet, {' or '.join(FORMATS)}")
    read_manifest(folder)
    out, beside = folder / kind, folder / f".{kind}.tmp"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        if kind == "npy":
            _npy(folder, beside)
        else:
            _csv(folder, beside / "vectors.csv")
        shutil.rmtree(out, ignore_errors=True)  # of the same vectors, or of those before an update
        beside.rename(out)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise OutputError(f"{out} can't be written ({error.strerror}); the embeddings are whole in {folder}") from None
    return out


def _npy(folder: Path, out: Path) -> None:
    import pyarrow.parquet as pq

    for name in ("img_emb", "metadata"):
        (out / name).mkdir()
    for number, path in enumerate(part_files(folder)):
        table = pq.read_table(path)
        dim = table.schema.field("embedding").type.list_size
        flat = table["embedding"].combine_chunks().flatten().to_numpy()
        np.save(out / "img_emb" / f"img_emb_{number:05d}.npy", np.asarray(flat, np.float32).reshape(-1, dim))
        others = table.drop_columns(["embedding"]).replace_schema_metadata(None)
        others = others.rename_columns(["image_path" if name == "path" else name for name in others.column_names])
        pq.write_table(others, out / "metadata" / f"metadata_{number:05d}.parquet")


def _csv(folder: Path, out: Path) -> None:
    import pyarrow.parquet as pq

    dim = read_manifest(folder)["dim"]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *(f"e{i}" for i in range(dim))])
        for path in part_files(folder):
            for row in pq.read_table(path, columns=["path", "label", "embedding"]).to_pylist():
                writer.writerow([row["path"], row["label"] or "", *(f"{v:.9g}" for v in row["embedding"])])
