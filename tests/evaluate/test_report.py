"""Reports: what is shown of known scores, and the whole way from images to the three files."""

import json

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
    monkeypatch.setattr(baselines, "embed", lambda *a, **k: e)
    made = baselines.report([LabelledSet("voc", "a", "b", "mAP11")], ["random-r18"], tmp_path)
    assert list(made.scores) == ["linear, mAP11"]
    assert len(made.scores["linear, mAP11"]["voc"]["random-r18"].items) == 2
