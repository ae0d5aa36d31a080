"""Starting and stopping the demo's server; gradio's own settings that matter for safety are made here, before its import."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from sslzoo.demo.collection import Photos, require_photos
from sslzoo.demo.sessions import Uploads
from sslzoo.errors import InputError, MissingExtra

UPLOAD_BYTES = 20 << 20
THREADS = 16


def require_gradio() -> None:
    """Raises MissingExtra where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("the demo needs Gradio, which is not installed: pip install 'sslzoo[demo]'")


class Server:
    """A running demo; `url` is where. Closing it deletes all uploads. Without `downloads`, visitors can't make it get weights."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        device: str = "auto",
        share: bool = False,
        auth: tuple[str, str] | None = None,
        downloads: bool = True,
    ) -> None:
        require_gradio()
        require_photos(folder)
        _require_host(host)
        self.uploads = Uploads()
        self._terminated = False
        self._before: Any = None  # what SIGTERM did
        try:
            self._start(folder, host, port, device, share, auth, downloads)
        except BaseException:
            self._remove()
            raise

    def _start(
        self,
        folder: Path,
        host: str,
        port: int | None,
        device: str,
        share: bool,
        auth: tuple[str, str] | None,
        downloads: bool,
    ) -> None:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(self.uploads.folder)
        from starlette.middleware import Middleware

        from sslzoo.demo.guard import Guard
        from sslzoo.demo.page import build
        from sslzoo.demo.shared import Demo, asset
        from sslzoo.demo.theme import theme

        self.photos = Photos(folder, device)
        token = secrets.token_urlsafe(9)
        host = host.strip("[]")
        local = host in ("127.0.0.1", "localhost", "::1") and not share
        guard: dict[str, Any] = {"photos": self.photos, "uploads": self.uploads, "token": token, "local": local}
        self.demo = Demo(self.photos, self.uploads, f"photo/{token}", downloads=downloads)
        self.page = build(self.demo)
        self.page.queue(default_concurrency_limit=4)
        try:
            _, self.url, self.share_url = self.page.launch(
                server_name=f"[{host}]" if ":" in host else host,  # as it stands in an address
                server_port=port,
                share=share,
                auth=auth,
                app_kwargs={"middleware": [Middleware(Guard, **guard)]},
                max_file_size=UPLOAD_BYTES,
                max_threads=THREADS,
                prevent_thread_lock=True,
                quiet=True,
                run_history=False,
                footer_links=[],
                ssr_mode=False,
                enable_monitoring=False,
                mcp_server=False,
                theme=theme(),
                css=asset("style.css"),
                js=asset("page.js"),
                favicon_path=str(Path(__file__).parent / "assets" / "favicon.svg"),
            )
        except OSError:  # its message names gradio's own settings
            taken = f"port {port} is taken, or not for this user" if port else "every port from 7860 to 7959 is taken"
            raise InputError(f"{taken}; choose another with --port") from None
        if share and not self.share_url:
            self.page.close(verbose=False)
            raise InputError("Gradio's relay gave no public address; try again later, or leave out --share")
        self.uploads.sweep_for_ever()

    def warm(self) -> None:
        """Opens the encoder, so that the first query finds it ready; may run beside the server.

        One whose weights are not here is left to the first query that needs it.
        """
        entry = self.demo.shelf.entries.get(self.photos.model)
        if entry is None or entry.ready:
            self.photos.ready()

    def wait(self) -> None:
        """Until Ctrl-C, or SIGTERM."""
        with contextlib.suppress(KeyboardInterrupt):
            while not self._terminated:
                time.sleep(0.1)

    def close(self) -> None:
        """Stops the server and deletes all uploads."""
        self.page.close(verbose=False)
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.uploads.folder, ignore_errors=True)

    def __enter__(self) -> Server:
        if threading.current_thread() is threading.main_thread():  # no other may set what a signal does
            self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def _terminate(self, *_: object) -> None:
        # services and containers are stopped so, and the uploads shall go; an exception could be raised where nobody hears it
        self._terminated = True

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _require_host(host: str) -> None:
    """Raises InputError for an address at which this machine can't listen; gradio would say that the port is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"{host} is no address of this machine ({error.strerror}); use --host 127.0.0.1, or 0.0.0.0 for all of them"
        ) from None
