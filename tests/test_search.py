"""Searching as a user types it: every kind of query, filters, the contact sheet, and no torch where none is needed."""

import functools
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import sslzoo
from sslzoo import cli
from sslzoo import search as searching
from sslzoo.contact_sheet import Picture, contact_sheet
from sslzoo.errors import InputError
from sslzoo.thumbnails import image_file


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "e"
    sslzoo.embed(photos, "random-r18", out, device="cpu")
    return out


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sslzoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def server(photos):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=photos)
    handler.log_message = lambda *a: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_by_url_stdin_array_id_and_file(run, folder, photos, server, monkeypatch, tmp_path):
    bank = sslzoo.open_embeddings(folder)
    np.save(tmp_path / "two.npy", bank.vectors[[2, 3]])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((photos / "bars" / "1.jpg").read_bytes())))
    queries = [f"{server}/bars/0.jpg", "-", tmp_path / "two.npy", "bars/4.jpg", photos / "bars" / "5.jpg"]
    code, out, _ = run("search", folder, *queries, "-k", 1, "--json")
    found = json.loads(out)
    assert code == 0
    assert [f["neighbours"][0]["id"] for f in found] == [f"bars/{i}.jpg" for i in range(6)]
    assert all(f["neighbours"][0]["score"] > 0.9999 for f in found)
    assert found[2]["query"].endswith("two.npy[0]")


def test_pictures_from_outside_search_an_index_too(run, folder, photos, tmp_path, monkeypatch):
    for i in (0, 3):
        (tmp_path / f"new{i}.jpg").write_bytes((photos / "bars" / f"{i}.jpg").read_bytes())
    run("index", folder)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((photos / "bars" / "1.jpg").read_bytes())))
    queries = [tmp_path / "new3.jpg", "-", "bars/2.jpg", tmp_path / "new0.jpg"]
    sheet = tmp_path / "sheet.html"
    code, out, _ = run("search", folder, *queries, "-k", 1, "--exclude-self", "--json", "--html", sheet)
    assert code == 0
    found = json.loads(out)
    assert [f["query"] for f in found] == [str(query) for query in queries]
    nearest = [f["neighbours"][0] for f in found]
    assert [nearest[i]["id"] for i in (0, 1, 3)] == ["bars/3.jpg", "bars/1.jpg", "bars/0.jpg"]
    assert nearest[2]["id"] != "bars/2.jpg" and nearest[2]["score"] < 0.9999
    tags = Tags()
    tags.feed(sheet.read_text())
    shown = [a["alt"] for tag, a in tags.found if tag == "img"]
    assert shown[::2] == [str(query) for query in queries]  # each query stands before what it found


def test_a_bad_query_of_several_does_not_end_the_others(run, folder, photos, tmp_path):
    for i in (1, 2):
        (tmp_path / f"bad{i}.jpg").write_text("text")
    (tmp_path / "new.jpg").write_bytes((photos / "bars" / "3.jpg").read_bytes())
    np.save(tmp_path / "nan.npy", np.full(512, np.nan))
    bad = [tmp_path / "bad1.jpg", "nowhere.jpg", tmp_path / "nan.npy", tmp_path / "bad2.jpg"]
    reasons = ["bad1.jpg: not an image", "nowhere.jpg is neither a file", "nan.npy holds NaN", "bad2.jpg: not an image"]
    good = [tmp_path / "new.jpg", "bars/0.jpg"]

    code, out, err = run("search", folder, bad[0], good[0], *bad[1:], good[1], "-k", 1)
    assert code == 3
    assert out == f"{good[0]}:\n1.0000  bars/3.jpg\nbars/0.jpg:\n1.0000  bars/0.jpg\n"
    assert len(err.splitlines()) == 4
    assert all(line.startswith("error: ") and why in line for line, why in zip(err.splitlines(), reasons, strict=True))

    code, out, _ = run("search", folder, bad[1], good[1], "-k", 1, "--json")
    found, failed = json.loads(out)
    assert (code, found["query"], found["neighbours"][0]["id"]) == (3, "bars/0.jpg", "bars/0.jpg")
    assert (failed["query"], failed["neighbours"]) == ("nowhere.jpg", []) and reasons[1] in failed["error"]

    for some in (bad[:1], bad):
        code, out, err = run("search", folder, *some)
        assert (code, out) == (1, "")
        assert err.count("error: ") == len(some)
        code, out, _ = run("search", folder, *some, "--json")
        failed = json.loads(out)
        assert code == 1 and all(why in each["error"] for each, why in zip(failed, reasons, strict=False))
        assert [(each["query"], each["neighbours"]) for each in failed] == [(str(query), []) for query in some]


def test_wrong_queries(run, folder, server, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros(7))
    np.save(tmp_path / "none.npy", np.zeros((0, 512)))
    (tmp_path / "no.npy").write_text("text")
    for query, message in [
        (f"{server}/nothing.jpg", "can't be fetched"),
        ("http://127.0.0.1:9/x.jpg", "can't be fetched"),
        (tmp_path / "wide.npy", "[512]"),
        (tmp_path / "no.npy", "numpy.save"),
        (tmp_path / "none.npy", "shape (0, 512)"),
        ("a long text " * 500, "a long t is neither a file nor an id"),
    ]:
        code, out, err = run("search", folder, query)
        assert (code, out) == (1, "")
        assert message in err


def test_a_large_download_is_refused(server):
    with pytest.raises(InputError, match="larger than"):
        searching.download(f"{server}/bars/0.jpg", limit=100)


def test_filters_and_threshold(run, folder):
    _, out, _ = run("search", folder, "bars/0.jpg", "--prefix", "circles/", "-k", 20)
    assert len(out.splitlines()) == 6 and "bars/" not in out
    _, again, _ = run("search", folder, "bars/0.jpg", "--where", "label=circles", "-k", 20)
    assert again == out
    _, out, _ = run("search", folder, "bars/0.jpg", "--threshold", "0.999999", "--exclude-self")
    assert out == ""
    code, _, err = run("search", folder, "bars/0.jpg", "--where", "label")
    assert code == 1 and "COLUMN=VALUE" in err


def test_index_then_search_and_remove(run, folder):
    _, before, _ = run("search", folder, "bars/0.jpg")
    code, out, _ = run("index", folder, "--json")
    assert code == 0
    assert json.loads(out) == {"kind": "exact", "vectors": 12, "recall": None}
    assert run("search", folder, "bars/0.jpg")[1] == before
    run("index", folder, "--remove", "bars/1.jpg")
    assert "bars/1.jpg" not in run("search", folder, "bars/0.jpg", "-k", 20)[1]
    code, _, err = run("index", folder, "--memory", "much")
    assert code == 1 and "4GB" in err
    code, _, err = run("index", folder, "--kind", "tree")
    assert code == 2 and "hnsw" in err


def test_another_picture_under_the_same_name_is_found_after_an_update(run, tmp_path):
    rng = np.random.default_rng(0)
    new, *pictures = (Image.fromarray(pixels) for pixels in rng.integers(0, 255, (600, 8, 8, 3), np.uint8))
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "in" / f"{number:03d}.bmp")
    new.save(tmp_path / "query.bmp")
    sslzoo.embed(tmp_path / "in", "pixels-32", tmp_path / "e")
    before = (tmp_path / "e" / "part-00000.parquet").read_bytes()
    sslzoo.embed(tmp_path / "in", "pixels-32", tmp_path / "again")
    assert (tmp_path / "again" / "part-00000.parquet").read_bytes() == before
    run("index", tmp_path / "e")
    new.save(tmp_path / "in" / "000.bmp")
    sslzoo.embed(tmp_path / "in", "pixels-32", tmp_path / "e", update=True)
    assert (tmp_path / "e" / "part-00000.parquet").stat().st_size == len(before)
    code, _, err = run("search", tmp_path / "e", tmp_path / "query.bmp")
    assert code == 1 and "sslzoo index" in err
    run("index", tmp_path / "e")
    assert run("search", tmp_path / "e", tmp_path / "query.bmp", "-k", 1)[1].split() == ["1.0000", "000.bmp"]


@pytest.mark.parametrize("source", ["in", "in/*.png", "list.txt"])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_file_that_was_replaced_is_embedded_anew(run, photos, tmp_path, monkeypatch, source, indexed):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos / "circles", "in")
    (tmp_path / "list.txt").write_text("".join(f"in/{i}.png\n" for i in range(6)))
    sslzoo.embed(source, "pixels-32", "e")
    if indexed:
        run("index", "e")
    shutil.copy(photos / "circles" / "3.png", "in/0.png")
    for query in ("in/0.png", tmp_path / "in" / "0.png"):
        nearest = run("search", "e", query, "-k", 1)[1].split()
        assert nearest[0] == "1.0000" and nearest[1].endswith("3.png")
        assert "0.png" not in run("search", "e", query, "--exclude-self")[1]
    (tmp_path / "in" / "0.png").write_text("text")
    code, _, err = run("search", "e", "in/0.png")
    assert code == 1 and "0.png: not an image" in err


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_file_whose_name_is_not_utf8_is_known_as_itself(run, photos, tmp_path):
    (tmp_path / "in").mkdir()
    names = [os.fsdecode(b"caf\xe9.jpg"), "b.jpg"]
    for number, name in enumerate(names):
        (tmp_path / "in" / name).write_bytes((photos / "bars" / f"{number}.jpg").read_bytes())
    sslzoo.embed(tmp_path / "in", "pixels-32", tmp_path / "e")
    for query in (tmp_path / "in" / names[0], "caf\\udce9.jpg"):
        code, out, err = run("search", tmp_path / "e", query, "--exclude-self", "--html", tmp_path / "out.html")
        assert code == 0 and [line.split()[1] for line in out.splitlines()] == ["b.jpg"]
        assert "can't be shown" not in err and (tmp_path / "out.html").read_text().count("<img ") == 2


def test_an_id_that_also_names_a_file_from_here_is_said_to_be_taken_for_the_id(
    run, folder, photos, tmp_path, monkeypatch
):
    (tmp_path / "bars").mkdir()
    (tmp_path / "bars" / "4.jpg").write_bytes((photos / "bars" / "5.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    _, out, err = run("search", folder, "bars/4.jpg", "-k", "1")
    assert out.split()[1] == "bars/4.jpg" and "for the file of that name here: ./bars/4.jpg" in err
    _, out, err = run("search", folder, "./bars/4.jpg", "-k", "1")
    assert out.split()[1] == "bars/5.jpg" and err == ""
    monkeypatch.chdir(photos)
    assert run("search", folder, "bars/4.jpg", "-k", "1")[2] == ""


@pytest.mark.parametrize("source", ["in/*.jpg", "list.txt"])
def test_a_path_written_differently_is_the_same_image(run, photos, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos / "bars", "in")
    names = [f"in/{i}.jpg" for i in range(3)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    sslzoo.embed(source, "pixels-32", tmp_path / "e")
    for query in ("./in/0.jpg", tmp_path / "in" / "0.jpg", "in/../in/0.jpg"):
        code, out, _ = run("search", "e", query, "--exclude-self", "-k", 9)
        assert code == 0 and "in/0.jpg" not in out and "in/1.jpg" in out


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_contact_sheet_escapes_everything_and_asks_for_nothing(run, photos, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    evil = '<img src=x onerror="alert(1)">.jpg'.replace("/", "")
    for i, name in enumerate([evil, "'quote\".jpg", "plain.jpg"]):
        (root / name).write_bytes((photos / "bars" / f"{i}.jpg").read_bytes())
    sslzoo.embed(root, "random-r18", tmp_path / "e", device="cpu")
    code, _, _ = run("search", tmp_path / "e", evil, "--html", tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert code == 0
    tags = Tags()
    tags.feed(page)
    images = [attributes for tag, attributes in tags.found if tag == "img"]
    assert len(images) == 3
    assert all(set(a) == {"alt", "src"} and a["src"].startswith("data:image/jpeg;base64,") for a in images)
    assert {a["alt"] for a in images} == {evil, "'quote\".jpg", "plain.jpg"}
    assert not any("onerror" in attributes for _, attributes in tags.found)
    assert "http" not in page


def test_a_sheet_shows_no_file_outside_its_source(photos):
    page = contact_sheet("t", [("q", [Picture("../circles/0.png")])], {"source": str(photos / "bars")})
    assert "not found" in page


@pytest.mark.parametrize("kind", ["list", "stdin", "pattern", "above", "tar"])
def test_a_sheet_shows_what_a_list_or_pattern_named(run, photos, tmp_path, monkeypatch, kind):
    """Ids of these are paths; what lies in an archive is not shown, which is said."""
    shutil.copytree(photos / "bars", tmp_path / "in" / "bars")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / ("here" if kind == "above" else "."))
    paths = [f"in/bars/{i}.jpg" for i in range(3)] + [str(tmp_path / "in" / "bars" / f"{i}.jpg") for i in (3, 4, 5)]
    source = {"list": "l.txt", "stdin": "-", "pattern": "in/**/*.jpg", "above": "../in/*/*.jpg", "tar": "t.tar"}[kind]
    if kind == "list":
        (tmp_path / "l.txt").write_text("\n".join(paths))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(paths).encode())))
    if kind == "tar":
        with tarfile.open("t.tar", "w") as tar:
            tar.add("in/bars", "bars")
    sslzoo.embed(source, "pixels-32", tmp_path / "e")
    first = sslzoo.open_embeddings(tmp_path / "e").ids[0]
    if kind == "pattern":
        monkeypatch.chdir(tmp_path / "here")  # a pattern is found again from anywhere
    code, _, err = run("search", tmp_path / "e", first, "--html", tmp_path / "s.html", "-k", 6)
    tags = Tags()
    tags.feed((tmp_path / "s.html").read_text())
    shown = sum(tag == "img" for tag, _ in tags.found)
    assert (code, shown) == (0, 0 if kind == "tar" else 6)
    expected = f"6 of 6 pictures can't be shown: they lie inside {tmp_path / 't.tar'}" if kind == "tar" else ""
    assert expected in err and ("can't be shown" in err) == (kind == "tar")


def test_the_encoder_of_a_model_folder_is_found_from_everywhere(run, photos, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, "mymodel")
    (tmp_path / "new.png").write_bytes((photos / "circles" / "2.png").read_bytes())
    assert run("embed", photos / "circles", "-o", "e", "-m", "./mymodel", "--device", "cpu", "-q")[0] == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    assert run("search", "../e", "../new.png", "-k", 1)[1].split() == ["1.0000", "2.png"]
    shutil.rmtree(tmp_path / "mymodel")
    code, _, err = run("search", "../e", "../new.png")
    place = f"../e was made by random-r18 in the model folder {tmp_path / 'mymodel'}, which is not there"
    assert code == 1 and place in err and "sslzoo embed … --overwrite -m FOLDER" in err


def test_a_pattern_never_leads_out_of_its_folder(photos, tmp_path):
    manifest = {"source": str(photos / "bars" / "*.jpg")}
    assert image_file("bars/0.jpg", manifest) == (photos / "bars" / "0.jpg").resolve()
    assert image_file("circles/0.png", manifest) is image_file(str(photos / "circles" / "0.png"), manifest) is None
    assert image_file(str(photos / "bars" / "0.jpg"), {"source": "-"}) is None  # unless asked for, as by a sheet


def search_in_a_process(folder, query):
    """The standard output of a search, and which heavy packages it imported."""
    code = (
        "import sys; from sslzoo import cli; sys.argv = ['sslzoo', 'search', *sys.argv[1:], '-k', '1']\n"
        "try:\n    cli.main()\nfinally:\n    print({'torch', 'pandas', 'faiss'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code, str(folder), str(query)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_searching_by_id_in_an_index_needs_neither_torch_nor_pandas_nor_faiss(folder):
    subprocess.run([sys.executable, "-m", "sslzoo", "index", str(folder)], capture_output=True, check=True)
    assert search_in_a_process(folder, "circles/2.png") == ["1.0000", "circles/2.png", "set()"]


def test_searching_by_picture_through_openvino_needs_no_torch(photos, model_folder, tmp_path):
    pytest.importorskip("openvino")
    sslzoo.embed(photos, str(model_folder), tmp_path / "e", device="cpu", backend="openvino", precision="fp32")
    (tmp_path / "new.png").write_bytes((photos / "circles" / "2.png").read_bytes())
    assert search_in_a_process(tmp_path / "e", tmp_path / "new.png") == ["1.0000", "circles/2.png", "set()"]
