"""The generated parts of the README; `python -m tests.generated` writes them."""

import re
import subprocess
import sys
from pathlib import Path

from sslzoo import registry

README = Path(__file__).parent.parent / "README.md"


def help_text():
    """The program's own help."""
    run = [sys.executable, "-m", "sslzoo", "--help"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env={"COLUMNS": "100", "PATH": ""})
    return f"```text\n{done.stdout.strip()}\n```\n"


def zoo_table():
    """Every known encoder, a row each."""
    rows = ["| name | method | backbone | epochs | linear top-1 | license |", "|---|---|---|---|---|---|"]
    for s in registry.known().values():
        epochs, top1 = (f"{v:g}" if v else "" for v in (s.epochs, s.linear_top1 and round(100 * s.linear_top1, 1)))
        rows.append(f"| `{s.name}` | {s.method} | {s.backbone} | {epochs} | {top1} | {s.license} |")
    return "\n".join(rows) + "\n"


def score_table():
    """The scores of the encoder inside the package at k=20."""
    rows = ["| data | this encoder | random weights | raw pixels |", "|---|---|---|---|"]
    for s in registry.known()[registry.PACKAGE_ENCODER].scores:
        if "k=20," in s.protocol:
            ours = f"**{100 * s.value:.1f}** ± {100 * s.interval:.1f}"
            rows.append(f"| {s.dataset} | {ours} | {100 * s.random_weights:.1f} | {100 * s.raw_pixels:.1f} |")
    return "\n".join(rows) + "\n"


SECTIONS = {"help": help_text, "zoo": zoo_table, "scores": score_table}


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for name, make in SECTIONS.items():
        start = re.search(rf"<!-- {name}:.*?-->\n", text)
        assert start, f"README.md has no section {name}"
        text = text[: start.end()] + make() + text[text.index(f"<!-- /{name} -->") :]
    README.write_text(text, encoding="utf-8")
