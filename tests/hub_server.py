"""A stand-in for the Hugging Face hub: as much of its API as pushing and pulling models needs.

It speaks over a real socket and keeps everything in memory. Weights travel as large files do there:
to storage of their own first, under their digest, and then into a commit.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_owner"


class RefusalError(Exception):
    """An answer that is no success: a status, the code that clients go by, and a JSON object."""

    def __init__(self, status: int, code: str = "", value: Any = None) -> None:
        super().__init__(status, code)
        self.status, self.code, self.value = status, code, value or {}


@dataclass
class Repository:
    """Files by commit, and commits by branch."""

    private: bool
    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    messages: list[str] = field(default_factory=list)

    def commit_of(self, revision: str) -> str:
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise RefusalError(404, "RevisionNotFound")
        return commit

    def add(self, revision: str, message: str, files: dict[str, bytes]) -> str:
        parent = self.branches.get(revision)
        if parent is None:
            raise RefusalError(404, "RevisionNotFound")
        content = self.commits[parent] | files
        text = repr((parent, message, sorted(content.items())))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = content
        self.branches[revision] = commit
        self.messages.append(message)
        return commit


@dataclass
class Hub:
    """The repositories by name, what large files hold, and what was asked."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: bool = False

    def new(self, name: str, *, private: bool = False) -> Repository:
        empty = hashlib.sha1(name.encode()).hexdigest()
        made = Repository(private, {empty: {}}, {"main": empty})
        return self.repositories.setdefault(name, made)

    def find(self, name: str, token: str | None) -> Repository:
        found = self.repositories.get(name)
        if found is None or (found.private and token != TOKEN):
            raise RefusalError(404 if token == TOKEN else 401, "RepoNotFound")
        return found


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        hub = self.server.hub
        hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if hub.broken:
                raise RefusalError(500)
            for method, pattern, act in _ROUTES:
                match = re.fullmatch(pattern, self.path)
                if method == self.command and match:
                    return self._send(200, *act(self, body, *match.groups()))
            raise RefusalError(404)
        except RefusalError as refusal:
            body = json.dumps(refusal.value).encode()
            self._send(refusal.status, body, {"X-Error-Code": refusal.code})
        return None

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def require_owner(self) -> None:
        if self.token != TOKEN:
            raise RefusalError(401)


Answer = tuple[bytes, dict[str, str]]


def _json(value: Any) -> Answer:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


def _create(request: _Handler, body: bytes) -> Answer:
    request.require_owner()
    wanted, hub = json.loads(body), request.server.hub
    name = f"{wanted['organization']}/{wanted['name']}"
    if name in hub.repositories:
        raise RefusalError(409, value={"url": f"{hub.url}/{name}"})
    hub.new(name, private=wanted.get("visibility") == "private")
    return _json({"url": f"{hub.url}/{name}"})


def _check_card(request: _Handler, body: bytes) -> Answer:
    header = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
    if header is None or "library_name:" not in header[1]:
        raise RefusalError(400, value={"errors": [{"message": "no header"}]})
    return _json({"errors": [], "warnings": []})


def _branch(request: _Handler, body: bytes, name: str, branch: str) -> Answer:
    request.require_owner()
    repository = request.server.hub.find(name, request.token)
    if branch in repository.branches:
        raise RefusalError(409)
    repository.branches[branch] = repository.branches["main"]
    return _json({})


def _modes(request: _Handler, body: bytes, name: str, revision: str) -> Answer:
    request.server.hub.find(name, request.token).commit_of(revision)
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
            "shouldIgnore": False,
        }
        for file in json.loads(body)["files"]
    ]
    return _json({"files": files})


def _places(request: _Handler, body: bytes, name: str) -> Answer:
    request.require_owner()
    url = request.server.hub.url
    objects = [
        {**entry, "actions": {"upload": {"href": f"{url}/storage/{entry['oid']}"}}}
        for entry in json.loads(body)["objects"]
    ]
    return _json({"transfer": "basic", "objects": objects})


def _store(request: _Handler, body: bytes, digest: str) -> Answer:
    if hashlib.sha256(body).hexdigest() != digest:
        raise RefusalError(400)
    request.server.hub.large[digest] = body
    return b"", {}


def _commit(request: _Handler, body: bytes, name: str, revision: str) -> Answer:
    request.require_owner()
    hub = request.server.hub
    lines = [json.loads(line) for line in body.splitlines()]
    files = {}
    for kind, value in ((line["key"], line["value"]) for line in lines):
        if kind == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
    (message,) = (line["value"]["summary"] for line in lines if line["key"] == "header")
    commit = hub.find(name, request.token).add(revision, message, files)
    return _json({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})


def _file(request: _Handler, body: bytes, name: str, revision: str, path: str) -> Answer:
    repository = request.server.hub.find(name, request.token)
    commit = repository.commit_of(revision)
    content = repository.commits[commit].get(path)
    if content is None:
        raise RefusalError(404, "EntryNotFound")
    digest = hashlib.sha256(content).hexdigest()
    return content, {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _check_card),
    ("POST", f"/api/models/{_NAME}/branch/([^/]+)", _branch),
    ("POST", f"/api/models/{_NAME}/preupload/([^/]+)", _modes),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _places),
    ("PUT", r"/storage/(\w+)", _store),
    ("POST", f"/api/models/{_NAME}/commit/([^/]+)", _commit),
    ("HEAD", f"/{_NAME}/resolve/([^/]+)/(.+)", _file),
    ("GET", f"/{_NAME}/resolve/([^/]+)/(.+)", _file),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of this machine for the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
