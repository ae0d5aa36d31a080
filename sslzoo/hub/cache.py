"""Model folders made from authors' checkpoints, kept under HF_HOME; a file's sha256 is pinned when it is first seen.

Layout, under `assets/sslzoo`: `models/<name>` (model folders), `pins/` (the sha256 by address), `downloads/` (what is on
its way; a checkpoint is deleted once it is converted).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock

from sslzoo.errors import WeightsError
from sslzoo.hub import folder as model_folder
from sslzoo.hub.download import download
from sslzoo.spec import Checkpoint, EncoderSpec

HUB = "https://huggingface.co"


def home() -> Path:
    """Where sslzoo keeps what it downloads, by the Hub's own rules (HF_ASSETS_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    if assets := os.environ.get("HF_ASSETS_CACHE"):
        return Path(assets).expanduser() / "sslzoo"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    return Path(root).expanduser() / "assets" / "sslzoo"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def cached(spec: EncoderSpec) -> Path | None:
    """The encoder's model folder in the cache, if it is there and holds the weights that the spec pins."""
    folder = home() / "models" / spec.name
    if not (folder / model_folder.CONFIG).is_file():
        return None
    return folder if spec.sha256 in ("", model_folder.read_config(folder).sha256) else None


def converted(spec: EncoderSpec) -> Path:
    """The encoder's model folder, downloaded and converted if it isn't cached yet.

    The checkpoints are tried in order, and one process at a time works on an encoder. Raises WeightsError with what was
    tried, and when a file is not the one that was pinned.
    """
    if found := cached(spec):
        return found
    if offline():
        raise WeightsError(
            f"HF_HUB_OFFLINE is set and {spec.name} is not in {home()}; unset it and type: sslzoo pull {spec.name}"
        )
    from sslzoo.convert import convert

    target = home() / "models" / spec.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{spec.name}.lock")):
        if found := cached(spec):  # another process was quicker
            return found
        checkpoint, file = _first(spec)
        made = convert(file, format=checkpoint.format, spec=spec, drop=checkpoint.drop)
        exact = dataclasses.replace(
            checkpoint, hash=f"sha256:{model_folder.sha256(file)}", size_bytes=file.stat().st_size
        )
        full = dataclasses.replace(spec, sources=(), checkpoints=(exact,))
        shutil.rmtree(target, ignore_errors=True)  # what an older pin left there
        written = model_folder.write(target, full, made.tensors, model_folder.card(full))
        if spec.sha256 and written.sha256 != spec.sha256:
            shutil.rmtree(target)
            raise WeightsError(f"{checkpoint.url} gives other weights than {spec.name}'s; see: sslzoo show {spec.name}")
        file.unlink()
    return target


def _first(spec: EncoderSpec) -> tuple[Checkpoint, Path]:
    """The first checkpoint that can be had, downloaded and compared with its pin."""
    if not spec.permissive:
        print(f"{spec.name}: license {spec.license}. {spec.license_note}".rstrip(), file=sys.stderr)
    causes = []
    for checkpoint in spec.checkpoints:
        name = checkpoint.url.rpartition("/")[2]
        path = home() / "downloads" / f"{_key(checkpoint.url)}-{name}"
        try:
            download(_address(checkpoint.url), path, expected=checkpoint.hash, size=checkpoint.size_bytes)
            _pin(checkpoint.url, path)
        except WeightsError as error:
            causes.append(str(error))
        else:
            return checkpoint, path
    raise WeightsError(f"no weights of {spec.name} could be had: {'; '.join(causes)}")


def _pin(url: str, path: Path) -> None:
    """Remembers a file's sha256 by its address, or raises WeightsError when another one was remembered."""
    pin = home() / "pins" / _key(url)
    actual = model_folder.sha256(path)
    if not pin.is_file():
        pin.parent.mkdir(parents=True, exist_ok=True)
        temporary = pin.with_name(f"{pin.name}.{os.getpid()}")
        temporary.write_text(f"{actual}  {url}\n", encoding="utf-8")
        os.replace(temporary, pin)
    elif (known := pin.read_text(encoding="utf-8").split()[0]) != actual:
        path.unlink()
        raise WeightsError(
            f"{url} has changed since it was first used: its sha256 was {known[:16]}… and is {actual[:16]}…; "
            f"if you trust the new file, delete {pin}"
        )


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _address(url: str) -> str:
    """The URL, at HF_ENDPOINT's host where it is one of the Hub."""
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    return endpoint + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url
