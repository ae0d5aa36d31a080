"""What does a search by look-alike find on ordinary photos? A contact sheet to look at, several encoders one below the other.

`python -m benchmarks.lookalikes FOLDER=QUERIES … [-m MODEL …] -o SHEET.html` draws so many queries from each folder (seed 0, from
the sorted files) and shows their five nearest pictures among all the folders', the query itself left out, by every encoder and
by random weights. It judges nothing: whether a neighbour is a sensible one is for the reader's eye.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

import sslzoo
from sslzoo import registry
from sslzoo.contact_sheet import Picture, contact_sheet
from sslzoo.embeddings import normalize
from sslzoo.images.sources.item import is_image_name

NEIGHBOURS = 5


def pictures(folder: str) -> list[str]:
    return sorted(str(file) for file in Path(folder).rglob("*") if is_image_name(file.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folders", nargs="+", metavar="FOLDER=QUERIES")
    parser.add_argument(
        "-m", "--model", action="append", help="an encoder; several times for several (default: the package's)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    draw, files, queries = random.Random(0), list[str](), list[str]()
    for folder, _, count in (each.rpartition("=") for each in arguments.folders):
        if not folder or not count.isdigit():
            parser.error(f"{folder or count}: say how many of its pictures are queries, as in {folder or count}=10")
        found = pictures(folder)
        if int(count) > len(found):
            parser.error(f"{folder} has {len(found)} pictures, which are fewer than {count} queries")
        files += found
        queries += draw.sample(found, int(count))

    specs = [registry.resolve(name) for name in arguments.model or [registry.PACKAGE_ENCODER]]
    rows: dict[str, list[tuple[str, list[Picture]]]] = {query: [] for query in queries}
    for spec in {each.name: each for each in (*specs, *map(registry.random_twin, specs))}.values():
        embedded = sslzoo.embed(files, spec, precision="fp32", progress=False)
        place = {id_: row for row, id_ in enumerate(embedded.ids)}
        if lost := [query for query in queries if query not in place]:
            parser.error(f"{lost[0]} can't be read; move it out of its folder and repeat the command")
        vectors = normalize(np.asarray(embedded.vectors, np.float32))
        for query in queries:
            cosines = vectors @ vectors[place[query]]
            cosines[place[query]] = -2
            nearest = np.argsort(-cosines)[:NEIGHBOURS]
            shown = [Picture(Path(query).name, first=True, image=Path(query))] + [
                Picture(Path(embedded.ids[row]).name, f"cosine {cosines[row]:.2f}", image=Path(embedded.ids[row]))
                for row in nearest
            ]
            rows[query].append((spec.name, shown))
    title = f"{len(queries)} queries among {len(files)} pictures"
    arguments.output.write_text(
        contact_sheet(title, [row for each in rows.values() for row in each], {}), encoding="utf-8"
    )
    print(f"{arguments.output}: {title}, {len(queries)} x {len(rows[queries[0]])} rows")


if __name__ == "__main__":
    main()
