"""A branch of a repository on the hub: what it holds now, and one more commit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.sha import git_hash

from espalier.errors import EnvironmentFailure, InputError
from inputs.fetch.hub import ANSWER_SECONDS
from inputs.push.cargo import Cargo, Part
from inputs.push.spec import MAIN


@dataclass(frozen=True)
class Head:
    """What a branch holds.

    Attributes:
        commit: 40 hexadecimal digits.
        private: whether others are kept from seeing the repository.
        since: when it was committed.
        files: what the hub knows of each of its files, by path.
    """

    commit: str
    private: bool
    since: datetime | None
    files: Mapping[str, Any]

    def lacks(self, cargo: Cargo) -> list[str]:
        """The files of a commit that are not there with these very bytes, by their names."""
        return [part.name for part in cargo.parts if not self._has(part)]

    def _has(self, part: Part) -> bool:
        """By the hub's own hash: a large file's sha256, a small one's id in git."""
        there = self.files.get(part.name)
        if there is None or there.size != part.size:
            return False
        if there.lfs:
            return bool(there.lfs.sha256 == part.sha256)
        return bool(there.blob_id == git_hash(part.content()))


@dataclass(frozen=True)
class Branch:
    """A branch of a model's repository, as a token sees it."""

    api: HfApi
    repo: str
    name: str

    def head(self, revision: str | None = None) -> Head | None:
        """What it holds; None: there is no such repository or branch."""
        try:
            info = self.api.repo_info(
                self.repo,
                revision=revision or self.name,
                files_metadata=True,
                timeout=ANSWER_SECONDS,
            )
        except RevisionNotFoundError:
            return None
        except RepositoryNotFoundError as error:
            if error.response.status_code == 404:
                return None
            raise
        if not info.sha:
            raise EnvironmentFailure(f"the hub names no commit for {self.repo}; try again.")
        files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        return Head(info.sha, bool(info.private), info.last_modified, files)

    def begin(self, private: bool) -> Head:
        """Make what of the repository and the branch is not there; what it holds then.

        Raises:
            InputError: it is there, and the token does not show it.
        """
        if self.head(MAIN) is None:
            # Unless it is asked for, the owner's own rule says whether it is private.
            self.api.create_repo(self.repo, private=private or None, exist_ok=True)
        if self.name != MAIN and self.head() is None:
            self.api.create_branch(self.repo, branch=self.name, exist_ok=True)
        if (head := self.head()) is None:
            raise InputError(
                f"{self.repo} is there, but this token does not show it; use one that may read it, "
                "or another REPO=."
            )
        return head


class Shipment:
    """Files on their way to a branch: sent one after another, and then seen all at once."""

    def __init__(self, branch: Branch, cargo: Cargo) -> None:
        self._branch = branch
        self._files = [(part, CommitOperationAdd(part.name, part.source)) for part in cargo.parts]

    def send(self) -> Iterator[str]:
        """Send what the hub keeps by its hash and does not have yet, and name it when it is there.

        Small files wait for the commit, which they are a part of.

        Raises:
            InputError: a file is no longer what was published.
        """
        for part, addition in self._files:
            self._branch.api.preupload_lfs_files(
                self._branch.repo,
                additions=[addition],
                revision=self._branch.name,
                free_memory=False,
            )
            if addition.upload_info.sha256.hex() != part.sha256:
                raise InputError(
                    f"{part.name} has changed while it was sent; nothing of it is to be seen. "
                    "Run make verify."
                )
            yield part.name

    def commit(self, before: Head, message: str) -> str:
        """Have all of it seen, where the branch still is what it was; the commit.

        Nothing that is there is deleted.
        """
        done = self._branch.api.create_commit(
            self._branch.repo,
            operations=[addition for _, addition in self._files],
            commit_message=message,
            revision=self._branch.name,
            parent_commit=before.commit,
        )
        return str(done.oid)
