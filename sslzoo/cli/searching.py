"""`search`: nearest neighbours of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sslzoo.cli.options import Device, Json


def search(
    embeddings: Annotated[Path, typer.Argument(metavar="EMB", help="An embeddings folder.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="Image files, or ids of the collection.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Drop the query itself from its results.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Print the images nearest to each query, with their cosine."""
    from sslzoo.embeddings import Embeddings
    from sslzoo.search import search_images

    found = search_images(Embeddings.open(embeddings), queries, k, exclude_self=exclude_self, device=device)
    results = [
        (query, list(zip(ids, (float(score) for score in scores), strict=True)))
        for query, ids, scores in zip(queries, found.ids, found.scores, strict=True)
    ]
    if as_json:
        lines = [
            {"query": q, "neighbours": [{"id": id_, "score": round(s, 6)} for id_, s in near]} for q, near in results
        ]
        typer.echo(json.dumps(lines, indent=2))
        return
    for query, near in results:
        if len(results) > 1:
            typer.echo(f"{query}:")
        for id_, score in near:
            typer.echo(f"{score:.4f}  {id_}")
