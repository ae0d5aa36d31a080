"""Reports: what is shown of known scores, and the whole way from images to the three files."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from sslzoo import baselines, registry
from sslzoo.embeddings import Embeddings, is_embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate.report import Report
from sslzoo.evaluate.score import SetId, of_items
from sslzoo.labelled import LabelledSet, open_set
from tests.conftest import draw

SET = SetId("abc", 10)


def score(right):
    return of_items(np.array([1] * right + [0] * (10 - right), np.float32), "p (n=10)", SET, SET)


@pytest.fixture
def known():
    by_encoder = {"good": score(9), "equal": score(9), "random-r18": score(1)}
    return Report({"kNN": {"pets": by_encoder}}, dict.fromkeys(by_encoder, "resnet18"), "good")


def test_a_difference_is_told_only_where_there_is_one(known):
    lines = [line for line in known.to_markdown().splitlines() if line.startswith("|")]
    # 9 of 10: Wilson's interval is 59.6 to 98.2; 8 of 10 differ, all one way: 2 · 80 · (1 - 0.025^(1/8)); where none of ten
    # does, 1 - 0.025^(1/10) could
    assert lines == [
        "| encoder | pets |",
        "|---|---|",
        "| good | 90.0 ± 30.4 |",
        "| equal | 90.0 ± 30.4 (no difference) |",
        "| random-r18 | 10.0 ± 30.4 (-80.0 ± 59.1) |",
    ]
    page = known.to_html()
    assert "<td>random-r18<td>10.0 ± 30.4 (-80.0 ± 59.1)" in page
    assert "http" not in page
    results = json.loads(known.to_json())["results"]
    assert [r.get("differs") for r in results] == [None, False, True]
    assert results[2]["difference"] == pytest.approx(-0.8)
    assert results[0]["protocol"] == "p (n=10)" and results[0]["test"] == "abc/10"


def test_a_score_that_may_be_off_is_told(known):
    by_encoder = known.scores["kNN"]["pets"]
    odd = {**by_encoder, "equal": dataclasses.replace(by_encoder["equal"], unsolved=2)}
    told = "pets, equal, linear: the solver stopped early in 2 fits; the score may be off"
    made = Report({"linear": {"pets": odd}}, known.encoders, "good")
    assert told in made.to_markdown() and told in made.to_html()
    assert [r.get("unsolved") for r in json.loads(made.to_json())["results"]] == [None, 2, None]
    assert "solver" not in known.to_markdown()


def test_names_in_a_page_are_text(known):
    odd = Report({"kNN": {"<b>": known.scores["kNN"]["pets"]}}, known.encoders, "good")
    assert "<th>&lt;b&gt;" in odd.to_html()


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A set of two parts with a folder a class."""
    root = tmp_path_factory.mktemp("sets") / "pets"
    for part, first in (("train", 0), ("val", 100)):
        for shape in ("bars", "circles"):
            (root / part / shape).mkdir(parents=True)
            for i in range(6):
                draw(shape, first + i, (40, 40)).save(root / part / shape / f"{i}.png")
    return root


def test_from_images_to_a_report(pets, tmp_path, model_folder):
    models = [registry.PACKAGE_ENCODER, str(model_folder)]
    made = baselines.report([open_set(pets)], models, tmp_path, shots=[2], shares=[0.5], device="cpu")
    assert list(made.scores) == [
        "kNN, top-1, k=20, T=0.07",
        "kNN, top-1, k=200, T=0.1",
        "linear, top1",
        "linear, top1, 2 images a class",
        "linear, top1, 50 % of labels",
    ]
    assert "## kNN, top-1, k=200, T=0.1 (k: all training images, where these are fewer)" in made.to_markdown()
    # the model folder holds the weights of random-r18 under its name; the twin of the other is listed beside it
    assert list(made.encoders) == [
        registry.PACKAGE_ENCODER,
        "random-r18",
        f"random-r18 like {registry.PACKAGE_ENCODER}",
    ]
    linear = made.scores["linear, top1"]["pets"]
    assert {s.test.size for s in linear.values()} == {12}
    assert linear["random-r18"].value == linear[f"random-r18 like {registry.PACKAGE_ENCODER}"].value
    vectors = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.emb"))
    assert len(vectors) == 6 and all(is_embeddings(tmp_path / path) for path in vectors)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")}
    again = baselines.report([open_set(pets)], models, tmp_path, probes=["knn"], device="cpu")
    assert list(again.scores) == list(made.scores)[:2]
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")}


def test_what_a_set_must_be(tmp_path, pets):
    with pytest.raises(InputError, match="train and test"):
        open_set(tmp_path)
    with pytest.raises(InputError, match="one name"):
        baselines.report([open_set(pets)], ["random-r18", "random-r18"], tmp_path)
    with pytest.raises(InputError, match="no probe 'svm'"):
        baselines.report([open_set(pets)], ["random-r18"], tmp_path, probes=["svm"])


def test_a_set_with_several_labels_an_image_has_no_knn(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    labels = [["cat", "dog", "cat|dog", "cat|?dog"][i % 4] for i in range(40)]
    vectors = random.normal(size=(40, 5)).astype(np.float32)
    e = Embeddings(vectors, [str(i) for i in range(40)], space="s", labels=labels)
    one = Embeddings(vectors, e.ids, space="s", labels=[label[-3:] for label in labels])
    monkeypatch.setattr(baselines, "embed", lambda source, *a, **k: e if source == ["voc"] else one)
    monkeypatch.setattr(baselines, "state", str)
    voc, cats = LabelledSet("voc", ["voc"], ["voc"], "mAP11"), LabelledSet("cats", ["cats"], ["cats"])
    made = baselines.report([voc], ["random-r18"], tmp_path, shots=[2])
    assert list(made.scores) == ["linear, mAP11"]
    assert len(made.scores["linear, mAP11"]["voc"]["random-r18"].items) == 2
    made = baselines.report([voc, cats], ["random-r18"], tmp_path, shots=[2], shares=[0.5])
    assert {probe: list(sets) for probe, sets in made.scores.items()} == {
        "linear, mAP11": ["voc"],
        "kNN, top-1, k=20, T=0.07": ["cats"],
        "kNN, top-1, k=200, T=0.1": ["cats"],
        "linear, top1": ["cats"],
        "linear, top1, 2 images a class": ["cats"],
        "linear, top1, 50 % of labels": ["cats"],
    }
    with pytest.raises(InputError, match=r"voc has several labels an image, .* add --probe linear"):
        baselines.report([voc], ["random-r18"], tmp_path, probes=["knn"])
    made = baselines.report([voc, cats], ["random-r18"], tmp_path, probes=["knn"])
    assert list(made.left_out) == ["voc"] and "voc is left out: voc has several" in made.to_markdown()
    assert json.loads(made.to_json())["left_out"] == made.left_out


def test_changed_pictures_are_embedded_again(tmp_path):
    for part in ("train", "test"):
        for i, shape in enumerate(("bars", "circles")):
            (tmp_path / "set" / part / shape).mkdir(parents=True)
            for n in range(4):
                draw(shape, 10 * i + n, (40, 40)).save(tmp_path / "set" / part / shape / f"{n}.png")

    def linear(**options):
        options = {"probes": ["linear"], "device": "cpu", "precision": "fp32"} | options
        made = baselines.report([open_set(tmp_path / "set")], ["random-r18"], tmp_path / "out", **options)
        return made.scores["linear, top1"]["set"]["random-r18"], made

    assert linear()[0].test.size == 8
    folders = set((tmp_path / "out").rglob("*.emb"))
    draw("bars", 77, (40, 40)).save(tmp_path / "set" / "test" / "bars" / "new.png")
    assert linear()[0].test.size == 9
    assert len(set((tmp_path / "out").rglob("*.emb")) - folders) == 1  # the training images are as they were
    (tmp_path / "set" / "test" / "bars" / "new.png").rename(tmp_path / "set" / "test" / "circles" / "new.png")
    assert linear()[0].groups is None and linear()[0].test.size == 9
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "set", tmp_path / "other" / "set")  # with the times of the files
    moved = baselines.report([open_set(tmp_path / "other" / "set")], ["random-r18"], tmp_path / "out", device="cpu")
    assert not moved.left_out
    (tmp_path / "set" / "test" / "bars" / "bad.png").write_text("text")
    score, made = linear()
    assert [(path, "not an image" in reason) for path, reason in score.test.failures] == [("bars/bad.png", True)]
    assert score.to_dict()["failed"] == {"test": 1} and "1 more can't be read" in made.to_markdown()
    assert linear()[0].test.failures == score.test.failures  # told again by the vectors that are kept


def test_sets_of_one_name_and_few_labels_without_a_probe(tmp_path, pets):
    with pytest.raises(InputError, match="two of the sets are called pets; rename a folder"):
        baselines.report([open_set(pets), open_set(pets)], ["random-r18"], tmp_path)
    with pytest.raises(InputError, match="add --probe linear"):
        baselines.report([open_set(pets)], ["random-r18"], tmp_path, probes=["knn"], shots=[1])
    with pytest.raises(InputError, match="mean_per_class or mAP11"):
        open_set(pets, "top5")


def test_int8_takes_one_graph_for_both_sets_and_none_for_random_weights(tmp_path, monkeypatch, pets):
    seen = []

    def embed(source, spec, out=None, *, precision, int8=None, **options):
        seen.append((spec.name, precision, out is not None, int8 is not None))
        space = f"{spec.name} {int8 or out}" if precision == "int8" else spec.name  # as calibrated graphs differ
        return Embeddings(np.eye(4, dtype=np.float32), list("abcd"), space=space, labels=list("xyxy"))

    monkeypatch.setattr(baselines, "embed", embed)
    made = baselines.knn_table(pets / "train", pets / "val", precision="int8", protocols=[(1, 0.1)])
    assert list(made) == [registry.PACKAGE_ENCODER, "random-r18", "pixels-32"]
    assert [s[1:] for s in seen] == [("int8", True, False), ("int8", False, True)] + 4 * [("fp32", False, False)]
    seen.clear()
    baselines.report([open_set(pets)], [registry.PACKAGE_ENCODER], tmp_path, precision="int8", device="cpu")
    assert [s[1] for s in seen] == ["int8", "int8", "fp32", "fp32"]
