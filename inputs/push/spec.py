"""The stage that pushes: a checkpoint of the store becomes a commit of the hub's."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage

MAIN = "main"
LONGEST = 96
"""Letters of a repository's whole name that the hub takes."""
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(f"{_NAME}/{_NAME}")
_BRANCH = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9_-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class PushParameters(Parameters):
    """Where to."""

    repo: Annotated[str, Field(description="the repository on the hub: <owner>/<name>")]
    private: Annotated[
        bool, Field(description="1: a repository that is made for it is nobody else's to see")
    ] = False
    revision: Annotated[
        str, Field(description="branch; one that is not there yet begins at main")
    ] = MAIN

    @field_validator("repo")
    @classmethod
    def _is_a_repository(cls, text: str) -> str:
        """As the hub's client has it, which would say so only once the files are hashed."""
        if (
            not _REPO.fullmatch(text)
            or len(text) > LONGEST
            or "--" in text
            or ".." in text
            or text.endswith(".git")
        ):
            raise ValueError(
                "is no repository of the hub; give <owner>/<name> of letters, digits, dashes, "
                f"underscores and dots, without -- or .., {LONGEST} letters at most"
            )
        return text

    @field_validator("revision")
    @classmethod
    def _is_a_branch(cls, text: str) -> str:
        parts = text.split("/")
        wrong = not _BRANCH.fullmatch(text) or ".." in text or parts[0] == "refs"
        if wrong or _COMMIT.fullmatch(text) or any(part.endswith(".lock") for part in parts):
            raise ValueError("is no branch that can be committed to; give its name, as in v2")
        return text

    def label(self) -> str:
        """`owner--name`, with the branch where it is another than main: of the record's name."""
        branch = "" if self.revision == MAIN else self.revision
        return "--".join(filter(None, (*self.repo.split("/"), branch.replace("/", "-"))))


STAGE = Stage(
    name="push",
    verb="push",
    section="pushes",
    image="eval",
    parameters=PushParameters,
    entry="inputs.push.stage:run",
    on_device=False,
    summary="Upload a checkpoint of the store to the hub, with its model card.",
    inputs={"checkpoint": True, "card": True},
    network=True,
    renewed=True,
)
