"""A stand-in for the Hub on 127.0.0.1: what the unmodified huggingface_hub client asks when it pushes and pulls a model.

Files travel inside the commit (the "regular" upload mode), so no LFS and no Xet are needed.
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
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackHub(ThreadingHTTPServer):
    """repos: {repo id: {path: bytes}}; commits: {repo id: [files of each commit]}; faults: [(regex on "METHOD path", status)]."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[list[str]]] = {}
        self.faults: list[tuple[str, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def sha(self, repo: str) -> str:
        """The commit hash of a repository as it is now."""
        state = repr(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in self.repos[repo].items()))
        return hashlib.sha1(state.encode()).hexdigest()

    def python(self, code: str, home: object, **environment: str) -> subprocess.CompletedProcess:
        """Run code in a fresh interpreter whose Hub is this one, whose cache is `home`, and which holds a token."""
        env = os.environ | {
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": "hf_SecretSecretSecret", "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1", "PYTHONPATH": ".",
        } | environment  # fmt: skip
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    hub = LoopbackHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()


def blob_id(content: bytes) -> str:
    """git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if self._fault():
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+.*", path):
            files = hub.repos[match[1]]
            self._json([{"type": "file", "path": n, "size": len(c), "oid": blob_id(c)} for n, c in files.items()])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/(.+))?", path):
            repo = match[1]
            if repo not in hub.repos:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif match[3] not in (None, "main", hub.sha(repo)):
                self._json({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
            else:
                names = [{"rfilename": name} for name in hub.repos[repo]]
                self._json({"id": repo, "sha": hub.sha(repo), "private": False, "tags": [], "siblings": names})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            repo, content = match[1], hub.repos.get(match[1], {}).get(match[2])
            if content is None:
                self._json({}, 404, {"X-Error-Code": "EntryNotFound"})
            else:
                self._answer(content, 200, {"X-Repo-Commit": hub.sha(repo), "ETag": f'"{blob_id(content)}"'})
        else:
            self._json({}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self._body()
        if self._fault():
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization'] or 'me'}/{asked['name']}"
            known = repo in hub.repos
            hub.repos.setdefault(repo, {})
            self._json({"url": f"{hub.url}/{repo}"}, 409 if known else 200)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", path):
            files = hub.repos[match[1]]
            answer = []
            for file in json.loads(body)["files"]:
                known = {"oid": blob_id(files[file["path"]])} if file["path"] in files else {}
                answer.append({"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} | known)
            self._json({"files": answer})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
            repo, lines = match[1], [json.loads(line) for line in body.splitlines() if line.strip()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            hub.repos[repo] |= files
            hub.commits.setdefault(repo, []).append(sorted(files))
            oid = hub.sha(repo)
            self._json({"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repo}/commit/{oid}"})
        else:
            self._json({}, 404)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fault(self) -> bool:
        for pattern, status in self.server.faults:
            if re.search(pattern, f"{self.command} {self.path}"):
                message = f"no, said the Hub to {self.headers.get('Authorization')}"
                self._json({"error": message}, status, {"X-Error-Message": message})
                return True
        return False

    def _json(self, value: object, status: int = 200, headers: dict | None = None) -> None:
        self._answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def _answer(self, content: bytes, status: int, headers: dict) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        pass
