"""No name is looked up and no other host is reached by the demo's server, from its start to a search and an embedding."""

import subprocess
import sys

from tests.demo.conftest import free_port

# plain HTTP, as gradio_client itself tells its authors that it was used
CODE = """
import json, socket, sys, urllib.request
asked = []
def hook(event, arguments):
    if event == "socket.getaddrinfo":
        asked.append(arguments[0])
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.append(arguments[1][0])
sys.addaudithook(hook)
from pathlib import Path
from sslzoo.demo.server import Server
from sslzoo.registry import PACKAGE_ENCODER

def post(path, data, kind="application/json"):
    request = urllib.request.Request(server.url + path, data, {"Content-Type": kind})
    return json.loads(urllib.request.urlopen(request).read())

def call(name, *data):
    event = post(f"gradio_api/call/{name}", json.dumps({"data": data}).encode())["event_id"]
    answer = urllib.request.urlopen(f"{server.url}gradio_api/call/{name}/{event}").read().decode()
    return json.loads(answer.split("data: ")[-1])[0]

with Server(Path(sys.argv[1]), port=int(sys.argv[2]), device="cpu") as server:
    server.warm()
    urllib.request.urlopen(server.url).read()
    form = b'--b\\r\\nContent-Disposition: form-data; name="files"; filename="a.png"\\r\\n\\r\\n' + Path(sys.argv[3]).read_bytes()
    (path,) = post("gradio_api/upload", form + b"\\r\\n--b--\\r\\n", "multipart/form-data; boundary=b")
    found = call("search", {"path": path, "meta": {"_type": "gradio.FileData"}}, 3, 0.0)
    seen = call("compare", "circles/0.jpg", ["random-r18", PACKAGE_ENCODER], 3)
print(found[0]["id"], len(seen), sorted({str(a) for a in asked} - {"127.0.0.1", "localhost", "::1", ""}))
"""


def test_the_server_asks_nobody(embedded, picture_file):
    command = [sys.executable, "-c", CODE, str(embedded), str(free_port()), str(picture_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["circles/3.jpg 2 []"], done.stdout + done.stderr
