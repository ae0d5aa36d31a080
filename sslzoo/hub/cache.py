"""Model folders made from authors' checkpoints, kept under HF_HOME; files and weights are pinned when they are first seen.

Layout, under `assets/sslzoo`: `models/<name>` (model folders), `pins/` (files' sha256 by address, weights' digest by the
encoder's name), `downloads/` (what is on its way; a checkpoint is deleted once it is converted).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sslzoo.errors import SslzooError, WeightsError
from sslzoo.hub import folder as model_folder
from sslzoo.hub import licenses
from sslzoo.hub.card import card
from sslzoo.hub.download import download
from sslzoo.hub.repository import commit_of
from sslzoo.spec import Checkpoint, EncoderSpec, Head

if TYPE_CHECKING:
    from sslzoo.convert import Converted

HUB = "https://huggingface.co"
CONVERSION = "conversion.json"  # beside a converted model: its file's format, and the entries that were left out


class Changed(WeightsError):
    """Other bytes or weights than at the first use: never a reason to go on to a mirror."""


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
    target = home() / "models" / spec.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{spec.name}.lock")):
        if found := cached(spec):  # another process was quicker
            return found
        checkpoint, file, made = _first(spec)
        full = dataclasses.replace(spec, sources=(), checkpoints=(_exact(checkpoint, file),))
        shutil.rmtree(target, ignore_errors=True)  # what an older pin left there
        within = spec.head is not None and spec.head.checkpoint is None  # the authors' classifier is in the same file
        head = made.head if within else None
        written = model_folder.write(target, full, made.tensors, card(full), head=head)
        if spec.sha256 and written.sha256 != spec.sha256:
            shutil.rmtree(target)
            raise WeightsError(f"{checkpoint.url} gives other weights than {spec.name}'s; see: sslzoo show {spec.name}")
        # only now: what isn't the checkpoint, such as a login page in its place, must leave no pin
        _pin(_file_pin(checkpoint.url), model_folder.sha256(file), checkpoint.url)
        _pin(_weights_pin(spec), model_folder.digest(made.tensors), checkpoint.url)
        facts = {"format": made.format, "dropped": made.dropped}
        (target / CONVERSION).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        file.unlink()
    return target


def add_head(target: Path, spec: EncoderSpec) -> None:
    """Gets the authors' linear classifier and puts it into the encoder's model folder in the cache.

    Raises WeightsError where none was published, or the file isn't the classifier of these weights.
    """
    if spec.head is None:
        raise WeightsError(f"no linear classifier was published with {spec.name}; see: sslzoo show {spec.name}")
    if spec.head.checkpoint is None or target.parent != home() / "models":
        raise WeightsError(f"{target} lacks {model_folder.HEAD}, the authors' classifier; get the model folder again")
    if offline():
        raise WeightsError(
            f"HF_HUB_OFFLINE is set and the classifier of {spec.name} is not in {target}; unset it and try again"
        )
    from sslzoo.convert import convert_head

    with FileLock(target.with_name(f".{target.name}.lock")):
        config = model_folder.read_config(target)
        file = _get(spec.head.checkpoint)
        weights = model_folder.read_weights(target, config)
        try:
            head = convert_head(file, weights, spec, format=spec.head.checkpoint.format)
        except SslzooError:
            file.unlink()
            raise
        _pin(_file_pin(spec.head.checkpoint.url), model_folder.sha256(file), spec.head.checkpoint.url)
        model_folder.save(head, target / model_folder.HEAD)
        pinned = Head(_exact(spec.head.checkpoint, file), model_folder.sha256(target / model_folder.HEAD))
        model_folder.write_config(target, dataclasses.replace(config, sources=(), head=pinned))
        file.unlink()


def _exact(checkpoint: Checkpoint, file: Path) -> Checkpoint:
    """The checkpoint with the whole hash and the size of the file that it turned out to be."""
    return dataclasses.replace(checkpoint, hash=f"sha256:{model_folder.sha256(file)}", size_bytes=file.stat().st_size)


def _get(checkpoint: Checkpoint) -> Path:
    """A checkpoint's file, downloaded and compared with its pin."""
    name = checkpoint.url.rpartition("/")[2]
    path = home() / "downloads" / f"{_key(checkpoint.url)}-{name}"
    download(_address(checkpoint.url), path, expected=checkpoint.hash, size=checkpoint.size_bytes)
    try:
        _compare(_file_pin(checkpoint.url), model_folder.sha256(path), checkpoint.url)
    except Changed:
        path.unlink()
        raise
    return path


def _first(spec: EncoderSpec) -> tuple[Checkpoint, Path, Converted]:
    """The first checkpoint that can be had and converted, its file, and what it holds.

    A mirror must hold the weights of the first use, which an address alone doesn't tell. Raises Changed for others.
    """
    from sslzoo.convert import convert

    licenses.tell(spec)
    causes = []
    for checkpoint in spec.checkpoints:
        try:
            path = _get(checkpoint)
        except Changed:
            raise
        except WeightsError as error:
            causes.append(str(error))
            continue
        try:
            made = convert(path, format=checkpoint.format, spec=spec, drop=checkpoint.drop)
            if not spec.sha256:  # what the zoo pins is compared once it is written
                _compare(_weights_pin(spec), model_folder.digest(made.tensors), checkpoint.url)
        except SslzooError as error:
            path.unlink()
            if isinstance(error, Changed):
                raise
            causes.append(f"{checkpoint.url}: {error}")
            continue
        return checkpoint, path, made
    raise WeightsError(f"no weights of {spec.name} could be had: {'; '.join(causes)}")


def _compare(pin: Path, actual: str, url: str) -> None:
    """Raises Changed when the hash of what came from the URL is not the pinned one."""
    if pin.is_file() and (known := pin.read_text(encoding="utf-8").split()[0]) != actual:
        raise Changed(
            f"{url} has changed since it was first used, or is no mirror of what was: the sha256 was {known[:16]}… and "
            f"is {actual[:16]}…; if you trust the new file, delete {pin}"
        )


def _pin(pin: Path, actual: str, url: str) -> None:
    """Remembers the hash of what came from a URL."""
    pin.parent.mkdir(parents=True, exist_ok=True)
    temporary = pin.with_name(f"{pin.name}.{os.getpid()}")
    temporary.write_text(f"{actual}  {url}\n", encoding="utf-8")
    os.replace(temporary, pin)


def _file_pin(url: str) -> Path:
    return home() / "pins" / _key(url)


def _weights_pin(spec: EncoderSpec) -> Path:
    return home() / "pins" / f"{spec.name}.weights"


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def pinned_url(url: str) -> str:
    """An address on the Hub with its revision as a whole commit id, as the Hub tells it now; any other as it is."""
    parts = url.partition("/resolve/")
    if offline() or not url.startswith(f"{HUB}/") or not parts[1]:
        return url
    return f"{parts[0]}/resolve/{commit_of(_address(url))}/{parts[2].partition('/')[2]}"


def _address(url: str) -> str:
    """The URL, at HF_ENDPOINT's host where it is one of the Hub."""
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    return endpoint + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url
