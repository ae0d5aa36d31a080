"""What goes wrong in long runs: killed at any moment, interrupted, disk full, read-only, files that vanish or can't be read.

Each happens for real, in a process of its own.
"""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

import sslzoo
from sslzoo.errors import InputError

from .conftest import draw

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, limits and permissions are POSIX's")

# as `sslzoo embed`, in small parts and slowly enough to be caught at it
EMBED = """
import ctypes, functools, os, signal, struct, sys, time
from sslzoo import cli
from sslzoo.pipeline import run
from sslzoo.images import read
run.embed, run.embed_shard = (functools.partial(f, part_size=4, batch_size=2) for f in (run.embed, run.embed_shard))
fast, pause = read.pixels, {pause}
read.pixels = lambda *arguments: time.sleep(pause) or fast(*arguments)
sys.argv = ["sslzoo", "embed", {source!r}, "-o", {out!r}, "-m", "pixels-32", "-q", *{options!r}]
{before}
cli.main()
"""
# root may read and write everything, but for its capabilities (capset(2), version 3)
NO_CAPABILITIES = """
if os.geteuid() == 0:
    assert ctypes.CDLL(None).capset(struct.pack("II", 0x20080522, 0), struct.pack("6I", *[0] * 6)) == 0
"""
# killed by itself when it opens, renames or removes a file in the output for the n-th time
KILL_AT = """
count = 0
def watch(event, arguments):
    global count
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and {out!r} in str(arguments[0]):
        count += 1
        if count == {n}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


def start(source, out, *options, before="", pause=0.0):
    code = EMBED.format(source=str(source), out=str(out), options=options, before=before, pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments, **keywords):
    process = start(*arguments, **keywords)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 pictures and two broken files, in three folders."""
    root = tmp_path_factory.mktemp("in") / "pictures"
    for i in range(32):
        path = root / "abc"[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in (5, 20):
            path.write_text("text")
        else:
            draw("bars", i, (40, 30)).save(path)
    return root


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "e"
    code, _, err = run(folder, out)
    assert code == 3, err
    return snapshot(out)


def snapshot(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def parts(out):
    return sorted(out.glob("part-*.parquet"))


def check_whole_parts(out):
    """Whatever stands under a part's name can be read to its end."""
    for path in parts(out):
        pq.read_table(path)


def resumed(folder, out):
    code, _, err = run(folder, out, "--resume")
    assert code == 3, err
    return snapshot(out)


# the first and last of what is done to the folder, and some between; 44 events in all
@pytest.mark.parametrize("n", [1, 2, 6, 9, 25, 30])
def test_killed_at_the_nth_touch_of_a_file(folder, whole, tmp_path, n):
    code, _, _ = run(folder, tmp_path / "e", before=KILL_AT.format(out=str(tmp_path / "e"), n=n))
    assert code == -signal.SIGKILL
    check_whole_parts(tmp_path / "e")
    assert resumed(folder, tmp_path / "e") == whole


@pytest.mark.slow
def test_killed_at_every_touch_of_a_file(folder, whole, tmp_path):
    for n in range(1, 200):
        out = tmp_path / f"e{n}"
        code, _, _ = run(folder, out, before=KILL_AT.format(out=str(out), n=n))
        if code == 3:
            break
        assert code == -signal.SIGKILL
        check_whole_parts(out)
        assert resumed(folder, out) == whole
    assert n > 25


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--overwrite", "--update"])
def test_killed_at_every_touch_while_a_folder_is_replaced(folder, whole, tmp_path, option):
    for n in range(1, 300):
        at = tmp_path / str(n)
        (at / "e").mkdir(parents=True)
        for name, data in {**whole, "notes.txt": b"mine"}.items():
            (at / "e" / name).write_bytes(data)
        code, _, err = run(folder, at / "e", option, before=KILL_AT.format(out=str(at), n=n))
        if code == 3:
            break
        assert code == -signal.SIGKILL, err
        assert run(folder, at / "e", option, "--resume")[0] == 3
        assert snapshot(at / "e") == {**whole, "notes.txt": b"mine"}
        assert [path.name for path in at.iterdir()] == ["e"]
    assert n > 25


@pytest.mark.parametrize("moments", [3, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_random_moments_until_it_is_done(folder, whole, tmp_path, moments):
    rng, out, killed, round_ = random.Random(0), tmp_path / "e0", 0, 0
    while killed < moments:
        process = start(folder, out, "--resume", pause=0.01)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.2))
        except subprocess.TimeoutExpired:
            killed += 1
            process.kill()
        process.communicate()
        if out.exists():
            check_whole_parts(out)
        if process.returncode == 3:
            assert snapshot(out) == whole
            round_ += 1
            out = tmp_path / f"e{round_}"
    assert resumed(folder, out) == whole


def test_ctrl_c_finishes_the_part_and_a_second_one_stops_at_once(folder, whole, tmp_path):
    process = start(folder, tmp_path / "e", pause=0.02)
    while not parts(tmp_path / "e"):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "finishing the current batch" in err
    assert "what is finished is kept, and the same command with --resume goes on" in err
    assert 1 <= len(parts(tmp_path / "e")) < 8
    assert resumed(folder, tmp_path / "e") == whole

    process = start(folder, tmp_path / "f", pause=0.2)
    while not parts(tmp_path / "f"):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    lost = f"the current part is lost, what was written before ({len(parts(tmp_path / 'f'))} parts) is kept"
    assert lost in err or "what is finished is kept" in err  # where the batch was over between the two
    assert resumed(folder, tmp_path / "f") == whole

    twice = "run.Job.embed_part = lambda *arguments: [signal.raise_signal(signal.SIGINT) for _ in range(2)]"
    code, _, err = run(folder, tmp_path / "g", before=twice)
    assert code == 130 and not (tmp_path / "g").exists()
    assert "interrupted; nothing was finished, and the same command with --resume starts anew" in err


def test_ctrl_c_finishes_the_part_of_a_shard(folder, tmp_path):
    process = start(folder, tmp_path / "e", "--shard", "0/1", pause=0.02)
    while not parts(tmp_path / "e"):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "finishing the current batch" in err
    assert "the same command goes on" in err
    done = len(parts(tmp_path / "e"))
    assert 1 <= done < 8
    assert run(folder, tmp_path / "e", "--shard", "0/1")[0] == 3
    assert len(parts(tmp_path / "e")) == 8


def test_a_full_disk_ends_in_one_line_and_keeps_the_finished_parts(folder, whole, tmp_path):
    full = """
import resource
def stop_writing(write):
    def limited(self, number, part):
        if number == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        write(self, number, part)
    return limited
from sslzoo.pipeline import writer
writer.Writer._write_part = stop_writing(writer.Writer._write_part)
"""
    code, out, err = run(folder, tmp_path / "e", before=full)
    assert (code, out) == (1, "")
    assert "part-00003.parquet can't be written (File too large)" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert [p.name for p in parts(tmp_path / "e")] == [f"part-0000{i}.parquet" for i in range(3)]
    assert not list((tmp_path / "e").glob(".*"))
    check_whole_parts(tmp_path / "e")
    assert resumed(folder, tmp_path / "e") == whole


@pytest.mark.skipif(sys.platform != "linux", reason="drops capabilities, as only Linux has them")
def test_a_read_only_output_is_said_in_one_line(folder, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    code, _, err = run(folder, tmp_path / "locked" / "e", before=NO_CAPABILITIES)
    assert code == 1
    assert "can't be written (Permission denied)" in err
    assert "Traceback" not in err
    assert list((tmp_path / "locked").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="drops capabilities, as only Linux has them")
def test_what_may_not_be_read_is_a_failure_or_counted(folder, tmp_path):
    root = tmp_path / "in"
    (root / "open").mkdir(parents=True)
    (root / "closed").mkdir()
    for path in (root / "open" / "a.png", root / "open" / "secret.png", root / "closed" / "b.png"):
        draw("bars", 1).save(path)
    (root / "open" / "secret.png").chmod(0)
    (root / "closed").chmod(0)
    code, out, _ = run(root, tmp_path / "e", "--json", before=NO_CAPABILITIES)
    (root / "closed").chmod(0o755)
    assert code == 3
    assert json.loads(out)["left_out"] == {"unreadable folder": 1}
    [failure] = pq.read_table(tmp_path / "e" / "failures.parquet").to_pylist()
    assert failure == {"path": "open/secret.png", "reason": "can't be opened: Permission denied"}


def test_a_file_removed_during_the_run_is_a_failure(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for i in range(40):
        draw("bars", i).save(root / f"{i:02d}.png")
    asked = []

    def remove_the_last():
        if not asked:
            (root / "39.png").unlink()
        asked.append(1)
        return False

    result = sslzoo.embed(root, "pixels-32", tmp_path / "e", part_size=4, batch_size=1, workers=1, stop=remove_the_last)
    assert len(result) == 39
    [failure] = pq.read_table(tmp_path / "e" / "failures.parquet").to_pylist()
    assert failure == {"path": "39.png", "reason": "can't be opened: No such file or directory"}


def test_a_folder_in_which_the_decoder_was_told_otherwise_is_not_mixed(folder, tmp_path):
    from sslzoo.images.decode import Policy

    first = sslzoo.embed(folder, "pixels-32", tmp_path / "e", policy=Policy(background=(0, 0, 0)))
    assert first.space != sslzoo.embed(folder / "a", "pixels-32").space
    assert first.space == sslzoo.embed(folder, "pixels-32", policy=Policy(background=(0, 0, 0), pixel_limit=9999)).space
    with pytest.raises(InputError, match="another decode policy"):
        sslzoo.embed(folder, "pixels-32", tmp_path / "e", resume=True)
    again = sslzoo.embed(folder, "pixels-32", tmp_path / "e", resume=True, policy=Policy(background=(0, 0, 0)))
    np.testing.assert_array_equal(again.vectors, first.vectors)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_the_same_for_ten_times_as_many_images(tmp_path):
    pictures = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(pictures):
        draw("circles", i, (32, 32)).save(path)

    def peak(count):
        root = tmp_path / f"in{count}"
        for i in range(count):
            link = root / f"{i // 1000:03d}" / f"{i:06d}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(pictures[i % 20])
        code = f"""
        import sys
        from sslzoo import cli
        sys.argv = ["sslzoo", "embed", {str(root)!r}, "-o", {str(tmp_path / f"e{count}")!r}, "-m", "pixels-32", "-q"]
        try:
            cli.main()
        finally:
            # not getrusage, whose peak is at least that of the process that started this one
            print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])

    # from some ten parts on, Arrow's pools grow no more but by chance (up to a tenth, with 100,000 as with 400,000 images);
    # what this shows is some 140 bytes kept for each image
    few, many = peak(20_000), peak(200_000)
    assert many < 1.15 * few
