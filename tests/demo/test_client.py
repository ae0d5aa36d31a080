"""The named endpoints through gradio_client, compared with the library; and everything that a client must not get."""

import http.client
import http.server
import json
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from sklearn.decomposition import PCA
from typer.testing import CliRunner

import sslzoo
from sslzoo import cli
from sslzoo.registry import PACKAGE_ENCODER
from sslzoo.search import search_images
from tests.demo.conftest import free_port, noise


@pytest.fixture(scope="module")
def client(server):
    made = Client(server.url, verbose=False)
    yield made
    made.close()


def get(server, path, host=None, headers=None):
    """Status, headers and body of a GET to a server (or address) whose path is sent as it is, dots and all."""
    parts = urlsplit(getattr(server, "url", server))
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or parts.netloc)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def photo(server, row, size=320):
    return f"/{server.photo}/{row}/{size}"


def test_search_is_the_librarys(client, embedded, collection, picture_file):
    found = client.predict(handle_file(str(picture_file)), 5, 0.0, api_name="/search")
    _, expected = search_images(
        sslzoo.build_index(sslzoo.open_embeddings(embedded)), [str(picture_file)], 5, device="cpu"
    )
    assert [f["id"] for f in found] == expected.ids[0]
    assert [f["score"] for f in found] == pytest.approx(expected.scores[0], abs=1e-5)
    by_id = client.predict("circles/3.jpg", 4, 0.0, api_name="/search_by_id")
    bank = sslzoo.open_embeddings(embedded)
    _, expected = search_images(sslzoo.build_index(bank), ["circles/3.jpg"], 4, exclude_self=True)
    assert [f["id"] for f in by_id] == expected.ids[0]
    above = client.predict("circles/0.jpg", 10, 0.99999, api_name="/search_by_id")
    assert [f["id"] for f in above] == ["circles/copy.jpg"]


def test_the_endpoints_are_named(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/search", "/search_by_id", "/map", "/duplicates", "/compare", "/models"}


def test_map_is_scikit_learns_pca(client, embedded):
    places = client.predict("PCA", api_name="/map")
    bank = sslzoo.open_embeddings(embedded)
    assert [p["id"] for p in places] == list(bank.ids)
    expected = PCA(2, svd_solver="full").fit_transform(bank.normalized)
    ours = np.array([[p["x"], p["y"]] for p in places])
    for axis in range(2):
        assert abs(np.corrcoef(ours[:, axis], expected[:, axis])[0, 1]) > 0.9999
    assert ours.min() == 0 and ours.max() == 1


def test_duplicates_compare_and_models(client):
    groups = client.predict(0.99999, api_name="/duplicates")
    assert [g["ids"] for g in groups] == [["circles/0.jpg", "circles/copy.jpg"]]
    assert groups[0]["sizes"] == [[120, 100]] * 2
    by = client.predict("circles/0.jpg", ["random-r18", PACKAGE_ENCODER], 3, api_name="/compare")
    assert [b["encoder"] for b in by] == ["random-r18", PACKAGE_ENCODER]
    assert all(b["neighbours"][0]["id"] == "circles/copy.jpg" and len(b["neighbours"]) == 3 for b in by)
    assert all(0 <= b["agreement"] <= 1 for b in by)
    models = {m["name"]: m for m in client.predict(api_name="/models")}
    assert models["random-r18"]["embedded"] and models[PACKAGE_ENCODER]["ready"]
    assert not models["simsiam-r50.fair_in1k_100ep"]["ready"]


PATHS = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=" + quote("/etc/passwd", safe=""),
    "/gradio_api/file/etc/passwd",
    "/gradio_api/file={uploads}",
    "/gradio_api/file={uploads}/../secret",
    "/gradio_api/file={uploads}/%2e%2e/%2e%2e/etc/passwd",
    "/gradio_api/file={collection}/circles/0.jpg",
    "/gradio_api/file={package}/__init__.py",
    "/gradio_api/file=http://127.0.0.1:{port}/x.png",
    "/gradio_api/proxy=http://127.0.0.1:{port}/x.png",
    "/gradio_api/stream/a/b/c/playlist.m3u8",
    "/gradio_api/custom_component/1/client/component/../../../../etc/passwd",
    "/gradio_api/deep_link?session_hash=a",
    "/gradio_api/runs",
    "/monitoring",
    "/static/../../../../../../../../etc/passwd",
    "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/svelte//etc/passwd",
    "/{photo}/0/../../../../../etc/passwd",
    "/{photo}/..%2f..%2fetc%2fpasswd/320",
    "/{photo}/-1/320",
    "/{photo}/999999/320",
    "/{photo}/0/321",
    "/photo/guess/0/320",
    "/photo/%C3%A9/0/320",
    "/code/../../pyproject",
    "/code/__init__",
]


@pytest.fixture
def trap():
    """A server that counts who asks it for something."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *a):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port, asked
        running.shutdown()


@pytest.mark.parametrize("path", PATHS)
def test_no_path_or_address_is_opened(server, collection, trap, path):
    port, asked = trap
    facts = {"uploads": server.uploads, "collection": collection, "port": port, "photo": server.photo}
    status, _, body = get(server, path.format(**facts, package=sslzoo.__path__[0]))
    assert status in (400, 403, 404, 405), body[:200]
    assert b"root:" not in body and len(body) < 2000
    assert not asked


def test_only_photos_of_the_collection_are_served(server, collection, embedded):
    row_of = sslzoo.open_embeddings(embedded).rows
    status, headers, body = get(server, photo(server, row_of["circles/0.jpg"]))
    assert (status, headers["content-type"].split(";")[0]) == (200, "image/jpeg")
    assert body[:2] == b"\xff\xd8"
    # a link that leads out of the folder, and a photo that a link has taken the place of
    place = collection / "bars" / "5.jpg"
    kept = place.rename(collection.parent / "5.jpg")
    place.symlink_to(collection.parent / "secret.jpg")
    try:
        for name in ("circles/link.jpg", "bars/5.jpg"):
            status, headers, body = get(server, photo(server, row_of[name], 1024))
            assert (status, headers["content-type"].split(";")[0]) == (200, "image/svg+xml")
            assert b"not found" in body
    finally:
        place.unlink()
        kept.rename(place)  # the same file, for the tests that look at its time


@pytest.mark.parametrize(
    "where", ["/etc/passwd", "{collection}/circles/0.jpg", "http://127.0.0.1:{port}/x.png", "{uploads}"]
)
def test_a_client_cannot_name_a_file_or_address(server, collection, trap, where):
    port, asked = trap
    path = where.format(collection=collection, port=port, uploads=server.uploads)
    file = {"path": path, "url": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    for data in ([file, 5, 0.0], [None, file, 0.0]):
        answer = call(server, "search", data)
        assert "error" in answer and "Only an uploaded picture can be searched for." in answer
    assert not asked


def call(server, name, data):
    """What an endpoint answers to a client that keeps to no rules."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    body = json.dumps({"data": data})
    connection.request("POST", f"/gradio_api/call/{name}", body, {"Content-Type": "application/json"})
    event = json.loads(connection.getresponse().read())["event_id"]
    connection.request("GET", f"/gradio_api/call/{name}/{event}")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.mark.parametrize("id_", ["../secret.jpg", "{collection}/circles/0.jpg", "http://127.0.0.1/x.png", "broken.jpg"])
def test_an_id_is_never_a_path(client, collection, id_):
    with pytest.raises(Exception, match="no photo of that id"):
        client.predict(id_.format(collection=collection), 5, 0.0, api_name="/search_by_id")


TWO = ["random-r18", PACKAGE_ENCODER]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        *(
            (name, data, f"k is {shown}; it is a whole number between 1 and 1000.")
            for k, shown in [(0, 0), (-1, -1), (10**9, 10**9), (2.7, 2.7), (True, True), ("5", "'5'"), (None, None)]
            for name, data in [("search_by_id", ["circles/0.jpg", k, 0.0]), ("compare", ["circles/0.jpg", TWO, k])]
        ),
        *(
            ("search_by_id", ["circles/0.jpg", 3, threshold], f"threshold is {shown}; it is a number between -1 and 1.")
            for threshold, shown in [(float("nan"), "nan"), (2, 2), ("0", "'0'"), (None, None), ([], [])]
        ),
        ("duplicates", [float("nan")], "threshold is nan; it is a number between 0.5 and 1."),
        ("duplicates", [0], "threshold is 0; it is a number between 0.5 and 1."),
        ("duplicates", [None], "threshold is None; it is a number between 0.5 and 1."),
        ("map", [None], "The layouts are: PCA"),
        ("map", ["t-SNE"], "The layouts are: PCA"),
        ("search", [None, 3, 0.0], "Upload a picture to search for."),
        ("search_by_id", [["circles/0.jpg"], 3, 0.0], "The collection has no photo of that id."),
        ("compare", [None, TWO, 3], "The collection has no photo of that id."),
        *(
            ("compare", ["circles/0.jpg", encoders, 3], "choose 2 to 6 different encoders to compare")
            for encoders in (None, [], TWO[:1], TWO[:1] * 2, list("abcdefg"), "random-r18", {"a": 1})
        ),
        ("compare", ["circles/0.jpg", ["random-r18", None], 3], "there is no encoder None; those that there are"),
        ("compare", ["circles/0.jpg", ["random-r18", "nonsense"], 3], "there is no encoder 'nonsense'; those that"),
    ],
)
def test_what_a_client_may_not_ask_for_is_a_sentence(server, name, data, told):
    assert told in json.loads(re.search(r"event: error\ndata: (.*)", call(server, name, data))[1])["error"]


def test_uploads_have_a_size_limit(server):
    parts = urlsplit(server.url)
    data = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        + b"x" * (21 << 20)
        + b"\r\n--b--\r\n"
    )
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        connection.request("POST", "/gradio_api/upload", data, {"Content-Type": "multipart/form-data; boundary=b"})
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up before the end, which is as well
    finally:
        connection.close()
    assert not [path for path in server.uploads.rglob("*") if path.is_file() and path.stat().st_size > 20 << 20]


def test_uploads_have_a_pixel_limit(client, tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(bomb)  # 12 kB
    with pytest.raises(Exception, match="10000x10000 is more than 64,000,000 pixels"):
        client.predict(handle_file(str(bomb)), 5, 0.0, api_name="/search")


def test_it_answers_to_this_machine_alone(server):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        assert get(server, "/", host=host)[0] == 403
    assert get(server, "/", host=f"localhost:{urlsplit(server.url).port}")[0] == 200
    port = f"{urlsplit(server.url).port:04X}"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{port}")] == [f"0100007F:{port}"]


def test_it_answers_to_the_loopback_of_ipv6(embedded, start):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    running = start(embedded, "--host", "::1", "--port", port := free_port(), "--device", "cpu")
    assert running.url == f"http://[::1]:{port}/"
    for host, status in ((f"[::1]:{port}", 200), ("evil.example", 403)):
        connection = http.client.HTTPConnection("::1", port, timeout=20)
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_the_browser_is_told_to_ask_no_other_host(server):
    for path in ("/", photo(server, 0)):
        policy = get(server, path)[1]["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


def test_a_login_guards_pages_pictures_and_endpoints(embedded, start):
    url = start(embedded, "--port", free_port(), "--auth", "me:secret").url
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert get(url, "/config")[0] == 401
    assert get(url, "/gradio_api/info")[0] == 401
    assert b"bars/0.jpg" not in get(url, "/")[2]
    cookies = []
    for password, status in (("wrong", 400), ("secret", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port)
        connection.request("POST", "/login", f"username=me&password={password}", form)
        answer = connection.getresponse()
        assert answer.status == status
        cookies = re.findall(r"(access-token[^;]+)", "; ".join(answer.headers.get_all("set-cookie") or []))
        connection.close()
    login = {"Cookie": "; ".join(cookies)}
    _, _, page = get(url, "/", headers=login)
    picture = re.search(rb"photo/[\w-]+/0/320", page)[0].decode()
    assert get(url, f"/{picture}", headers=login)[0] == 200
    assert get(url, f"/{picture}")[0] == 404


def test_a_folder_is_embedded_first_and_brought_up_to_date(start, photos, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(photos, folder)
    first = start(folder, "--port", free_port(), "-q")
    assert (tmp_path / "mine.emb" / "manifest.json").is_file()
    assert b"12 photos" in get(first, "/")[2]
    first.close()
    shutil.copy(folder / "bars" / "0.jpg", folder / "bars" / "new.jpg")
    again = start(folder, "--port", free_port(), "-q")
    page = get(again, "/")[2]
    assert b"13 photos" in page and b"bars/new.jpg" in page
    assert "by the encoder inside the package" in again.log.read_text()


def test_a_service_manager_ends_it_and_the_uploads_go(embedded, start):
    running = start(embedded, "--port", free_port(), "--device", "cpu")
    (running.uploads / "picture.png").write_bytes(b"x")
    running.process.terminate()
    assert running.process.wait(20) == 0, running.log.read_text()
    assert not list(running.folder.glob("sslzoo-demo-*"))


def test_a_clients_upload_goes_with_it(server, tmp_path):
    noise(11).save(tmp_path / "clients.png")
    client = Client(server.url, verbose=False)
    client.predict(handle_file(str(tmp_path / "clients.png")), 5, 0.0, api_name="/search")
    assert list(server.uploads.rglob("clients.png"))
    time.sleep(2.1)  # within which another may have sent the same
    client.close()
    for _ in range(60):
        if not list(server.uploads.rglob("clients.png")):
            break
        time.sleep(0.25)
    assert not list(server.uploads.rglob("clients.png"))


def test_share_and_auth_say_what_they_do():
    told = " ".join(CliRunner().invoke(cli.app, ["demo", "--help"]).output.split())
    assert "whoever knows it can look at the photos until you stop" in told
    assert "Ask for this login before anything is shown" in told
    assert "0.0.0.0 lets everybody in your network look at the photos" in told
