"""Of Google Cloud Storage's JSON API, what gcsfs asks for, in memory."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Storage(ThreadingHTTPServer):
    """Objects by bucket/name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.generations: dict[str, int] = {}
        self.last = 0
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Storage
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, query = self._asked()
        found = re.fullmatch(r"/(?:download/)?storage/v1/b/([^/]+)/o(?:/(.+))?", path)
        if found is None:
            bucket = path.rpartition("/")[2]
            return self._answer(200, {"kind": "storage#bucket", "name": bucket, "id": bucket})
        bucket, name = found[1], unquote(found[2] or "")
        if not name:
            return self._answer(200, self._listed(bucket, query))
        if (content := self.server.objects.get(f"{bucket}/{name}")) is None:
            return self._answer(404, {"error": {"code": 404, "message": "not found"}})
        if query.get("alt") == "media" or path.startswith("/download"):
            generation = str(self.server.generations[f"{bucket}/{name}"])
            kind = "application/octet-stream"
            return self._send(200, self._ranged(content), kind, generation)
        return self._answer(200, self._about(bucket, name))

    def do_POST(self) -> None:
        path, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket = re.search(r"/b/([^/]+)/o", path)
        if bucket is not None and bucket[1] == "absent":
            return self._answer(404, {"error": {"code": 404, "message": "no such bucket"}})
        if bucket is not None and query.get("uploadType") == "media":
            key = f"{bucket[1]}/{query['name']}"
            known = str(self.server.generations.get(key, 0))
            if query.get("ifGenerationMatch", known) != known:
                return self._answer(412, {"error": {"code": 412, "message": "it is another"}})
            return self._answer(200, self._kept(bucket[1], query["name"], body))
        if bucket is None or query.get("uploadType") != "multipart":
            return self._answer(501, {"error": {"code": 501, "message": path}})
        boundary = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])
        assert boundary
        _, first, second, *_ = body.split(b"--" + boundary[1].encode())
        name = json.loads(first.split(b"\n\n", 1)[1].split(b"\r\n\r\n")[-1])["name"]
        content = second.split(b"\n\n", 1)[1].removesuffix(b"\n")
        return self._answer(200, self._kept(bucket[1], name, content))

    def do_DELETE(self) -> None:
        path, _ = self._asked()
        bucket, _, name = path.partition("/b/")[2].partition("/o/")
        gone = self.server.objects.pop(f"{bucket}/{unquote(name)}", None)
        self.server.generations.pop(f"{bucket}/{unquote(name)}", None)
        self._answer(204 if gone is not None else 404, {})

    def _asked(self) -> tuple[str, dict[str, str]]:
        self.server.asked.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        return parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()}

    def _listed(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, folders = [], set()
        for key in sorted(self.server.objects):
            where, _, name = key.partition("/")
            if where != bucket or not name.startswith(prefix):
                continue
            rest = name.removeprefix(prefix)
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(self._about(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _kept(self, bucket: str, name: str, content: bytes) -> dict[str, Any]:
        """Another generation of the object, and what is known of it."""
        key = f"{bucket}/{name}"
        self.server.last += 1
        self.server.objects[key] = content
        self.server.generations[key] = self.server.last
        return self._about(bucket, name)

    def _about(self, bucket: str, name: str) -> dict[str, Any]:
        size = len(self.server.objects[f"{bucket}/{name}"])
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(size),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "generation": str(self.server.generations[f"{bucket}/{name}"]),
        }

    def _ranged(self, content: bytes) -> bytes:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        return content[int(asked[1]) : int(asked[2] or len(content)) + 1] if asked else content

    def _answer(self, status: int, said: dict[str, Any]) -> None:
        self._send(status, json.dumps(said).encode() if status != 204 else b"", "application/json")

    def _send(self, status: int, body: bytes, kind: str, generation: str = "") -> None:
        self.send_response(status)
        if generation:
            self.send_header("x-goog-generation", generation)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def storing() -> Iterator[Storage]:
    """Until the block ends, on a port of its own."""
    server = Storage()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
