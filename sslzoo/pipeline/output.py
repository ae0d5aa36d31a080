"""Where a run writes: into its folder, or beside a folder that is there, whose place is taken once the new state is whole."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslzoo.embeddings import INDEX, Embeddings, is_embeddings, read_manifest, storable
from sslzoo.errors import InputError, OutputExists
from sslzoo.pipeline.writer import Writer, settings


@dataclass(frozen=True)
class Output:
    """A folder, the place where its new state is written, and the folder whose settings the run keeps (one of the two)."""

    folder: Path
    place: Path
    kept: Path | None = None
    earlier: dict[str, Any] | None = None  # the manifest in `kept`

    @property
    def finished(self) -> bool:
        """Whether the run that is to be continued was finished."""
        return self.earlier is not None and self.place == self.folder and bool(self.earlier["complete"])

    def writer(self, manifest: dict[str, Any], files: Sequence[Path] = ()) -> Writer:
        """The writer of the new state; raises InputError when the run that is to be continued was of something else.

        Only now, when the model is open, what an interrupted run left beside the folder goes, unless this one continues it.
        """
        if self.earlier is not None and self.kept is not None:
            require_same(self.earlier, manifest, self.kept)
        left = beside(self.folder, "new")
        if self.kept is None or _settings_in(left) != settings(manifest):
            shutil.rmtree(left, ignore_errors=True)
        started = self.kept == self.place and is_embeddings(self.place)
        return Writer(self.place, manifest, started=started, files=files)

    def close(self) -> Embeddings:
        """Puts the new state, which is whole, in its place."""
        if self.place != self.folder:
            if self.kept != self.folder:  # other vectors, and not these brought up to date
                shutil.rmtree(self.folder / INDEX, ignore_errors=True)
            self.folder.resolve().rename(beside(self.folder, "old"))
            settle(self.folder)
        return Embeddings.open(self.folder)


def prepare_output(
    folder: Path, *, resume: bool = False, update: bool = False, overwrite: bool = False, shard: bool = False
) -> Output:
    """Where a run may write that is to end in `folder`, and what it continues; nothing that is there is touched.

    Raises OutputExists when something is there and none of the options was asked for, and whatever was asked for when it
    is a folder of other things.
    """
    if storable(str(folder)) != str(folder):
        raise InputError(f"{storable(str(folder))} is not a name in UTF-8; choose another output with -o")
    settle(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return Output(folder, folder)
    if not folder.is_dir():
        raise OutputExists(f"{folder} is a file; choose another output with -o")
    ours, left = is_embeddings(folder), beside(folder, "new")
    if not ours and (others := [path for path in other_files(folder) if not path.name.startswith(".")]):
        raise OutputExists(
            f"{folder} is not an embeddings folder: it holds {others[0].name}; nothing is written there, choose another -o"
        )
    if update:
        manifest = read_manifest(folder)
        if manifest["complete"]:
            return Output(folder, _replacing(folder), folder, manifest)
        if not resume:
            raise InputError(
                f"{folder} is of a run that was not finished; --resume finishes it, with the images as they are now"
            )
    if resume and not shard and is_embeddings(left):  # an interrupted --overwrite or --update
        return Output(folder, left, left, read_manifest(left))
    if overwrite and not (resume and ours and not read_manifest(folder)["complete"]):
        return Output(folder, _replacing(folder))
    if resume or shard:
        return Output(folder, folder, folder, read_manifest(folder)) if ours else Output(folder, folder)
    raise OutputExists(
        f"{folder} already exists; add --update to embed what is new (of a folder, pattern or list), --overwrite to start "
        "anew, or choose another -o"
        if ours and read_manifest(folder)["complete"]
        else f"{folder} already exists; add --resume to go on, --overwrite to start anew, or choose another -o"
    )


def require_same(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Raises InputError when a folder was begun with another decode policy, model or source."""
    for key, shown, noun in (
        ("decode", "decode", "decode policy"),
        ("space", "model", "model"),
        ("source", "source", "source"),
        ("source_state", "source", "source"),
    ):
        if key in earlier and key in now and earlier[key] != now[key]:
            was, present = earlier[shown], now[shown]
            if was == present:
                state = "files, by size and time," if noun == "source" else "weights, sizes or precision"
                raise InputError(
                    f"{folder} was begun with the same {noun} in another state ({was}: its {state} have changed since); "
                    "choose another -o, or make it again: sslzoo embed … --overwrite"
                )
            raise begun_with_another(folder, noun, was, present)


def begun_with_another(folder: Path, noun: str, was: object, now: object) -> InputError:
    """What a run is told that would go on with another one's folder."""
    return InputError(
        f"{folder} was begun with another {noun} ({was}, now {now}); go on with that one, choose another -o, "
        "or make it again: sslzoo embed … --overwrite"
    )


def settle(folder: Path) -> None:
    """Puts what lies beside a folder that was moved away in its place; also what a crash within this left undone.

    The users' own files, and an index, which knows the parts that it was made of, come along.
    """
    old, new = beside(folder, "old"), beside(folder, "new")
    if not old.exists():
        return
    folder = folder.resolve()
    if not folder.exists():
        (new if is_embeddings(new) else old).rename(folder)
    if old.exists():
        for path in other_files(old):
            if not (folder / path.name).exists():
                path.rename(folder / path.name)
        shutil.rmtree(old)


def other_files(folder: Path) -> list[Path]:
    """What lies in a folder and is not of a run (or of its vectors, as `npy` and `csv` are), in order of name."""
    own = re.compile(r"part-\d+\.parquet|failures\.parquet|manifest\.json|shard-\d+\.json|int8\..*|npy|csv|\..*\.tmp")
    return sorted(path for path in folder.iterdir() if not own.fullmatch(path.name))


def beside(folder: Path, state: str) -> Path:
    """A folder beside this one, or beside the one that it links to, for its new state or for the old one."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.{state}")


def _replacing(folder: Path) -> Path:
    """Where the new state of a folder is written; raises InputError when it could not take the folder's place."""
    if os.path.ismount(folder):
        raise InputError(
            f"{folder} is a mount point, which can't be replaced as a whole; choose -o {folder / 'vectors'}"
        )
    return beside(folder, "new")


def _settings_in(folder: Path) -> str | None:
    try:
        return settings(read_manifest(folder))
    except InputError:
        return None
