"""What goes wrong on the way to a repository, as one sentence: whose fault it is and what to do."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from espalier.contract.saved import AGAIN
from espalier.errors import EnvironmentFailure, EspalierError, InputError

OVERTAKEN = (409, 412)
"""The branch is no longer what the commit was made for."""
PASSING = (408, 425, 429)
"""Client errors that another attempt may mend."""


@contextmanager
def said_plainly(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence about the repository.

    It hands on what ends an upload as the cause of an error of its own, an interruption too.

    Raises:
        InputError: the hub refuses the token, the repository or the files.
        EnvironmentFailure: the hub does not answer, fails, or was changed meanwhile.
    """
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, EspalierError):
                raise cause from None
            if (told := _told(cause, repo)) is not None:
                raise told from None
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _told(error: BaseException, repo: str) -> EspalierError | None:
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return _answered(error, error.response.status_code, repo)
    if isinstance(error, OfflineModeIsEnabled):
        return EnvironmentFailure(f"{repo} cannot be pushed to while HF_HUB_OFFLINE is set.")
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return EnvironmentFailure(
            f"{repo} cannot be pushed to: {_endpoint()} does not answer ({_first_line(error)}); "
            f"see to the network or to HF_ENDPOINT, and {AGAIN}."
        )
    if isinstance(error, json.JSONDecodeError):
        return EnvironmentFailure(
            f"{_endpoint()} does not answer as a hub does; see to HF_ENDPOINT and to what is "
            f"between, and {AGAIN}."
        )
    if isinstance(error, ValueError):  # an answer that the client itself has read
        return InputError(f"the hub refuses what is pushed to {repo}: {_line(str(error))}")
    return None


def _answered(error: HfHubHTTPError, code: int, repo: str) -> EspalierError:
    """By the status; the hub's own words say what no status does."""
    why = _line(error.server_message or "") or _first_line(error)
    if code == 401:
        return InputError(
            "the hub does not accept the token; set HF_TOKEN to a valid one that may write to "
            f"{repo}."
        )
    if code == 403:
        return InputError(
            f"the token may not write to {repo} ({why}); use one with the permission to write, of "
            "an account that the owner lets do so, or another REPO=."
        )
    if isinstance(error, RepositoryNotFoundError):
        return InputError(f"{repo} cannot be found with this token; correct REPO=, or the token.")
    if code in OVERTAKEN:
        return EnvironmentFailure(f"{repo} has changed meanwhile ({why}); {AGAIN}.")
    if code >= 500 or code in PASSING:
        return EnvironmentFailure(f"the hub failed on {repo} ({code}: {why}); {AGAIN}.")
    return InputError(f"the hub refuses {repo} ({code}: {why}); correct REPO= or REVISION=.")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _line(text: str) -> str:
    """A message of several lines in one."""
    return " ".join(text.split())


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
