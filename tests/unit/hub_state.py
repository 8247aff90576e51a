"""What the tests' hub holds: files by repository, and, of those that are pushed to, commits."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Of everything that nobody has pushed to."""
LARGE = ".safetensors"
"""How the names of files end that the hub keeps by their sha256."""
ATTRIBUTES = ".gitattributes"
"""What a repository has from its beginning."""


@dataclass(frozen=True)
class Snapshot:
    """What a commit left."""

    commit: str
    files: Mapping[str, bytes]
    summary: str = ""


@dataclass
class Hub:
    """What the server has: files by `models/org/name` or `datasets/org/name`, and who may read.

    Attributes:
        repositories: what `main` holds of each.
        writers: owners of repositories that the token may make and write to.
        private: repositories that only the token shows.
        branches: commits by repository and branch, the first made first.
        objects: large files that were sent, by sha256.
        sent: the sha256 of each that was sent, in order.
        part: bytes of a large file that are taken at once; None: all of it.
        parts: what has come of files in parts, by sha256 and number.
        strike: asked before a request is answered: a status to refuse it with, 0 to say nothing and
            hang up, None to answer.
    """

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    token: str = "right"
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    url: str = ""
    writers: set[str] = field(default_factory=lambda: {"me"})
    private: set[str] = field(default_factory=set)
    branches: dict[tuple[str, str], list[Snapshot]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    part: int | None = None
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    strike: Callable[[str], int | None] = lambda asked: None

    def at(self, repository: str, revision: str) -> Snapshot | None:
        """What a branch or a commit holds."""
        if commits := self.branches.get((repository, revision)):
            return commits[-1]
        first = Snapshot(COMMIT, self.repositories[repository])
        own = [each for key, each in self.branches.items() if key[0] == repository]
        found = [one for commits in own for one in commits if one.commit == revision]
        return found[0] if found else first if revision in ("main", COMMIT) else None

    def commit(self, repository: str, branch: str, files: Mapping[str, bytes], what: str) -> str:
        """One more commit, with `files` added to what is there."""
        before = self.at(repository, branch)
        assert before
        after = {**before.files, **files}
        commits = self.branches.setdefault((repository, branch), [before])
        text = repr((before.commit, branch, what, sorted(files), len(commits)))
        commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        commits.append(Snapshot(commit, after, what))
        if branch == "main":
            self.repositories[repository] = after
        return commit

    def head(self, repository: str, branch: str = "main") -> Snapshot:
        """What a branch holds that is there."""
        found = self.at(f"models/{repository}", branch)
        assert found
        return found


def large(name: str, content: bytes) -> dict[str, object]:
    """What the hub says beside a file's size where it keeps it by its sha256."""
    if not name.endswith(LARGE):
        return {}
    digest = hashlib.sha256(content).hexdigest()
    return {"lfs": {"size": len(content), "sha256": digest, "pointerSize": 134}}


def git_id(content: bytes) -> str:
    """What git calls a file of these bytes."""
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
