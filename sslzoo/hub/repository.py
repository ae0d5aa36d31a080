"""Model folders on the Hugging Face Hub: download one at a revision, push one; the one place that imports huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sslzoo.errors import InputError, WeightsError
from sslzoo.hub.folder import CARD, CONFIG, read_config, read_weights

HUB_PREFIX = "hf-hub:"


def download(name: str, *, weights: bool = True) -> Path:
    """The folder of "hf-hub:ORG/REPO[@REVISION]" in the Hub's own cache; raises WeightsError saying what to type."""
    from huggingface_hub import snapshot_download

    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"{name!r} is no repository; write hf-hub:ORG/REPO or hf-hub:ORG/REPO@REVISION")
    patterns = [CONFIG, *(["*.safetensors", "*.safetensors.index.json"] if weights else [])]
    with _explained(repo):
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))


def push(folder: Path, repo: str, *, private: bool = False, dry_run: bool = False) -> list[str]:
    """Uploads a model folder as a repository of the Hub, made if need be; returns the lines that say what was done.

    `dry_run` checks and uploads nothing. Raises InputError for a folder without a license or whose card tells another
    one, and WeightsError when the weights aren't those of its config or the Hub refuses.
    """
    from huggingface_hub import HfApi

    spec = read_config(folder)
    if spec.license.lower() in ("", "not stated", "unknown"):
        raise InputError(f"{folder} states no license; write one into {folder / CONFIG} and its card, then push again")
    told = re.search(r"^license: *(\S+)", (folder / CARD).read_text(encoding="utf-8"), re.M)
    if told is None or told[1].lower() != spec.license.lower():
        raise InputError(
            f"{folder / CARD} says license {told[1] if told else 'nothing'} and {CONFIG} {spec.license}; make them equal"
        )
    read_weights(folder, spec)
    files = sorted(p.name for p in folder.iterdir() if p.name in (CARD, CONFIG) or ".safetensors" in p.name)
    lines = [f"{name}  {(folder / name).stat().st_size / 1e6:.1f} MB" for name in files]
    if dry_run:
        return [f"would push to {repo} ({spec.license}):", *lines]
    with _explained(repo):
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=files, commit_message=f"Add {spec.name}"
        )
    return [
        f"pushed to {repo}: {done.commit_url}",
        f"load it with: sslzoo.load('{HUB_PREFIX}{repo}@{done.oid}')",
        *lines,
    ]


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turns the Hub client's errors into ours, each with what to type."""
    from huggingface_hub import errors

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
            f"{repo} is not in the cache and the Hub can't be reached; unset HF_HUB_OFFLINE or check the network"
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        hint = "type: hf auth login" if status in (401, 403) else "if it is a self-hosted Hub, set HF_HUB_DISABLE_XET=1"
        raise WeightsError(f"the Hub answers {status} for {repo}; {hint}") from None
