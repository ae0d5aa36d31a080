"""What the commands share: their common options, and how a table is printed."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

import typer


def one_of(*values: str) -> dict[str, Callable[..., Any]]:
    """What makes an option take these values alone, anything else being wrong usage, and a shell offer them."""

    def check(given: str | list[str] | None) -> str | list[str] | None:
        for value in [given] if isinstance(given, str) else given or []:
            if value not in values:
                raise typer.BadParameter(f"{value!r} is not one of {', '.join(values)}")
        return given

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return {"callback": check, "autocompletion": complete}


def encoder_names(incomplete: str) -> list[str]:
    """What a shell offers where an encoder is named: bare names, and after a dot their tags."""
    from sslzoo import registry

    names = ["random-r18", "random-r50", *registry.known()]
    if "." not in incomplete:
        names = list(dict.fromkeys(name.partition(".")[0] for name in names))
    return [name for name in names if name.startswith(incomplete)]


Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        autocompletion=encoder_names,
        help="An encoder's name or model folder; by default the one inside the package.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[
    str,
    typer.Option(
        **one_of("auto", "fp32", "bf16", "fp16", "int8"),
        help="auto (bf16 where it is native and gives the same vectors), fp32, bf16, fp16 or int8.",
    ),
]
Workers = Annotated[int, typer.Option("-j", "--workers", min=0, help="Decode threads; 0 takes one per processor.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]


def number(value: float | None) -> str:
    """A number as briefly as it goes, "?" where it isn't known."""
    return "?" if value is None else f"{value:g}"


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, nothing where it isn't known."""
    # rounded first: 137 of 400 is 34.25 %, in floating point a little more or less by the way it was summed
    return "" if value is None else f"{100 * round(value, 6):.1f}"


def one_line(text: str) -> str:
    """A name as it may be printed: line breaks and other control characters, which names may hold, are written as escapes."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Prints rows of cells, the first being the header, in aligned columns on stdout."""
    rows = [tuple(one_line(cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
