"""An app answers under its own names and to its own pages alone: HTTP, streams, WebSocket, MCP, and in a browser."""

import asyncio
import contextlib
import os
import shutil
import socket

import gradio as gr
import httpx
import pytest
import tiny_models
from conftest import CHROMIUM_FLAGS, NO_CHROMIUM
from gradio_client import Client
from ports import free_port

from apps import gallery
from apps.kit import launch

ROUTES = [  # method, path, body: every kind of route that the page and programs use
    ("GET", "/", None),
    ("HEAD", "/", None),
    ("GET", "/segmentation", None),
    ("GET", "/config", None),
    ("GET", "/gradio_api/info", None),
    ("GET", "/gradio_api/queue/data?session_hash=x", None),
    ("GET", "/gradio_api/heartbeat/x", None),
    ("GET", "/gradio_api/file=/tmp/gradio/x.png", None),
    ("GET", "/theme.css", None),
    ("POST", "/gradio_api/upload", None),
    ("POST", "/gradio_api/queue/join", {"fn_index": 0, "data": [], "session_hash": "x"}),
    ("POST", "/gradio_api/run/text_to_image_settings", {"data": [None, "tiny"]}),
    ("POST", "/gradio_api/call/text_to_image_settings", {"data": [None, "tiny"]}),
    ("POST", "/gradio_api/cancel", {"session_hash": "x", "fn_index": 0, "event_id": "x"}),
    ("POST", "/gradio_api/mcp/", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    ("GET", "/gradio_api/mcp/sse", None),
    ("OPTIONS", "/gradio_api/queue/join", None),
    ("GET", "/no/such/route", None),
]
ABSENT = {demo.PAGE.stem: {"gone": launch.CheckpointError("not here")} for demo in gallery.DEMOS}


@contextlib.contextmanager
def launched(app, **options):
    port = free_port()
    try:
        launch.launch(app, port=port, block=False, **options)
        yield port
    finally:
        app.close(verbose=False)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.segmenter(folder)
    return gallery.build(ABSENT | {"segmentation": gallery.segmentation.load_models([str(folder)])})


@pytest.fixture(scope="module")
def port(app):
    """Of the gallery on 127.0.0.1, with MCP."""
    with launched(app, mcp=True) as port:
        yield port


def one_page():
    """The gallery with one page: what is tried on it goes for all of them."""
    return gallery.build(ABSENT, gallery.DEMOS[:1])


def ask(port: int, method: str = "GET", path: str = "/config", body=None, **headers: str) -> httpx.Response:
    """The answer, of a stream its head alone. Headers as keywords: x_forwarded_host="…"."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if method == "OPTIONS":
        headers["access-control-request-method"] = "POST"
    if "mcp" in path:
        headers["accept"] = "application/json, text/event-stream"
    with httpx.stream(method, f"http://127.0.0.1:{port}{path}", json=body, headers=headers, timeout=20) as answer:
        if answer.status_code >= 400 or "event-stream" not in answer.headers.get("content-type", ""):
            answer.read()
        return answer


@pytest.mark.parametrize("method, path, body", ROUTES)
def test_a_foreign_name_and_a_foreign_page_get_nothing_by_any_route(port, method, path, body):
    evil, other = f"evil.example:{port}", f"http://localhost:{port + 1}"
    for headers in ({"host": evil}, {"host": evil, "origin": f"http://{evil}"}, {"origin": other}, {"origin": "null"}):
        answer = ask(port, method, path, body, **headers)
        assert answer.status_code == 403, headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
        if method != "HEAD":
            assert ("--allowed_hosts" in answer.text) == ("host" in headers)
    mine = ask(port, method, path, body, origin=f"http://127.0.0.1:{port}")
    assert mine.status_code != 403 or "/file=" in path


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost:8080"])
def test_the_names_of_this_machine_are_served_by_whatever_port_leads_here(port, host):
    here = host if ":8080" in host else f"{host}:{port}"
    assert ask(port, host=here).status_code == ask(port, host=here, origin=f"http://{here.lower()}").status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "xlocalhost", "192.168.1.7", "0x7f000001",
     "user@localhost", "localhost:80:80", "localhost/", "localhost\u00e9", "", "localhost, evil.example", "a" * 3000],
)  # fmt: skip
def test_other_names_are_not(port, host):
    lines = f"GET /config HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert status_of(port, lines.encode("latin-1")) in (400, 403)


def test_a_request_with_two_hosts_or_none_is_not_served(port):
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        assert status_of(port, b"GET /config HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n") in (400, 403)
    assert status_of(port, b"GET /config HTTP/1.0\r\n\r\n") in (400, 403)


def status_of(port: int, request: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        return int(connection.recv(4096).split()[1])


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost",
        "http://127.0.0.1:1",
        "https://127.0.0.1:{port}0",
        "http://evil.example",
        "http://localhost:{port}",
        "file://",
        "null",
        "http://127.0.0.1:{port}.evil.example",
        "chrome-extension://127.0.0.1",
    ],
)
def test_pages_elsewhere_are_not_answered(port, origin):
    """Asked for as 127.0.0.1; even localhost is another, which may lead to another program."""
    assert ask(port, origin=origin.format(port=port)).status_code == 403


def test_a_websocket_is_refused_alike(port, app):
    """Where uvicorn has no package for them, as here, a handshake is a request; where it has, a scope of its own."""
    wanted = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    wanted += "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n"
    for headers in ({"host": "evil.example"}, {"host": f"localhost:{port}", "origin": f"http://localhost:{port + 1}"}):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        assert status_of(port, f"GET /gradio_api/queue/join HTTP/1.1\r\n{lines}{wanted}\r\n".encode()) == 403
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": "/gradio_api/queue/join",
            "raw_path": b"/gradio_api/queue/join",
            "query_string": b"",
            "headers": raw,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", port),
            "subprotocols": [],
        }
        said = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message, said=said):
            said.append(message)

        asyncio.run(app.app(scope, receive, send))
        assert [(each["type"], each.get("code")) for each in said] == [("websocket.close", 1008)]


def test_what_a_visitor_says_was_forwarded_does_not_count(port):
    said = {"x_forwarded_host": "evil.example", "x_forwarded_proto": "https", "x_forwarded_for": "9.9.9.9"}
    for more in (said, said | {"x_gradio_server": "http://evil.example"}):
        for path in ("/config", "/"):
            answer = ask(port, path=path, **more)
            assert answer.status_code == 200 and "evil.example" not in answer.text
    assert ask(port, path="/config", **said).json()["root"] == f"http://127.0.0.1:{port}"
    assert ask(port, host="evil.example", x_forwarded_host="localhost").status_code == 403


def test_programs_are_served(port):
    assert (
        "/segmentation_predict"
        in Client(f"http://localhost:{port}", verbose=False).view_api(return_format="dict")["named_endpoints"]
    )
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def tools():
        async with streamablehttp_client(f"http://127.0.0.1:{port}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                asked = await session.call_tool("segmentation_predict", {"picture": "data:image/png;base64,AAAA"})
                return (await session.list_tools()).tools, asked

    found, asked = asyncio.run(tools())
    assert found and asked.isError and "not a readable image" in asked.content[0].text


def test_elsewhere_addresses_and_this_machines_name_are_served(capsys):
    with launched(one_page(), host="0.0.0.0") as port:
        name = socket.gethostname().lower()
        for host in (
            "localhost",
            "127.0.0.1",
            f"192.168.1.7:{port}",
            f"[fe80::1]:{port}",
            name,
            f"{name.partition('.')[0]}.local",
        ):
            assert ask(port, host=host).status_code == 200, host
        refused = ask(port, host="evil.example")
        assert refused.status_code == 403 and "--allowed_hosts" in refused.text and "evil.example" in refused.text
        assert ask(port, host=f"192.168.1.7:{port}", origin=f"http://192.168.1.7:{port + 1}").status_code == 403
    assert "--allowed_hosts" in capsys.readouterr().out


def test_allowed_names_and_a_named_proxy_are_served(monkeypatch):
    monkeypatch.setenv("VITRAIL_ALLOWED_HOSTS", "other.example, *.pages.example")
    options = {"host": "0.0.0.0", "allowed_hosts": ["demo.example"], "proxy": ["127.0.0.1"]}
    with launched(one_page(), **options) as port:
        for host in ("demo.example", f"DEMO.example:{port}", "other.example", "a.pages.example", "localhost"):
            assert ask(port, host=host).status_code == 200, host
        for host in ("192.168.1.7", "pages.example", "xdemo.example", "a.demo.example", "evilpages.example"):
            assert ask(port, host=host).status_code == 403, host
        for headers in (
            {"host": "demo.example"},
            {"x_forwarded_host": "demo.example", "x_forwarded_proto": "https"},
            {"x_forwarded_host": "demo.example"},
            {},
        ):
            assert ask(port, origin="https://demo.example", **headers).status_code == 200
        assert ask(port, host="demo.example", origin="https://demo.example:8443").status_code == 403
        root = ask(port, x_forwarded_host="demo.example", x_forwarded_proto="https").json()["root"]
        assert root == "https://demo.example"
        for headers in (
            {"x_forwarded_host": "evil.example"},
            {"x_forwarded_host": "demo.example, evil.example"},
            {"host": "evil.example", "x_forwarded_host": "demo.example"},
        ):
            assert ask(port, **headers).status_code == 403


def test_a_space_is_served_under_its_own_names(monkeypatch):
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "org/demo")
    monkeypatch.setenv("SPACE_HOST", "Org-demo.hf.space,demo.example")
    with launched(one_page(), host="0.0.0.0") as port:
        for host in ("org-demo.hf.space", "demo.example"):
            answer = ask(port, host=host, origin=f"https://{host}", x_forwarded_proto="https")
            assert answer.status_code == 200 and answer.json()["root"] == f"https://{host}"
        assert ask(port, host="other-demo.hf.space").status_code == 403
        assert ask(port, host="org-demo.hf.space", origin="https://evil.example").status_code == 403


@pytest.mark.parametrize("wrong", ["https://demo.example", "demo.example:80", "*", "*.org", "a b/c", "[::1"])
def test_a_name_that_is_none_is_said_at_the_start(wrong):
    with gr.Blocks() as page:
        pass
    with pytest.raises(SystemExit, match="--allowed_hosts .*demo.example.org"):
        launch.launch(page, port=free_port(), block=False, allowed_hosts=[wrong])
    with pytest.raises(SystemExit, match="--proxy"):
        launch.launch(page, port=free_port(), block=False, proxy=["my-proxy"])


def test_every_page_has_the_flags(monkeypatch, capsys):
    for main, name in ((gallery.main, "gallery"), (gallery.DEMOS[0].main, "text_to_image")):
        monkeypatch.setattr("sys.argv", [name, "--help"])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr().out
        assert "--allowed_hosts" in said and "--proxy" in said


@pytest.mark.browser
def test_a_name_of_an_attackers_that_points_here_reads_nothing_in_a_browser(port):
    """A page of the attacker's on another port of this machine, and one on a name of theirs that points to the app."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail(NO_CHROMIUM) if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip(NO_CHROMIUM)
    flags = [*CHROMIUM_FLAGS, "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    read = """async (address) => {
        const said = [];
        for (const path of ["/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x"]) {
            try { const answer = await fetch(address + path); said.push(answer.status); }
            catch (error) { said.push("blocked"); }
        }
        try {
            const form = new FormData(); form.append("files", new Blob(["x"]), "x.png");
            said.push((await fetch(address + "/gradio_api/upload", {method: "POST", body: form})).status);
        } catch (error) { said.push("blocked"); }
        return said;
    }"""
    with sync_playwright() as playwright, launched(one_page()) as neighbour:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        page = chromium.new_page()
        assert page.goto(f"http://evil.example:{port}/").status == 403
        assert "--allowed_hosts" in page.inner_text("body")
        assert page.evaluate(read, f"http://evil.example:{port}") == [403] * 4
        page.goto(f"http://localhost:{neighbour}/theme.css")
        assert page.evaluate(read, f"http://localhost:{port}") == ["blocked"] * 4
        page.goto(f"http://localhost:{port}/")
        page.get_by_text("What is where?").first.click()
        page.wait_for_selector("#segmentation-picture")
        chromium.close()
