"""Stamps a new version: `python release.py 0.2.0` writes it into the package, the citation and the changelog."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent


STAMPED = ("sslzoo/__init__.py", "CITATION.cff", "CHANGELOG.md")


def stamp(root: Path, version: str, day: datetime.date) -> list[str]:
    """Writes the version into a checkout and returns the files' names; raises ValueError, before writing, if it can't.

    A checkout that is stamped with it, and has changed nothing since, stays as it is: the build may be tried again.
    """
    if not (match := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)):
        raise ValueError(f"{version!r} is not a version; write MAJOR.MINOR.PATCH, such as 0.2.0")
    texts = {name: (root / name).read_text(encoding="utf-8") for name in STAMPED}
    present = re.search(r'^__version__ = "(\d+)\.(\d+)\.(\d+)"$', texts["sslzoo/__init__.py"], re.M)
    if present is None:
        raise ValueError("sslzoo/__init__.py has no line __version__ = …")
    heading = re.search(r"^## \[?(\d+\.\d+\.\d+)", texts["CHANGELOG.md"], re.M)  # absent before the first release
    old, new = (tuple(map(int, found.groups())) for found in (present, match))
    _, unreleased, rest = texts["CHANGELOG.md"].partition("## Unreleased\n")
    changed = re.search(r"^- ", re.split(r"^## ", rest, maxsplit=1, flags=re.M)[0], re.M)
    if new == old and heading is not None and heading[1] == version and not changed:
        return []
    if new < old or (new == old and heading is not None):
        raise ValueError(f"{version} is not newer than {'.'.join(map(str, old))}")
    if not changed:
        raise ValueError("CHANGELOG.md has nothing under ## Unreleased; write what changed")
    texts["sslzoo/__init__.py"] = texts["sslzoo/__init__.py"].replace(present[0], f'__version__ = "{version}"')
    cited = re.sub(r"^date-released: .*\n", "", texts["CITATION.cff"], flags=re.M)
    texts["CITATION.cff"] = re.sub(r"^version: .*$", f"version: {version}\ndate-released: {day}", cited, flags=re.M)
    texts["CHANGELOG.md"] = texts["CHANGELOG.md"].replace(unreleased, f"## Unreleased\n\n## {version} - {day}\n", 1)
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    return list(texts)


def require_clean(root: Path) -> None:
    """Raises ValueError where files differ from the last commit, but for those that a stamp writes."""
    status = subprocess.run(
        ["git", "status", "--porcelain", "-z"], cwd=root, capture_output=True, text=True, check=True
    )
    if changed := [line[3:] for line in status.stdout.split("\0") if line and line[3:] not in STAMPED]:
        raise ValueError(f"{', '.join(changed)} would be released uncommitted; commit or remove first (git status)")


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise ValueError("name the version; type: make release VERSION=0.2.0")
        require_clean(ROOT)
        print("stamped", ", ".join(stamp(ROOT, sys.argv[1], datetime.date.today()) or ["before"]))
    except ValueError as error:
        sys.exit(f"error: {error}")
