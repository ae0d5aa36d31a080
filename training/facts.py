"""Where and with what a run was made, as its `run.json` tells."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

from sslzoo.backends.processor import native_bf16
from training import recipe


def start_facts(device: str, settings: recipe.Recipe, images: int) -> dict[str, object]:
    """Where and with what a run was made."""
    return {
        "commit": commit(),
        "processor": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "bf16": settings.precision == "bf16" or (settings.precision == "auto" and native_bf16(device)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "images": images,
    }


def commit() -> str:
    """The commit of this code, "-dirty" where a file differs from it; empty outside of a checkout, and without git."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, cwd=folder
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except OSError:
        return ""


def starts(path: Path, step: int, facts: Mapping[str, object]) -> list[dict[str, object]]:
    """After which step a run went on with what: the list in its facts' file, with this start where it differs from the last."""
    known = json.loads(path.read_text()).get("starts", []) if path.exists() else []
    now = {"step": step} | {key: facts[key] for key in ("commit", "processor", "threads", "torch")}
    earlier: list[dict[str, object]] = [start for start in known if start["step"] < step]  # others left nothing behind
    return earlier if earlier and earlier[-1] | {"step": step} == now else [*earlier, now]


def processor_name() -> str:
    """The processor's name with its vector extensions, which decide the speed."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        name = next(v.strip() for k, v in fields.items() if k.strip() == "model name")
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}{', bf16' if native_bf16() else ''})"


def record(path: Path, facts: Mapping[str, object]) -> None:
    """Adds facts to a JSON file, atomically."""
    known = json.loads(path.read_text()) if path.exists() else {}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(known | dict(facts), indent=2) + "\n")
    os.replace(temporary, path)
