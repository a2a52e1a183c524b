"""A stand-in for the Hub on 127.0.0.1: what the unmodified clients ask when they create, push, list, pull and load.

    with loopback_hub() as hub:
        hub.fault("POST .*/commit/", status=503, times=2)
        done = hub.python("from huggingface_hub import ...", home=tmp_path)

Models, data sets and Spaces; the LFS path (an object store on a second port, as the real one is on another host) and
the "regular" one (files within the commit). A repository's key is its path in an address: "org/name",
"datasets/org/name", "spaces/org/name". Xet is not spoken: clients run with HF_HUB_DISABLE_XET=1, or are told "regular".
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN, READ_ONLY = "hf_SecretSecretSecret", "hf_ReadersReadersReaders"
LFS = (".safetensors", ".parquet", ".bin", ".png", ".jpg")  # what goes to the object store, if `lfs`
DATE = "2026-01-02T03:04:05.000Z"
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


@dataclass
class Fault:
    """What goes wrong with requests that match. Of several that match, the first that is not used up acts."""

    pattern: str  # searched in "METHOD /path?query"
    status: int | None = None  # answer this and do nothing
    message: str | None = None  # the X-Error-Message of that answer
    headers: dict = field(default_factory=dict)  # of that answer, e.g. {"Retry-After": "1"}
    delay: float = 0  # seconds before anything happens
    cut: int | None = None  # send so many bytes of the body, then hang up
    wrong: bool = False  # the right length, but one byte flipped
    lost: bool = False  # do what was asked, then hang up without an answer
    stale: bool = False  # somebody else commits just before
    times: int | None = None  # act so often; None = for ever


@dataclass
class Repo:
    """Branches and pull requests are {ref: commit}; a commit is a full {path: bytes}."""

    key: str
    private: bool = False
    sdk: str | None = None
    states: dict[str, dict[str, bytes]] = field(default_factory=dict)  # {commit: files}
    log: list[tuple[str, str, list[str]]] = field(default_factory=list)  # (commit, title, changed paths), oldest first
    refs: dict[str, str] = field(default_factory=dict)  # but "main", which is `LoopbackHub.repos`
    requests: dict[str, str] = field(default_factory=dict)  # {ref of a pull request: title}
    runtime: dict = field(default_factory=lambda: {"stage": "RUNNING", "hardware": {"current": "cpu-basic"}})
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)


class LoopbackHub(ThreadingHTTPServer):
    """repos: {key: {path: bytes}}, main as it is now (a test may write there: that is a commit by somebody else).
    commits: {key: [paths of each commit on main]}. asked: every "METHOD /path?query" so far, in order. faults: a list
    of `Fault`; (pattern, status) will do. lfs: whether large kinds go by LFS. part_bytes: upload objects above it in
    parts. page_size: entries of a tree per page. objects: the LFS store, {sha256: bytes}. tokens: {token: may it
    write}. leaked: tokens that reached the object store.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hub)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.store = _ObjectStore(("127.0.0.1", 0), _Objects)
        self.store.hub, self.store.url = self, f"http://127.0.0.1:{self.store.server_port}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[list[str]]] = {}
        self.about: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens = {TOKEN: True, READ_ONLY: False}
        self.faults: list[Fault | tuple[str, int]] = []
        self.asked: list[str] = []
        self.leaked: list[str] = []
        self.lfs, self.part_bytes, self.page_size = True, None, 1000
        self.closing, self.lock = threading.Event(), threading.RLock()

    def fault(self, pattern: str, **what: object) -> Fault:
        """Add a fault; see `Fault` for what it can be."""
        self.faults.append(Fault(pattern, **what))
        return self.faults[-1]

    def count(self, pattern: str) -> int:
        """How many requests so far match."""
        return sum(bool(re.search(pattern, request)) for request in self.asked)

    def create(self, key: str, *, private: bool = False, sdk: str | None = None) -> Repo:
        """A repository, with the one commit that the Hub makes itself."""
        with self.lock:
            self.repos[key], self.about[key], self.commits[key] = {}, Repo(key, private, sdk), []
            self.about[key].states[self.sha(key)] = {}
            return self.about[key]

    def sha(self, key: str) -> str:
        """The commit hash of a repository's main as it is now: a function of what is in it."""
        state = repr((key, sorted((k, hashlib.sha1(v).hexdigest()) for k, v in self.repos[key].items())))
        return hashlib.sha1(state.encode()).hexdigest()

    def commit(self, key: str, files: dict[str, bytes], title: str = "somebody else's", deleted: tuple = ()) -> str:
        """Commit to main; returns the commit's hash."""
        with self.lock:
            about = self.about[key]
            about.states[self.sha(key)] = dict(self.repos[key])
            self.repos[key] |= files
            for path in deleted:
                self.repos[key].pop(path, None)
            about.states[self.sha(key)] = dict(self.repos[key])
            about.log.append((self.sha(key), title, sorted([*files, *deleted])))
            self.commits[key].append(sorted([*files, *deleted]))
            return self.sha(key)

    def at(self, key: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, files) of a branch, tag, pull request or commit; None if there is none."""
        if revision in ("main", "refs/heads/main", self.sha(key)):
            return self.sha(key), self.repos[key]
        oid = self.about[key].refs.get(revision, revision)
        return (oid, self.about[key].states[oid]) if oid in self.about[key].states else None

    def python(
        self,
        code: str,
        home: object,
        *arguments: str,
        cwd: object = None,
        timeout_s: float = 300,
        **environment: str,
    ) -> subprocess.CompletedProcess:
        """Run code in a fresh interpreter whose Hub is this one, whose cache is `home`, and which holds a token.

        cwd: a folder other than the repository; the code then finds none of the project's modules.
        """
        known = self.environment(home) | environment | ({} if cwd is None else {"PYTHONPATH": ""})
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=known,
            cwd=cwd,
            text=True,
            capture_output=True,
            timeout=timeout_s,
        )

    def environment(self, home: object) -> dict[str, str]:
        """The variables of a process whose Hub is this one."""
        return os.environ | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": ".",
        }

    def close(self) -> None:
        self.closing.set()
        for server in (self, self.store):
            server.shutdown()
            server.server_close()


class _ObjectStore(ThreadingHTTPServer):
    daemon_threads = True
    hub: LoopbackHub
    url: str


@contextlib.contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A running stand-in; stopped when the block ends."""
    hub = LoopbackHub()
    for server in (hub, hub.store):
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.close()


def blob_id(content: bytes) -> str:
    """git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refusals(text: str, kind: str) -> list[str]:
    """What /api/validate-yaml finds in a README: a few of the real Hub's rules, in its words."""
    match = re.match(r"---\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    if not match:
        return []  # the real one only warns
    try:
        front = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML parse error: {' '.join(str(error).split())}"]
    if not isinstance(front, dict):
        return ["metadata must be an object"]
    found = []
    for key in ("license", "datasets", "base_model", "library_name", "pipeline_tag", "tags", "language"):
        values = front.get(key) if isinstance(front.get(key), list) else [front[key]] if key in front else []
        for value in values:
            if not isinstance(value, str):
                found.append(f'"{key}" must be a string')
            elif key in ("datasets", "base_model") and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
                found.append(f'"{key}" with value "{value}" is not valid. Use an id from the Hub')
            elif key == "license" and not re.fullmatch(r"[a-z0-9.+-]+", value):
                found.append('"license" must be one of [apache-2.0, mit, ...]')
    for model in front.get("model-index") or []:
        for result in model.get("results") or []:
            for metric in result.get("metrics") or []:
                if metric.get("value") is None:
                    found.append('"model-index[0].results[0].metrics[0].value" is required')
    if kind == "space":
        if front.get("sdk") not in ("gradio", "docker", "static"):
            found.append('"sdk" must be one of [gradio, docker, static]')
        found += [
            f'"{k}" must be one of {COLOURS}'
            for k in ("colorFrom", "colorTo")
            if k in front and front[k] not in COLOURS
        ]
        if len(str(front.get("short_description", ""))) > 60:
            found.append('"short_description" length must be less than or equal to 60 characters long')
    return found


class _Handler(BaseHTTPRequestHandler):
    """Bodies, faults and answers: what both servers share."""

    protocol_version = "HTTP/1.1"
    fault: Fault | None = None

    @property
    def hub(self) -> LoopbackHub:
        return self.server if isinstance(self.server, LoopbackHub) else self.server.hub

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def serve(self) -> None:
        self.body = self._read()
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), {k: v[-1] for k, v in parse_qs(parts.query).items()}
        request = f"{self.command} {self.path}"
        with self.hub.lock:
            self.hub.asked.append(request)
            self.fault = self._matching(request)
        if self.fault:
            self.hub.closing.wait(self.fault.delay)
            if self.fault.stale and (key := re.search(r"/api/(\w+)s/([^/]+/[^/]+)/", self.route)):
                somebody = {"theirs.txt": str(time.time()).encode()}
                self.hub.commit(_key(key[1], key[2]), somebody)
            if self.fault.status:
                message = self.fault.message or f"no, said the Hub to {self.headers.get('Authorization')}"
                headers = {"X-Error-Message": message} | self.fault.headers
                self.json({"error": message}, self.fault.status, headers)
                return
        self.answer()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _matching(self, request: str) -> Fault | None:
        for place, fault in enumerate(self.hub.faults):
            if not isinstance(fault, Fault):
                fault = self.hub.faults[place] = Fault(*fault)
            if fault.times != 0 and re.search(fault.pattern, request):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def _read(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def json(self, value: object, status: int = 200, headers: dict | None = None) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def file(self, content: bytes, headers: dict) -> None:
        """A file, or the range of it that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self.send(content, 200, headers)
        elif int(asked[1]) >= len(content):
            self.send(b"", 416, headers | {"Content-Range": f"bytes */{len(content)}"})
        else:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            self.send(content[first : last + 1], 206, headers | span)

    def send(self, content: bytes, status: int, headers: dict) -> None:
        fault = self.fault
        if fault and fault.lost:
            self.close_connection = True
            return
        if fault and fault.wrong and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.cut is not None and not fault.status:
            self.close_connection = True
            content = content[: fault.cut]
        self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        pass


class _Objects(_Handler):
    """The object store: PUT of an object or a part of one, GET of an object."""

    def answer(self) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.leaked.append(token)
        oid, _, part = self.route.removeprefix("/").partition("/")
        if self.command == "PUT" and part:
            self.hub.objects[f"{oid}/{part}"] = self.body
            self.send(b"", 200, {"ETag": f'"{sha256(self.body)[:16]}"'})
        elif self.command == "PUT":
            right = sha256(self.body) == oid
            if right:
                self.hub.objects[oid] = self.body
            self.send(b"" if right else b"these bytes have another sha256", 200 if right else 400, {})
        elif oid in self.hub.objects:
            self.file(self.hub.objects[oid], {"ETag": f'"{oid}"'})
        else:
            self.send(b"", 404, {})


def _key(kind: str, name: str) -> str:
    return name if kind == "model" else f"{kind}s/{name}"


class _Hub(_Handler):
    """The Hub itself: each method of a route table below answers one kind of request."""

    def answer(self) -> None:
        for methods, pattern, handler in ROUTES:
            if self.command in methods.split() and (match := re.fullmatch(pattern, self.route)):
                handler(self, *match.groups())
                return
        self.json({"error": f"the stand-in knows no {self.command} {self.route}"}, 404)

    # ---- who may -----------------------------------------------------------------------------------------------------

    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def may_write(self, key: str) -> bool:
        """Whether the request comes with a token that may write; otherwise it has been answered."""
        token = self.token()
        if token not in self.hub.tokens:
            message = "Invalid credentials in Authorization header" if token else "Invalid username or password."
            self.json({"error": message}, 401, {"X-Error-Message": message})
        elif not self.hub.tokens[token]:
            message = f"You don't have the rights to write to {key}"
            self.json({"error": message}, 403, {"X-Error-Message": message})
        else:
            return True
        return False

    def find(self, kind: str, name: str) -> str | None:
        """The key of a repository that this request may see; otherwise it has been answered."""
        key = _key(kind, name)
        if key in self.hub.repos and key not in self.hub.about:
            self.hub.about[key], self.hub.commits[key] = Repo(key), []  # a test has put it there
        if key in self.hub.repos and not (self.hub.about[key].private and self.token() not in self.hub.tokens):
            return key
        self.json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return None

    def files_at(self, key: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        found = self.hub.at(key, revision)
        if found is None:
            self.json({"error": f"Invalid rev id: {revision}"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return found

    # ---- account and repositories ------------------------------------------------------------------------------------

    def whoami(self) -> None:
        if self.token() not in self.hub.tokens:
            message = "Invalid credentials in Authorization header"
            self.json({"error": message}, 401, {"X-Error-Message": message})
            return
        role = "write" if self.hub.tokens[self.token()] else "read"
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        self.json({"type": "user", "id": "1", "name": "me", "fullname": "Me", "orgs": [], "auth": access})

    def create(self) -> None:
        asked = json.loads(self.body)
        kind = asked.get("type") or "model"
        key = _key(kind, f"{asked.get('organization') or 'me'}/{asked['name']}")
        if not self.may_write(key):
            return
        known = key in self.hub.repos
        if not known:
            about = self.hub.create(key, private=asked.get("visibility") == "private", sdk=asked.get("sdk"))
            about.runtime["hardware"] = {"current": asked.get("hardware") or "cpu-basic"}
            about.variables |= {v["key"]: v["value"] for v in asked.get("variables") or []}
            about.secrets |= {v["key"]: v["value"] for v in asked.get("secrets") or []}
        self.json({"url": f"{self.hub.url}/{key}"}, 409 if known else 200)

    def delete(self) -> None:
        asked = json.loads(self.body)
        key = _key(asked.get("type") or "model", f"{asked.get('organization') or 'me'}/{asked['name']}")
        if self.may_write(key):
            self.hub.repos.pop(key, None)
            self.json({})

    def validate(self) -> None:
        asked = json.loads(self.body)
        errors = [{"message": message} for message in refusals(asked["content"], asked.get("repoType") or "model")]
        self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        if not (key := self.find(kind, name)) or not (found := self.files_at(key, revision or "main")):
            return
        oid, files = found
        siblings = [
            {"rfilename": path} | ({"size": len(c), "blobId": blob_id(c)} if "blobs" in self.query else {})
            for path, c in sorted(files.items())
        ]
        about = self.hub.about[key]
        answer = {"_id": "1", "id": name, "sha": oid, "author": name.split("/")[0], "private": about.private,
                  "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
                  "lastModified": DATE, "createdAt": DATE}  # fmt: skip
        if kind == "space":
            answer |= {"sdk": about.sdk, "runtime": about.runtime}
        if card := re.match(r"---\n(.*?)\n---", files.get("README.md", b"").decode(errors="replace"), re.DOTALL):
            answer["cardData"] = yaml.safe_load(card[1])
        self.json(answer)

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        if not (key := self.find(kind, name)):
            return
        folder = (folder or "").strip("/")
        while (
            self.hub.at(key, revision) is None and "/" in revision
        ):  # a revision may have slashes, and so may a folder
            revision, _, part = revision.rpartition("/")
            folder = f"{part}/{folder}".strip("/")
        if not (found := self.files_at(key, revision)):
            return
        inside = {p: c for p, c in found[1].items() if not folder or p.startswith(f"{folder}/")}
        if folder and not inside:
            self.json({"error": f"{folder} does not exist"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        entries = self.entries(inside, folder, deep=self.query.get("recursive", "").lower() in ("1", "true"))
        first, headers = int(self.query.get("cursor", 0)), {}
        if first + self.hub.page_size < len(entries):
            rest = "&".join(f"{k}={v}" for k, v in self.query.items() if k != "cursor")
            address = f"{self.hub.url}{urlsplit(self.path).path}?{rest}&cursor={first + self.hub.page_size}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.json(entries[first : first + self.hub.page_size], 200, headers)

    def entries(self, files: dict[str, bytes], folder: str, *, deep: bool) -> list[dict]:
        found: dict[str, dict] = {}
        for path, content in sorted(files.items()):
            below = path.removeprefix(f"{folder}/") if folder else path
            parts = below.split("/")
            for depth in range(1, len(parts) if deep else min(len(parts), 2)):
                above = "/".join([*([folder] if folder else []), *parts[:depth]])
                found[above] = {"type": "directory", "path": above, "oid": hashlib.sha1(above.encode()).hexdigest()}
            if deep or len(parts) == 1:
                found[path] = self.entry(path, content)
        return list(found.values())

    def entry(self, path: str, content: bytes) -> dict:
        told = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if sha256(content) in self.hub.objects:
            told["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return told

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        if not (key := self.find(kind, name)) or not (found := self.files_at(key, revision)):
            return
        asked = (
            parse_qs(self.body.decode()).get("paths", []) if self.body[:1] != b"{" else json.loads(self.body)["paths"]
        )
        entries = {e["path"]: e for e in self.entries(found[1], "", deep=True)}
        self.json([entries[path] for path in asked if path in entries])

    def refs(self, kind: str, name: str) -> None:
        if key := self.find(kind, name):
            about = self.hub.about[key]
            refs = [{"name": r, "ref": f"refs/heads/{r}", "targetCommit": o} for r, o in about.refs.items()]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.hub.sha(key)}
            requests = [
                {"name": r.removeprefix("refs/"), "ref": r, "targetCommit": about.refs[r]} for r in about.requests
            ]
            branches = [main, *(ref for ref in refs if not ref["name"].startswith("refs/"))]
            self.json({"branches": branches, "tags": [], "converts": [], "pullRequests": requests})

    def commits_of(self, kind: str, name: str, revision: str) -> None:
        if key := self.find(kind, name):
            told = [
                {"id": oid, "title": title, "message": "", "date": DATE, "authors": [{"user": "me"}]}
                for oid, title, _ in reversed(self.hub.about[key].log)
            ]
            self.json(told)

    def discussions(self, kind: str, name: str) -> None:
        if key := self.find(kind, name):
            told = [
                {
                    "num": int(ref.rpartition("/")[2]),
                    "title": title,
                    "status": "open",
                    "isPullRequest": True,
                    "author": {"name": "me"},
                    "createdAt": DATE,
                    "repo": {"name": name, "type": kind},
                }
                for ref, title in self.hub.about[key].requests.items()
            ]
            self.json({"discussions": told, "count": len(told), "start": 0})

    def branch(self, kind: str, name: str, branch: str) -> None:
        if (key := self.find(kind, name)) and self.may_write(key):
            known = branch in self.hub.about[key].refs
            if not known:
                asked = json.loads(self.body or b"{}").get("startingPoint") or "main"
                oid, files = self.hub.at(key, asked) or self.hub.at(key, "main")
                self.hub.about[key].states[oid], self.hub.about[key].refs[branch] = dict(files), oid
            self.json({}, 409 if known else 200)

    # ---- files in ----------------------------------------------------------------------------------------------------

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if not (key := self.find(kind, name)) or not self.may_write(key) or not (found := self.files_at(key, revision)):
            return
        answers = []
        for file in json.loads(self.body)["files"]:
            content = found[1].get(file["path"])
            mode = "lfs" if self.hub.lfs and file["path"].endswith(LFS) else "regular"
            known = {} if content is None else {"oid": sha256(content) if mode == "lfs" else blob_id(content)}
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False} | known)
        self.json({"files": answers})

    def batch(self, prefix: str, name: str) -> None:
        key = self.find((prefix or "models/").removesuffix("s/"), name)
        if not key or not self.may_write(key):
            return
        answers = []
        for asked in json.loads(self.body)["objects"]:
            oid, size, part = asked["oid"], asked["size"], self.hub.part_bytes
            if oid in self.hub.objects:
                answers.append({"oid": oid, "size": size})
                continue
            verify = {"href": f"{self.hub.url}/verify/{oid}"}
            upload: dict = {"href": f"{self.hub.store.url}/{oid}", "header": {}}
            if part and size > part:
                numbers = range(1, -(-size // part) + 1)
                urls = {f"{n:05d}": f"{self.hub.store.url}/{oid}/{n:05d}" for n in numbers}
                upload = {"href": f"{self.hub.url}/complete/{oid}", "header": {"chunk_size": str(part)} | urls}
            answers.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        self.json({"transfer": "basic", "objects": answers})

    def complete(self, oid: str) -> None:
        parts = sorted(json.loads(self.body)["parts"], key=lambda part: part["partNumber"])
        content = b"".join(self.hub.objects.pop(f"{oid}/{part['partNumber']:05d}") for part in parts)
        right = sha256(content) == oid
        if right:
            self.hub.objects[oid] = content
        self.json({}, 200 if right else 400)

    def verify(self, oid: str) -> None:
        right = len(self.hub.objects.get(oid, b"")) == json.loads(self.body)["size"]
        self.json({} if right else {"error": "the object is not there in this size"}, 200 if right else 400)

    def commit(self, kind: str, name: str, revision: str) -> None:
        if not (key := self.find(kind, name)) or not self.may_write(key):
            return
        with self.hub.lock:
            head, files = self.hub.at(key, revision) or (None, None)
            if head is None:
                self.files_at(key, revision)
                return
            changed, deleted, title = {}, [], ""
            for line in (json.loads(line) for line in self.body.splitlines() if line.strip()):
                what, value = line["key"], line["value"]
                if what == "header":
                    title = value["summary"]
                    if value.get("parentCommit") not in (None, head):
                        message = f"A commit has happened since. Please refresh and try again. ({head})"
                        self.json({"error": message}, 412, {"X-Error-Message": message})
                        return
                elif what == "file":
                    changed[value["path"]] = base64.b64decode(value["content"])
                elif what == "lfsFile" and value["oid"] not in self.hub.objects:
                    message = f"Your push was rejected because an LFS pointer points to no object: {value['oid']}"
                    self.json({"error": message}, 400, {"X-Error-Message": message})
                    return
                elif what == "lfsFile":
                    changed[value["path"]] = self.hub.objects[value["oid"]]
                elif value["path"] not in files and what == "deletedFile":
                    message = f"A file with this name doesn't exist: {value['path']}"
                    self.json({"error": message}, 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": message})
                    return
                else:
                    folder = value["path"].rstrip("/") + "/"
                    deleted += [
                        p for p in files if p == value["path"] or (what == "deletedFolder" and p.startswith(folder))
                    ]
            answer: dict = {"success": True}
            about = self.hub.about[key]
            if self.query.get("create_pr") or revision != "main":
                state = {p: c for p, c in (files | changed).items() if p not in deleted}
                oid = hashlib.sha1(repr((head, revision, len(about.states), sorted(state))).encode()).hexdigest()
                ref = revision
                if self.query.get("create_pr"):
                    number = len(about.requests) + 1
                    ref = f"refs/pr/{number}"
                    about.requests[ref] = title
                    answer["pullRequestUrl"] = f"{self.hub.url}/{key}/discussions/{number}"
                about.states[oid], about.refs[ref] = state, oid
            else:
                oid = self.hub.commit(key, changed, title, tuple(deleted))
            self.json(answer | {"commitOid": oid, "commitUrl": f"{self.hub.url}/{key}/commit/{oid}"})

    # ---- files out ---------------------------------------------------------------------------------------------------

    def resolve(self, prefix: str | None, name: str, rest: str) -> None:
        key = self.find((prefix or "models/").removesuffix("s/"), name)
        if not key:
            return
        revision, path = rest.split("/", 1)
        while self.hub.at(key, revision) is None and "/" in path:  # refs/pr/1 has slashes when it isn't quoted
            part, path = path.split("/", 1)
            revision = f"{revision}/{part}"
        if not (found := self.files_at(key, revision)):
            return
        oid, content = found[0], found[1].get(path)
        if content is None:
            self.json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
            return
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob_id(content)}"', "Accept-Ranges": "bytes"}
        if sha256(content) in self.hub.objects:  # on another origin, as the Hub has it: the token stays behind
            linked = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            where = {"Location": f"{self.hub.store.url}/{sha256(content)}"}
            self.send(b"", 302, headers | linked | where)
        else:
            self.file(content, headers)

    # ---- Spaces ------------------------------------------------------------------------------------------------------

    def setting(self, name: str, what: str) -> None:
        if not (key := self.find("space", name)) or not self.may_write(key):
            return
        about, asked = self.hub.about[key], json.loads(self.body or b"{}")
        if what == "secrets":
            about.secrets[asked["key"]] = asked["value"]
        elif what == "variables":
            about.variables[asked["key"]] = asked["value"]
            self.json({k: {"key": k, "value": v} for k, v in about.variables.items()})
            return
        elif what == "hardware":
            about.runtime["hardware"]["requested"] = asked["flavor"]
        self.json(about.runtime)

    def runtime(self, name: str) -> None:
        if key := self.find("space", name):
            self.json(self.hub.about[key].runtime)

    def nothing(self, *_: str) -> None:
        self.json({})


NAME, KIND = r"([^/]+/[^/]+)", r"(model|dataset|space)s"
ROUTES = [
    ("GET", "/api/whoami-v2", _Hub.whoami),
    ("POST", "/api/repos/create", _Hub.create),
    ("DELETE", "/api/repos/delete", _Hub.delete),
    ("POST", "/api/validate-yaml", _Hub.validate),
    ("POST", r"/api/telemetry/.*", _Hub.nothing),
    ("HEAD", r"/api/telemetry/.*", _Hub.nothing),
    ("GET", "/api/agent-harnesses", _Hub.nothing),
    ("POST", rf"/api/spaces/{NAME}/(secrets|variables|hardware|restart|pause|sleeptime)", _Hub.setting),
    ("GET", rf"/api/spaces/{NAME}/runtime", _Hub.runtime),
    ("GET", rf"/api/{KIND}/{NAME}", _Hub.info),
    ("GET", rf"/api/{KIND}/{NAME}/revision/(.+)", _Hub.info),
    ("GET", rf"/api/{KIND}/{NAME}/tree/(.+)", _Hub.tree),
    ("POST", rf"/api/{KIND}/{NAME}/paths-info/(.+)", _Hub.paths_info),
    ("GET", rf"/api/{KIND}/{NAME}/refs", _Hub.refs),
    ("GET", rf"/api/{KIND}/{NAME}/commits/(.+)", _Hub.commits_of),
    ("GET", rf"/api/{KIND}/{NAME}/discussions", _Hub.discussions),
    ("GET", rf"/api/{KIND}/{NAME}/auth-check", _Hub.nothing),
    ("POST", rf"/api/{KIND}/{NAME}/branch/(.+)", _Hub.branch),
    ("POST", rf"/api/{KIND}/{NAME}/preupload/(.+)", _Hub.preupload),
    ("POST", rf"/api/{KIND}/{NAME}/commit/(.+)", _Hub.commit),
    ("POST", rf"/(datasets/|spaces/)?{NAME}\.git/info/lfs/objects/batch", _Hub.batch),
    ("POST", r"/complete/(\w+)", _Hub.complete),
    ("POST", r"/verify/(\w+)", _Hub.verify),
    ("GET HEAD", rf"/(datasets/|spaces/)?{NAME}/resolve/(.+)", _Hub.resolve),
]
