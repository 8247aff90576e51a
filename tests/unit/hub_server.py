"""A small HTTP server that speaks the part of the hub's API that fetching uses."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has: files by `models/org/name` or `datasets/org/name`, and who may read."""

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    token: str = "right"
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    url: str = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port; its address is in `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path}")
            if path.startswith("api/"):
                self._api(path.removeprefix("api/"))
            else:
                self._file(path)

        def _api(self, path: str) -> None:
            kind, org, name, *rest = path.split("/")
            if not (files := self._allowed(f"{kind}/{org}/{name}")):
                return
            if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
                self._refuse(404, "RevisionNotFound")
            elif rest[:1] == ["tree"]:
                tree = [
                    {"type": "file", "path": n, "size": len(c), "oid": etag(c)}
                    for n, c in files.items()
                ]
                self._answer(json.dumps(tree).encode())
            else:
                siblings = [{"rfilename": file} for file in files]
                about = {"id": f"{org}/{name}", "sha": COMMIT, "siblings": siblings}
                self._answer(json.dumps(about).encode())

        def _file(self, path: str) -> None:
            kind = "datasets" if path.startswith("datasets/") else "models"
            repository, _, rest = path.removeprefix("datasets/").partition("/resolve/")
            _, _, file = rest.partition("/")
            if not (files := self._allowed(f"{kind}/{repository}")):
                return
            if file in hub.broken:
                self._refuse(500, "Broken")
            elif file not in files:
                self._refuse(404, "EntryNotFound")
            else:
                content = files[file]
                headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": COMMIT}
                self._answer(content, headers)

        def _allowed(self, repository: str) -> dict[str, bytes] | None:
            if repository not in hub.repositories:
                self._refuse(404, "RepoNotFound")
                return None
            if repository in hub.gated:
                given = self.headers.get("Authorization")
                if given != f"Bearer {hub.token}":
                    self._refuse(403 if given else 401, "GatedRepo")
                    return None
            return hub.repositories[repository]

        def _refuse(self, code: int, reason: str) -> None:
            self._answer(b"{}", {"X-Error-Code": reason, "X-Error-Message": reason}, code)

        def _answer(
            self, body: bytes, headers: dict[str, str] | None = None, code: int = 200
        ) -> None:
            self.send_response(code)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
