"""The demo as a Hugging Face Space: example photos, embedded at the start by the encoder inside the package."""

import os
import tempfile
from pathlib import Path

import sslzoo
from sslzoo.demo.server import Server

HERE = Path(__file__).resolve().parent
PHOTOS = next(folder for folder in (HERE / "photos", HERE.parent / "examples" / "photos") if folder.is_dir())

with tempfile.TemporaryDirectory() as folder:
    embeddings = Path(folder) / "photos.emb"
    sslzoo.embed(PHOTOS, out=embeddings)
    # visitors search, but can't make this computer download weights
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    with Server(embeddings, host="0.0.0.0", port=port, downloads=False) as server:
        print(server.url, flush=True)
        server.warm()
        server.wait()
