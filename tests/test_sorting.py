"""Near-duplicates and clusters: groups known beforehand are found, and nothing is deleted."""

import json
import shutil
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

import sslzoo
from sslzoo import cli
from sslzoo.cluster import clusters, purity
from sslzoo.dedup import duplicates
from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError, MissingExtra
from sslzoo.index import faiss_door


def test_groups_are_those_planted():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 64)).astype(np.float32)
    copies = np.concatenate([base, base[[3]] * 2, base[[3]] + 0.001, base[[7]]])
    index = sslzoo.build_index(Embeddings(copies, [str(i) for i in range(203)], space="s"))
    groups = duplicates(index, 0.99)
    assert [sorted(group.ids) for group in groups] == [["200", "201", "3"], ["202", "7"]]
    assert groups[1].ids == ["7", "202"]  # no size is known: the earlier is kept
    with pytest.raises(InputError, match="cosine"):
        duplicates(index, 2)


def test_a_file_under_several_names_is_no_copy_of_itself(tmp_path):
    """Whoever deletes what could go must not lose the only one."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.effect_noise((32, 32), 80).save(photos / "real.png")
    (photos / "a-link.png").symlink_to("real.png")
    alone = sslzoo.embed(photos, "pixels-32", tmp_path / "alone")
    assert len(alone) == 2 and duplicates(sslzoo.build_index(alone)) == []
    shutil.copy(photos / "real.png", photos / "copy.png")
    (group,) = duplicates(sslzoo.build_index(sslzoo.embed(photos, "pixels-32", tmp_path / "copied")))
    assert group.ids == ["copy.png", "real.png"]
    (tmp_path / "outside").mkdir()
    shutil.move(photos / "real.png", tmp_path / "outside" / "real.png")
    (photos / "copy.png").unlink()
    (photos / "folder").symlink_to(tmp_path / "outside")  # and a-link.png now leads to it as well
    (photos / "a-link.png").unlink()
    (photos / "a-link.png").symlink_to(tmp_path / "outside" / "real.png")
    led_out = sslzoo.embed(photos, "pixels-32", tmp_path / "led-out")
    assert len(led_out) == 2 and duplicates(sslzoo.build_index(led_out)) == []
    shutil.move(tmp_path / "outside" / "real.png", photos / "real.png")
    twice = sslzoo.embed([str(photos / "real.png")] * 2, "pixels-32", tmp_path / "twice")
    assert len(twice) == 2 and duplicates(sslzoo.build_index(twice)) == []


def test_two_members_of_one_name_are_two_images(tmp_path):
    Image.effect_noise((32, 32), 80).save(tmp_path / "x.png")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the name that is there twice
        for _ in range(2):
            archive.write(tmp_path / "x.png", "x.png")
    (group,) = duplicates(sslzoo.build_index(sslzoo.embed(tmp_path / "two.zip", "pixels-32", tmp_path / "e")))
    assert group.ids == ["x.png", "x.png"]


def test_a_group_larger_than_the_search_holds_together():
    vectors = np.concatenate([np.ones((300, 8)), -np.ones((1, 8))]).astype(np.float32)
    (group,) = duplicates(sslzoo.build_index(Embeddings(vectors, [str(i) for i in range(301)], space="s")), 1.0)
    assert len(group.ids) == 300


@pytest.mark.parametrize("kind", ["exact", "pq"])
def test_groups_that_fill_the_search_with_their_own_are_still_connected(kind):
    """Bursts of 70: within a burst the cosine is 1, between two 0.96, and between the first and the third 0.9."""
    first, second, third = np.eye(64)[0], np.eye(64)[1], np.eye(64)[2]
    bursts = [first, 0.96 * first + 0.28 * second, 0.9 * first + (0.96 - 0.864) / 0.28 * second]
    bursts[2] = bursts[2] + np.sqrt(1 - (bursts[2] ** 2).sum()) * third
    others = np.random.default_rng(0).normal(size=(3000, 64))
    vectors = np.concatenate([*(np.repeat(burst[None], 70, axis=0) for burst in bursts), others]).astype(np.float32)
    if kind == "pq":
        pytest.importorskip("faiss")
    bank = Embeddings(vectors, [str(i) for i in range(len(vectors))], space="s")
    index = sslzoo.build_index(bank, kind, recall=0)
    assert [len(group.ids) for group in duplicates(index, 0.95)] == [210]
    assert [len(group.ids) for group in duplicates(index, 0.97)] == [70, 70, 70]


def test_clustering_without_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    faiss_door.load.cache_clear()
    bank = Embeddings(np.eye(4, dtype=np.float32), list("abcd"), space="s")
    with pytest.raises(
        MissingExtra, match=r"^clustering needs FAISS, which is not installed: pip install 'sslzoo\[faiss\]'$"
    ):
        clusters(sslzoo.build_index(bank), 2)
    with pytest.raises(MissingExtra, match="index but exact needs FAISS"):
        sslzoo.build_index(bank, "flat")


def test_clusters_of_separate_clouds_are_pure():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(8, dtype=np.float32)[:3]
    which = rng.permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    vectors = centres[which] + rng.normal(size=(100, 8)).astype(np.float32)
    bank = Embeddings(vectors, [str(i) for i in range(100)], space="s", labels=["abc"[i] for i in which])
    found = clusters(sslzoo.build_index(bank), 3)
    assert [(len(c.ids), c.label, c.share) for c in found] == [(50, "a", 1), (30, "b", 1), (20, "c", 1)]
    assert purity(found) == 1
    assert purity(clusters(sslzoo.build_index(bank), 1)) == 0.5
    with pytest.raises(InputError, match="between 1 and 100"):
        clusters(sslzoo.build_index(bank), 101)


def test_purity_counts_only_what_has_a_label():
    pytest.importorskip("faiss")
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 0, 0, 1, 1]]
    bank = Embeddings(vectors, list("abcdef"), space="s", labels=["x", "x", "y", None, "z", None])
    found = clusters(sslzoo.build_index(bank), 2)
    assert [(c.labelled, c.label, c.share) for c in found] == [(3, "x", 2 / 3), (1, "z", 1)]
    assert purity(found) == pytest.approx(3 / 4)


def test_on_the_command_line(photos, tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss")
    root = tmp_path / "in"
    root.mkdir()
    with Image.open(photos / "circles" / "0.png") as image:
        image.save(root / "a.png")
        image.resize((480, 400), Image.Resampling.LANCZOS).save(root / "large.png")
        image.save(root / "<b>.png")
    (root / "other.jpg").write_bytes((photos / "bars" / "3.jpg").read_bytes())
    sslzoo.embed(root, "random-r18", tmp_path / "e", device="cpu")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sslzoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        return capsys.readouterr()

    (group,) = json.loads(run("dedup", tmp_path / "e", "--threshold", 0.999999, "--json").out)
    assert sorted(group["ids"]) == ["<b>.png", "a.png"]
    groups = json.loads(run("dedup", tmp_path / "e", "--threshold", -0.9, "--json").out)
    assert groups[0]["ids"][0] == "large.png" and groups[0]["sizes"][0] == [480, 400]
    assert "keep" in run("dedup", tmp_path / "e", "--html", tmp_path / "d.html", "--threshold", 0.9999).out
    assert "<b>.png" not in (tmp_path / "d.html").read_text()
    assert "cluster" in run("cluster", tmp_path / "e", "-k", 2, "--html", tmp_path / "new" / "c.html").out
    assert "&lt;b&gt;.png" in (tmp_path / "new" / "c.html").read_text()
    assert len(list(root.iterdir())) == 4


def test_what_only_another_connects_is_not_counted_as_a_copy(monkeypatch, capsys):
    turns = np.radians([0.0, 10.0, 20.0])  # cosines 0.985 from one to the next, 0.940 from end to end
    vectors = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    index = sslzoo.build_index(Embeddings(vectors, list("abc"), space="s"))
    (group,) = duplicates(index, 0.97)
    assert group.ids == ["a", "b", "c"] and group.copies(0.97) == 1
    assert group.scores == pytest.approx([1, np.cos(turns[1]), np.cos(turns[2])], abs=1e-6)
    monkeypatch.setattr("sslzoo.index.folder.open_index", lambda folder: index)
    monkeypatch.setattr(sys, "argv", ["sslzoo", "dedup", "three.emb"])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["keep", "0.9848", "via"]
    assert "could go: 1 (cosine at least 0.97 to the one to keep); 1 marked via are less alike" in err
