"""A Hugging Face Hub on this machine, as far as downloads and commits need it. It stores repositories in memory."""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote

TOKEN = "hf_thesecrettokenofthetests"
_LARGE = (".safetensors", ".tflite", ".bin")  # stored by their SHA-256


@dataclass
class Repository:
    """A repository: the files of its commits, and the commits that branches and other references name."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def commit(self, files, reference="main"):
        """Adds files to a branch and returns the commit."""
        files = {**self.commits.get(self.references.get(reference), {}), **files}
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name], self.references[reference] = files, name
        return name


class HubServer(ThreadingHTTPServer):
    """The server, in a thread of its own.

    Attributes:
        repositories: by their names.
        objects: uploaded large files by their SHA-256.
        requests: the method and path of each request, except those for the list of agents.
        dropped: the SHA-256 of large files whose upload is interrupted, each time.
        replaced: the content of downloads in place of that of the repository, by file name.
        writers: the tokens that may write.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.objects, self.requests = {}, {}, []
        self.dropped, self.replaced, self.writers = set(), {}, {TOKEN}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(self, name, files, *, reference="main", private=False):
        """Commits files to a repository, which is created if needed, and returns the commit."""
        return self.repositories.setdefault(name, Repository(private)).commit(files, reference)

    def stop(self):
        """Refuses connections from now on."""
        self.shutdown()
        self.server_close()


def connect(server, monkeypatch, home):
    """Makes huggingface_hub, in this process, use a server and a folder; no token is set."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    values = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for module in (_http, file_download):  # they wait for seconds before they try again
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))


def make_environment(server, home):
    """Returns the variables that make huggingface_hub in another process use a server and a folder, with a token."""
    return {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer_get()

    def do_GET(self):
        self._answer_get()

    def _answer_get(self):
        if self.path == "/api/agent-harnesses":
            return self._send(404)
        self.server.requests.append((self.command, self.path))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            return self._answer_file(match[1], unquote(match[2]), match[3])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/main)?", self.path):
            return self._answer_info(match[1])
        return self._send(404)

    def _answer_file(self, name, revision, file):
        repository = self._find(name)
        if repository is None:
            return self._send(401, headers={"X-Error-Code": "RepoNotFound"})
        commit = repository.references.get(revision, revision)
        if commit not in repository.commits:
            return self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit}
        if file not in repository.commits[commit]:
            return self._send(404, headers=headers | {"X-Error-Code": "EntryNotFound"})
        content = repository.commits[commit][file]
        hash_ = hashlib.sha256 if file.endswith(_LARGE) else hashlib.sha1
        headers["ETag"] = f'"{hash_(content).hexdigest()}"'
        return self._send(200, self.server.replaced.get(file, content), headers, len(content))

    def _answer_info(self, name):
        repository = self._find(name)
        if repository is None:
            return self._send(404, headers={"X-Error-Code": "RepoNotFound"})
        sha = repository.references.get("main")
        return self._send_json({"id": name, "sha": sha, "private": repository.private, "siblings": []})

    def _find(self, name):
        repository = self.server.repositories.get(name)
        return repository if repository and not (repository.private and not self._may_write()) else None

    def _may_write(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.server.writers

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(("POST", self.path))
        if not self._may_write():
            return self._send(403, headers={"X-Error-Message": "You have no write access"})
        if self.path == "/api/validate-yaml":
            return self._send_json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(_LARGE) else "regular" for file in files}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._send_json({"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._send_json({"objects": [self._plan(item) for item in json.loads(body)["objects"]]})
        if self.path == "/verify":
            return self._send_json({})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            return self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        return self._send(404)

    def _create(self, values):
        name = f"{values['organization']}/{values['name']}"
        exists = name in self.server.repositories
        private = values.get("visibility") == "private" or values.get("private", False)  # of huggingface_hub 2 and 1
        self.server.repositories.setdefault(name, Repository(private))
        return self._send_json({"url": f"{self.server.url}/{name}"}, 409 if exists else 200)

    def _plan(self, item):
        if item["oid"] in self.server.objects:
            return item
        upload = {"href": f"{self.server.url}/objects/{item['oid']}"}
        return item | {"actions": {"upload": upload, "verify": {"href": f"{self.server.url}/verify"}}}

    def do_PUT(self):
        self.server.requests.append(("PUT", self.path))
        name = self.path.rpartition("/")[2]
        if name in self.server.dropped:
            return self.connection.close()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == name
        self.server.objects[name] = content
        return self._send(200)

    def _commit(self, name, lines):
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = self.server.add(name, files)
        url = f"{self.server.url}/{name}/commit/{commit}"
        return self._send_json({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})

    def _send_json(self, value, status=200):
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content=b"", headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
