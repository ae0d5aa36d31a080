"""The command line as a user types it: exit codes, what goes to stdout, and messages that say what to type next."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sslzoo
from sslzoo import cli
from sslzoo.cli.options import percent
from sslzoo.errors import Interrupted
from sslzoo.registry import PACKAGE_ENCODER
from sslzoo.spec import Checkpoint
from tests.conftest import draw
from tests.generated import commands


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sslzoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def test_embed_then_search(run, photos, tmp_path):
    code, out, _ = run("embed", photos, "-m", "random-r18", "--device", "cpu")
    folder = tmp_path / f"{photos.name}.emb"
    assert code == 0
    assert out.startswith(f"{folder.name}: 12 vectors of 512 numbers by random-r18 (")
    assert folder.is_dir()

    code, out, _ = run("search", folder, "bars/3.jpg", "-k", 3)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "1.0000  bars/3.jpg"
    assert len(lines) == 3

    code, out, _ = run(
        "search", folder, photos / "bars" / "3.jpg", "circles/0.png", "-k", 2, "--exclude-self", "--json"
    )
    first, second = json.loads(out)
    assert first["query"].endswith("bars/3.jpg")
    assert "bars/3.jpg" not in [n["id"] for n in first["neighbours"]]
    assert "circles/0.png" not in [n["id"] for n in second["neighbours"]]


def test_searching_with_a_picture_from_outside(run, photos, tmp_path):
    run("embed", photos, "-m", "random-r18", "-o", "e", "-q")
    copy = tmp_path / "copy.jpg"
    copy.write_bytes((photos / "bars" / "4.jpg").read_bytes())
    code, out, _ = run("search", "e", copy, "-k", 1)
    assert (code, out) == (0, "1.0000  bars/4.jpg\n")
    copy.write_text("text")
    code, out, err = run("search", "e", copy)
    assert (code, out) == (1, "")
    assert "not an image" in err
    code, _, err = run("search", "e", "nothing.jpg")
    assert code == 1
    assert "neither a file nor an id" in err


def test_searching_with_the_weights_exchanged_is_refused(run, photos, tmp_path):
    for seed in (0, 1):
        spec = sslzoo.registry.random_twin(sslzoo.registry.resolve("random-r18"), seed)
        sslzoo.Encoder.from_spec(spec, device="cpu").save_pretrained(tmp_path / f"model{seed}")
    run("embed", photos, "-m", "local-dir:model0", "-o", "e", "-q")
    (tmp_path / "model0").rename(tmp_path / "old")
    (tmp_path / "model1").rename(tmp_path / "model0")
    outside = tmp_path / "x.jpg"
    outside.write_bytes((photos / "bars" / "4.jpg").read_bytes())
    code, _, err = run("search", "e", outside)
    assert code == 1
    assert "space" in err


def test_some_failures_end_in_3(run, photos, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    (root / "good.jpg").write_bytes((photos / "bars" / "0.jpg").read_bytes())
    (root / "bad.jpg").write_text("text")
    code, out, err = run("embed", root, "-m", "random-r18", "--json", "-q")
    assert code == 3
    assert json.loads(out)["failed"] == 1
    assert "failures.parquet" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["embed", "nowhere"], 1, "does not exist"),
        (["embed", "."], 1, "no image in ."),
        (["embed", "PHOTOS", "-m", "randm-r18"], 1, "did you mean random-r18"),
        (["embed", "PHOTOS", "-m", "./nowhere"], 1, "there is no model folder nowhere; check the path"),
        (["embed", "PHOTOS", "-o", "PHOTOS"], 1, "it holds bars; nothing is written there, choose another -o"),
        (["embed", "PHOTOS", "--precision", "int3"], 2, "fp32, bf16"),
        (["embed", "PHOTOS", "--backend", "jax"], 2, "auto, torch, openvino"),
        (["embed", "PHOTOS", "--decoder", "magick"], 2, "pillow, torch"),
        (["embed", "PHOTOS", "--engine", "dask"], 2, "local, ray"),
        (["embed", "PHOTOS", "--format", "json"], 2, "parquet, npy, csv"),
        (["embed", "PHOTOS", "--dtype", "int4"], 2, "float32, float16"),
        (["embed", "PHOTOS", "--background", "nocolour"], 2, "#rrggbb"),
        (["embed", "PHOTOS", "--shard", "abc"], 2, "0/8, 1/8"),
        (["embed", "PHOTOS", "--shard", "4/4"], 2, "0/8, 1/8"),
        (["embed", "PHOTOS", "--shard", "0/4", "--overwrite"], 1, "leave out --update and --overwrite"),
        (["embed", "PHOTOS", "--shard", "0/4", "--format", "npy", "-o", "e"], 1, "sslzoo merge e --format npy"),
        (["embed", "PHOTOS", "--shard", "0/4", "--dry-run"], 1, "counts the images of all shards"),
        (["embed", "PHOTOS", "--update", "--overwrite"], 1, "leave one of them out"),
        (["embed", "PHOTOS", "-j", "-1"], 2, "--workers"),
        (["embed"], 2, "Missing argument"),
        (["embed", "PHOTOS", "--nonsense"], 2, "No such option"),
        (["index", "e", "--kind", "annoy"], 2, "auto, exact, flat"),
        (["export", "random-r18", "--format", "coreml"], 2, "onnx, torch"),
        (["export-vectors", "e", "--to", "faiss", "--at", "x"], 2, "lancedb, qdrant"),
        (["convert", "PHOTOS", "-o", "x", "--format", "tf"], 2, "auto, vissl"),
        (["finetune", "PHOTOS", "--preset", "mae-linear"], 2, "finetune, moco-linear"),
        (["finetune", "PHOTOS", "--optimizer", "lion"], 2, "sgd, lars, adamw"),
        (["finetune", "PHOTOS", "--precision", "fp16"], 2, "auto, fp32, bf16"),
        (["eval", "linear", "PHOTOS", "PHOTOS", "--metric", "f1"], 2, "mean_per_class, mAP11"),
        (["eval", "report", "PHOTOS", "--suite", "vtab"], 2, "small, twelve"),
        (["eval", "report", "PHOTOS", "--probe", "svm"], 2, "knn, linear"),
        (["models", "--verified", "foo"], 2, "none, format, online"),
        (["search", "nowhere", "x"], 1, "sslzoo embed"),
        (["show", "qqq"], 1, "sslzoo models"),
        (["show", "simsiamm"], 1, "did you mean simsiam-r50"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_wrong_input(run, photos, tmp_path, arguments, code, message):
    before = sorted(photos.rglob("*"))
    got, out, err = run(*(str(photos) if a == "PHOTOS" else a for a in arguments))
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
    assert sorted(photos.rglob("*")) == before


def test_an_interrupt_exits_130_and_says_how_to_go_on(run, photos, monkeypatch):
    def interrupted(*a):
        raise KeyboardInterrupt

    monkeypatch.setattr(sslzoo.pipeline.run.Job, "embed_part", interrupted)
    code, _, err = run("embed", photos, "-m", "random-r18")
    assert code == 130
    assert "--resume" in err


def test_a_filter_that_matches_nothing_says_so(run):
    code, out, err = run("models", "zzz*")
    assert (code, out) == (0, "")
    assert "no encoder matches" in err
    _, _, err = run("models", "byol", "--license", "foo", "--backbone", "vit")
    assert "no encoder has --license foo; there are: apache-2.0, cc-by-nc-4.0, mit, permissive\n" in err
    assert "no encoder has --backbone vit; there are: resnet101" in err


@pytest.mark.parametrize("value", [137 / 400, sum([1 / 400] * 137)])  # 34.25 %, and the same a little off
def test_a_percentage_does_not_depend_on_how_a_share_was_summed(value):
    assert percent(value) == "34.2"


def test_an_interrupt_before_the_command_has_begun_is_quiet(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.embedding, "make_lean", interrupted)
    assert run("embed", "photos")[:2] == (130, "")
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sslzoo.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from sslzoo.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(("chosen", "used"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_arrow_shares_the_allocator_of_the_process_unless_told_otherwise(monkeypatch, chosen, used):
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    if chosen:
        monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", chosen)
    code = "from sslzoo.cli import process; process.make_lean(); import pyarrow as pa; print(pa.default_memory_pool())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"backend_name={used}" in done.stdout


def test_shards_report_as_the_whole_does(run, photos, tmp_path, monkeypatch):
    shutil.copytree(photos / "bars", tmp_path / "in")
    (tmp_path / "in" / "bad.jpg").write_text("text")
    options = ("embed", "in", "-o", "e", "-m", "pixels-32", "-q", "--shard", "0/1")
    code, out, err = run(*options, "--json")
    facts = json.loads(out)
    assert (code, facts["rows"], facts["failed"], facts["shard"], facts["parts"]) == (3, 6, 1, "0/1", 1)
    assert "1 images could not be read" in err
    code, out, _ = run(*options)
    assert (code, out) == (3, "e: shard 0/1 of 1 parts is done; after the last one: sslzoo merge e\n")
    code, _, err = run("merge", "e", "--format", "npy")
    assert code == 3 and f"{Path('e', 'npy')}: the same vectors as npy" in err
    np.testing.assert_array_equal(
        np.load(tmp_path / "e" / "npy" / "img_emb" / "img_emb_00000.npy"), sslzoo.embed("in", "pixels-32").vectors
    )
    code, out, _ = run(*options)
    assert (code, out) == (3, "e is merged already, 6 vectors; there is nothing to do for shard 0/1\n")

    def interrupted(*a):
        raise KeyboardInterrupt

    monkeypatch.setattr(sslzoo.pipeline.run.Job, "embed_part", interrupted)
    code, _, err = run("embed", "in", "-o", "f", "-m", "pixels-32", "-q", "--shard", "0/1")
    assert (code, err) == (130, "interrupted; nothing was finished, and the same command starts anew\n")


def test_options_that_a_folder_has_settled_are_said_to_go_for_nothing(run, photos):
    run("embed", photos, "-o", "e", "-m", "pixels-32", "-q", "--dtype", "float16", "-b", 4)
    code, _, err = run("embed", photos, "-o", "e", "-m", "pixels-32", "-q", "--resume", "--precision", "auto", "-b", 4)
    finished = "e is finished already; add --update for what is new or changed"
    assert (code, err) == (0, f"{finished}\n")
    given = ("-b", 2, "--precision", "bf16", "--backend", "torch", "--dtype", "float32", "--deterministic")
    for option in ("--resume", "--update"):
        code, _, err = run("embed", photos, "-o", "e", "-m", "pixels-32", "-q", option, *given)
        assert code == 0
        assert err.splitlines() == [
            "--batch-size 2 is ignored: e was begun with batch size 4",
            "--precision bf16 is ignored: e was begun with precision fp32",
            "--backend torch is ignored: e was begun with backend numpy",
            "--deterministic is ignored: e was begun with deterministic False",
            "--dtype float32 is ignored: e was begun with dtype float16",
            *([finished] if option == "--resume" else []),
        ]


def test_a_batch_size_beside_deterministic_is_said_to_go_for_nothing(run, photos):
    command = ("embed", photos, "-o", "e", "-m", "pixels-32", "-q", "--deterministic", "--overwrite", "-b")
    code, _, err = run(*command, 64)
    assert (code, err) == (0, "--batch-size 64 is ignored: --deterministic computes in batches of 16\n")
    assert run(*command, 16)[2] == ""


def test_the_default_output_is_never_an_option(run, photos, tmp_path, monkeypatch):
    listed = "".join(f"{path}\n" for path in sorted(photos.rglob("*.*g")))
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    code, out, _ = run("embed", "-", "-m", "pixels-32", "-q")
    assert (code, out.split(":")[0]) == (0, "stdin.emb")
    shutil.copytree(photos / "bars", tmp_path / "-v")
    _, out, _ = run("embed", "./-v", "-m", "pixels-32", "-q")
    assert out.startswith("v.emb: 6 vectors")


def test_several_inputs_as_a_shell_writes_a_pattern_out(run, photos, tmp_path):
    for folder in ("a", "b"):
        shutil.copytree(photos / "bars", tmp_path / folder)
    code, out, _ = run("embed", "b/1.jpg", "a/0.jpg", "-m", "pixels-32", "-q")
    assert (code, out.split(":")[0]) == (0, "images.emb")
    _, out, _ = run("embed", "a/0.jpg", "b/1.jpg", "-m", "pixels-32", "-q", "--update")
    assert "2 kept, 0 made anew" in out
    assert list(sslzoo.open_embeddings(tmp_path / "images.emb").ids) == ["a/0.jpg", "b/1.jpg"]
    code, _, err = run("search", "images.emb", "a/0.jpg", "--html", "s.html")
    assert (code, err) == (0, "contact sheet: s.html\n")
    run("embed", "b", "a", "a/0.jpg", "-m", "pixels-32", "-q", "-o", "two.emb")
    two = sslzoo.open_embeddings(tmp_path / "two.emb")
    assert sorted(two.ids) == ["a/0.jpg", *(f"{folder}/{i}.jpg" for folder in "ab" for i in range(6))]
    assert two.labels[two.ids.index("b/2.jpg")] == "b"
    code, _, err = run("embed", "a", "-", "-q")
    assert (code, "stdin and goes alone" in err) == (1, True)


def test_a_dry_run_of_an_update_counts_what_is_new_or_changed(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "in")
    run("embed", "in", "-m", "pixels-32", "-q")
    plan = ("embed", "in", "-m", "pixels-32", "-q", "--update", "--dry-run")
    assert run(*plan)[:2] == (0, "no image is new or has changed\n")
    shutil.copy(tmp_path / "in" / "bars" / "0.jpg", tmp_path / "in" / "bars" / "new.jpg")
    os.utime(tmp_path / "in" / "circles" / "0.png", (1, 1))
    assert run(*plan)[1].startswith("2 images\n")
    assert json.loads(run(*plan, "--json")[1])["images"] == 2


def test_an_update_of_what_was_interrupted_is_finished_by_resume(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "in")
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        sslzoo.embed("in", "pixels-32", "in.emb", part_size=5, batch_size=5, stop=lambda: next(asked))
    (tmp_path / "in" / "bars" / "0.jpg").unlink()
    command = ("embed", "in", "-m", "pixels-32", "-q", "--update")
    code, _, err = run(*command)
    assert (code, "--resume finishes it" in err) == (1, True)
    assert run(*command, "--resume")[0] == 0
    assert len(sslzoo.open_embeddings(tmp_path / "in.emb")) == 11


def test_reasons_and_names_stand_on_one_line_each(run, photos, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(photos / "bars" / "0.jpg", tmp_path / "in" / "a\nb\x1b[2J.jpg")
    for i in range(7):
        (tmp_path / "in" / f"bad{i}.jpg").write_bytes(b"")
    code, _, err = run("embed", "in", "-m", "pixels-32", "-q")
    lines = err.splitlines()
    assert (code, len(lines), lines[0][:20]) == (3, 6, "left out bad0.jpg: a"), lines
    assert lines[-1].startswith("7 images could not be read")
    assert run("search", "in.emb", tmp_path / "in" / "a\nb\x1b[2J.jpg")[1] == "1.0000  a\\nb\\x1b[2J.jpg\n"


def test_models_and_show(run):
    code, out, _ = run("models", "--json")
    specs = json.loads(out)
    assert code == 0
    assert [s["name"] for s in specs] == sslzoo.list_models()
    code, out, _ = run("models", "simclr*")
    assert out.splitlines()[0].split()[:3] == ["name", "method", "backbone"]
    code, out, _ = run("show", "random-r18", "--json")
    assert json.loads(out)["dim"] == 512
    assert re.search(r"knn_top1@k=20,T=0\.07 .* \d+\.\d ± \d\.\d +\d+\.\d +\d+\.\d\n", run("show", "simclr-r18")[1])
    _, out, _ = run("show", sslzoo.list_models()[0])
    assert "license" in out
    assert "data terms" in out


def test_knn_stands_beside_random_weights_and_pixels(run, photos):
    code, out, err = run("eval", "knn", photos, "-q")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["protocol", PACKAGE_ENCODER, "random-r18", "pixels-32"]
    assert len(lines) == 1 + 2 * 4  # of twelve images, k of 20, 100 and 200 are all 11
    assert lines[1].startswith("knn_top1@k=1,T=0.07 (cosine, leave-one-out, 12 queries)")
    assert "/12 (hash/images)" in err
    assert "pixels-32: pixels, short side 32 px bilinear, centre 32 px, fp32, weights none" in err


def test_images_without_labels_are_refused_before_any_is_embedded(run, photos, monkeypatch):
    monkeypatch.setattr("sslzoo.baselines.embed", lambda *a, **k: pytest.fail("embedded"))
    for command in (("knn", photos / "bars"), ("linear", photos, photos / "bars")):
        code, _, err = run("eval", *command)
        assert code == 1 and "bars has images without a label, the first is 0.jpg; give one folder a class" in err
    shutil.copytree(photos, "high/photos")
    for command in (("knn", "high"), ("linear", "high", photos)):
        code, _, err = run("eval", *command)
        assert code == 1 and "error: high has the one class 'photos'; give at least two" in err
    shutil.copy("high/photos/bars/0.jpg", "high/photos/stray.jpg")
    for command in (("knn", "high/photos"), ("linear", photos, "high/photos")):
        code, _, err = run("eval", *command)
        assert code == 1 and "high/photos has images without a label, the first is stray.jpg; give" in err


def test_a_solver_that_stops_early_is_told(run, photos, monkeypatch):
    monkeypatch.setattr("sslzoo.evaluate.logistic.ROUNDS", 1)
    run("embed", photos, "-m", "pixels-32", "-o", "e", "-q")
    code, out, err = run("eval", "linear", "e", "e", "--json")
    fits = json.loads(out)[0]["unsolved"]
    assert code == 0 and f"pixels-32: the solver stopped early in {fits} fits; the score may be off; linear" in err


def test_knn_on_embeddings(run, photos):
    run("embed", photos, "-m", "random-r18", "-o", "e", "-q")
    code, out, _ = run("eval", "knn", "e", "-k", 3, "-T", "0.1", "--json")
    (score,) = json.loads(out)
    assert code == 0
    assert score["protocol"].startswith("knn_top1@k=3,T=0.1")
    assert score["test"].endswith("/12")
    code, _, err = run("eval", "knn", "e", photos)
    assert code == 1
    assert "both" in err
    code, _, err = run("eval", "knn", "e", "-m", "random-r18")
    assert code == 1
    assert "e holds vectors that random-r18 has made; leave out -m/--model" in err
    code, _, err = run("eval", "knn", "e", "-T", "0.1")
    assert code == 2
    assert "add -k 20" in err


def test_images_that_cannot_be_judged_are_listed_and_end_in_3(run, photos, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "set" / part)
    (tmp_path / "set" / "test" / "bars" / "bad.jpg").write_text("text")
    for command in (
        ("knn", "set/train", "set/test"),
        ("knn", "set/test"),
        ("linear", "set/train", "set/test", "--shots", 1),
        ("health", "set/test"),
    ):
        code, out, err = run("eval", *command, "-m", "random-r18", "-q")
        assert code == 3 and out
        assert err.count("set/test: bars/bad.jpg: ") == 1
        assert "1 images could not be read, and no score is of them" in err
    code, out, err = run("eval", "report", "set", "-m", "random-r18", "--probe", "knn", "-q", "--json")
    assert code == 3 and "set, test: bars/bad.jpg: " in err
    assert json.loads(out)["results"][0]["failed"] == {"test": 1}
    run("embed", "set/test", "-o", "e", "-m", "random-r18", "-q")
    assert run("eval", "knn", "e")[0] == 0  # embed has told


def test_a_report_names_the_sets_that_it_leaves_out(run, photos, tmp_path):
    from tests.test_suites import test_birdsnap, test_dtd

    test_dtd(tmp_path)
    test_birdsnap(tmp_path)
    (tmp_path / "birdsnap" / "images.txt").write_text("nothing\n")
    options = ("eval", "report", ".", "--suite", "twelve", "-m", "random-r18", "--probe", "knn", "-q")
    code, out, err = run(*options)
    assert code == 3
    assert "- birdsnap is left out: " in out and "birdsnap is left out: " in err
    assert "food101" not in out + err  # isn't there
    code, _, err = run(*options, "--metric", "top1")
    assert code == 1
    assert "leave out --metric" in err


def test_linear_and_few_labels(run, photos):
    code, out, _ = run("eval", "linear", photos, photos, "--shots", 2, "--share", 0.5, "--json", "-q")
    scores = json.loads(out)
    assert code == 0
    assert [s["encoder"] for s in scores] == [n for n in (PACKAGE_ENCODER, "random-r18", "pixels-32") for _ in range(3)]
    assert scores[0]["penalty"] > 0
    assert "2 shots, 5 draws, n=4" in scores[1]["protocol"]
    assert "50 % of labels, 5 draws, n=6" in scores[2]["protocol"]
    code, _, err = run("eval", "linear", photos, photos, "--metric", "top5", "-q")
    assert code == 2
    assert "mean_per_class" in err
    for wrong in (("--share", 0), ("--shots", 0)):
        assert run("eval", "linear", photos, photos, *wrong, "-q")[0] == 2
    code, _, err = run("eval", "linear", photos, photos, "--metric", "mAP11", "--shots", 1, "-q")
    assert code == 1
    assert "leave out --shots" in err


def test_health(run, photos):
    code, out, err = run("eval", "health", photos, "-q")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["figure", PACKAGE_ENCODER, "random-r18", "pixels-32", "reads"]
    assert [line[0] for line in lines[1:3]] == ["rows", "dim"]
    figures = {line[0]: [float(v) for v in line[1:4]] for line in lines[1:]}
    docs = (Path(__file__).parent.parent / "docs" / "protocols.md").read_text()
    for (
        figure,
        *_,
    ) in lines[3:]:
        (line,) = (line for line in out.splitlines() if line.startswith(f"{figure} "))
        (row,) = (row for row in docs.splitlines() if row.startswith(f"| `{figure}` |"))
        assert line.endswith(row.strip("| ").rpartition(" | ")[2])
    assert figures["dim"] == [512, 512, 3072]
    assert "health@k=10,cosine=0.999 (n=12); set " in err and "/12 (hash/images)" in err
    assert "random-r18: pooled layer4, " in err
    assert figures["std"][0] > figures["std"][1]  # random weights map everything to nearly one direction


def test_report(run, photos, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "shapes" / part)
    code, out, err = run("eval", "report", "shapes", "-m", "random-r18", "-m", "random-r34", "--probe", "knn", "-q")
    assert "written to report: report.md, .html and .json" in err
    assert code == 0
    assert "| random-r18 | 50.0 ± " in out or "| random-r18 | 100.0 ± " in out
    assert (tmp_path / "report" / "report.md").read_text() == out
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!doctype html>")
    results = json.loads((tmp_path / "report" / "report.json").read_text())["results"]
    assert [r["encoder"] for r in results] == ["random-r18", "random-r34"] * 2
    code, _, err = run("eval", "report", "shapes/train")
    assert code == 1
    assert "train and test" in err
    code, _, err = run("eval", "report", "shapes", "--suite", "big")
    assert code == 2
    assert "'big' is not one of small, twelve" in err
    code, _, err = run("eval", "report", "shapes", "--suite", "small")
    assert code == 1
    assert "none of the suite's sets" in err


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "sslzoo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sslzoo.__version__


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([c.name or c.callback.__name__] for c in cli.app.registered_commands),
        *(["eval", c] for c in ("knn", "linear", "health", "report")),
    ],
)
def test_every_command_has_help(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Usage: sslzoo" in out


def test_convert_then_use(run, tmp_path):
    import torch
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    state = {f"module.encoder.{k}": v for k, v in network.state_dict().items()} | {
        "module.predictor.0.weight": torch.ones(1)
    }
    torch.save({"epoch": 100, "state_dict": state}, "mine.pth.tar")
    code, _, err = run("convert", "mine.pth.tar", "-o", "m", "--license", "CC BY-NC 4.0")
    assert code == 1 and "did you mean cc-by-nc-4.0?" in err and not (tmp_path / "m").exists()
    code, out, err = run("convert", "mine.pth.tar", "-o", "m", "--source", "my cluster", "--license", "MIT")
    assert (code, out) == (0, "m: simsiam-r18.mine, a resnet18; format simsiam\n")
    assert "dropped 3 entries" in err
    code, out, _ = run("show", "m", "--json")
    spec = json.loads(out)
    assert spec["license"] == "mit"
    assert spec["checkpoints"][0]["url"] == "my cluster"
    assert spec["checkpoints"][0]["hash"].startswith("sha256:")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "license: mit" in card
    for name in ("a.jpg", "b.jpg"):
        draw("bars", 0).save(tmp_path / "m" / name)
    scope = {}
    with contextlib.chdir(tmp_path / "m"):  # the card's code runs where the card lies
        exec(re.search(r"```python\n(.*?)```", card, re.S)[1], scope)
    assert scope["vectors"].shape == (2, 512)
    assert run("convert", "mine.pth.tar", "-o", "m")[0] == 1
    code, _, err = run("convert", "mine.pth.tar", "-o", "n", "--format", "vissl")
    assert code == 1
    assert "no ResNet" in err
    assert not (tmp_path / "n").exists()


def test_a_published_file_is_known_by_its_hash(run, monkeypatch, tmp_path):
    import hashlib

    import torch
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    network.fc = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128))
    torch.save({"state_dict": {f"encoder_q.{k}": v for k, v in network.state_dict().items()}}, "renamed.bin")
    md5 = hashlib.md5((tmp_path / "renamed.bin").read_bytes()).hexdigest()
    spec = sslzoo.EncoderSpec(
        "mocov2-r18.lab", "mocov2", "resnet18", 512, sslzoo.Preprocess(72, 64), license="cc-by-nc-4.0", data_terms="theirs",
        checkpoints=(Checkpoint("https://example.org/a.pth", "moco"), Checkpoint("https://b.org/a", "moco", f"md5:{md5[:8]}")),
    )  # fmt: skip
    known = sslzoo.registry.known() | {spec.name: spec}
    monkeypatch.setattr(sslzoo.registry, "known", lambda: known)
    code, out, err = run("convert", "renamed.bin", "-o", "m")
    assert (code, out) == (0, "m: mocov2-r18.lab, a resnet18; format moco\n")
    assert "is the published file of mocov2-r18.lab (cc-by-nc-4.0)" in err
    made = sslzoo.hub.read_config(tmp_path / "m")
    assert (made.license, made.data_terms, made.preprocess.size) == ("cc-by-nc-4.0", "theirs", 64)
    assert [(c.url, c.hash) for c in made.checkpoints] == [("https://b.org/a", f"md5:{md5}")]
    for option, mine, theirs in (
        ("license", "mit", "cc-by-nc-4.0"),
        ("name", "mine", "mocov2-r18.lab"),
        ("source", "here", "https://b.org/a"),
    ):
        code, _, err = run("convert", "renamed.bin", "-o", "n", f"--{option}", mine)
        assert code == 1 and f"whose {option} is {theirs}; leave out --{option} {mine}" in err
    assert run("convert", "renamed.bin", "-o", "n", "--name", "mocov2-r18.lab", "--source", "https://b.org/a")[0] == 0


def test_listing_the_zoo(run):
    _, out, err = run("models", "--method", "simsiam", "--backbone", "r50", "--license", "permissive")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert names
    assert all(name.startswith("simsiam-r50.mm") for name in names)
    assert "linear" in err
    _, out, _ = run("models", "--backbone", "r50w4", "--json")
    assert {spec["backbone"] for spec in json.loads(out)} == {"resnet50w4"}
    _, out, _ = run("models", "--data", "tiny-imagenet", "--json")
    found = [spec["name"] for spec in json.loads(out)]
    assert PACKAGE_ENCODER in found and all(".tin" in name for name in found)
    _, out, _ = run("models", "--verified", "online")
    assert out == ""
    _, out, _ = run("models")
    assert all(re.search(r"\d MB\b", line) for line in out.splitlines()[1:])
    _, out, _ = run("show", "mocov2-r50")
    assert "CC-BY-NC" in out and "MIT" in out
    assert "moco_v2_800ep_pretrain.pth.tar (moco, md5:" in out
    assert "as reported, not measured by us" in out
    assert "md5:a04e12f8b0e44fdcac1fb4e06f33727b" in out
    assert "linear head none was published" in out
    _, out, _ = run("show", "swav-r50")
    assert "not this file, but its format: weights" in out and "or of a sibling" in out
    assert "swav_800ep_eval_linear.pth.tar" in out


def test_pull_without_a_network(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    code, out, err = run("pull", "simsiam-r50")
    assert (code, out) == (1, "")
    assert "sslzoo pull simsiam-r50.fair_in1k_100ep" in err
    code, _, err = run("verify", "--all")
    assert code == 3
    theirs = [spec.name for spec in sslzoo.registry.known().values() if spec.checkpoints]
    assert err.count("FAILED") == len(theirs) and all(f"{name}: FAILED" in err for name in theirs)
    _, out, _ = run("models", "--cached", "--method", "barlowtwins")
    assert out == ""


def test_verify(run, model_folder, tmp_path):
    code, out, _ = run("verify", f"local-dir:{model_folder}", "-o", "filled")
    assert code == 0
    assert "sha256" in out
    filled = json.loads((tmp_path / "filled" / "random-r18.json").read_text())
    assert len(filled["canary"]["values"]) == 8
    assert filled["sha256"] in out
    assert run("verify")[0] == 2


@pytest.mark.parametrize("option", [[], ["--resume"], ["--overwrite"], ["--update"], ["--shard", "0/1"]])
def test_a_folder_of_other_things_is_never_written_into(run, photos, tmp_path, option):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.txt").write_text("mine")
    code, _, err = run("embed", photos, "-o", "mine", "-q", *option)
    assert code == 1 and "-o" in err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["x.txt"]


def test_update_keeps_the_index_and_the_users_own_files(run, photos, tmp_path):
    run("embed", photos, "-o", "p.emb", "-q")
    run("index", "p.emb")
    for name in ("notes.txt", ".hidden"):
        (tmp_path / "p.emb" / name).write_text("mine")
    code, out, _ = run("embed", photos, "-o", "p.emb", "-q", "--update")
    assert code == 0 and out.endswith("12 kept, 0 made anew, 0 added, 0 dropped\n")
    code, out, _ = run("embed", photos, "-o", "p.emb", "-q", "--update", "--json")
    assert json.loads(out)["update"] == {"kept": 12, "changed": 0, "added": 0, "dropped": 0}
    assert all((tmp_path / "p.emb" / name).read_text() == "mine" for name in ("notes.txt", ".hidden"))
    assert (tmp_path / "p.emb" / "index").is_dir()
    assert run("search", "p.emb", "bars/0.jpg", "-k", 1)[0] == 0


def test_export_says_what_was_written_and_how_close_it_is(run, tmp_path):
    code, out, err = run("export", "simclr-r18", "--format", "safetensors", "-o", "out")
    assert code == 0
    assert out.startswith(f"out: {PACKAGE_ENCODER} as safetensors, ")
    assert "beside torch on 4 photos: largest difference " in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "export.json",
        "model.safetensors",
    ]
    run("export", "random-r18", "--format", "safetensors")
    assert (tmp_path / "random-r18.safetensors" / "model.safetensors").is_file()
    code, out, err = run("export", "simclr-r18", "-o", "out")
    assert (code, out) == (1, "")
    assert err == "error: out already exists; remove it or choose another -o\n"


def test_a_typo_is_told_before_an_output_that_exists(run, photos):
    assert run("embed", photos, "-o", "photos.emb", "-q")[0] == 0
    assert "fotos does not exist" in run("embed", "fotos", "-o", "photos.emb")[2]
    assert "unknown model 'simsiam-r51'" in run("embed", photos, "-o", "photos.emb", "-m", "simsiam-r51")[2]
    for arguments in (
        [photos],
        [photos, "-m", "pixels-32"],
        [photos, "-m", "hf-hub:nobody/nothing"],
        ["https://example.org/a.jpg"],
    ):
        assert "photos.emb already exists" in run("embed", *arguments, "-o", "photos.emb")[2]


def options():
    return {
        (name, parameter.name): parameter
        for path, command in commands()
        for name in [" ".join(path)]
        for parameter in command.params
    }


def test_the_command_line_takes_what_the_library_has():
    """The options' values are written out in the command line, since their owners import torch."""
    from sslzoo.convert import FORMATS as checkpoints
    from sslzoo.export import FORMATS, TOLERANCE
    from sslzoo.export_vectors import DATABASES
    from sslzoo.index import KINDS
    from sslzoo.suites import SUITES
    from sslzoo.transfer.settings import PRESETS

    known = options()
    for where, values in {
        ("export", "format"): FORMATS.keys(),
        ("convert", "format"): {"auto", *checkpoints},
        ("index", "kind"): {"auto", *KINDS},
        ("export-vectors", "to"): DATABASES.keys(),
        ("finetune", "preset"): PRESETS.keys(),
        ("eval report", "suite"): SUITES.keys(),
    }.items():
        assert {item.value for item in known[where].shell_complete(None, "")} == values, where
    assert f"by default {TOLERANCE:g}." in known["export", "tolerance"].help


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sslzoo embed photos --precision f", ["fp32", "fp16"]),
        ("sslzoo embed photos -m simsiam", ["simsiam-r50"]),
        ("sslzoo show simsiam-r50.f", ["simsiam-r50.fair_in1k_100ep"]),
    ],
)
def test_a_shell_completes_values_and_names(line, expected, monkeypatch, capsys):
    monkeypatch.setenv("_SSLZOO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    monkeypatch.setattr(sys, "argv", ["sslzoo"])
    with pytest.raises(SystemExit):
        cli.main()
    offered = capsys.readouterr().out.split()
    assert set(expected) <= set(offered)
    assert all(name.startswith(line.split()[-1]) for name in offered)
