"""The hub in few words: resolve a revision, fetch files, and say plainly what went wrong."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from espalier.errors import EnvironmentFailure, InputError

ANSWER_SECONDS = 10.0
"""How long the hub may take to answer the first question; downloads have their own time-outs."""
WORKERS = 4


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at one commit.

    Attributes:
        kind: `model` or `dataset`.
        commit: the 40 hexadecimal digits that the revision resolved to.
        files: its files' paths.
    """

    hub_id: str
    kind: str
    commit: str
    files: tuple[str, ...]


def token() -> str | bool:
    """The hub's token from the file that HF_TOKEN_PATH names; False: anonymous.

    Raises:
        EnvironmentFailure: the file is named but cannot be read.
    """
    path = os.environ.get("HF_TOKEN_PATH")
    if not path:
        return False
    try:
        return Path(path).read_text().strip() or False
    except OSError as error:
        raise EnvironmentFailure(
            f"the hub's token cannot be read from HF_TOKEN_PATH ({error.strerror}); "
            "set HF_TOKEN or correct the path."
        ) from None


def inspect(hub_id: str, kind: str, revision: str) -> Repository:
    """Resolve `revision` to a commit and list its files.

    Raises:
        InputError: no such repository or revision, or its licence is not accepted.
        EnvironmentFailure: the hub does not answer.
    """
    with plain_errors(hub_id, revision):
        info = HfApi(token=token()).repo_info(
            hub_id, repo_type=kind, revision=revision, timeout=ANSWER_SECONDS
        )
    files = tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))
    if not info.sha:
        raise EnvironmentFailure(f"the hub names no commit for {hub_id}@{revision}; try again.")
    return Repository(hub_id, kind, info.sha, files)


def download(repository: Repository, files: Sequence[str], target: Path) -> None:
    """Fetch `files` into `target`; what an interrupted run has fetched is used.

    Raises:
        InputError: as `inspect`.
        EnvironmentFailure: the hub does not answer, or a file is not what the hub announced.
    """
    with plain_errors(repository.hub_id, repository.commit):
        snapshot_download(
            repository.hub_id,
            repo_type=repository.kind,
            revision=repository.commit,
            allow_patterns=list(files),
            local_dir=target,
            token=token(),
            etag_timeout=ANSWER_SECONDS,
            max_workers=WORKERS,
        )
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the client's own book-keeping
    if missing := [name for name in files if not (target / name).is_file()]:
        raise EnvironmentFailure(
            f"{repository.hub_id} did not give {', '.join(missing)}; run the same command again."
        )


@contextmanager
def plain_errors(hub_id: str, revision: str) -> Iterator[None]:
    """Turn the hub's errors into one sentence."""
    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"{hub_id} is gated: accept its licence at https://huggingface.co/{hub_id} and set "
            "HF_TOKEN to a token of that account."
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"{hub_id} has no revision {revision}; give another with REVISION=."
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{hub_id} is not on the hub, or it is private; correct the id, or set HF_TOKEN to a "
            "token that may read it."
        ) from None
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(hub_id, error) from None
        raise InputError(
            f"{hub_id}@{revision} lacks a file that is needed ({_first_line(error)})."
        ) from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise InputError(
                f"the hub refuses {hub_id}: accept its licence at "
                f"https://huggingface.co/{hub_id} and set HF_TOKEN to a valid token."
            ) from None
        raise EnvironmentFailure(
            f"the hub failed on {hub_id} ({_first_line(error)}); run the same command again."
        ) from None
    except OfflineModeIsEnabled:
        raise EnvironmentFailure(
            f"{hub_id} cannot be fetched while HF_HUB_OFFLINE is set; unset it."
        ) from None
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise _unreachable(hub_id, error) from None


def _unreachable(hub_id: str, error: Exception) -> EnvironmentFailure:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return EnvironmentFailure(
        f"{hub_id} cannot be fetched: {endpoint} does not answer ({_first_line(error)}); connect "
        "to the network, set HF_ENDPOINT to a mirror, or put the files on the store by hand."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
