"""`dedup` and `cluster`: putting a collection in order."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from sslzoo.cli.options import Json, print_table
from sslzoo.cli.searching import Folder, Html, write_sheet

SHOWN = 24  # pictures of a cluster on its contact sheet


def dedup(
    embeddings: Folder,
    threshold: Annotated[
        float,
        typer.Option(help="Cosine from which two images count as duplicates; what to take depends on the encoder."),
    ] = 0.97,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """List groups of near-duplicates, the one with the most pixels first; nothing is deleted.

    Groups are connected: one marked "via" is below the threshold beside the first, and here by its likeness to another.
    """
    from sslzoo.dedup import duplicates
    from sslzoo.index.folder import open_index

    index = open_index(embeddings)
    groups = duplicates(index, threshold)
    if html is not None:
        from sslzoo.contact_sheet import Picture

        rows = [
            (
                f"{len(g.ids)} images, keep {g.ids[0]}",
                [
                    Picture(id_, f"{score:.4f}, {width}x{height}", i == 0)
                    for i, (id_, score, (width, height)) in enumerate(zip(g.ids, g.scores, g.sizes, strict=True))
                ],
            )
            for g in groups
        ]
        write_sheet(html, f"Near-duplicates in {embeddings}", rows, index.collection.manifest)
    if as_json:
        typer.echo(json.dumps([asdict(group) for group in groups], indent=2))
        return
    table: list[tuple[str, ...]] = [("group", "", "cosine", "size", "id")]
    for number, g in enumerate(groups, 1):
        for i, (id_, score, (width, height)) in enumerate(zip(g.ids, g.scores, g.sizes, strict=True)):
            mark = "" if 0 < i <= g.copies(threshold) else "via" if i else "keep"  # by falling score
            table.append((str(number), mark, f"{score:.4f}", f"{width}x{height}", id_))
    if groups:
        print_table(table)
    more = sum(group.copies(threshold) for group in groups)
    told = f"groups: {len(groups)}, images that could go: {more} (cosine at least {threshold} to the one to keep)"
    if via := sum(len(group.ids) - 1 for group in groups) - more:
        told += f"; {via} marked via are less alike"
    typer.echo(told, err=True)


def cluster(
    embeddings: Folder,
    k: Annotated[int, typer.Option("-k", min=1, help="How many clusters.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the k-means.")] = 0,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Divide a collection into clusters (k-means, extra faiss), with their purity where labels are known."""
    from sslzoo.cluster import clusters, purity
    from sslzoo.index.folder import open_index

    index = open_index(embeddings)
    found = clusters(index, k, seed=seed)
    pure = purity(found)
    if html is not None:
        from sslzoo.contact_sheet import Picture

        rows = [
            (
                f"cluster {number}: {len(c.ids)} images"
                + (f", {100 * (c.share or 0):.0f} % {c.label}" if c.label else ""),
                [Picture(id_, f"{s:.4f}") for id_, s in zip(c.ids[:SHOWN], c.scores[:SHOWN], strict=True)],
            )
            for number, c in enumerate(found, 1)
        ]
        write_sheet(html, f"Clusters of {embeddings}", rows, index.collection.manifest)
    if as_json:
        typer.echo(json.dumps({"purity": pure, "clusters": [asdict(c) for c in found]}, indent=2))
        return
    table: list[tuple[str, ...]] = [("cluster", "images", "label", "share", "nearest to the centre")]
    for number, c in enumerate(found, 1):
        share = "" if c.share is None else f"{100 * c.share:.1f} %"
        table.append((str(number), str(len(c.ids)), c.label or "", share, c.ids[0]))
    print_table(table)
    if pure is not None:
        typer.echo(
            f"purity {100 * pure:.1f} % (share of labelled images with the commonest label of their cluster)", err=True
        )
