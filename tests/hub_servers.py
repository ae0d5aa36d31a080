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
