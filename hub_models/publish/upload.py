"""From a folder to the Hub in one commit, and what stands between: allow-list, secrets, retries, deadlines, checksums.

A commit is never sent blindly again: what became of it is looked up first.
"""

import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from hub_models import store
from hub_models.publish import lint, secret_scan
from hub_models.publish.packing import PUSHED, PushError, verify_files, without_links
from hub_models.publish.patience import BYTES_PER_SECOND, PASSING, GaveUp, patience, wait

SHOWN_SECRETS = 10  # in one refusal
PUSH_SECONDS = 1800  # for all calls of one push, the time of the bodies apart

# What an earlier push has left on the Hub and this folder no longer has: deleted in the same commit.
REPLACED = {
    "model": (".safetensors", ".safetensors.index.json"),
    "dataset": (".parquet", ".jsonl", ".csv", ".png", ".jpg"),
    "space": (".py", ".safetensors"),
}


def token_problem() -> str | None:
    """What is wrong with the token in use before anybody is asked; None where it could be one."""
    token = get_token()
    if not token:
        return "there is no token"
    if not re.fullmatch(r"[!-~]+", token):
        return "the token has a character that none of the Hub's has, such as a space or a letter with an accent"
    return None


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    repo_type: str = "model",
    again: str | None = None,
    harmless: Sequence[str] = (),
    **create: Any,
) -> str:
    """Upload a verified folder in one commit, compare checksums, return the repository's or the PR's address.

    Only `files_to_push` go, after a scan for secrets and a lint of README.md; weights and data that the folder no
    longer has are deleted in the same commit. An unchanged folder makes no second commit; a commit by somebody else
    meanwhile is reported, not overwritten. repo_type: "model", "dataset" or "space". again: the line that repeats this
    push, for messages. harmless: places of what looks like a secret and is none, as a refusal names them. create: more
    for `HfApi.create_repo`, such as space_hardware. Raises PushError, which never shows a token and ends with that line
    where repeating helps; CheckpointError if the folder isn't sound.
    """
    folder = Path(folder)
    if again is None:
        again = f"python -m training.publish {shlex.quote(str(folder))} --repo_id {repo_id}"
        again += f" --repo_type {repo_type}" * (repo_type != "model") + " --private" * private
        again += " --create_pr" * create_pr + "".join(f" --harmless {shlex.quote(place)}" for place in harmless)
    names = check_push(folder, repo_type=repo_type, harmless=harmless)
    if problem := token_problem():
        raise PushError(f"{repo_id} was not pushed: {problem}; run `hf auth login`, then: {again}")
    api, done = HfApi(), False
    size = sum((folder / name).stat().st_size for name in names)
    try:
        with patience(PUSH_SECONDS + size / BYTES_PER_SECOND):
            create |= {"space_sdk": "gradio"} if repo_type == "space" else {}
            address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, **create)
            repo_id = address.repo_id  # with its owner, if only a name was given
            revision, pr_url = _commit(api, folder, names, repo_id, repo_type, create_pr)
            done = True
            found = api.verify_repo_checksums(repo_id, repo_type=repo_type, local_dir=folder, revision=revision)
    except PushError as error:
        raise PushError(f"{error}; repeat with: {again}") from error
    except Exception as error:  # whatever fails on the way: the folder lies on disk, and the line repeats it
        what = "was pushed, but not checked" if done else "was not pushed"
        reason = explained(error, repo_id, repo_type)
        raise PushError(f"{repo_id} {what} ({reason}); repeat with: {again}") from error
    if missing := sorted(set(names) & set(found.extra_paths)):
        raise PushError(f"the Hub took {repo_id} without {missing[0]}; repeat with: {again}")
    if found.mismatches:
        raise PushError(f"the Hub holds other bytes of {found.mismatches[0]['path']}; repeat with: {again}")
    return pr_url or str(address)


def check_push(folder: str | Path, *, repo_type: str = "model", harmless: Sequence[str] = ()) -> list[str]:
    """The files that `push` would take, after all that it checks before it asks the Hub. Raises what `push` does."""
    folder = Path(folder)
    names = without_links(folder, repo_type=repo_type)
    if not names:
        raise PushError(f"{folder} holds nothing to push: it needs {', '.join(PUSHED[repo_type])} files")
    if repo_type == "model":
        store.verify(folder)
    else:
        verify_files(folder, names)
    _stop_at_secrets(folder, names, harmless)
    if (folder / "README.md").is_file():
        problems = lint.lint((folder / "README.md").read_text(encoding="utf-8"), repo_type)
        if problems:
            raise PushError(f"{folder / 'README.md'} would be refused: {'; '.join(problems)}")
    elif repo_type == "space":
        raise PushError(f"{folder} has no README.md: a Space is described by its front matter")
    return names


def _stop_at_secrets(folder: Path, names: Sequence[str], harmless: Sequence[str]) -> None:
    """Return if nothing looks like a secret but what was called harmless. Raises PushError, which shows none."""
    try:
        found = list(itertools.islice(secret_scan.findings(folder, names, harmless), SHOWN_SECRETS + 1))
    except secret_scan.ScanError as error:
        raise PushError(f"{folder} was not pushed: {error}") from error
    if found:
        shown = "; ".join(f"{one.said} ({one.place})" for one in found[:SHOWN_SECRETS])
        more = ", and more" if len(found) > SHOWN_SECRETS else ""
        flags = shlex.join(word for one in found[:1] for word in ("--harmless", one.place))
        raise PushError(
            f"{folder} was not pushed, it holds {shown}{more}: take it out, and revoke it if it was real. If one is no "
            f"secret, say so by the name in brackets, each by its own: {flags}"
        )


# ---- one commit ------------------------------------------------------------------------------------------------------


def _commit(
    api: HfApi, folder: Path, names: list[str], repo_id: str, repo_type: str, create_pr: bool
) -> tuple[str | None, str | None]:
    """(revision that holds the folder, address of the pull request if there is one); makes a commit only if it must.

    After an answer that may be another a moment later, and after none, the Hub is asked what it has: the commit may
    have landed. Raises PushError when somebody else's landed instead.
    """
    hashes = {name: (store.file_sha256(folder / name), store.git_sha1(folder / name)) for name in names}
    attempt, base = 0, None
    while True:
        attempt += 1
        head = api.repo_info(repo_id, repo_type=repo_type).sha
        base = base or head
        operations = _operations(api, folder, hashes, repo_id, repo_type, head)
        if not operations:
            return head, None
        if create_pr and (ref := _same_request(api, folder, hashes, repo_id, repo_type)):
            return ref
        if head != base:
            raise PushError(_overtaken(repo_id))
        try:
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message="Upload by vitrail",
                repo_type=repo_type,
                parent_commit=base,
                create_pr=create_pr,
            )
            return commit.pr_revision or commit.oid, commit.pr_url
        except (httpx2.TransportError, HfHubHTTPError) as error:
            status = _status(error)
            if status == 412:  # somebody else's, or the answer to our own was lost
                head = api.repo_info(repo_id, repo_type=repo_type).sha
                if not create_pr and not _operations(api, folder, hashes, repo_id, repo_type, head):
                    return head, None
                raise PushError(_overtaken(repo_id)) from error
            if status is not None and status not in PASSING:
                raise
            wait(attempt, "the commit", error)


def _overtaken(repo_id: str) -> str:
    said = "412: somebody else has committed to it meanwhile, and nothing of theirs was overwritten: look at it first"
    return f"{repo_id} was not pushed ({said})"


def _operations(
    api: HfApi, folder: Path, hashes: dict[str, tuple[str, str]], repo_id: str, repo_type: str, revision: str | None
) -> list:
    """What makes a revision into the folder: files that aren't there or differ, and weights or data it no longer has.

    hashes: {path: (sha256, git's)}; the Hub goes by either.
    """
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    operations: list = [
        CommitOperationAdd(name, folder / name)
        for name, (sha256, blob) in hashes.items()
        if name not in there or not _is(there[name], sha256, blob)
    ]
    stale = [path for path in there if path not in hashes and path.endswith(REPLACED[repo_type])]
    return operations + [CommitOperationDelete(path) for path in stale]


def _is(file: RepoFile, sha256: str, blob: str) -> bool:
    return file.lfs.sha256 == sha256 if file.lfs else file.blob_id == blob


def _same_request(api: HfApi, folder: Path, hashes: dict, repo_id: str, repo_type: str) -> tuple[str, str] | None:
    """(ref, address) of an open pull request that already holds the folder: of an earlier push, or of a lost answer."""
    requests = api.get_repo_discussions(
        repo_id, repo_type=repo_type, discussion_type="pull_request", discussion_status="open"
    )
    for request in itertools.islice(requests, 20):
        ref = f"refs/pr/{request.num}"
        if request.status == "open" and not _operations(api, folder, hashes, repo_id, repo_type, ref):
            return ref, request.url
    return None


# ---- words -----------------------------------------------------------------------------------------------------------


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
    response: Any = getattr(error, "response", None)
    said = store.masked(" ".join(response.headers.get("X-Error-Message", "").split()))[:200]
    return f"{status}: {words.format(repo_id=repo_id)}" + (f"; the Hub says: {said}" if said else "")


_SPACE = (
    "a free account hosts two Gradio Spaces on ZeroGPU and none on a CPU: delete one, put all demos into one "
    "(`python spaces/build.py gallery`), ask for --hardware zero-a10g, or use a PRO or paid account"
)
EXPLAINED: dict = {
    401: "the Hub does not take this token: run `hf auth login`, or set HF_TOKEN to one that may write",
    402: "the Hub wants payment before it makes {repo_id}: see the billing page of that account",
    (402, "space"): "the Hub wants payment before it makes the Space {repo_id}: " + _SPACE,
    403: "this token may not write to {repo_id}: take one with write access, and a name of your own or your "
    "organisation",
    (403, "space"): "the Hub does not let this token make or change the Space {repo_id}: either it is read-only or the "
    "name is not yours, or the account has all the Spaces it may have: " + _SPACE,
    404: "the Hub shows no {repo_id} to this token: check the spelling and the rights of the token",
    413: "a file is too large for the Hub: split it into shards",
}
