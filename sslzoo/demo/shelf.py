"""The encoders that can look at the same photos: which there are, which need no network, and embedding with one of them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sslzoo import hub, registry
from sslzoo.demo.collection import Photos
from sslzoo.embeddings import is_embeddings, part_files, read_manifest, tables_by_part
from sslzoo.errors import InputError, Interrupted, SslzooError
from sslzoo.pipeline.output import beside
from sslzoo.pipeline.run import embed
from sslzoo.spec import EncoderSpec, space_id
from sslzoo.user_cache import user_cache

if TYPE_CHECKING:
    import pyarrow as pa

RANDOM = ("random-r18", "random-r50")
PORTION = 64  # photos between two steps of the progress that is shown
SECONDS = 0.4  # between two looks at how far it is


@dataclass(frozen=True)
class Entry:
    """An encoder: its spec, where its weights come from, and whether that needs no network."""

    spec: EncoderSpec
    origin: str
    ready: bool


class Shelf:
    """All encoders by name, and the photos as each of them sees them: embeddings kept in the user's cache."""

    def __init__(self, photos: Photos, *, downloads: bool = True) -> None:
        self.main, self.downloads = photos, downloads
        self._open: dict[str, Photos] = {photos.model: photos}
        self.jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every encoder that can be had, those that need no network first."""
        known = registry.known()
        found: dict[str, Entry] = {}
        for folder in sorted(hub.CARDS.glob("[!.]*/config.json")):
            spec = hub.read_config(folder.parent)
            if spec.name != registry.PACKAGE_ENCODER and hub.is_cached(spec):
                found[spec.name] = Entry(spec, "this checkout", True)
        package = known[registry.PACKAGE_ENCODER]
        found = {package.name: Entry(package, "the package", True)} | found
        if self.main.model not in found and self.main.model not in known:
            with contextlib.suppress(SslzooError):  # where it isn't any more, its vectors still are
                spec = self.main_spec
                found = {spec.name: Entry(spec, "your own", True)} | found
        found |= {name: Entry(registry.resolve(name), "seeded random weights", True) for name in RANDOM}
        others = [
            Entry(spec, "the authors" if spec.checkpoints else "this project", hub.is_cached(spec))
            for name, spec in known.items()
            # what lies in another checkout alone can be had nowhere; the collection's own has at least its vectors here
            if name not in found and (hub.is_cached(spec) or hub.is_published(spec) or name == self.main.model)
        ]
        others.sort(key=lambda entry: not entry.ready)
        return found | {entry.spec.name: entry for entry in others}

    @property
    def main_spec(self) -> EncoderSpec:
        """The encoder that made the collection."""
        return registry.resolve(registry.maker(self.main.manifest))

    @property
    def ready(self) -> list[str]:
        """The names of those that need no network, the collection's own first."""
        names = [name for name, entry in self.entries.items() if entry.ready]
        return sorted(names, key=lambda name: name != self.main.model)

    def suggested(self, most: int) -> list[str]:
        """One encoder of each method, as many as fit, the method of the collection's own first, and random weights.

        Of a method's encoders it is the one whose tag most methods have: those were trained alike, at one budget.
        """
        methods = {name: self.entries[name].spec.method for name in self.ready}
        tags = {name: name.partition(".")[2] for name in methods}
        shared = Counter(tag for _, tag in dict.fromkeys((methods[name], tags[name]) for name in methods))
        ranked = [tag for tag, _ in shared.most_common()]  # of equals the first, so that all methods take the same
        best: dict[str, str] = {}
        for name in sorted(methods, key=lambda name: ranked.index(tags[name])):
            best.setdefault(methods[name], name)
        trained = [best[method] for method in dict.fromkeys(methods.values()) if method != "random"]
        return [*trained[: most - 1], best["random"]]

    def folder(self, name: str) -> Path:
        """Where the embeddings of an encoder lie."""
        key = hashlib.sha256(str(self.main.source).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        # other weights of the same name, and other pixels, are another folder
        spec = self.entries[name].spec
        space = self.main.policy.space(space_id(spec.sha256, spec.preprocess, spec.geometry))
        return user_cache() / "demo" / key / f"{name}-{space[:8]}.emb"

    def photos(self, name: str) -> Photos | None:
        """The photos as this encoder sees them, or None where it has not embedded these yet."""
        if name not in self._open:
            folder = self.folder(name)
            if not _is_finished(folder) or not _files(folder).equals(_files(self.main.folder)):
                return None
            self.open(name)
        return self._open[name]

    def open(self, name: str) -> None:
        """Shows what this encoder has embedded from now on."""
        self._open[name] = Photos(self.folder(name), self.main.device)

    def require(self, name: object) -> None:
        """Raises InputError unless this is the name of an encoder here."""
        if not isinstance(name, str) or name not in self.entries:
            raise InputError(f"there is no encoder {name!r:.60}; those that there are stand under Models")

    @property
    def obstacle(self) -> str:
        """Why no other encoder can look at these photos; nothing where it can."""
        if self.main.source.is_dir():
            return ""
        return (
            f"Another encoder can look only at a folder of photos, and these came from {self.main.source}: embed a folder"
            " of them, and open that."
        )

    def start(self, name: str) -> Job:
        """Embeds the photos with an encoder, in the background; one that is running already is joined."""
        self.require(name)
        if self.obstacle:
            raise InputError(self.obstacle)
        if not (self.downloads or self.entries[name].ready):
            raise InputError(f"this page downloads no weights; look through {name} on a computer of your own")
        with self._lock:
            for other in self.jobs.values():
                if other.running and other.name != name:
                    raise InputError(
                        f"{other.name} is looking at the photos just now; wait until it is done, or stop it"
                    )
            job = self.jobs.get(name)
            if job is None or not job.running:
                job = self.jobs[name] = Job(self, name)
            return job


class Job:
    """One embedding in the background: how far it is, and how it ended."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        self.name, self.total = name, len(shelf.main) + shelf.main.failed
        self.looking, self.cancelled = False, False  # whether the weights are there, and whether to stop
        self.out, self.again = shelf.folder(name), _is_finished(shelf.folder(name))
        self.error = ""
        self._shelf, self._ready = shelf, shelf.entries[name].ready
        self._thread = threading.Thread(target=self._run, name=f"embed {name}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still computes."""
        return self._thread.is_alive()

    @property
    def done(self) -> int:
        """About how many photos are embedded, those of an earlier run that was stopped among them."""
        return min(self.total, PORTION * len(part_files(beside(self.out, "new") if self.again else self.out)))

    @property
    def told(self) -> str:
        """How far it is, in words."""
        if self.looking:
            return f"{self.done:,} of {self.total:,} photos"
        doing, here = ("opening it", "it is open") if self._ready else ("getting the weights", "they are here")
        return doing + (f", and stopping once {here}" if self.cancelled else "")

    def wait(self, seconds: float) -> None:
        """Waits for its end, at most so long."""
        self._thread.join(seconds)

    def _run(self) -> None:
        shelf = self._shelf
        try:
            spec = shelf.entries[self.name].spec
            embed(
                str(shelf.main.source), spec, self.out, device=shelf.main.device, policy=shelf.main.policy,
                resume=not self.again, update=self.again, part_size=PORTION, stop=self._stop,
            )  # fmt: skip
            shelf.open(self.name)
        except Interrupted:
            self.error = "Stopped; what is finished is kept, and embedding again goes on from there."
        except SslzooError as error:
            self.error = str(error)
        except Exception as error:  # whatever happens in the thread is told on the page
            self.error = f"{type(error).__name__}: {error}"

    def _stop(self) -> bool:
        self.looking = True
        return self.cancelled


def _is_finished(folder: Path) -> bool:
    return is_embeddings(folder) and bool(read_manifest(folder)["complete"])


def _files(folder: Path) -> pa.Table:
    """The files that were embedded, with size and time, by which a change is told."""
    import pyarrow as pa

    return pa.concat_tables(tables_by_part(part_files(folder), ["path", "bytes", "mtime_ns"]))
