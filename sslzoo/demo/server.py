"""Starting and stopping the demo's server; gradio's own settings that matter for safety are made here, before its import."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
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
        self.uploads = Uploads()
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(self.uploads.folder)
        from starlette.middleware import Middleware

        from sslzoo.demo.guard import Guard
        from sslzoo.demo.page import build
        from sslzoo.demo.shared import Demo, asset
        from sslzoo.demo.theme import theme

        self.photos = Photos(folder, device)
        token = secrets.token_urlsafe(9)
        local = host in ("127.0.0.1", "localhost", "::1") and not share
        guard: dict[str, Any] = {"photos": self.photos, "uploads": self.uploads, "token": token, "local": local}
        self.demo = Demo(self.photos, self.uploads, f"photo/{token}", downloads=downloads)
        self.page = build(self.demo)
        self.page.queue(default_concurrency_limit=4)
        try:
            _, self.url, self.share_url = self.page.launch(
                server_name=host,
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
        except OSError as error:
            self._remove()
            raise InputError(f"port {port} can't be used ({error}); choose another with --port") from None
        self.uploads.sweep_for_ever()

    def warm(self) -> None:
        """Opens the encoder, so that the first query finds it ready; may run beside the server."""
        self.photos.ready()

    def wait(self) -> None:
        """Until Ctrl-C."""
        self.page.block_thread()

    def close(self) -> None:
        """Stops the server and deletes all uploads."""
        self.page.close(verbose=False)
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.uploads.folder, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
