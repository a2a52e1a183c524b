"""Under which names an app is served, and whose pages may talk to it: the door that a foreign name finds shut.

A page on a name of an attacker's that points to this machine (DNS rebinding) has the browser send that name as Host,
and a page on another site, or on another port of this machine, sends its own as Origin. Both are refused, for HTTP and
WebSocket, whatever the route. What a proxy says (X-Forwarded-…) counts only where that proxy was named.
"""

import argparse
import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from gradio.utils import get_space
from starlette.responses import PlainTextResponse
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
ALLOWED, PROXY = "VITRAIL_ALLOWED_HOSTS", "VITRAIL_PROXY"  # the variables in place of the flags
# On a Space everything comes through the Hub's proxies, which have addresses of a private network.
SPACE_PROXIES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8")
AUTHORITY = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(?::([0-9]{1,5}))?")
# Said by proxies, of a request or of the app's address; gradio and uvicorn believe them.
FORWARDED = re.compile(rb"x-forwarded-.*|forwarded|x-real-ip|x-gradio-server")
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--allowed_hosts and --proxy, for the command line of a page."""
    parser.add_argument(
        "--allowed_hosts", nargs="+", default=[], metavar="NAME",
        help="names under which others reach the app, as demo.example.org or *.example.org; this machine's own are "
             f"always served (or {ALLOWED})",
    )  # fmt: skip
    parser.add_argument(
        "--proxy", nargs="+", default=[], metavar="ADDRESS",
        help=f"addresses or networks of reverse proxies whose X-Forwarded headers count, as 127.0.0.1 (or {PROXY})",
    )  # fmt: skip


@dataclass(frozen=True)
class Names:
    """The names that an app answers to."""

    own: frozenset[str]  # of this machine
    allowed: frozenset[str] = frozenset()  # by --allowed_hosts, or the Space's
    literals: bool = False  # whether any IP address is one: no name can be made to point to it

    def __contains__(self, name: str) -> bool:
        return name in self.own or self.allows(name) or (self.literals and _is_address(name))

    def allows(self, name: str) -> bool:
        """Whether it was named, itself or by the end of it."""
        return name in self.allowed or any(
            name.endswith(end[1:]) and len(name) >= len(end) for end in self.allowed if end.startswith("*.")
        )

    def __str__(self) -> str:
        return ", ".join([*sorted(self.own | self.allowed), *(["any IP address"] if self.literals else [])])


def names(host: str, allowed: Iterable[str] = (), environ: Mapping[str, str] = os.environ) -> Names:
    """The names of an app that listens on `host`: on loopback this machine's local ones, and those that are allowed.

    Elsewhere, where nothing is allowed by name, also this machine's name and any IP address; on a Space, its own names.

    Raises:
        SystemExit: an allowed name that is none.
    """
    named = {_allowed_name(name) for name in [*allowed, *_listed(environ.get(ALLOWED, ""))]}
    space = {_allowed_name(name) for name in _listed(environ.get("SPACE_HOST", ""))} if get_space() else set()
    listening = _bracketed(host.lower())
    own = LOOPBACK | {listening}
    if _is_loopback(listening):
        return Names(own, frozenset(named | space))
    machine = socket.gethostname().lower()
    also = set() if named else {machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}
    return Names(frozenset(own | also), frozenset(named | space), literals=not named)


def proxies(named: Iterable[str] = (), environ: Mapping[str, str] = os.environ) -> list[str]:
    """The addresses and networks of proxies: those named, by the flag or a variable, and on a Space the Hub's.

    Raises:
        SystemExit: what is neither an address nor a network.
    """
    said = [part for each in named for part in _listed(each)]
    said = said or _listed(environ.get(PROXY, "") or environ.get("FORWARDED_ALLOW_IPS", ""))
    for address in said:
        try:
            ipaddress.ip_network(address)
        except ValueError:
            raise SystemExit(f"--proxy {address}: write an address or a network, as 127.0.0.1 or 10.0.0.0/8") from None
    return [*said, *(SPACE_PROXIES if get_space() else ())]


def root_path(said: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The path, or the whole address, under which a proxy serves the app: "/vitrail", without a slash at its end.

    Raises:
        SystemExit: what is neither.
    """
    text = (said or environ.get("GRADIO_ROOT_PATH", "")).strip()
    path = re.sub(r"^https?://[^/]+", "", text)
    if not re.fullmatch(r"[A-Za-z0-9_.~%/-]*", path) or ".." in path:
        raise SystemExit(f"--root_path {text}: write the path that the proxy serves it under, as /vitrail")
    if not path.strip("/"):
        return text.rstrip("/") or None
    return f"{text.removesuffix(path)}/{path.strip('/')}"


def address_behind(root: str | None, served: Names, proxies: Iterable[str]) -> str | None:
    """The address that others open, where a proxy stands in front, as far as it is told; None where none does."""
    if root and "://" in root:
        return f"{root}/"
    if not root and not list(proxies):
        return None
    name = next((each for each in sorted(served.allowed) if not each.startswith("*")), "<its name>")
    return f"http(s)://{name}{root or ''}/"


@contextlib.contextmanager
def unproxied() -> Generator[None]:
    """Within it, uvicorn is set up to believe no proxy: `HostCheck` does that, which has to know who really asked."""
    before = os.environ.get("FORWARDED_ALLOW_IPS")
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["FORWARDED_ALLOW_IPS"]
        else:
            os.environ["FORWARDED_ALLOW_IPS"] = before


def _listed(text: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", text) if part]


def _allowed_name(text: str) -> str:
    name = _bracketed(text.strip().lower())
    match = AUTHORITY.fullmatch(name.removeprefix("*."))
    if not match or match[2] or (name.startswith("*.") and "." not in name[2:]):
        raise SystemExit(
            f"--allowed_hosts {text}: write the name alone, without https:// and port, as demo.example.org or "
            "*.example.org"
        )
    return name


def _bracketed(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback)


class HostCheck:
    """ASGI around an app: a request under another name or from another site's page gets 403 and goes no further."""

    def __init__(self, app, served: Names, proxies: Iterable[str] = ()):
        self.app, self.served = app, served
        self.behind_proxy = ProxyHeadersMiddleware(app, trusted_hosts=list(proxies))

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        client = scope.get("client")
        proxied = client is not None and client[0] in self.behind_proxy.trusted_hosts
        if not proxied:
            kept = [(name, value) for name, value in scope["headers"] if not FORWARDED.fullmatch(name.lower())]
            scope = scope | {"headers": kept}
        if (refusal := self.refusal(scope, proxied)) is None:
            return await (self.behind_proxy if proxied else self.app)(scope, receive, send)
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008, "reason": refusal[:100]})
        await PlainTextResponse(refusal, 403)(scope, receive, send)

    def refusal(self, scope, proxied: bool) -> str | None:
        """Why a request is not served, in a sentence that says what to do; None if it is."""
        hosts = _values(scope, b"host")
        forwarded = (
            [part for value in _values(scope, b"x-forwarded-host") for part in value.split(",")] if proxied else []
        )
        if len(hosts) != 1:
            return "A request has to say once which host it is for."
        asked = []
        for host in [*hosts, *forwarded]:
            match = AUTHORITY.fullmatch(host.strip().lower())
            if not match or match[1] not in self.served:
                how = f"start it with --allowed_hosts and that name, or set {ALLOWED}"
                return f"This app is not served as {_shown(host)}: {how}."
            asked.append((match[1], match[2]))
        name, port = asked[1] if forwarded else asked[0]
        schemes = [value.strip() for value in _values(scope, b"x-forwarded-proto") if proxied]
        scheme = next((each for each in schemes if each in PORTS), scope["scheme"])
        for origin in _values(scope, b"origin"):
            if not self._is_own_page(origin.lower(), name, port, scheme):
                return f"This app does not answer pages of {_shown(origin)}: open its own page."
        return None

    def _is_own_page(self, origin: str, name: str, port: str | None, scheme: str) -> bool:
        """Whether a page of that origin is one of the app, when asked for under this name and port."""
        said, _, authority = origin.partition("://")
        match = AUTHORITY.fullmatch(authority)
        if said not in ("http", "https") or not match:
            return False
        usual = PORTS[said]
        theirs = int(match[2] or usual)
        # A name without a port is at the scheme's: the page's, as there may be TLS before us, but here it is our own.
        ours = int(port or (PORTS[scheme] if name in LOOPBACK else usual))
        if match[1] == name:
            return theirs == ours
        return theirs == usual and self.served.allows(match[1])  # a proxy in front that asks under another name


def _values(scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _shown(text: str) -> str:
    """Somebody's text in a plain sentence: short, and in letters that do nothing."""
    return re.sub(r"[^A-Za-z0-9_.:/\[\]-]", "?", text)[:100]
