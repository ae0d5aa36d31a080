"""The command under torchrun: two processes follow one's losses, stop, go on, and leave an encoder to export."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import sslzoo

# without chance in the views: what is random is drawn for each process's part, so it differs between one and two
STILL = ["scale=[1.0,1.0]", "ratio=[1.0,1.0]", "flip=0.0", "jitter_p=0.0", "grey_p=0.0", "size=32"]
CHANGES = ["batch_size=8", "epochs=4", "store_size=32", "precision=fp32", "progressive=[[0.0,1.0]]", "lr_per_256=0.3"]
METHODS = {
    "simclr": ("simclr-r18.tin_cpu_1h", ["method_options.hidden=32"]),
    "mocov2": ("mocov2-r18.tin_cpu_1h", ["method_options.queue=32"]),
}
ALONE = {
    "simclr": [],
    "mocov2": ["--set", "method_options.splits=2"],
}  # BN sees half a batch, as each of two processes does


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for i in range(24):
        coarse = Image.fromarray(noise.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((40, 36), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


def command(method, pictures, out, *more, processes=1):
    recipe, options = METHODS[method]
    sets = [f"views.0.{change}" for change in STILL] + CHANGES + options
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    arguments = [recipe, "--data", str(pictures), "-o", str(out), "--device", "cpu", *more]
    return [sys.executable, *launch, "-m", "training", *arguments, *(word for s in sets for word in ("--set", s))]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "default"}


def run(*arguments, code=0, **options):
    done = subprocess.run(
        command(*arguments, **options), env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["memory", "stream"])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_follow_one_and_resume_and_export(method, storage, pictures, tmp_path):
    more = ("--set", f"storage={storage}")
    run(method, pictures, tmp_path / "one", *more, *ALONE[method])
    run(method, pictures, tmp_path / "two", *more, processes=2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4
    print(method, storage, one, two)
    np.testing.assert_allclose(two, one, rtol=1e-3)

    stopped = run(method, pictures, tmp_path / "part", "--max-minutes", "0", *more, processes=2)
    assert "stopped" in stopped
    finished = run(method, pictures, tmp_path / "part", "--resume", *more, processes=2)
    assert "finished" in finished
    assert losses(tmp_path / "part")[-4:] == two
    export = [sys.executable, "-m", "training", "export", str(tmp_path / "part"), "-o", str(tmp_path / "m")]
    subprocess.run(export, env=environment(), check=True, capture_output=True, timeout=120)
    assert np.isfinite(
        sslzoo.load(f"local-dir:{tmp_path / 'm'}", device="cpu").encode([np.zeros((32, 32, 3), np.uint8)])
    ).all()


def test_sigterm_leaves_a_checkpoint_to_go_on_from(pictures, tmp_path):
    long = command("simclr", pictures, tmp_path / "r", "--set", "epochs=100000")
    process = subprocess.Popen(long, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "r" / "log.jsonl"
    end = time.monotonic() + 100
    while not (log.exists() and log.read_text()) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err[-2000:]
    assert "stopped" in out and "--resume" in out
    assert (tmp_path / "r" / "checkpoint.pt").is_file()
    again = run("simclr", pictures, tmp_path / "r", "--set", "epochs=100000", "--resume", "--max-minutes", "0", code=75)
    assert "stopped" in again
