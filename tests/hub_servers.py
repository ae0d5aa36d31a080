"""Two small servers on loopback: one for plain files that misbehaves on request, one that speaks the Hub's protocol."""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handler):
    """The server's base URL, while it runs; `handler` is the class of its requests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value, code=200, **headers):
        self.answer(code, json.dumps(value).encode(), Content_Type="application/json", **headers)


def file_server(files, faults=None):
    """Serves `files` (path -> bytes) with Range; `faults` is a list, one taken per request: a code, "cut", "stall"…"""
    faults = faults if faults is not None else []
    log = []

    class Handler(Quiet):
        requests = log

        def do_GET(self):
            log.append((self.path, self.headers.get("Range")))
            fault = faults.pop(0) if faults else None
            if isinstance(fault, int):
                return self.answer(fault)
            if fault == "redirect":
                return self.answer(302, Location=self.path)
            if self.path not in files:
                return self.answer(404)
            body = files[self.path]
            tag = f'"{hashlib.md5(body).hexdigest()}"'
            start = 0
            if (asked := self.headers.get("Range")) and self.headers.get("If-Range", tag) == tag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    return self.answer(416)
            rest = body[start:]
            headers = {"ETag": tag, "Content_Length": str(len(rest))}
            if start:
                headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if fault in ("cut", "stall"):
                self.answer(206 if start else 200, rest[: len(rest) // 2], **headers)
                self.wfile.flush()
                if fault == "stall":
                    time.sleep(2)
                self.close_connection = True
                return None
            return self.answer(206 if start else 200, rest, **headers)

    return Handler


def hub_server(faults=None):
    """Speaks as much of the Hub's protocol as push and load need: repositories, LFS, commits, resolve, revisions.

    A token of "reader" may not write (403), one of "nobody" is not known (401), "stranger" has not accepted the terms of
    a gated repository (403). Commits are kept in memory. Each "cut" in `faults` ends one download of weights half-way.
    """
    faults = faults if faults is not None else []
    repos, blobs, log, hidden = {}, {}, [], set()

    def named(path):
        """`/api/models/me/mine`, `/me/mine` or `/api/spaces/me/demo` as the repository's key."""
        return path.removeprefix("/api").removeprefix("/models").strip("/")

    class Handler(Quiet):
        requests = log
        contents = repos
        private = hidden

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def refused(self):
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token == "nobody":
                self.json({"error": "unknown token"}, 401, X_Error_Message="Invalid credentials")
            elif token == "reader" and self.command in ("POST", "PUT"):
                self.json({"error": "no right"}, 403, X_Error_Message="You may not write")
            elif token == "stranger" and "/resolve/" in self.path:
                self.json({"error": "gated"}, 403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            else:
                return False
            return True

        def do_POST(self):
            body = self.body()
            log.append(("POST", self.path))
            host = f"http://{self.headers['Host']}"
            if self.refused():
                return None
            if self.path == "/api/repos/create":
                name = json.loads(body)
                repo = f"{name.get('organization') or 'me'}/{name['name']}"
                if name.get("type") == "space":
                    assert name["sdk"] == "gradio"
                    repo = f"spaces/{repo}"
                if repo in repos:
                    return self.json({"url": f"{host}/{repo}", "name": repo}, 409)
                repos[repo] = [("0" * 40, {})]
                if name.get("private") or name.get("visibility") == "private":
                    hidden.add(repo)
                return self.json({"url": f"{host}/{repo}", "name": repo})
            if self.path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = [("lfs" if f["path"].endswith((".safetensors", ".jpg")) else "regular") for f in files]
                return self.json(
                    {
                        "files": [
                            {"path": f["path"], "uploadMode": m, "shouldIgnore": False}
                            for f, m in zip(files, modes, strict=True)
                        ]
                    }
                )
            if self.path.endswith("/info/lfs/objects/batch"):
                asked = json.loads(body)["objects"]
                objects = [
                    {**o, "authenticated": True, "actions": {"upload": {"href": f"{host}/lfs/{o['oid']}"}}}
                    for o in asked
                ]
                return self.json({"transfer": "basic", "objects": objects})
            if "/commit/" in self.path:
                return self.commit(named(self.path.split("/commit/")[0]), body, host)
            return self.json({"error": "unknown"}, 404)

        def commit(self, repo, body, host):
            import base64

            files = dict(repos[repo][-1][1])
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = blobs[value["oid"]]
                elif entry["key"] == "deletedFile":
                    del files[value["path"]]
            oid = hashlib.sha1(body).hexdigest()
            repos[repo].append((oid, files))
            return self.json(
                {"success": True, "commitOid": oid, "commitUrl": f"{host}/{repo}/commit/{oid}", "hookOutput": ""}
            )

        def do_PUT(self):
            body = self.body()
            log.append(("PUT", self.path))
            blobs[hashlib.sha256(body).hexdigest()] = body
            self.answer(200)

        def do_GET(self):
            log.append((self.command, self.path))
            if self.refused():
                return None
            path = self.path.split("?")[0]
            api = path.startswith(("/api/models/", "/api/spaces/"))
            if api and "/revision/" not in path and "/tree/" not in path:
                path += "/revision/main"
            for separator in ("/revision/", "/tree/", "/resolve/"):
                if separator in path:
                    repo, _, rest = path.partition(separator)
                    revision, _, name = rest.partition("/")
                    return self.content(named(repo), revision, name, separator)
            return self.json({"error": "unknown"}, 404)

        do_HEAD = do_GET

        def content(self, repo, revision, name, kind):
            if repo not in repos:
                return self.json({"error": "no repo"}, 404, X_Error_Code="RepoNotFound")
            found = [c for c in repos[repo] if revision in (c[0], "main")]
            if not found:
                return self.json({"error": "no revision"}, 404, X_Error_Code="RevisionNotFound")
            oid, files = found[-1]
            if kind == "/revision/":
                return self.json({"id": repo, "sha": oid, "siblings": [{"rfilename": n} for n in files], "tags": []})
            if kind == "/tree/":
                return self.json(
                    [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()]
                )
            if name not in files:
                return self.json({"error": "no entry"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            return self.resolve(files[name], oid, weights=name.endswith(".safetensors"))

        def resolve(self, body, oid, *, weights):
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            rest, code = body[start:], 206 if start else 200
            headers = {
                "X_Repo_Commit": oid,
                "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                "Content_Length": str(len(rest)),
            }
            if start:
                headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if weights and self.command == "GET" and faults and faults.pop(0) == "cut":
                self.answer(code, rest[: len(rest) // 2], **headers)
                self.wfile.flush()
                self.close_connection = True
                return None
            return self.answer(code, rest, **headers)

    return Handler
