"""From a folder to the Hub in one commit, and what stands between: allow-list, secrets, retries, deadlines, checksums.

`store.push` is the door. The Hub's own client retries some calls and not others, and waits for ever on a server that
hangs; here one rule holds for all of them. A commit is never sent blindly again: what became of it is looked up first.
"""

import itertools
import logging
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import _http

from hub_models import card, secret_scan, store

ATTEMPTS = 5  # of one call, the first included
WAITS_SECONDS = (1, 2, 4, 8)  # between them, unless the Hub says Retry-After
LONGEST_WAIT_SECONDS = 60  # a Retry-After above it ends the push
CALL_SECONDS = 60  # for one call, and on top
BYTES_PER_SECOND = 100_000  # the slowest line a body may go over
SHOWN_SECRETS = 10  # in one refusal
PUSH_SECONDS = 1800  # for all calls of one push, the time of the bodies apart
PASSING = {408, 429, 500, 502, 503, 504}  # answers that may be another a moment later

# What an earlier push has left on the Hub and this folder no longer has: deleted in the same commit.
REPLACED = {
    "model": (".safetensors", ".safetensors.index.json"),
    "dataset": (".parquet", ".jsonl", ".csv", ".png", ".jpg"),
    "space": (".py", ".safetensors"),
}

log = logging.getLogger(__name__)


class GaveUp(Exception):
    """A call that was tried as often and as long as it may be; not one of those that the client tries again."""


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool,
    create_pr: bool,
    repo_type: str,
    again: str | None,
    harmless: Sequence[str] = (),
    create: dict,
) -> str:
    """See `store.push`."""
    if again is None:
        again = f"python -m training.publish {shlex.quote(str(folder))} --repo_id {repo_id}"
        again += f" --repo_type {repo_type}" * (repo_type != "model") + " --private" * private
        again += " --create_pr" * create_pr + "".join(f" --harmless {shlex.quote(place)}" for place in harmless)
    names = checked(folder, repo_type, harmless)
    if not get_token():
        raise store.PushError(f"{repo_id} was not pushed: there is no token; run `hf auth login`, then: {again}")
    api, done = HfApi(), False
    size = sum((folder / name).stat().st_size for name in names)
    try:
        with _patience(PUSH_SECONDS + size / BYTES_PER_SECOND):
            sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
            address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, **sdk | create)
            repo_id = address.repo_id  # with its owner, if only a name was given
            revision, pr_url = _commit(api, folder, names, repo_id, repo_type, create_pr)
            done = True
            found = api.verify_repo_checksums(repo_id, repo_type=repo_type, local_dir=folder, revision=revision)
    except store.PushError as error:
        raise store.PushError(f"{error}; repeat with: {again}") from error
    except Exception as error:  # whatever fails on the way: the folder lies on disk, and the line repeats it
        what = "was pushed, but not checked" if done else "was not pushed"
        reason = explained(error, repo_id, repo_type)
        raise store.PushError(f"{repo_id} {what} ({reason}); repeat with: {again}") from error
    if missing := sorted(set(names) & set(found.extra_paths)):
        raise store.PushError(f"the Hub took {repo_id} without {missing[0]}; repeat with: {again}")
    if found.mismatches:
        raise store.PushError(f"the Hub holds other bytes of {found.mismatches[0]['path']}; repeat with: {again}")
    return pr_url or str(address)


def checked(folder: Path, repo_type: str, harmless: Sequence[str] = ()) -> list[str]:
    """The files to push of a folder in which all is as it should be. Raises CheckpointError, PushError; asks no network.

    harmless: the places, as an earlier refusal named them, of what looks like a secret and is none.
    """
    names = store.without_links(folder, repo_type=repo_type)
    if not names:
        raise store.PushError(f"{folder} holds nothing to push: it needs {', '.join(store.PUSHED[repo_type])} files")
    if repo_type == "model":
        store.verify(folder)
    else:
        store.verify_files(folder, names)
    _stop_at_secrets(folder, names, harmless)
    if (folder / "README.md").is_file():
        problems = card.lint((folder / "README.md").read_text(encoding="utf-8"), repo_type)
        if problems:
            raise store.PushError(f"{folder / 'README.md'} would be refused: {'; '.join(problems)}")
    elif repo_type == "space":
        raise store.PushError(f"{folder} has no README.md: a Space is described by its front matter")
    return names


def _stop_at_secrets(folder: Path, names: Sequence[str], harmless: Sequence[str]) -> None:
    """Return if nothing looks like a secret but what was called harmless. Raises PushError, which shows none."""
    try:
        found = list(itertools.islice(secret_scan.findings(folder, names, harmless), SHOWN_SECRETS + 1))
    except secret_scan.ScanError as error:
        raise store.PushError(f"{folder} was not pushed: {error}") from error
    if found:
        shown = "; ".join(f"{one.said} ({one.place})" for one in found[:SHOWN_SECRETS])
        more = ", and more" if len(found) > SHOWN_SECRETS else ""
        flags = shlex.join(word for one in found[:1] for word in ("--harmless", one.place))
        raise store.PushError(
            f"{folder} was not pushed, it holds {shown}{more}: take it out, and revoke it if it was real. If one is no "
            f"secret, say so by the name in brackets, each by its own: {flags}"
        )


# ---- one commit ----------------------------------------------------------------------------------------------------------


def _commit(
    api: HfApi, folder: Path, names: list[str], repo_id: str, repo_type: str, create_pr: bool
) -> tuple[str, str | None]:
    """(revision that holds the folder, address of the pull request if there is one); makes a commit only if it must.

    After an answer that may be another a moment later, and after none, the Hub is asked what it has: the commit may have
    landed. Raises PushError when somebody else's landed instead.
    """
    hashes = {name: (store.file_sha256(folder / name), store.git_sha1(folder / name)) for name in names}
    base = None
    for attempt in itertools.count(1):
        head = api.repo_info(repo_id, repo_type=repo_type).sha
        base = base or head
        operations = _operations(api, folder, hashes, repo_id, repo_type, head)
        if not operations:
            return head, None
        if create_pr and (ref := _same_request(api, folder, hashes, repo_id, repo_type)):
            return ref
        if head != base:
            raise store.PushError(_overtaken(repo_id))
        try:
            commit = api.create_commit(
                repo_id, operations, repo_type=repo_type, parent_commit=base, create_pr=create_pr,
                commit_message="Upload by vitrail",
            )  # fmt: skip
            return commit.pr_revision or commit.oid, commit.pr_url
        except (httpx2.TransportError, HfHubHTTPError) as error:
            status = _status(error)
            if status == 412:  # somebody else's, or the answer to our own was lost
                head = api.repo_info(repo_id, repo_type=repo_type).sha
                if not create_pr and not _operations(api, folder, hashes, repo_id, repo_type, head):
                    return head, None
                raise store.PushError(_overtaken(repo_id)) from error
            if status is not None and status not in PASSING:
                raise
            _wait(attempt, "the commit", error)


def _overtaken(repo_id: str) -> str:
    return (f"{repo_id} was not pushed (412: somebody else has committed to it meanwhile, and nothing of theirs was "
            "overwritten: look at it first)")  # fmt: skip


def _operations(
    api: HfApi, folder: Path, hashes: dict[str, tuple[str, str]], repo_id: str, repo_type: str, revision: str
) -> list:
    """What makes a revision into the folder (hashes: {path: (sha256, git's)}, the Hub goes by either): files that aren't there or differ, and weights or data it no longer has."""
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    operations: list = [
        CommitOperationAdd(name, folder / name)
        for name, (sha256, blob) in hashes.items()
        if name not in there or (there[name].lfs.sha256 != sha256 if there[name].lfs else there[name].blob_id != blob)
    ]
    stale = [path for path in there if path not in hashes and path.endswith(REPLACED[repo_type])]
    return operations + [CommitOperationDelete(path) for path in stale]


def _same_request(api: HfApi, folder: Path, hashes: dict, repo_id: str, repo_type: str) -> tuple[str, str] | None:
    """(ref, address) of an open pull request that already holds the folder: an earlier push, or one whose answer was lost."""
    requests = api.get_repo_discussions(
        repo_id, repo_type=repo_type, discussion_type="pull_request", discussion_status="open"
    )
    for request in itertools.islice(requests, 20):
        ref = f"refs/pr/{request.num}"
        if request.status == "open" and not _operations(api, folder, hashes, repo_id, repo_type, ref):
            return ref, request.url
    return None


# ---- patience ------------------------------------------------------------------------------------------------------------


class _Patient(httpx2.Client):
    """A client that tries passing failures again, waits as the Hub asks, and waits for nothing for ever.

    What can't be repeated as it stands (a file that is being read; a commit) fails through to who can. But it is counted.
    """

    def __init__(self, ends: float):
        super().__init__(event_hooks={"request": [_http.hf_request_event_hook]}, follow_redirects=True)
        self.ends, self.failed = ends, {}

    def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs) -> httpx2.Response:
        call = f"{request.method} {request.url.path}"
        seconds = CALL_SECONDS + int(request.headers.get("Content-Length") or 0) / BYTES_PER_SECOND
        repeatable = isinstance(request.stream, httpx2.ByteStream) and "/commit/" not in request.url.path
        for attempt in itertools.count(self.failed.get(call, 0) + 1):
            until = time.monotonic() + min(seconds, self.ends - time.monotonic())
            if until <= time.monotonic():
                raise GaveUp(f"the time for this push is over, at {call}")
            request.extensions["timeout"] = dict.fromkeys(
                ("connect", "read", "write", "pool"), until - time.monotonic()
            )
            response = error = None
            try:
                response = super().send(request, stream=True, **kwargs)
                response.stream = _Timed(response.stream, until)
                if not stream:
                    response.read()
            except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as caught:
                error = caught
            if error is None and response.status_code not in PASSING:
                self.failed.pop(call, None)
                return response
            if not repeatable:
                self.failed[call] = attempt
            if not repeatable and attempt < ATTEMPTS:
                if error is not None:
                    raise error
                return response
            if response is not None:
                response.close()
            _wait(attempt, call, error, response, until=self.ends)


class _Hasty(httpx2.Client):
    """A client that gives up on a server that hangs where huggingface_hub would wait for ever."""

    def send(self, request: httpx2.Request, **kwargs) -> httpx2.Response:
        said = request.extensions.get("timeout") or {}
        for part in ("connect", "read", "write", "pool"):
            if said.get(part) is None:
                said[part] = constants.HF_HUB_ETAG_TIMEOUT
        request.extensions["timeout"] = said
        return super().send(request, **kwargs)


class _Timed(httpx2.SyncByteStream):
    """A body that has to have come by a time, however it trickles."""

    def __init__(self, stream: httpx2.SyncByteStream, until: float):
        self.stream, self.until = stream, until

    def __iter__(self) -> Iterator[bytes]:
        for part in self.stream:
            if time.monotonic() > self.until:
                raise httpx2.ReadTimeout("the answer was too slow")
            yield part

    def close(self) -> None:
        self.stream.close()


@contextmanager
def _client(make: Callable[[], httpx2.Client]) -> Iterator[None]:
    """Within it, every call of huggingface_hub goes through a client made by `make`."""
    before = _http._GLOBAL_CLIENT_FACTORY
    set_client_factory(make)
    try:
        yield
    finally:
        set_client_factory(before)


def _patience(seconds: float) -> AbstractContextManager:
    """Within it, calls are tried again, and all of them have so many seconds."""
    ends = time.monotonic() + seconds
    return _client(lambda: _Patient(ends))


def haste() -> AbstractContextManager:
    """Within it, a server that hangs counts as one that is down: what is in the cache serves."""
    hooks = {"request": [_http.hf_request_event_hook]}
    return _client(lambda: _Hasty(event_hooks=hooks, follow_redirects=True))


def _wait(
    attempt: int,
    call: str,
    error: Exception | None,
    response: httpx2.Response | None = None,
    until: float | None = None,
) -> None:
    """Sleep before the next attempt. Raises GaveUp after the last one, or if the Hub asks for too long a wait."""
    response = response if response is not None else getattr(error, "response", None)
    if response is not None:
        what = f"{response.status_code} from the Hub"
    elif isinstance(error, httpx2.TimeoutException):
        what = "no answer in time"
    else:
        what = f"no answer: {store.one_line(error)}"
    if attempt >= ATTEMPTS:
        raise GaveUp(f"{what} to {call}, {attempt} times") from error
    seconds = WAITS_SECONDS[min(attempt, len(WAITS_SECONDS)) - 1]
    asked = _asked_to_wait(response)
    if asked is not None:
        seconds = asked
    if seconds > LONGEST_WAIT_SECONDS or (until is not None and time.monotonic() + seconds > until):
        raise GaveUp(f"{what} to {call}, which asks to wait {seconds:.0f} s: repeat it then") from error
    log.warning("%s to %s; attempt %d of %d in %g s", what, call, attempt + 1, ATTEMPTS, seconds)
    time.sleep(seconds)


def _asked_to_wait(response: httpx2.Response | None) -> float | None:
    """The seconds in Retry-After, or those until a spent rate limit is filled again; None if the Hub doesn't say."""
    if response is None:
        return None
    said = response.headers.get("Retry-After", "")
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    limit = dict(re.findall(r"\b([rt])=(\d+)", response.headers.get("ratelimit", "")))
    return float(limit["t"]) + 1 if limit.get("r") == "0" and "t" in limit and response.status_code == 429 else None


# ---- words ---------------------------------------------------------------------------------------------------------------


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def explained(error: BaseException, repo_id: str, repo_type: str) -> str:
    """What went wrong in a push and what to do, in one line, with tokens masked."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    error = next((one for one in chain if isinstance(one, GaveUp) or _status(one) is not None), error)
    status = _status(error)
    words = EXPLAINED.get((status, repo_type)) or EXPLAINED.get(status)
    if words is None:
        return store.one_line(error)
    said = store.masked(" ".join(error.response.headers.get("X-Error-Message", "").split()))[:200]
    return f"{status}: {words.format(repo_id=repo_id)}" + (f"; the Hub says: {said}" if said else "")


_SPACE = ("a free account hosts two Gradio Spaces on ZeroGPU and none on a CPU: delete one, put all demos into one "
          "(`python spaces/build.py gallery`), ask for --hardware zero-a10g, or use a PRO or paid account")  # fmt: skip
EXPLAINED: dict = {
    401: "the Hub does not take this token: run `hf auth login`, or set HF_TOKEN to one that may write",
    402: "the Hub wants payment before it makes {repo_id}: see the billing page of that account",
    (402, "space"): "the Hub wants payment before it makes the Space {repo_id}: " + _SPACE,
    403: "this token may not write to {repo_id}: take one with write access, and a name of your own or your organisation",
    (403, "space"): "the Hub does not let this token make or change the Space {repo_id}: either it is read-only or the "
                    "name is not yours, or the account has all the Spaces it may have: " + _SPACE,
    404: "the Hub shows no {repo_id} to this token: check the spelling and the rights of the token",
    413: "a file is too large for the Hub: split it into shards",
}  # fmt: skip
