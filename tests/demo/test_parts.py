"""The demo's parts without a server: groups, layouts, sessions, uploads, names, drawings, the shelf."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sslzoo
from sslzoo import registry
from sslzoo.dedup import Group
from sslzoo.demo import html, layout, methods, sessions
from sslzoo.demo.collection import Photos
from sslzoo.demo.drawings import drawing
from sslzoo.demo.sessions import Sessions, Uploads
from sslzoo.demo.shelf import Entry, Job, Shelf
from sslzoo.embeddings import Embeddings
from sslzoo.errors import ImageError, InputError
from sslzoo.evaluate.knn import knn
from sslzoo.thumbnails import cached_jpeg, image_file
from sslzoo.user_cache import keep
from tests.conftest import draw
from tests.demo.conftest import free_port


@pytest.fixture(scope="module")
def photos(embedded):
    return Photos(embedded, "cpu")


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "uploads" / "abc").mkdir(parents=True)
    return Uploads(tmp_path / "uploads")


def test_groups_are_folders_or_the_beginning_of_names(photos, tmp_path):
    assert (photos.groups.kind, photos.groups.names) == ("folder", ["bars", "circles"])
    assert np.bincount(photos.groups.codes).tolist() == [8, 8]
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("panda-1", "panda-2", "sea_a", "sea_b", "lonely-1", "001"):
        draw("bars", len(name)).save(flat / f"{name}.png")
    sslzoo.embed(flat, "random-r18", tmp_path / "flat.emb", device="cpu")
    groups = Photos(tmp_path / "flat.emb", "cpu").groups
    assert (groups.kind, groups.names) == ("name", ["panda", "sea"])
    assert groups.codes.tolist() == [-1, -1, 0, 0, 1, 1]  # 001, lonely-1, panda-1, panda-2, sea_a, sea_b


def test_agreement_is_the_knn_score(photos, embedded):
    bank = sslzoo.open_embeddings(embedded)
    labelled = Embeddings(bank.vectors, bank.ids, labels=[i.split("/")[0] for i in bank.ids], space=bank.space)
    score = knn(labelled, None, [(5, 0.07)])[0]
    assert photos.agreement.value == score.value
    assert photos.agreement.right.tolist() == (score.items > 0).tolist()


def test_of_many_photos_a_sample_is_asked(embedded, monkeypatch):
    from sslzoo.demo.tabs.chart import _failures

    monkeypatch.setattr("sslzoo.demo.collection.AGREEMENT_MAX", 6)
    photos = Photos(embedded, "cpu")
    right = photos.agreement.right
    rows = np.flatnonzero(right >= 0)
    bank = sslzoo.open_embeddings(embedded)
    labels = [bank.ids[row].split("/")[0] for row in rows]
    drawn = Embeddings(bank.vectors[rows], [bank.ids[row] for row in rows], labels=labels, space=bank.space)
    assert len(rows) == 6 and right[rows].tolist() == knn(drawn, None, [(5, 0.07)])[0].items.tolist()
    names, codes = _failures(photos)
    assert "% of 6 drawn at random" in names[0] and codes.tolist() == [{1: 0, 0: 1, -1: -1}[r] for r in right.tolist()]


def test_a_sample_of_one_group_alone_gets_a_photo_of_the_others(embedded, monkeypatch):
    monkeypatch.setattr("sslzoo.demo.collection.AGREEMENT_MAX", 1)
    photos = Photos(embedded, "cpu")
    assert set(photos.groups.codes[photos.agreement.right >= 0]) == {0, 1}


def test_each_group_in_the_legend_has_a_colour_of_its_own():
    from sslzoo.demo.tabs.chart import COLOURS, NONE, _chart

    codes = np.concatenate([np.arange(40), np.repeat([0, 14, 28], 9), [-1]])
    drawn_of = type("Photos", (), {"rows": np.arange(len(codes)), "model": "m", "__len__": lambda _: len(codes)})()
    demo = SimpleNamespace(photo_url="photo", photos=drawn_of)
    made = _chart(demo, "PCA", np.zeros((len(codes), 2), np.float32), ([f"group {i}" for i in range(40)], codes))
    colours = re.findall(r'<li><i style="background:(#\w+)"></i>', made)
    assert (
        sorted(colours) == sorted(COLOURS)
        and "and 26 more groups, in grey" in made
        and "and 1 other photo, in grey" in made
    )
    drawn = np.frombuffer(base64.b64decode(re.search('data-colour="([^"]*)"', made)[1]), np.uint8)
    assert len({drawn[codes == group][0] for group in (0, 14, 28)}) == 3 and drawn[-1] == NONE == drawn[codes == 39][0]


def test_clusters_of_a_list_that_names_a_photo_twice(collection, tmp_path):
    from sslzoo.demo.tabs.chart import _clusters

    files = [str(collection / "bars" / f"{i}.jpg") for i in (0, 1, 2, 0)]
    (tmp_path / "list.txt").write_text("\n".join(files))
    sslzoo.embed(str(tmp_path / "list.txt"), "random-r18", tmp_path / "list.emb", device="cpu")
    names, codes = _clusters(Photos(tmp_path / "list.emb", "cpu"))
    assert len(codes) == 4 and codes[0] == codes[3] and set(codes) == set(range(len(names)))


def test_a_part_of_a_photo_is_embedded_like_that_part(photos, collection):
    row = photos.row_of["bars/1.jpg"]
    part = sessions.part(photos, sessions.from_row(photos, row), (0.25, 0.5, 0.75, 1.0))
    with Image.open(collection / "bars" / "1.jpg") as image:
        expected = sslzoo.load("random-r18", device="cpu").encode([image.crop((30, 50, 90, 100))])[0]
    cosine = part.vector @ expected / np.linalg.norm(part.vector) / np.linalg.norm(expected)
    assert cosine > 0.9999
    whole = sessions.part(photos, part, None)
    assert whole.box is None and whole.vector.tolist() == photos.vector(row).tolist()


@pytest.mark.parametrize(
    "box", [None, "x", [0, 0, 1], [0, 0, 1, "1"], [0.5, 0, 0.4, 1], [0, 0, 0.01, 1], {"a": 1}, [float("nan")] * 4]
)
def test_a_box_that_is_none(box):
    assert sessions.valid_box(box) is None


def test_a_box_is_cut_to_the_picture():
    assert sessions.valid_box([-3, 0.5, 2, 0.9]) == (0, 0.5, 1, 0.9)


def test_sessions_forget_and_are_bounded(photos, monkeypatch):
    monkeypatch.setattr(sessions, "SESSIONS", 2)
    query = sessions.from_row(photos, 0)
    kept = Sessions()
    for name in "abc":
        kept.set(name, query)
    assert [kept.get(name) for name in "abc"] == [None, query, query]
    kept.get("b")
    kept.set("d", query)
    assert kept.get("c") is None and kept.get("b") is query  # which was asked for after it
    kept.end("b")
    assert kept.get("b") is None and len(kept) == 1


def test_a_query_that_comes_too_late_is_forgotten(photos):
    query, kept = sessions.from_row(photos, 0), Sessions()

    def closed_meanwhile():
        assert kept.get("a") is None
        kept.end("a")
        return query

    kept.make("a", closed_meanwhile)
    assert kept.get("a") is None and len(kept) == 0
    kept.make("a", lambda: query)
    assert kept.get("a") is query
    other = sessions.from_row(photos, 1)

    def another_is_picked_meanwhile():
        kept.end("a")
        kept.set("a", other)
        return query

    kept.make("a", another_is_picked_meanwhile)
    assert kept.get("a") is other
    with pytest.raises(ZeroDivisionError):
        kept.make("b", lambda: 1 / 0)
    assert kept.get("a") is other and not kept._making


def test_an_upload_is_compared_by_the_vector_that_it_was_searched_by(photos):
    data = io.BytesIO()
    draw("bars", 3, (1900, 1400)).save(data, "JPEG", quality=60)
    query = sessions.from_upload(photos, data.getvalue())
    again = photos.embed(sessions.picture(photos, query))
    assert not np.array_equal(again, query.vector)  # what is kept of it is smaller
    part = sessions.part(photos, query, (0.1, 0.1, 0.6, 0.6))
    assert np.array_equal(sessions.vector_by(photos, photos, query), query.vector)
    assert np.array_equal(sessions.vector_by(photos, photos, part), part.vector)
    assert np.array_equal(sessions.part(photos, part, None).vector, query.vector)


def test_uploads_are_read_from_their_folder_and_deleted(uploads, tmp_path):
    path = uploads.folder / "abc" / "a.png"
    path.write_bytes(b"x")
    (uploads.folder / "link").symlink_to(tmp_path)
    assert uploads.holds(str(path)) and uploads.holds(str(uploads.folder / "gone"))
    for outside in (
        str(tmp_path / "b"),
        str(uploads.folder),
        f"{uploads.folder}/../b",
        f"{uploads.folder}/link/b",
        "a\0",
        3,
    ):
        assert not uploads.holds(outside)
    assert uploads.read(str(path), "me") == b"x"
    uploads.end("me")
    assert path.exists()  # as somebody may have sent the same picture this very moment
    uploads.read(str(path), "me")
    os.utime(path, (time.time() - 5,) * 2)
    uploads.end("you")
    assert path.exists()
    uploads.end("me")
    assert not path.exists() and not path.parent.exists()
    with pytest.raises(ImageError, match="drop the picture again"):
        uploads.read(str(path), "me")


def test_old_uploads_are_swept(uploads):
    whole, broken_off, new = uploads.folder / "abc" / "a.png", uploads.folder / "tmp123", uploads.folder / "new"
    for path in (whole, broken_off, new):
        path.write_bytes(b"x")
        if path != new:
            os.utime(path, (time.time() - 121,) * 2)
    uploads.sweep()
    assert [path.name for path in uploads.folder.iterdir()] == ["new"]


def test_names_are_escaped_and_keep_their_end():
    text = html.name("<b>&\"'" + "x" * 40 + "-end-of-it.jpg")
    assert "<b>" not in text and "&lt;b&gt;&amp;&quot;" in text
    assert '<span class="end">f-it.jpg</span>' in text
    assert '<span class="start">holiday-</span><span class="end">0001.jpg</span>' in html.name("holiday-0001.jpg")
    assert '<span class="start">0001.jpg</span></span>' in html.name("0001.jpg")


def test_a_photos_file_lies_in_its_folder(photos, collection):
    assert image_file("circles/0.jpg", photos.manifest) == (collection / "circles" / "0.jpg").resolve()
    for id_ in ("circles/link.jpg", "../secret.jpg", str(collection / "circles" / "0.jpg"), "circles", "", "a\0b"):
        found = image_file(id_, photos.manifest)
        assert found is None or found.is_relative_to(collection)
    assert image_file("circles/link.jpg", photos.manifest) is None
    assert image_file("pyproject.toml", {}) is None


def test_small_pictures_are_kept_until_the_file_changes(tmp_path, photos):
    path = tmp_path / "a.png"
    draw("bars", 1, (400, 200)).save(path)
    first = cached_jpeg(path, 160, photos.policy)
    assert cached_jpeg(path, 160, photos.policy) == first
    draw("circles", 1, (400, 200)).save(path)
    assert cached_jpeg(path, 160, photos.policy) != first


def test_umap_is_used_where_it_is_installed(photos):
    pytest.importorskip("umap")
    assert layout.kinds(photos) == ["PCA", "UMAP"]


def test_what_is_not_installed_is_named(monkeypatch):
    from sslzoo.demo.tabs import chart

    monkeypatch.setattr(layout, "has_umap", lambda: False)
    monkeypatch.setattr(chart.faiss_door, "available", lambda: False)
    assert chart._missing() == (
        "For UMAP: <code>pip install 'sslzoo[umap]'</code>. For colours by cluster: <code>pip install 'sslzoo[faiss]'</code>."
    )


def test_pca_by_hand():
    # four points on a cross: the first axis carries the variance 16+16, the second 1+1
    vectors = np.array([[4, 0, 7], [-4, 0, 7], [0, 1, 7], [0, -1, 7]], np.float32)
    assert layout.pca(vectors).tolist() == [[4, 0], [-4, 0], [0, 1], [0, -1]]


@pytest.mark.parametrize("method", methods.METHODS)
def test_drawings_are_xml_with_the_papers_symbols(method):
    root = ElementTree.fromstring(drawing(method))
    text = "".join(root.itertext()).replace("\u200b", "")
    symbols = {
        "simclr": ["x̃i", "hj", "zi", "f", "g"],
        "moco": ["fq", "fk", "k0", "positive", "θk ← m θk + (1 − m) θq"],
        "byol": ["fθ", "gξ", "qθ", "z′ξ", "ξ ← τ ξ + (1 − τ) θ", "sg"],
        "simsiam": ["x1", "p1", "h", "D(p1, z2)", "stop-gradient"],
        "swav": ["zt", "qs", "C", "prototypes"],
    }[method]
    assert all(symbol in text for symbol in symbols)


def test_simsiam_needs_its_predictor_too():
    # arXiv:2011.10566, 4.2: "the model does not work if h is removed"
    trick = methods.METHODS["simsiam"].trick
    assert "the stop-gradient and the predictor" in trick and "alone" not in trick


def test_code_is_that_of_the_five_alone():
    assert "arXiv:2006.07733" in methods.code_of("byol")
    assert methods.code_of("__init__") is None and methods.code_of("../data/__init__") is None


def test_the_shelf_offers_what_needs_no_network(photos):
    shelf = Shelf(photos)
    assert {registry.PACKAGE_ENCODER, "random-r18"} <= set(shelf.ready)
    assert shelf.ready[0] == photos.model
    assert "simsiam-r50.fair_in1k_100ep" in shelf.entries and "simsiam-r50.fair_in1k_100ep" not in shelf.ready
    with pytest.raises(InputError, match="no encoder 'nonsense'"):
        shelf.start("nonsense")


def test_a_job_can_be_stopped_and_goes_on(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path))
    monkeypatch.setattr("sslzoo.demo.shelf.PORTION", 4)
    shelf = Shelf(photos)
    job = shelf.start("random-r50")
    job.cancelled = True
    job.wait(60)
    assert job.error.startswith("Stopped") and shelf.photos(job.name) is None
    job = shelf.start(job.name)
    job.wait(60)
    assert job.error == "" and len(shelf.photos(job.name)) == 16
    assert job.done == job.total == 17  # one of them can't be read


def test_it_is_told_that_a_stop_waits_for_the_weights():
    job = SimpleNamespace(looking=False, cancelled=False, done=4, total=17, _ready=False)
    assert Job.told.fget(job) == "getting the weights"
    job.cancelled = True
    assert Job.told.fget(job) == "getting the weights, and stopping once they are here"
    job._ready = True
    assert Job.told.fget(job) == "opening it, and stopping once it is open"
    job.looking = True
    assert Job.told.fget(job) == "4 of 17 photos"


def test_without_gradio_it_says_what_to_install(embedded):
    code = f"""
import sys
sys.modules["gradio"] = None
sys.argv = ["sslzoo", "demo", {str(embedded)!r}]
from sslzoo.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: the demo needs Gradio, which is not installed: pip install 'sslzoo[demo]'"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{embedded}", "-m", "random-r50"], "is embedded already; name the folder of images to use -m random-r50"),
        (["{embedded}", "--auth", "me"], "type --auth USER:PASSWORD"),
        (["/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["{zip}"], "photos.zip is no folder of image files, from which the page shows the photos; unpack it"),
        (["{tables}"], "is no folder of image files, from which the page shows the photos; unpack it"),
        (
            ["{collection}", "-o", "{embedded}"],
            f"was made by random-r18, not {registry.PACKAGE_ENCODER}; add -m random-r18",
        ),
        (["{collection}", "-o", "{embedded}", "-m", "random-r50"], "add -m random-r18, or choose another -o"),
        (["{embedded}", "--host", "192.0.2.1"], "192.0.2.1 is no address of this machine"),
        (["{embedded}", "--port", "{taken}"], "is taken, or not for this user; choose another with --port"),
    ],
)
def test_errors_are_one_line(embedded, collection, tmp_path, arguments, told):
    images = tmp_path / "photos.zip"
    with zipfile.ZipFile(images, "w") as archive:
        archive.write(collection / "bars" / "0.jpg", "0.jpg")
    tables = tmp_path / "tables"
    tables.mkdir()
    image = {"bytes": (collection / "bars" / "0.jpg").read_bytes(), "path": "0.jpg"}
    pq.write_table(pa.table({"image": [image]}), tables / "train.parquet")
    with socket.create_server(("127.0.0.1", 0)) as other:
        facts = {"taken": other.getsockname()[1], "embedded": embedded, "collection": collection}
        command = [a.format(**facts, zip=images, tables=tables) for a in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "sslzoo", "demo", *command], capture_output=True, text=True, cwd=tmp_path
        )
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.emb"))


def test_a_share_that_fails_is_a_sentence_and_leaves_nothing(embedded, tmp_path):
    code = f"""
import sys
import gradio
gradio.networking.setup_tunnel = lambda **_: 1 / 0
sys.argv = ["sslzoo", "demo", {str(embedded)!r}, "--share", "--port", "{free_port()}"]
from sslzoo.cli import main
main()
"""
    env = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "None" not in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "error: Gradio's relay gave no public address; try again later, or leave out --share"
    )
    assert not list(tmp_path.glob("sslzoo-demo-*"))


def test_a_server_that_cannot_start_leaves_nothing(embedded, monkeypatch, tmp_path):
    from sslzoo.demo.server import Server

    monkeypatch.setattr("sslzoo.demo.server.Photos", lambda *_: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        Server(embedded)
    assert not list(tmp_path.iterdir())


def test_the_header_tells_where_photos_cannot_be_shown(embedded, photos, tmp_path):
    from sslzoo.demo.page import _header

    assert "<span>16 photos, 1 could not be read</span>" in _header(photos)
    moved = tmp_path / "moved.emb"
    shutil.copytree(embedded, moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps(manifest | {"source": "/nowhere/<b>"}))
    told = "they can&#x27;t be shown, as their files are not in /nowhere/&lt;b&gt;: embed the folder where they are now"
    assert told in _header(Photos(moved, "cpu"))


def test_large_groups_of_duplicates_are_cut():
    from sslzoo.demo.tabs.duplicates import _groups

    ids = [f"{i}.jpg" for i in range(100)]
    demo = SimpleNamespace(photos=SimpleNamespace(row_of={id_: i for i, id_ in enumerate(ids)}), photo_url="photo")
    shown = _groups(demo, [Group(ids, [(10, 10)] * 100, [1.0] * 100)], 0.97)
    assert shown.count("<button") == 24 and "and 76 more" in shown and "99 photos could go" in shown
    assert "1 photo could go" in _groups(demo, [Group(ids[:2], [(10, 10)] * 2, [1.0] * 2)], 0.97)


def test_two_threads_keep_the_same_file(tmp_path, monkeypatch):
    meet, replace, done = threading.Barrier(2), os.replace, []
    monkeypatch.setattr(os, "replace", lambda *paths: (meet.wait(5), replace(*paths)))
    threads = [threading.Thread(target=lambda: done.append(keep(tmp_path / "a", b"x"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True, True] and [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one more encoder of its own."""
    encoder = sslzoo.load("random-r18", device="cpu")
    encoder.spec = dataclasses.replace(encoder.spec, name="byol-r18.ours", method="byol", license="apache-2.0")
    encoder.save_pretrained(tmp_path / "hub_cards" / "byol-r18.ours")
    monkeypatch.setattr("sslzoo.hub.CARDS", tmp_path / "hub_cards")
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))  # none that somebody has downloaded


def test_the_encoders_of_a_checkout_are_there(photos, checkout):
    shelf = Shelf(photos)
    assert "byol-r18.ours" in shelf.ready and shelf.entries["byol-r18.ours"].origin == "this checkout"
    assert shelf.suggested(6) == [registry.PACKAGE_ENCODER, "byol-r18.ours", "random-r18"]
    job = shelf.start("byol-r18.ours")
    with pytest.raises(InputError, match=r"byol-r18\.ours is looking at the photos just now"):
        shelf.start("random-r50")
    job.wait(60)
    assert job.error == "" and len(shelf.photos("byol-r18.ours")) == 16


def test_from_a_wheel_there_are_the_package_encoder_and_random_weights(photos, checkout, tmp_path):
    shutil.rmtree(tmp_path / "hub_cards")
    shelf = Shelf(photos)
    assert set(shelf.ready) == {registry.PACKAGE_ENCODER, "random-r18", "random-r50"}
    assert shelf.suggested(6) == [registry.PACKAGE_ENCODER, "random-r18"]


def test_others_can_look_at_a_folder_alone(photos, tmp_path):
    from sslzoo.demo.tabs.compare import _listed

    assert [_listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert Shelf(photos).obstacle == ""
    shelf = Shelf(photos)
    shelf.main = SimpleNamespace(source=tmp_path / "photos/*.jpg")
    shelf.entries = {"random-r50": None}
    with pytest.raises(InputError, match=r"these came from .*photos/\*\.jpg: embed a folder"):
        shelf.start("random-r50")


def test_what_can_be_had_nowhere_is_not_offered(photos, checkout, monkeypatch):
    known = registry.known()
    for name, source in (("byol-r18.elsewhere", "checkout:elsewhere"), ("byol-r18.published", "hf-hub:me/it@1")):
        known = known | {name: dataclasses.replace(known[registry.PACKAGE_ENCODER], name=name, sources=(source,))}
    monkeypatch.setattr(registry, "known", lambda: known)
    entries = Shelf(photos).entries
    assert "byol-r18.elsewhere" not in entries
    assert (entries["byol-r18.published"].origin, entries["byol-r18.published"].ready) == ("this project", False)
    assert entries["simsiam-r50.fair_in1k_100ep"].origin == "the authors"
    mine = SimpleNamespace(model="byol-r18.elsewhere")  # embedded where the checkout was
    assert not Shelf(mine).entries["byol-r18.elsewhere"].ready


@pytest.mark.parametrize(
    ("own", "others", "suggested"),
    [
        (  # at one budget, whichever is the collection's own
            "simclr-r18.tin_cpu_1h",
            "byol-r18.tin_cpu mocov2-r18.tin_cpu simclr-r18.tin_cpu simsiam-r18.tin_cpu swav-r18.tin_cpu swav-r18.tin_cpu_1h",
            "simclr-r18.tin_cpu byol-r18.tin_cpu mocov2-r18.tin_cpu simsiam-r18.tin_cpu swav-r18.tin_cpu random-r18",
        ),
        (  # of two tags that as many have, the same for all
            "simclr-r18.b",
            "byol-r18.a simclr-r18.a byol-r18.b",
            "simclr-r18.b byol-r18.b random-r18",
        ),
        (  # an own encoder of another method stays, and random weights as well
            "vicreg-r50.mine",
            "byol-r18.a mocov2-r18.a simclr-r18.a simsiam-r18.a swav-r18.a",
            "vicreg-r50.mine byol-r18.a mocov2-r18.a simclr-r18.a simsiam-r18.a random-r18",
        ),
        ("random-r50", "simclr-r18.a", "simclr-r18.a random-r50"),
    ],
)
def test_the_suggestion_is_one_of_each_method_with_the_commonest_tag(own, others, suggested):
    shelf = Shelf(SimpleNamespace(model=own))
    names = [own, *others.split(), "random-r18"]
    shelf.entries = {name: Entry(SimpleNamespace(name=name, method=name.partition("-")[0]), "", True) for name in names}
    assert shelf.suggested(6) == suggested.split()
    assert shelf.ready[0] == own  # which can be ticked instead


def test_an_encoder_of_the_same_name_with_other_weights_embeds_anew(photos, checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path / "cache"))
    shelf = Shelf(photos)
    job = shelf.start("byol-r18.ours")
    job.wait(60)
    assert not job.running and job.error == ""
    assert Shelf(photos).photos("byol-r18.ours") is not None
    encoder = sslzoo.load(str(tmp_path / "hub_cards" / "byol-r18.ours"), device="cpu")
    encoder.backbone.conv1.weight.data *= -1
    encoder.save_pretrained(tmp_path / "new")
    shutil.rmtree(tmp_path / "hub_cards" / "byol-r18.ours")
    (tmp_path / "new").rename(tmp_path / "hub_cards" / "byol-r18.ours")
    again = Shelf(photos)
    assert again.photos("byol-r18.ours") is None
    job = again.start("byol-r18.ours")
    job.wait(60)
    assert job.error == ""
    assert again.photos("byol-r18.ours").collection.space != shelf.photos("byol-r18.ours").collection.space


def test_other_encoders_follow_the_photos(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sslzoo.demo.shelf.PORTION", 2)
    folder, out = tmp_path / "photos", tmp_path / "photos.emb"
    folder.mkdir()
    for i in range(6):
        draw("bars", i).save(folder / f"{i}.png")
    sslzoo.embed(folder, "random-r18", out, device="cpu")
    name = registry.PACKAGE_ENCODER
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_stop", lambda job: job.done == 4)
        job = Shelf(Photos(out, "cpu")).start(name)
        job.wait(60)
    assert job.error.startswith("Stopped") and job.done == 4
    (folder / "0.png").unlink()  # of a part that is there
    draw("circles", 0).save(folder / "new.png")
    sslzoo.embed(folder, "random-r18", out, device="cpu", update=True)
    shelf = Shelf(Photos(out, "cpu"))
    job = shelf.start(name)
    job.wait(60)
    assert job.error == "" and job.done == job.total == 6
    assert sorted(shelf.photos(name).row_of) == ["1.png", "2.png", "3.png", "4.png", "5.png", "new.png"]
    draw("circles", 1).save(folder / "1.png")
    sslzoo.embed(folder, "random-r18", out, device="cpu", update=True)
    shelf = Shelf(Photos(out, "cpu"))
    assert shelf.photos(name) is None  # not the vector of what 1.png was
    job = shelf.start(name)
    job.wait(60)
    seen = shelf.photos(name)
    expected = sslzoo.load(name, device="cpu").encode([folder / "1.png"], normalize=True)[0]
    assert job.error == "" and seen.vector(seen.row_of["1.png"]) @ expected > 0.999


def test_weights_are_downloaded_on_request_alone(photos, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = Shelf(photos).start("simsiam-r50.fair_in1k_100ep")
    job.wait(60)
    assert "HF_HUB_OFFLINE is set" in job.error and "sslzoo pull simsiam-r50" in job.error
    with pytest.raises(InputError, match="this page downloads no weights"):
        Shelf(photos, downloads=False).start("simsiam-r50.fair_in1k_100ep")


def test_costs_are_a_table_where_they_were_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "COSTS", tmp_path / "costs.json")
    assert methods.costs() == [] and html.costs([]) == ""
    row = {"method": "<MoCo>", "negatives": 4096, "momentum_encoder": True, "queue": 4096, "ms_per_image": 1.25}
    (tmp_path / "costs.json").write_text(json.dumps([row, {"method": "BYOL", "momentum_encoder": False}]))
    assert "<code>" not in html.costs(methods.costs())
    assert "<code>python &lt;3</code> on a processor" in html.costs(
        [{"command": "python <3", "measured": "a processor"}]
    )
    table = ElementTree.fromstring(re.search("<table>.*</table>", html.costs(methods.costs()))[0])
    cells = [[cell.text for cell in line] for line in table.iter("tr")]
    assert cells == [
        ["method", "negatives", "momentum encoder", "queue", "ms an image"],
        ["<MoCo>", "4,096", "yes", "4,096", "1.2"],
        ["BYOL", "–", "no", "–", "–"],
    ]
