"""The list for a GPU, at tiny size on the CPU: in slices, to scores of the files that were written."""

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmarks.gratings import gratings
from training import checkpoint, gpu_zoo, recipe

SIMCLR, MOCO = "simclr-r18.cifar10_200ep", "mocov2-r18.cifar10_200ep"
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
    names = {"simsiam-r18.cifar10_200ep": "cifar10", "swav-r18.cifar10": "cifar10", "simclr-r18.tin": "imagenette"}

    def work(minutes):
        command = [sys.executable, "-m", "training.gpu_zoo", "--cifar10", data, "--device", "cpu", "-o", tmp_path / "z"]
        command += ["--tinyimagenet", data, "--imagenette", data, "--minutes", minutes]
        command += ["--only", *names, "--set", *SMALL]
        root = Path(__file__).parents[2]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=root)

    first = work(0.001)
    assert first.returncode == gpu_zoo.UNFINISHED, first.stderr
    assert first.stdout.count("not finished") == 3
    second = work(9)
    assert second.returncode == 0, second.stderr
    assert "not finished" not in second.stdout and all(bar in second.stdout for bar in ("(81.9)", "(88.4)", "(75.0)"))
    for name, judge in names.items():
        scores = json.loads((tmp_path / "z" / name / "result.json").read_text())
        assert scores.pop("data") == judge
        assert set(scores) == {"encoder", "random weights", "raw pixels", "interval"}
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


class Zoo:
    """The list with training and judging replaced: `codes` is how a recipe's run ends, by default well."""

    def __init__(self, folder):
        self.folder, self.codes, self.begun, self.judged = folder, {}, [], []
        for split in ("train", "test"):
            (folder / f"{split}.parquet").touch()

    def work(self, command):
        """A run's files, without a run."""
        name, run = command[3], Path(command[command.index("-o") + 1])
        self.begun.append(name)
        if code := self.codes.get(name, 0):
            return code
        run.mkdir()
        settings = recipe.load(name, [word.removeprefix("--set=") for word in command if word.startswith("--set=")])
        state = {"recipe": settings.to_dict(), "images": 1000, "step": settings.steps(1000)}
        torch.save(state, run / checkpoint.FILE)
        (run / checkpoint.FACTS).write_text('{"processor": "a GPU", "minutes": 30}')
        return 0

    def judge(self, model, train, test, protocol, device):
        """The same scores for all."""
        self.judged.append((model.parent.name, protocol))
        scores = {role: {"knn": 0.9, "linear": 0.8} for role in gpu_zoo.ROLES}
        return scores | {"interval": {"knn": 0.02, "linear": 0.03}}

    def press(self, *options, output="z"):
        """The exit code of the command, and what it has written."""
        given = ["--cifar10", str(self.folder), "--device", "cpu", "-o", str(self.folder / output), *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["gpu_zoo", *given])
            patch.setattr(gpu_zoo, "work", self.work)
            patch.setattr(gpu_zoo, "judged", self.judge)
            try:
                gpu_zoo.main()
                code = 0
            except SystemExit as end:
                code = end.code
        return code, (self.folder / output / "results.md").read_text()


@pytest.fixture
def zoo(tmp_path):
    return Zoo(tmp_path)


def test_a_rehearsal_is_no_result(zoo):
    rehearsal = ("--only", SIMCLR, "--set", "epochs=1")
    assert zoo.press(*rehearsal)[0] == 0
    assert zoo.press(*rehearsal)[0] == 0 and zoo.begun == [SIMCLR]  # of the same settings it is not done again
    for only in (SIMCLR, MOCO):  # nor does it get into another one's table
        message = zoo.press("--only", only)[0]
        assert "epochs 1, not 200" in message and f"-o {zoo.folder / 'z'}-2" in message
    assert zoo.press("--only", SIMCLR, output="z-2")[0] == 0 and zoo.begun == [SIMCLR, SIMCLR]


def test_the_table_has_what_other_calls_have_finished(zoo):
    zoo.press("--only", SIMCLR)
    code, text = zoo.press("--only", MOCO)
    assert code == 0 and "not finished" not in text
    for name, bar in ((SIMCLR, 84.8), (MOCO, 85.3)):
        assert (
            f"| {name} | cifar10 | 90.0 ± 2.0 ({bar}) | 80.0 ± 3.0 | 90.0 / 80.0 | 90.0 / 80.0 | a GPU | 0.50 |" in text
        )


def test_a_run_that_fails_is_told_and_not_begun_again(zoo):
    zoo.codes = {SIMCLR: 1}
    code, text = zoo.press("--only", SIMCLR, MOCO)
    assert code == 1 and f"| {SIMCLR} | cifar10 | failed (exit code 1) |" in text and "delete its folder" in text
    assert [name for name, _ in zoo.judged] == [MOCO]
    zoo.codes = {}
    assert zoo.press("--only", SIMCLR, MOCO)[0] == 1 and zoo.begun == [SIMCLR, MOCO]
    shutil.rmtree(zoo.folder / "z" / SIMCLR)
    code, text = zoo.press("--only", SIMCLR, MOCO)
    assert code == 0 and "failed" not in text and zoo.begun == [SIMCLR, MOCO, SIMCLR]


@pytest.mark.parametrize(("code", "ends"), [(3, 0), (75, 75)])
def test_a_run_without_some_images_is_judged_and_one_that_stopped_is_not(zoo, code, ends):
    zoo.codes = {SIMCLR: code}
    run = zoo.folder / "z" / SIMCLR
    run.mkdir(parents=True)
    (run / checkpoint.FACTS).write_text('{"processor": "a GPU", "minutes": 30}')
    found, text = zoo.press("--only", SIMCLR, MOCO)
    assert found == ends and zoo.begun == ([SIMCLR, MOCO] if ends == 0 else [SIMCLR])
    assert ("| a GPU | 0.50 |" in text) is (ends == 0)


def test_judging_waits_for_a_slice_with_time_for_it(zoo):
    assert zoo.press("--only", SIMCLR, "--minutes", "3")[0] == gpu_zoo.UNFINISHED and not zoo.judged
    zoo.work = lambda command: 0
    assert zoo.press("--only", SIMCLR, "--minutes", "3")[0] == 0  # the first thing of a slice, however short
    assert zoo.judged == [(SIMCLR, (200, 0.1))]


def test_the_package_encoder_is_held_against_imagenette_where_that_is_given(zoo):
    for part in ("train", "val"):
        (zoo.folder / "imagenette" / part).mkdir(parents=True)
    name, given = "simclr-r18.tin", ["--tinyimagenet", str(zoo.folder), "--only", "simclr-r18.tin"]
    code, text = zoo.press(*given)
    assert code == 0 and f"| {name} | tinyimagenet | 90.0 ± 2.0 | 80.0 ± 3.0 |" in text
    for options in (["--imagenette", str(zoo.folder / "imagenette")], []):  # and then stays so
        code, text = zoo.press(*given, *options)
        assert code == 0 and f"| {name} | tinyimagenet, judged on imagenette | 90.0 ± 2.0 (75.0) | 80.0 ± 3.0 |" in text
    assert zoo.judged == [(name, (200, 0.1)), (name, (20, 0.07))] and zoo.begun == [name]


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ctrl_c_sigterm_and_a_closed_terminal_let_the_run_save(tmp_path, monkeypatch, asked, code):
    told = signal.SIGTERM if asked == signal.SIGHUP else asked
    run = f"""
import os, pathlib, signal, time
assert os.getpgid(0) != os.getpgid(os.getppid()), "a terminal's Ctrl-C would come twice"
signal.pthread_sigmask(signal.SIG_BLOCK, [{told:d}])
time.sleep(0.5)  # until it is waited for
os.kill(os.getppid(), {asked:d})
signal.sigtimedwait([{told:d}], 20) and pathlib.Path("saved").touch()
"""
    monkeypatch.chdir(tmp_path)
    ignored_perhaps = signal.signal(asked, signal.SIG_DFL)  # as under nohup, and then it is not passed on
    try:
        with pytest.raises(SystemExit) as end:
            gpu_zoo.work([sys.executable, "-c", run])
        assert signal.getsignal(asked) is signal.SIG_DFL
    finally:
        signal.signal(asked, ignored_perhaps)
    assert end.value.code == code and (tmp_path / "saved").exists()
