"""`index`, `search` and `export-vectors`: nearest neighbours of an image."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslzoo.cli.options import Device, Json, Quiet, one_line, one_of
from sslzoo.errors import InputError

if TYPE_CHECKING:
    from sslzoo.index.collection import Collection

Folder = Annotated[Path, typer.Argument(metavar="EMB", help="An embeddings folder.")]


def html_file(path: Path | None) -> Path | None:
    """The file to write, its folder made before anything is computed."""
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"{path.parent} can't be made ({error.strerror}); choose another file") from None
    return path


Html = Annotated[
    Path | None,
    typer.Option("--html", callback=html_file, help="Also write a contact sheet, one self-contained file."),
]


def write_sheet(path: Path, title: str, rows: list[Any], manifest: dict[str, Any]) -> None:
    """Writes a contact sheet, and says where, and which pictures it could not show."""
    from sslzoo.contact_sheet import contact_sheet, missing

    page = contact_sheet(title, rows, manifest)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # a query's name may be no UTF-8
    typer.echo(f"contact sheet: {path}", err=True)
    if said := missing(page, manifest):
        typer.echo(said, err=True)


def index(
    embeddings: Folder,
    kind: Annotated[
        str,
        typer.Option(
            **one_of("auto", "exact", "flat", "pq", "ivfpq", "rabitq", "ivf", "hnsw"),
            help="auto, exact, flat, pq, ivfpq, rabitq, ivf or hnsw; all but exact need FAISS.",
        ),
    ] = "auto",
    recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the true neighbours to find, measured on a sample.")
    ] = 0.95,
    memory: Annotated[str, typer.Option(help="What the structure that auto chooses may take, such as 4GB.")] = "4GB",
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="An id to take out of the index; may be repeated.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build it anew.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an index inside an embeddings folder, or bring it up to date; search finds it there."""
    from sslzoo.cli.process import make_lean
    from sslzoo.index import folder

    make_lean()
    if remove:
        made = folder.remove(embeddings, remove)
    else:
        made = folder.write_index(
            embeddings,
            kind,
            recall=recall,
            memory=_bytes(memory),
            rebuild=rebuild,
            say=lambda text: None if quiet else typer.echo(text, err=True),
        )
    measured = getattr(made, "recall", None)
    if as_json:
        typer.echo(json.dumps({"kind": made.kind, "vectors": len(made), "recall": measured}))
        return
    if measured is None:
        promise = "exact"
    elif getattr(made, "structure", None) is None:
        promise = f"too few for {made.kind}, so searched exactly until there are more"
    else:
        promise = f"recall {measured:.3f} on a sample"
    typer.echo(f"{embeddings / 'index'}: {made.kind}, {len(made)} vectors, {promise}")


def search(
    embeddings: Folder,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY", help="Image files, URLs, ids of the collection, .npy arrays; -: an image on stdin."
        ),
    ],
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="How many neighbours; by default 10, and all with --threshold.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Find all neighbours of at least this cosine.")] = None,
    prefix: Annotated[str, typer.Option(help="Find only ids that begin so, such as 'a/'.")] = "",
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Find only rows with this value; may be repeated.")
    ] = None,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Drop the query itself from its results.")
    ] = False,
    html: Html = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Print the images nearest to each query, with their cosine."""
    from sslzoo.cli.process import make_lean
    from sslzoo.index.folder import open_index
    from sslzoo.search import read_queries, search_by

    make_lean()
    found_in = open_index(embeddings)
    if found_in.unindexed:
        newer = f"{found_in.unindexed} newer images are not in the index; add them: sslzoo index {embeddings}"
        typer.echo(newer, err=True)
    read, failures = read_queries(found_in.collection, queries, device=device)
    for _, error in failures:
        typer.echo(f"error: {error}", err=True)
    for query in read:
        if query.row is not None and _another_file(query.name, query.row, found_in.collection):
            name = one_line(query.name)
            typer.echo(f"{name} is taken for the image of that id; for the file of that name here: ./{name}", err=True)
    failed: list[dict[str, Any]] = [{"query": q, "neighbours": [], "error": str(error)} for q, error in failures]
    if not read:
        if as_json:
            typer.echo(json.dumps(failed, indent=2))
        raise typer.Exit(1)
    found = search_by(
        found_in,
        read,
        k or (10 if threshold is None else None),
        exclude_self=exclude_self,
        threshold=threshold,
        prefix=prefix,
        where=dict(_condition(text) for text in where or ()),
    )
    results = [
        (query.name, list(zip(ids, (float(score) for score in scores), strict=True)))
        for query, ids, scores in zip(read, found.ids, found.scores, strict=True)
    ]
    if html is not None:
        from sslzoo.contact_sheet import Picture

        rows = []
        for query, (name, near), places in zip(read, results, found.rows, strict=True):
            pictures = [
                Picture(id_, f"{score:.4f}", place == query.row)
                for (id_, score), place in zip(near, places.tolist(), strict=True)
            ]
            if query.picture is not None or query.row not in (None, *places.tolist()):
                own = query.name if query.row is None else found_in.collection.ids_at([query.row])[0]
                pictures.insert(0, Picture(own, "query", True, query.picture))
            rows.append((name, pictures))
        write_sheet(html, f"Search in {embeddings}", rows, found_in.collection.manifest)
    if as_json:
        lines = [
            {"query": q, "neighbours": [{"id": id_, "score": round(s, 6)} for id_, s in near]} for q, near in results
        ]
        typer.echo(json.dumps([*lines, *failed], indent=2))
        results = []
    for name, near in results:
        if not near:
            typer.echo(f"nothing found for {one_line(name)}", err=True)
        if len(queries) > 1 or len(results) > 1:
            typer.echo(f"{one_line(name)}:")
        for id_, score in near:
            typer.echo(f"{score:.4f}  {one_line(id_)}")
    if failures:
        raise typer.Exit(3)


def export_vectors(
    embeddings: Folder,
    to: Annotated[
        str, typer.Option("--to", **one_of("lancedb", "qdrant"), help="lancedb or qdrant; each is an extra.")
    ],
    at: Annotated[str, typer.Option("--at", help="LanceDB: a folder. Qdrant: the server's URL.")],
    table: Annotated[str, typer.Option(help="The table or collection to write.")] = "images",
    as_json: Json = False,
) -> None:
    """Hand a collection to a vector database: ids, columns, vectors and their space; repeat it to go on."""
    from sslzoo.export_vectors import export_vectors as run

    rows = run(embeddings, to, at, table=table)
    typer.echo(json.dumps({"rows": rows, "table": table}) if as_json else f"{at}: {rows} vectors in {table}")


def _another_file(name: str, row: int, collection: Collection) -> bool:
    """Whether a query that is an id also names a file from here, and not the one that the id stands for."""
    from sslzoo.thumbnails import image_file

    if not os.path.isfile(name) or collection.ids_at([row])[0] != name:
        return False
    own = image_file(name, collection.manifest, listed=True)
    return own is None or not own.samefile(name)


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not (column and equals):
        raise InputError(f"--where {text!r} is not COLUMN=VALUE; type for example --where label=cat")
    return column, value


def _bytes(text: str) -> int:
    """A size such as 4GB or 500 MB, in bytes."""
    match = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise InputError(f"--memory {text!r} is not a size; type for example --memory 4GB")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
