"""RESULTS.md: sections in a fixed order, one replaced at a time, tables kept as tables; what can't run is listed."""

import sys

import pytest

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


def test_a_benchmark_that_fails_says_so(run):
    text = run({"broken": Benchmark("-c \"print('so far'); raise SystemExit(4)\"", "-c pass", "Breaks.")})
    assert "**It failed** with exit code 4" in text
    assert "so far" in text
