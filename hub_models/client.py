"""Which client huggingface_hub calls the Hub through, and how long the Hub asks to be left alone.

The client's own retries would sleep as long as a Retry-After says, a day if need be, and ask a server that hangs again
and again.
"""

import re
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from email.utils import parsedate_to_datetime

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http

LONGEST_WAIT_SECONDS = 60  # what asks for a longer one has failed
HUNG_SECONDS = 30  # so long after a server has hung it isn't asked again


class HungUp(OfflineModeIsEnabled):
    """A server that has just hung is not asked again: huggingface_hub takes it for being offline, and doesn't wait."""


class _Hasty(httpx2.Client):
    """A client that gives up on a server that hangs or asks for a long wait, where huggingface_hub would do so.

    hung: when servers have hung, by their names.
    """

    def __init__(self, hung: dict[str, float], **options):
        super().__init__(**options)
        self.hung = hung

    def send(self, request: httpx2.Request, **kwargs) -> httpx2.Response:
        host = request.url.host
        if time.monotonic() - self.hung.get(host, -HUNG_SECONDS) < HUNG_SECONDS:
            raise HungUp(f"{host} does not answer")
        said = request.extensions.get("timeout") or {}
        for part in ("connect", "read", "write", "pool"):
            if said.get(part) is None:
                said[part] = constants.HF_HUB_ETAG_TIMEOUT
        request.extensions["timeout"] = said
        try:
            response = super().send(request, **kwargs)
        except httpx2.TimeoutException:
            self.hung[host] = time.monotonic()
            raise
        if (asked_to_wait(response) or 0) > LONGEST_WAIT_SECONDS:
            for name in ("Retry-After", "ratelimit"):  # then the client tries again at its own pace, and gives up
                response.headers.pop(name, None)
        return response


def asked_to_wait(response: httpx2.Response | None) -> float | None:
    """The seconds in Retry-After, or those until a spent rate limit is filled again; None if the Hub doesn't say."""
    if response is None:
        return None
    said = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):  # no date
        pass
    limit = dict(re.findall(r"\b([rt])=(\d+)", response.headers.get("ratelimit", "")))
    return float(limit["t"]) + 1 if limit.get("r") == "0" and "t" in limit and response.status_code == 429 else None


@contextmanager
def through(make: Callable[[], httpx2.Client]) -> Generator[None]:
    """Within it, every call of huggingface_hub goes through a client made by `make`."""
    before = _http._GLOBAL_CLIENT_FACTORY
    set_client_factory(make)
    try:
        yield
    finally:
        set_client_factory(before)


def haste() -> AbstractContextManager:
    """Within it, a server that hangs counts as one that is down: what is in the cache serves."""
    hooks: dict[str, list[Callable]] = {"request": [_http.hf_request_event_hook]}
    hung: dict[str, float] = {}
    return through(lambda: _Hasty(hung, event_hooks=hooks, follow_redirects=True))
