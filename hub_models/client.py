"""Which client huggingface_hub calls the Hub through."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils import _http


class _Hasty(httpx2.Client):
    """A client that gives up on a server that hangs where huggingface_hub would wait for ever."""

    def send(self, request: httpx2.Request, **kwargs) -> httpx2.Response:
        said = request.extensions.get("timeout") or {}
        for part in ("connect", "read", "write", "pool"):
            if said.get(part) is None:
                said[part] = constants.HF_HUB_ETAG_TIMEOUT
        request.extensions["timeout"] = said
        return super().send(request, **kwargs)


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
    return through(lambda: _Hasty(event_hooks=hooks, follow_redirects=True))
