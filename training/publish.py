"""Model folders to the Hugging Face Hub: one repository an encoder, and its revision written back into the zoo."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

from sslzoo import hub, registry
from sslzoo.errors import InputError
from sslzoo.spec import EncoderSpec
from training import checkpoint, recipe
from training.export import own_name, without_files

ROOT = Path(__file__).parent.parent
CARDS, SPACE, PHOTOS = hub.CARDS, ROOT / "app", ROOT / "examples" / "photos"


def publish(folder: Path, repo: str, *, private: bool = False, dry_run: bool = False) -> list[str]:
    """Pushes a model folder and writes where it lies into `zoo/NAME.json`, new if need be; returns what was done.

    Raises InputError for a folder without a license, or when the zoo pins other weights under that name.
    """
    spec = hub.read_config(folder)
    _require_new_or_same(folder, spec)
    done = hub.push(folder, repo, private=private, dry_run=dry_run)
    return done.lines if dry_run else [*done.lines, _enter(spec, done.source)]


def name_of(run: Path) -> str:
    """What a run's encoder is called when nobody names it; raises InputError where there is no checkpoint."""
    return own_name(recipe.from_dict(checkpoint.read(checkpoint.require(run), facts=True)["recipe"]), run)


def register(folder: Path) -> str:
    """Writes a folder of `hub_cards` into `zoo/NAME.json`, so that a checkout loads it by name, as its card then does.

    The encoder inside the package is written there too. Returns what was done; raises InputError for other weights than those
    of an encoder that was pushed, and for a folder that isn't called by its encoder's name there.
    """
    spec = hub.read_config(folder)
    if folder.resolve() != CARDS.resolve() / spec.name:
        raise InputError(f"{folder} is not {CARDS / spec.name}; write it there: python -m training export RUN -o …")
    known = registry.known().get(spec.name)
    kinds = {source.partition(":")[0] for source in known.sources} if known else set()
    if known and (known.checkpoints or kinds - {"checkout", "package"}):  # until its first push it may become better
        _require_new_or_same(folder, spec)
    card = folder / hub.CARD
    card.write_text(card.read_text(encoding="utf-8").replace(hub.HERE, f'sslzoo.load("{spec.name}")'), encoding="utf-8")
    if "package" not in kinds:
        return _enter(spec, f"checkout:{spec.name}")
    inside = hub.PACKAGE / spec.name
    for name in (hub.CONFIG, hub.WEIGHTS):
        shutil.copyfile(folder / name, inside / name)
    (inside / hub.CARD).write_text(without_files(card.read_text(encoding="utf-8")), encoding="utf-8")
    return f"wrote {inside}; {_enter(spec, f'package:{spec.name}')}"


def _require_new_or_same(folder: Path, spec: EncoderSpec) -> None:
    known = registry.known().get(spec.name)
    if known is not None and known.sha256 not in ("", spec.sha256):
        raise InputError(
            f"{folder} is not the {spec.name} that sslzoo/zoo pins (sha256 {spec.sha256[:16]}… and {known.sha256[:16]}…); "
            "give it a name of its own"
        )


def _enter(spec: EncoderSpec, source: str) -> str:
    """Writes the encoder into the zoo with a source, beside those of other kinds that it has there; says so."""
    known = registry.known().get(spec.name)
    others = [
        other for other in (known.sources if known else ()) if other.partition(":")[0] != source.partition(":")[0]
    ]
    default = known.default if known else _is_first(spec.name)
    path = registry.ZOO / f"{spec.name}.json"
    path.write_text(dataclasses.replace(spec, sources=(*others, source), default=default).to_json(), encoding="utf-8")
    registry.known.cache_clear()  # the next of several asks again what is there
    return f"wrote {source} into {path}"


def publish_all(namespace: str, *, private: bool = False, dry_run: bool = False) -> list[str]:
    """Every folder of `hub_cards`, each as NAMESPACE/NAME, and the demo in `app` as the Space NAMESPACE/sslzoo.

    All of them are checked before the first is pushed.
    """
    folders = sorted(path.parent for path in CARDS.glob(f"[!.]*/{hub.CONFIG}"))
    if not folders:
        raise InputError(f"{CARDS} holds no model folder; make one with: python -m training export RUN -o {CARDS}/NAME")
    space = (SPACE / "app.py").is_file()
    lines = []
    for dry in (True, False) if not dry_run else (True,):
        lines = [
            line for path in folders for line in publish(path, f"{namespace}/{path.name}", private=private, dry_run=dry)
        ]
        if space:
            lines += _push_space(f"{namespace}/sslzoo", private=private, dry_run=dry)
    return lines


def _push_space(repo: str, *, private: bool, dry_run: bool) -> list[str]:
    """The demo with the example photos that it shows, and their attribution."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "space"
        shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(PHOTOS, folder / "photos")
        return hub.push_space(folder, repo, private=private, dry_run=dry_run)


def _is_first(name: str) -> bool:
    """Whether no known encoder has that bare name yet: then this one is what it stands for."""
    return not any(other.partition(".")[0] == name.partition(".")[0] for other in registry.known())
