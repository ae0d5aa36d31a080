"""The whole path on real pictures: pretrain without labels, export, embed, judge. Needs CIFAR-10 as Parquet files.

`SSLZOO_CIFAR10=FOLDER python -m pytest -m slow`, where FOLDER has train-*.parquet and test.parquet in the Hugging Face
image layout. Two threads take about three minutes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sslzoo import baselines
from sslzoo.evaluate.score import compare
from sslzoo.images import discover

DATA = os.environ.get("SSLZOO_CIFAR10", "")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="set SSLZOO_CIFAR10 to a folder with CIFAR-10 as Parquet files")
def test_a_short_run_on_cifar10_beats_random_weights(tmp_path):
    """By a clear margin of the paired difference: 800 steps of SimCLR at 32 px."""
    for split, rows in (("train", 12_800), ("test", 2_000)):
        part = pq.read_table(discover.split(DATA, split)[0]).slice(0, rows)
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(part, tmp_path / "data" / f"{split}.parquet", row_group_size=1000)
    run = tmp_path / "run"
    settings = ["store_size=32", "views.0.size=32", "progressive=[[0.0, 1.0]]", "epochs=8", "test_size=64"]
    command = [
        sys.executable,
        "-m",
        "training",
        "simclr-r18.tin_cpu_1h",
        "--data",
        str(tmp_path / "data"),
        "-o",
        str(run),
    ]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)

    files = (tmp_path / "data" / "train.parquet", tmp_path / "data" / "test.parquet")
    trained, random, _ = baselines.knn_table(*files, f"local-dir:{run / 'model'}", [(20, 0.07)], device="cpu").values()
    gain = compare(trained[0], random[0])
    assert gain.differs and gain.difference > 0.05, str(gain)
