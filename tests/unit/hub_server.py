"""A small HTTP server that speaks the part of the hub's API that fetching and pushing use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.unit.hub_state import COMMIT, Hub, Snapshot, git_id, large
from tests.unit.hub_writing import Writing

__all__ = ["COMMIT", "Hub", "serve"]


class Handler(Writing, BaseHTTPRequestHandler):
    """What the hub answers to those who read."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        if self.is_struck(path):
            return
        if path.startswith("api/"):
            self._api(path.removeprefix("api/"))
        else:
            self._file(path)

    def _api(self, path: str) -> None:
        kind, org, name, *rest = path.split("/")
        repository = f"{kind}/{org}/{name}"
        if not self._is_allowed(repository):
            return
        revision = "/".join(rest[1:]) if rest[:1] == ["revision"] else "main"
        if (at := self.hub.at(repository, revision)) is None:
            self.refuse(404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": git_id(c)}
                for n, c in at.files.items()
            ]
            self.answer(tree)
        else:
            blobs = "blobs" in parse_qs(urlsplit(self.path).query)
            siblings = self._siblings(at) if blobs else [{"rfilename": file} for file in at.files]
            private = repository in self.hub.private
            about = {"id": f"{org}/{name}", "sha": at.commit, "siblings": siblings}
            since = {"lastModified": "2024-05-01T10:00:00.000Z", "private": private}
            self.answer({**about, **since})

    def _siblings(self, at: Snapshot) -> list[dict[str, object]]:
        return [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": git_id(content),
                **large(name, content),
            }
            for name, content in at.files.items()
        ]

    def _file(self, path: str) -> None:
        kind = "datasets" if path.startswith("datasets/") else "models"
        repository, _, rest = path.removeprefix("datasets/").partition("/resolve/")
        _, _, file = rest.partition("/")
        if not self._is_allowed(f"{kind}/{repository}"):
            return
        files = self.hub.repositories[f"{kind}/{repository}"]
        if file in self.hub.broken:
            self.refuse(500, "Broken")
        elif file not in files:
            self.refuse(404, "EntryNotFound")
        else:
            headers = {"ETag": f'"{git_id(files[file])}"', "X-Repo-Commit": COMMIT}
            self.send(files[file], headers)

    def _is_allowed(self, repository: str) -> bool:
        given = self.headers.get("Authorization")
        known = given == f"Bearer {self.hub.token}"
        hidden = repository in self.hub.private and not known
        if repository not in self.hub.repositories or hidden:
            self.refuse(404, "RepoNotFound")
            return False
        if repository in self.hub.gated and not known:
            self.refuse(403 if given else 401, "GatedRepo")
            return False
        return True


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port; its address is in `hub.url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
