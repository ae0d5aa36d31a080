"""Model folders on the Hugging Face Hub: download one at a revision, push one; the one place that imports huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from sslzoo.errors import InputError, WeightsError
from sslzoo.hub.card import HERE
from sslzoo.hub.folder import CARD, CONFIG, read_config, read_weights, weight_files
from sslzoo.hub.licenses import NOT_STATED

HUB_PREFIX = "hf-hub:"
NEEDED = [CONFIG, "*.safetensors", "*.safetensors.index.json"]
# What a repository of ours holds besides its card and config: weights, results, pictures, the record of the run.
PUSHED = (
    "*.safetensors",
    "*.safetensors.index.json",
    ".eval_results/*.yaml",
    "*.jpg",
    "*.png",
    "run.json",
    "log.jsonl",
    "recipe.toml",
)


def download(name: str, *, weights: bool = True) -> Path:
    """The folder of "hf-hub:ORG/REPO[@REVISION]" in the Hub's own cache; raises WeightsError saying what to type."""
    from huggingface_hub import snapshot_download

    repo, revision = _parts(name)
    patterns = NEEDED if weights else [CONFIG]
    with _explained(repo):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))


def is_downloaded(name: str) -> bool:
    """Whether the weights of "hf-hub:ORG/REPO[@REVISION]" lie in the Hub's own cache."""
    from huggingface_hub import errors, snapshot_download

    repo, revision = _parts(name)
    try:
        found = snapshot_download(repo, revision=revision, allow_patterns=NEEDED, local_files_only=True)
        return bool(weight_files(Path(found)))
    except (errors.LocalEntryNotFoundError, WeightsError):  # not there, or not all of its shards
        return False


def _parts(name: str) -> tuple[str, str | None]:
    """The repository and the revision, where one is named."""
    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not _is_repository(repo):
        raise InputError(f"{name!r} is no repository; write hf-hub:ORG/REPO or hf-hub:ORG/REPO@REVISION")
    return repo, revision or None


def _is_repository(name: str) -> bool:
    """Whether the Hub takes ORG/NAME as the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def commit_of(url: str) -> str:
    """The commit that the file at this address of the Hub was taken from."""
    from huggingface_hub import get_hf_file_metadata

    with _explained(url):
        return get_hf_file_metadata(url).commit_hash or url.partition("/resolve/")[2].partition("/")[0]


@dataclass(frozen=True)
class Pushed:
    """What a push did, line by line, and the name that loads just these weights (empty after a dry run)."""

    lines: list[str]
    source: str = ""


def push(folder: Path, repo: str, *, private: bool = False, dry_run: bool = False) -> Pushed:
    """Uploads a model folder as a repository of the Hub, made if need be; weights there that it doesn't hold are taken away.

    `dry_run` checks and uploads nothing. Raises InputError for a folder without a license, or whose card tells another
    one or leaves out the authors' file, and WeightsError when the weights aren't those of its config or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    spec = read_config(folder)
    if not _is_repository(repo):
        raise InputError(f"{repo!r} is no name for a repository; write ORG/NAME, of letters, digits, '-', '_' and '.'")
    if spec.license.lower() in NOT_STATED:
        raise InputError(
            f"{folder} states no license; export it anew with one (python -m training export RUN --license ID, sslzoo "
            f"convert --license ID), or write it into {folder / CONFIG} and {folder / CARD}"
        )
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} has no {CARD}, the card that states license and data; write one beside {CONFIG}")
    text = (folder / CARD).read_text(encoding="utf-8")
    told = re.search(r"^license: *(.*\S)", text, re.M)
    if told is None or told[1].lower() != spec.license.lower():
        raise InputError(
            f"{folder / CARD} says license {told[1] if told else 'nothing'} and {CONFIG} {spec.license}; make them equal"
        )
    if unnamed := [c.url for c in spec.checkpoints if c.url not in text]:
        raise InputError(f"{folder / CARD} doesn't say that the weights come from {unnamed[0]}; name its authors' file")
    read_weights(folder, spec)
    paths = [folder / CARD, folder / CONFIG, *sorted(path for pattern in PUSHED for path in folder.glob(pattern))]
    lines = [f"{path.relative_to(folder)}  {path.stat().st_size / 1e6:.1f} MB" for path in paths]
    if dry_run:
        return Pushed([f"would push to {repo} ({spec.license}):", *lines])
    with _explained(repo):
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        text = text.replace(HERE, f'sslzoo.load("{HUB_PREFIX}{repo}")')
        operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationAdd(CARD, text.encode())]
        operations += [CommitOperationAdd(str(path.relative_to(folder).as_posix()), path) for path in paths[1:]]
        ours = {operation.path_in_repo for operation in operations}
        # weights in one file where there were shards, or the other way about: what stays would be read, or downloaded, too
        old = {name for name in api.list_repo_files(repo) for pattern in NEEDED[1:] if fnmatch(name, pattern)}
        gone = sorted(name for name in old - ours if "/" not in name)
        operations += [CommitOperationDelete(name) for name in gone]
        lines += [f"{name}  taken away" for name in gone]
        done = api.create_commit(repo, operations, commit_message=f"Add {spec.name}")
    source = f"{HUB_PREFIX}{repo}@{done.oid}"
    return Pushed([f"pushed to {repo}: {done.commit_url}", f"load it with: sslzoo.load('{source}')", *lines], source)


def push_space(folder: Path, repo: str, *, private: bool = False, dry_run: bool = False) -> list[str]:
    """Uploads a folder with an `app.py` as a Gradio Space, made if need be; returns the lines that say what was done."""
    from huggingface_hub import HfApi

    if not (folder / "app.py").is_file():
        raise InputError(f"{folder} is no Space: it has no app.py")
    if not _is_repository(repo):
        raise InputError(f"{repo!r} is no name for a Space; write ORG/NAME, of letters, digits, '-', '_' and '.'")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = [path.relative_to(folder).as_posix() for path in paths]
    if dry_run:
        return [f"would push to the Space {repo}:", *names]
    with _explained(repo):
        api = HfApi()
        api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, repo_type="space", folder_path=folder, allow_patterns=names, commit_message="Update the demo"
        )
    return [f"pushed to the Space {repo}: {done.commit_url}", *names]


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turns the Hub client's errors into ours, each with what to type."""
    from huggingface_hub import errors

    # httpx's own errors, of whichever httpx the client uses, and Xet's, which older clients don't name
    broken: tuple[type[Exception], ...] = (OSError, errors.HTTPError, getattr(errors, "XetDownloadError", OSError))  # type: ignore[attr-defined]
    try:
        yield
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{repo} has no such revision; look at its commits, or leave @REVISION away") from None
    except errors.GatedRepoError:
        raise WeightsError(f"{repo} is gated; accept its terms on its page, then type: hf auth login") from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(f"{repo} doesn't exist, or is private; check its name, or type: hf auth login") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise WeightsError(
            f"{repo} is not in the cache and the Hub can't be reached; check the network, or load it once where there is one"
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        hint = "type: hf auth login" if status in (401, 403) else "if it is a self-hosted Hub, set HF_HUB_DISABLE_XET=1"
        raise WeightsError(f"the Hub answers {status} for {repo}; {hint}") from None
    except broken as error:
        xet = "xet" in str(error).lower()
        hint = (
            "if it is a self-hosted Hub, set HF_HUB_DISABLE_XET=1"
            if xet
            else "the same command goes on where it stopped"
        )
        raise WeightsError(f"the Hub's client failed for {repo} ({error}); {hint}") from None
