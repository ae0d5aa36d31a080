"""The list for a GPU, at tiny size on the CPU: in slices, to scores of the files that were written."""

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.gratings import gratings
from training import gpu_zoo, recipe

SMALL = ["epochs=2", "batch_size=16", "precision=fp32"]


@pytest.fixture
def data(tmp_path):
    """Stripes in four directions as train and test Parquet."""
    for seed, split in enumerate(("train", "test")):
        cells, (images, labels) = [], gratings(40, seed)
        for image in images:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer := io.BytesIO(), "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": cells, "label": labels}), tmp_path / "data" / f"{split}.parquet")
    return tmp_path / "data"


@pytest.mark.slow
def test_slices_end_in_scores(data, tmp_path):
    def work(minutes):
        command = [sys.executable, "-m", "training.gpu_zoo", "--cifar10", data, "--device", "cpu", "-o", tmp_path / "z"]
        command += [
            "--minutes",
            minutes,
            "--only",
            "simsiam-r18.cifar10_200ep",
            "swav-r18.cifar10",
            "--set",
            *SMALL,
        ]
        root = Path(__file__).parents[2]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=root)

    first = work(0.001)
    assert first.returncode == gpu_zoo.UNFINISHED, first.stderr
    assert first.stdout.count("not finished") == 2
    second = work(9)
    assert second.returncode == 0, second.stderr
    assert "not finished" not in second.stdout and "(81.9)" in second.stdout and "(88.4)" in second.stdout
    for name in ("simsiam-r18.cifar10_200ep", "swav-r18.cifar10"):
        scores = json.loads((tmp_path / "z" / name / "result.json").read_text())
        assert set(scores) == {"encoder", "random weights", "raw pixels"}
        assert all(0 <= value <= 1 for role in scores.values() for value in role.values())
        assert (tmp_path / "z" / name / "model" / "model.safetensors").is_file()
    third = work(0.001)  # what is done is not done again
    assert third.returncode == 0 and second.stdout.endswith(third.stdout)


def test_every_recipe_of_the_list_is_there():
    assert {job.data for job in gpu_zoo.JOBS} == {"cifar10", "tinyimagenet"}
    for job in gpu_zoo.JOBS:
        assert recipe.load(job.recipe).method == job.recipe.partition("-")[0]


def test_nothing_to_do_says_what_to_give(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu_zoo", "--cifar10", ""])
    with pytest.raises(SystemExit, match="give --cifar10 or --tinyimagenet"):
        gpu_zoo.main()
    monkeypatch.setattr(sys, "argv", ["gpu_zoo", "--cifar10", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"needs train\.parquet"):
        gpu_zoo.main()


@pytest.mark.parametrize(("code", "ok"), [(0, True), (3, True), (75, True), (1, False)])
def test_a_run_that_stopped_is_gone_on_with_and_one_that_failed_ends_the_list(monkeypatch, tmp_path, code, ok):
    monkeypatch.setattr(gpu_zoo.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, code))
    args = argparse.Namespace(device="cpu", set=[])
    if ok:
        assert gpu_zoo.trained(gpu_zoo.JOBS[0], tmp_path, tmp_path / "r", 1.0, args) is False
    else:
        with pytest.raises(SystemExit, match="failed with exit code 1"):
            gpu_zoo.trained(gpu_zoo.JOBS[0], tmp_path, tmp_path / "r", 1.0, args)
