"""What the server answers at all: gradio's own routes that the page needs, small pictures by row, and nothing else.

No path and no address from a browser or an API client is ever opened: pictures are asked for by row and a secret of this
start, `file=` leads only into the folder of uploads, and the routes of gradio that fetch for others are shut.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

import anyio.to_thread

from sslzoo.demo.collection import Photos
from sslzoo.demo.methods import code_of
from sslzoo.demo.sessions import Uploads

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]

SIZES = (160, 320, 1024)  # px; the small pictures that are made
PHOTO = re.compile(r"/photo/([\w-]+)/(\d{1,12})/(about|\d{1,5})", re.ASCII)
CODE = re.compile(r"/code/([a-z]+)")
OURS = re.compile(
    r"/(|config/?|theme\.css|login/?|logout|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(/\d+)?)"
    r"|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info/?|theme\.css|startup-events|app_id/?|login_check/?|user/?|upload|upload_progress|reset/?|cancel"
    r"|queue/(join|data|status)|heartbeat/[\w-]+|call/[\w-]+(/[\w-]+)?)"
)
FILE = "/gradio_api/file="
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MISSING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 160"><rect width="160" height="160" fill="#8884"/>'
    '<text x="80" y="84" text-anchor="middle" font-family="sans-serif" font-size="14" fill="#888">not found</text></svg>'
)
# the browser itself then asks no other host, whatever a page or a library in it tries
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """ASGI middleware around gradio's app. With `local`, it answers only to this machine's own names, whoever resolves to it."""

    def __init__(self, app: App, photos: Photos, uploads: Uploads, token: str, local: bool = False) -> None:
        self.app, self.photos, self.uploads, self.token, self.local = app, photos, uploads, token, local

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        path = scope["path"]
        if self.local and not _is_loopback(scope):
            await _answer(send, 403, b"This page answers to localhost alone; start it with --host to change that.")
        elif match := PHOTO.fullmatch(path):
            await self._photo(scope, send, *match.groups())
        elif match := CODE.fullmatch(path):
            await self._code(scope, send, match[1])
        elif OURS.fullmatch(path) or (path.startswith(FILE) and self.uploads.holds(unquote(path.removeprefix(FILE)))):
            await self.app(scope, receive, _with_headers(send))
        else:
            await _answer(send, 404, b"There is nothing here.")

    async def _photo(self, scope: Scope, send: Send, token: str, number: str, size: str) -> None:
        row = int(number)
        if not secrets.compare_digest(token, self.token) or not _logged_in(scope) or not self.photos.has(row):
            await _answer(send, 404, b"There is no such photo.")
        elif size == "about":
            facts = json.dumps({"id": self.photos.id(row)}).encode()
            await _answer(send, 200, facts, "application/json", cache=True)
        elif int(size) not in SIZES:
            await _answer(send, 404, b"There is no such size.")
        elif data := await anyio.to_thread.run_sync(self.photos.jpeg, row, int(size)):
            await _answer(send, 200, data, "image/jpeg", cache=True)
        else:
            await _answer(send, 200, MISSING.encode(), "image/svg+xml")

    async def _code(self, scope: Scope, send: Send, method: str) -> None:
        text = code_of(method) if _logged_in(scope) else None
        await _answer(send, 200 if text else 404, (text or "There is no such file.").encode())


def _is_loopback(scope: Scope) -> bool:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return re.sub(r":\d+$", "", host) in LOOPBACK


def _logged_in(scope: Scope) -> bool:
    """Whether gradio's login, where one is asked for, has let this browser in."""
    app = scope["app"]
    if app.auth is None:
        return True
    cookies = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"), "")
    tokens = re.findall(rf"access-token-(?:unsecure-)?{re.escape(app.cookie_id)}=([^;\s]+)", cookies)
    return any(token in app.tokens for token in tokens)


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return wrapped


async def _answer(send: Send, status: int, body: bytes, kind: str = "text/plain", *, cache: bool = False) -> None:
    kept = b"private, max-age=86400, immutable" if cache else b"no-store"
    headers = [
        (b"content-type", f"{kind}; charset=utf-8".encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", kept),
        *HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
