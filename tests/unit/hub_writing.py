"""What the tests' hub answers to those who write: by the routes that its client takes without Xet.

In order: `api/repos/create`, `…/branch/<name>`, `…/preupload/<branch>` (which files it keeps by
their hash), `<repo>.git/info/lfs/objects/batch` (which of them it lacks, and where they are sent),
that place, whole or in parts, `api/validate-yaml` (the card's header), `…/commit/<branch>`.
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.planted import WORDS
from tests.unit.hub_state import ATTRIBUTES, LARGE, Hub, git_id

SIGNATURE = f"X-Amz-Signature={WORDS['signature of an address']}"
"""In addresses that files are sent to: whoever has one may write there for a while."""
INVALID = "Invalid credentials in Authorization header"


class Writing(BaseHTTPRequestHandler):
    """Creates repositories and branches, takes files and commits them."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def is_struck(self, path: str) -> bool:
        """Write down what was asked; whether the test's fault has answered it."""
        asked = f"{self.command} {path}"
        self.hub.asked.append(asked)
        if (code := self.hub.strike(asked)) is None:
            return False
        if code:
            self.refuse(code, "RepoNotFound" if code == 404 else "Struck")
        else:
            self.close_connection = True
        return True

    def do_PUT(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        content = self._body()
        if self.is_struck(path):
            return
        _, digest, *number = path.split("/")
        if urlsplit(self.path).query != SIGNATURE:
            self.refuse(403, "", "the address is not signed")
        elif number:
            self.hub.parts[digest, int(number[0])] = content
            self.send(b"", {"ETag": f'"{git_id(content)}"'})
        else:
            self._keep(digest, content)

    def _keep(self, digest: str, content: bytes) -> None:
        """A large file, which has to be what it is called by."""
        if hashlib.sha256(content).hexdigest() != digest:
            self.refuse(400, "OtherContent")
            return
        self.hub.objects[digest] = content
        self.hub.sent.append(digest)
        self.answer({})

    def _join(self, told: dict[str, Any]) -> None:
        numbers = [part["partNumber"] for part in told["parts"]]
        self._keep(told["oid"], b"".join(self.hub.parts[told["oid"], n] for n in numbers))

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        body = self._body()
        if self.is_struck(path):
            return
        if path == "upload":  # by whoever has the address
            self._join(json.loads(body))
        elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.refuse(401, "", INVALID)
        elif path == "api/repos/create":
            self._create(json.loads(body))
        elif path == "api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._to_a_repository(path.split("/"), body)

    def _to_a_repository(self, path: list[str], body: bytes) -> None:
        _, kind, org, name, what, *rest = path
        repository, branch = f"{kind}/{org}/{name}", "/".join(rest)
        if repository not in self.hub.repositories:
            self.refuse(404, "RepoNotFound")
        elif org not in self.hub.writers:
            self.refuse(403, "", "you have no right to write to this repository")
        elif what == "branch":
            self.hub.branches[repository, branch] = [self.hub.head(f"{org}/{name}")]
            self.answer({}, 201)
        elif what == "preupload":
            self.answer({"files": [self._mode(file) for file in json.loads(body)["files"]]})
        else:
            self._commit(repository, branch, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        repository, there = f"models/{name}", {"url": f"{self.hub.url}/{name}"}
        if asked["organization"] not in self.hub.writers:
            self.refuse(403, "", "you have no right to make a model there")
        elif repository in self.hub.repositories:
            self.answer(there, 409)
        else:
            self.hub.repositories[repository] = {ATTRIBUTES: b"*.safetensors filter=lfs\n"}
            if asked.get("visibility") == "private":
                self.hub.private.add(repository)
            self.answer(there)

    def _validate(self, card: str) -> None:
        header = yaml.safe_load(card.split("---\n")[1])
        if isinstance(header, dict) and isinstance(header.get("tags"), list):
            self.answer({"errors": [], "warnings": []})
        else:
            self.answer({"errors": [{"message": "no tags"}], "warnings": []}, 400)

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["path"].endswith(LARGE) else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            known = one["oid"] in self.hub.objects
            actions = {"upload": self._place(one["oid"], one["size"])}
            objects.append({**one, **({} if known else {"actions": actions})})
        self.answer({"transfer": "basic", "objects": objects})

    def _place(self, digest: str, size: int) -> dict[str, Any]:
        """Where a large file is sent, whole or in parts, and who is told that all have come."""
        place, part = f"{self.hub.url}/upload/{digest}", self.hub.part
        if part is None:
            return {"href": f"{place}?{SIGNATURE}"}
        numbers = range(1, -(-size // part) + 1)
        parts = {str(number): f"{place}/{number}?{SIGNATURE}" for number in numbers}
        return {"href": f"{self.hub.url}/upload", "header": {"chunk_size": str(part), **parts}}

    def _commit(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> None:
        header, *operations = (line["value"] for line in lines)
        before = self.hub.at(repository, branch)
        if before is None:
            self.refuse(404, "RevisionNotFound")
        elif header["parentCommit"] != before.commit:
            self.refuse(412, "", "the branch was written to meanwhile")
        elif {line["key"] for line in lines[1:]} - {"file", "lfsFile"}:
            self.refuse(400, "", "only files are added here")
        else:
            files = {
                one["path"]: self.hub.objects[one["oid"]]
                if "oid" in one
                else base64.b64decode(one["content"])
                for one in operations
            }
            commit = self.hub.commit(repository, branch, files, header["summary"])
            place = f"{self.hub.url}/{repository.removeprefix('models/')}/commit/{commit}"
            self.answer({"commitUrl": place, "commitOid": commit})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunks(self) -> list[bytes]:
        found = []
        while size := int(self.rfile.readline(), 16):
            found.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return found

    def refuse(self, code: int, reason: str, message: str = "") -> None:
        """An error as the hub tells it."""
        headers = {"X-Error-Code": reason, "X-Error-Message": message or reason}
        self.send(b"{}", headers, code)

    def answer(self, content: object, code: int = 200) -> None:
        """JSON."""
        self.send(json.dumps(content).encode(), code=code)

    def send(self, body: bytes, headers: dict[str, str] | None = None, code: int = 200) -> None:
        """A whole answer."""
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
