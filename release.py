"""Stamps a new version: `python release.py 0.2.0` writes it into the package, the citation and the changelog."""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent


def stamp(root: Path, version: str, day: datetime.date) -> list[str]:
    """Writes the version into a checkout and returns the files' names; raises ValueError, before writing, if it can't."""
    if not (match := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)):
        raise ValueError(f"{version!r} is not a version; write MAJOR.MINOR.PATCH, such as 0.2.0")
    texts = {
        name: (root / name).read_text(encoding="utf-8")
        for name in ("sslzoo/__init__.py", "CITATION.cff", "CHANGELOG.md")
    }
    present = re.search(r'^__version__ = "(\d+)\.(\d+)\.(\d+)"$', texts["sslzoo/__init__.py"], re.M)
    if present is None:
        raise ValueError("sslzoo/__init__.py has no line __version__ = …")
    heading = re.search(r"^## \[?(\d+\.\d+\.\d+)", texts["CHANGELOG.md"], re.M)  # absent before the first release
    old, new = (tuple(map(int, found.groups())) for found in (present, match))
    if new < old or (new == old and heading is not None):
        raise ValueError(f"{version} is not newer than {'.'.join(map(str, old))}")
    _, unreleased, rest = texts["CHANGELOG.md"].partition("## Unreleased\n")
    if not re.search(r"^- ", re.split(r"^## ", rest, maxsplit=1, flags=re.M)[0], re.M):
        raise ValueError("CHANGELOG.md has nothing under ## Unreleased; write what changed")
    texts["sslzoo/__init__.py"] = texts["sslzoo/__init__.py"].replace(present[0], f'__version__ = "{version}"')
    cited = re.sub(r"^date-released: .*\n", "", texts["CITATION.cff"], flags=re.M)
    texts["CITATION.cff"] = re.sub(r"^version: .*$", f"version: {version}\ndate-released: {day}", cited, flags=re.M)
    texts["CHANGELOG.md"] = texts["CHANGELOG.md"].replace(unreleased, f"## Unreleased\n\n## {version} - {day}\n", 1)
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    return list(texts)


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise ValueError("name the version; type: make release VERSION=0.2.0")
        print("stamped", ", ".join(stamp(ROOT, sys.argv[1], datetime.date.today())))
    except ValueError as error:
        sys.exit(f"error: {error}")
