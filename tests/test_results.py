"""RESULTS.md: sections in a fixed order, one replaced at a time, tables kept as tables; what can't run is listed."""

import re
import sys

import numpy as np
import pytest
import torch

from benchmarks import __main__ as results
from benchmarks.__main__ import Benchmark


@pytest.fixture
def run(tmp_path, monkeypatch):
    path = tmp_path / "RESULTS.md"

    def call(benchmarks, *arguments):
        monkeypatch.setattr(results, "BENCHMARKS", benchmarks)
        monkeypatch.setattr(sys, "argv", ["benchmarks", "-o", str(path), "--only", ",".join(benchmarks), *arguments])
        results.main()
        return path.read_text()

    return call


def test_sections_are_written_replaced_and_left_out(run):
    first = Benchmark(
        "-c \"print('| a | b |'); print('|---|---|'); print('| 1 | 2 |')\"", "-c \"print('quick')\"", "One."
    )
    second = Benchmark("-c \"print('in words', 7 * 6)\"", "-c pass", "Two.")
    absent = Benchmark("-c pass", "-c pass", "Three.", packages=("no_such_package",))
    text = run({"first": first, "second": second, "third": absent})
    assert "\n| a | b |\n|---|---|\n| 1 | 2 |\n" in text
    assert "```text\nin words 42\n```" in text
    assert text.index("## first") < text.index("## second") < text.index("## Not run here")
    assert "- third: no_such_package is not installed" in text
    assert "- sslzoo 0." in text

    changed = Benchmark("-c \"print('in words', 43)\"", "-c pass", "Two.")
    again = run({"first": first, "second": changed}, "--only", "second")
    assert "in words 43" in again
    assert "in words 42" not in again
    assert "| 1 | 2 |" in again
    assert "Not run here" not in again
    assert "quick" in run({"first": first, "second": changed}, "--quick")
    later = run({"first": first, "second": changed, "new": second}, "--only", "second")
    assert "## Not run here\n\n- new: not run yet\n" in later


def test_data_of_ones_own_is_asked_for_and_its_place_is_not_told(run, tmp_path):
    needy = Benchmark(
        "-c \"import sys; print('read', sys.argv[1])\" {data}/some/set.parquet",
        "-c pass",
        "Reads.",
        data=("some/set.parquet",),
    )
    text = run({"needy": needy})
    assert "- needy: it needs --data FOLDER with some/set.parquet" in text
    assert "read" not in text
    data = tmp_path / "a folder"
    (data / "some").mkdir(parents=True)
    (data / "some" / "set.parquet").touch()
    text = run({"needy": needy}, "--data", str(data))
    assert "read …/some/set.parquet" in text and str(tmp_path) not in text
    assert "Not run here" not in text


def test_a_benchmark_that_fails_says_so_and_keeps_what_there_was(run, capfd):
    good, bad = ("-c \"print('so far', 6 * 7)\"", "-c \"print('so far', 41); raise SystemExit(4)\"")
    with pytest.raises(SystemExit):
        run({"broken": Benchmark(bad, "-c pass", "Breaks.")})
    err = capfd.readouterr().err
    assert "so far 41\nbroken: it failed with exit code 4" in err
    run({"broken": Benchmark(good, "-c pass", "Breaks.")})
    with pytest.raises(SystemExit):
        run({"broken": Benchmark(bad, "-c pass", "Breaks.")})
    text = run(
        {"broken": Benchmark(good, "-c pass", "Breaks."), "other": Benchmark(good, "-c pass", "")}, "--only", "other"
    )
    assert text.count("so far 42") == 2
    assert "Not run here" not in text


def test_a_quick_look_is_not_kept_as_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick"])
    with pytest.raises(SystemExit):
        results.main()
    assert "--quick needs -o FILE" in capsys.readouterr().err


def test_peers_versions_need_no_package_of_their_name():
    assert results.versions([f"numpy-bf16={sys.executable}", f"plain={sys.executable}"]) == [
        f"numpy-bf16: numpy {np.__version__}, torch {torch.__version__.partition('+')[0]}",
        f"plain: torch {torch.__version__.partition('+')[0]}",
    ]


def test_every_section_is_the_one_that_its_benchmark_would_write():
    written = results.sections(results.RESULTS)
    assert results.RESULTS.read_text(encoding="utf-8").startswith(results.TITLE)
    assert written.keys() - {"left out"} <= results.BENCHMARKS.keys()
    for name in written.keys() - {"left out"}:
        assert results.BENCHMARKS[name].shows in written[name], name
    listed = re.findall(r"^- ([\w-]+):", written.get("left out", ""), re.M)
    assert set(listed) == results.BENCHMARKS.keys() - written.keys()
