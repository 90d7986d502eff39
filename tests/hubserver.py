"""A stand-in for the Hugging Face hub on this machine: the routes that pushing and loading a model use, over HTTP.

Repositories are commits of files, large ones in a store of their own by SHA-256, as the hub's protocol has it:
https://huggingface.co/docs/hub/api. Tokens are names of users; a token that is no user's is refused.
"""

from __future__ import annotations

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
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".onnx")
LICENSES = ("apache-2.0", "mit", "cc-by-4.0")


@dataclass
class Repository:
    """Commits by their number, the newest last: files by path."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # of branches and tags, to commits

    def commit(self, files: dict[str, bytes]) -> str:
        now = {**self.commits.get(self.names.get("main", ""), {}), **files}
        number = hashlib.sha1(repr((len(self.commits), sorted(now.items()))).encode()).hexdigest()
        self.commits[number] = now
        self.names["main"] = number
        return number

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.names["main"]]


@dataclass
class Hub:
    """What the hub holds, what it was asked for, and what it is to do wrong."""

    users: tuple[str, ...] = ("hf_jo",)  # of tokens: user "jo" writes by "hf_jo"
    repositories: dict[str, Repository] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # "METHOD path"
    cut: str = ""  # requests that this pattern matches are cut off without an answer
    url: str = ""


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.body = self._body()
        if self.hub.cut and re.search(self.hub.cut, self.hub.asked[-1]):
            self.close_connection = True
            return
        for pattern, does in ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                does(self, *match.groups())
                return
        self._json(404, {"error": "no such route"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, code: int, data: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, code: int, value: Any, **headers: str) -> None:
        self._send(code, json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})

    # -- who asks, and what for ----------------------------------------------------------------------------------------

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _refused(self, name: str) -> bool:
        """Whether the token may not write in the space of this repository; then it has been told."""
        if self._token() not in self.hub.users:
            self._json(401, {"error": "Invalid"}, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif self._token() != f"hf_{name.split('/')[0]}":
            self._json(403, {"error": "You don't have the rights to create a model under this namespace"})
        else:
            return False
        return True

    def _found(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the number of the commit; None where it has been told that there is none."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self._token() != f"hf_{name.split('/')[0]}"):
            self._json(404 if self._token() else 401, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
            return None
        number = repository.names.get(revision, revision)
        if number not in repository.commits:
            self._json(404, {"error": "Invalid rev id"}, **{"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, number

    # -- writing -------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self._refused(name):
            return
        known = name in self.hub.repositories
        if not known:
            self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
            self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json(409 if known else 200, {"url": f"{self.hub.url}/{name}", "error": "exists"})

    def validate(self) -> None:
        match = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        head = yaml.safe_load(match[1]) if match else {}
        wrong = [] if head.get("license", "mit") in LICENSES else [f'"license" must be one of [{", ".join(LICENSES)}]']
        if not all(each["results"][0]["metrics"] for each in head.get("model-index", ())):
            wrong.append('"model-index" is wrong')
        self._json(400 if wrong else 200, {"errors": [{"message": each} for each in wrong], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        if self._refused(name) or (found := self._found(name, revision)) is None:
            return
        there = found[0].commits[found[1]]
        self._json(200, {"files": [
            {"path": (path := each["path"]), "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False,
             **({"oid": self._number(path, there[path])} if path in there else {})}
            for each in json.loads(self.body)["files"]
        ]})  # fmt: skip

    def batch(self, name: str) -> None:
        if self._refused(name):
            return
        self._json(200, {"transfer": "basic", "objects": [
            {**each, **({} if each["oid"] in self.hub.store else
                        {"actions": {"upload": {"href": f"{self.hub.url}/store/{each['oid']}", "header": {}}}})}
            for each in json.loads(self.body)["objects"]
        ]})  # fmt: skip

    def put(self, number: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == number
        self.hub.store[number] = self.body
        self._send(200, b"")

    def commit(self, name: str, revision: str) -> None:
        if self._refused(name) or self._found(name, revision) is None:
            return
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
        number = self.hub.repositories[name].commit(files)
        self._json(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{number}", "commitOid": number})

    # -- reading -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _number(path: str, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else git_hash(data)

    def info(self, name: str, _: str | None, revision: str | None) -> None:
        if found := self._found(name, revision or "main"):
            repository, number = found
            files = [{"rfilename": path} for path in sorted(repository.commits[number])]
            facts = {"_id": "1", "id": name, "sha": number, "private": repository.private, "tags": []}
            self._json(200, {**facts, "siblings": files})

    def tree(self, name: str, revision: str) -> None:
        if found := self._found(name, revision):
            files = found[0].commits[found[1]]
            self._json(200, [
                {"type": "file", "path": path, "size": len(data), "oid": git_hash(data),
                 **({"lfs": {"oid": self._number(path, data), "size": len(data), "pointerSize": 1}}
                    if path.endswith(LARGE) else {})}
                for path, data in sorted(files.items())
            ])  # fmt: skip

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (found := self._found(name, revision)) is None:
            return
        commit = {"X-Repo-Commit": found[1]}
        data = found[0].commits[found[1]].get(path)
        if data is None:
            self._json(404, {"error": "Entry not found"}, **{"X-Error-Code": "EntryNotFound", **commit})
        elif path.endswith(LARGE):
            number = self._number(path, data)
            self.hub.store[number] = data
            linked = {"X-Linked-Etag": f'"{number}"', "X-Linked-Size": str(len(data))}
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # as the hub sends to the host that holds large files
            self._send(302, b"", Location=f"{elsewhere}/store/{number}", **commit, **linked)
        else:
            self._send(200, data, ETag=f'"{git_hash(data)}"', **commit)

    def stored(self, number: str) -> None:
        self._send(200, self.hub.store[number], ETag=f'"{number}"')


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    "POST /api/repos/create": _Handler.create,
    "POST /api/validate-yaml": _Handler.validate,
    rf"POST /api/models/{NAME}/preupload/(.+)": _Handler.preupload,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /store/(\w{64})": _Handler.put,
    rf"POST /api/models/{NAME}/commit/(.+)": _Handler.commit,
    rf"GET /api/models/{NAME}(/revision/(.+))?": _Handler.info,
    rf"GET /api/models/{NAME}/tree/(.+)": _Handler.tree,
    rf"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)": _Handler.resolve,
    r"(?:GET|HEAD) /store/(\w{64})": _Handler.stored,
}
