"""`demo`: one's photos in the browser."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from sslzoo.cli.embedding import stem
from sslzoo.cli.options import Device, Model, Quiet
from sslzoo.cli.process import make_lean
from sslzoo.errors import InputError, SslzooError


def demo(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder of images, or an embeddings folder.")],
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860 on.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 lets everybody in your network look at the photos.")
    ] = "127.0.0.1",
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Also make a public address through Gradio's relay: whoever knows it can look at the photos until you stop.",
        ),
    ] = False,
    auth: Annotated[
        str | None, typer.Option(metavar="USER:PASSWORD", help="Ask for this login before anything is shown.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Embeddings of a folder; by default ./<PATH's name>.emb.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Open a page in the browser: search, map, duplicates, and encoders side by side; a folder is embedded first."""
    from sslzoo.demo.server import Server, require_gradio
    from sslzoo.embeddings import is_embeddings

    require_gradio()
    login = _login(auth)
    if is_embeddings(path):
        if model is not None:
            raise InputError(f"{path} is embedded already; name the folder of images to use -m {model}")
        folder = Path(path)
    else:
        folder = _embedded(path, output or Path(stem(path) + ".emb"), model, device, progress=not quiet)
    with Server(folder, host=host, port=port, device=device, share=share, auth=login) as server:
        typer.echo(server.url)
        if share:
            typer.echo(f"{server.share_url}  (public: whoever knows this address can look at the photos)")
        typer.echo("stop with Ctrl-C", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            try:
                server.warm()
            except SslzooError as error:  # all else needs no encoder
                typer.echo(f"pictures of your own can't be searched for: {error}", err=True)
            server.wait()


def _embedded(source: str, out: Path, model: str | None, device: str, *, progress: bool) -> Path:
    """The embeddings folder of a folder of images, made or brought up to date."""
    from sslzoo.embeddings import is_embeddings, read_manifest
    from sslzoo.images.discover import open_source
    from sslzoo.images.sources.folder import FolderReader
    from sslzoo.pipeline.run import embed
    from sslzoo.registry import PACKAGE_ENCODER, resolve

    if not Path(source).exists():
        raise InputError(f"{source} does not exist; name a folder of image files, or an embeddings folder")
    if not (Path(source).is_dir() and isinstance(open_source(source), FolderReader)):
        raise InputError(
            f"{source} is no folder of image files, from which the page shows the photos; unpack it, and name that folder"
        )
    if model is None:
        typer.echo("by the encoder inside the package; for stronger ones (-m NAME) see: sslzoo models", err=True)
    make_lean()
    there = read_manifest(out) if is_embeddings(out) else None
    if there and there["model"] != (name := resolve(model or PACKAGE_ENCODER).name):
        raise InputError(
            f"{out} was made by {there['model']}, not {name}; add -m {there['model']}, or choose another -o"
        )
    finished = there is not None and there["complete"]
    embed(source, model, out, device=device, resume=not finished, update=finished, progress=progress)
    return out


def _login(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise InputError("--auth needs a name and a password; type --auth USER:PASSWORD")
    return user, password
