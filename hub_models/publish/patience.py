"""Calls to the Hub that are tried again, wait as the Hub asks, and wait for nothing for ever.

The Hub's own client retries some calls and not others, and waits for ever on a server that hangs; here one rule holds
for all of them.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx2
from huggingface_hub.utils import _http

from hub_models.client import LONGEST_WAIT_SECONDS, asked_to_wait, through
from hub_models.store import one_line

ATTEMPTS = 5  # of one call, the first included
WAITS_SECONDS = (1, 2, 4, 8)  # between them, unless the Hub says Retry-After
CALL_SECONDS = 60  # for one call that has the Hub work, a commit or the check of an upload, and on top
ASK_SECONDS = 20  # for any other
AGAIN_SECONDS = 10  # for each after one that got no answer: what hangs is down
BYTES_PER_SECOND = 100_000  # the slowest line a body may go over
PASSING = {408, 429, 500, 502, 503, 504}  # answers that may be another a moment later
log = logging.getLogger(__name__)


class GaveUp(Exception):
    """A call that was tried as often and as long as it may be; not one of those that the client tries again."""


class _Patient(httpx2.Client):
    """A client that tries passing failures again, waits as the Hub asks, and waits for nothing for ever.

    What can't be repeated as it stands (a file that is being read; a commit) fails through to who can, but counts.
    """

    def __init__(self, ends: float):
        super().__init__(event_hooks={"request": [_http.hf_request_event_hook]}, follow_redirects=True)
        self.ends, self.failed, self.hung = ends, {}, set()

    def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs) -> httpx2.Response:
        call = f"{request.method} {request.url.path}"
        body = int(request.headers.get("Content-Length") or 0) / BYTES_PER_SECOND
        works = re.search(r"/(commit|verify|complete)\b", request.url.path)
        seconds = CALL_SECONDS if works else min(ASK_SECONDS, CALL_SECONDS)
        again = min(seconds, AGAIN_SECONDS)
        repeatable = isinstance(request.stream, httpx2.ByteStream) and "/commit/" not in request.url.path
        attempt = self.failed.get(call, 0)
        while True:
            attempt += 1
            until = time.monotonic() + min(
                body + (again if call in self.hung else seconds), self.ends - time.monotonic()
            )
            if until <= time.monotonic():
                raise GaveUp(f"the time for this push is over, at {call}")
            request.extensions["timeout"] = dict.fromkeys(
                ("connect", "read", "write", "pool"), until - time.monotonic()
            )
            response: httpx2.Response | None = None
            error: httpx2.TransportError | None = None
            try:
                response = super().send(request, stream=True, **kwargs)
                response.stream = _Timed(response.stream, until)
                if not stream:
                    response.read()
            except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as caught:
                error = caught
                self.hung |= {call} if isinstance(caught, httpx2.TimeoutException) else set()
            if response is not None and error is None and response.status_code not in PASSING:
                self.failed.pop(call, None)
                return response
            if not repeatable:
                self.failed[call] = attempt
                if error is not None and attempt < ATTEMPTS:
                    raise error
                if response is not None and attempt < ATTEMPTS:
                    return response
            if response is not None:
                response.close()
            wait(attempt, call, error, response, until=self.ends)


class _Timed(httpx2.SyncByteStream):
    """A body that has to have come by a time, however it trickles."""

    def __init__(self, stream: Any, until: float):
        self.stream, self.until = stream, until

    def __iter__(self) -> Iterator[bytes]:
        for part in self.stream:
            if time.monotonic() > self.until:
                raise httpx2.ReadTimeout("the answer was too slow")
            yield part

    def close(self) -> None:
        self.stream.close()


def patience(seconds: float) -> AbstractContextManager:
    """Within it, calls are tried again, and all of them have so many seconds."""
    ends = time.monotonic() + seconds
    return through(lambda: _Patient(ends))


def wait(
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
        what = f"no answer: {one_line(error)}" if error else "no answer"
    if attempt >= ATTEMPTS:
        raise GaveUp(f"{what} to {call}, {attempt} times") from error
    seconds = WAITS_SECONDS[min(attempt, len(WAITS_SECONDS)) - 1]
    asked = asked_to_wait(response)
    if asked is not None:
        seconds = asked
    if seconds > LONGEST_WAIT_SECONDS or (until is not None and time.monotonic() + seconds > until):
        raise GaveUp(f"{what} to {call}, which asks to wait {seconds:.0f} s: repeat it then") from error
    log.warning("%s to %s; attempt %d of %d in %g s", what, call, attempt + 1, ATTEMPTS, seconds)
    time.sleep(seconds)
