"""One visitor can't take all, nobody's work goes on for nobody, and answers arrive whole: on the running gallery."""

import asyncio
import base64
import contextlib
import importlib
import importlib.util
import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from gradio import processing_utils
from PIL import Image
from tiny_gallery import DDPM, T2I, answer, ask, models, running, settled, visitor

from apps import gallery
from apps.kit import wires

SLOW_STEP_S = 0.05
KEPT = 30


def kit(name: str):
    """A module of apps.kit: where there is none, the tests that need it fail, and those alone."""
    return importlib.import_module(f"apps.kit.{name}")


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def address(named):
    """Of the gallery, where no more than KEPT sessions are kept."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("apps.kit"):
            patch.setattr(kit("visitors"), "PERSONS", KEPT)
            patch.setattr(kit("visitors"), "CALLS", KEPT)
        with running(named, mcp=True) as address:
            yield address


@pytest.fixture
def steps(named):
    """The list of steps that the two models that draw have made; each takes SLOW_STEP_S at least."""
    made = []

    def step(*_):
        made.append(time.monotonic())
        time.sleep(SLOW_STEP_S)

    unets = named["text_to_image"]["tiny"].pipe.unet, named["ddpm"]["tiny"].unet
    hooks = [unet.register_forward_pre_hook(step) for unet in unets]
    yield made
    for hook in hooks:
        hook.remove()


@pytest.fixture
def hog(address):
    """take() -> answers to as many long draws as there are headers, which 127.0.0.1 asks for, each under a name."""
    who, sessions = visitor(1), []

    def take(headers: Sequence[dict] = ({},) * 36) -> list[httpx.Response]:
        long = list((T2I | {"steps": 100}).values())
        for each in headers:
            sessions.append(f"hog-{time.monotonic_ns()}")
            body = {"data": long, "session_hash": sessions[-1]}
            replies.append(who.post(f"{address}/gradio_api/call/text_to_image_draw", json=body, headers=each))
        return replies

    replies: list[httpx.Response] = []
    yield take
    for session, reply in zip(sessions, replies, strict=True):
        if reply.status_code == 200:
            event = reply.json()["event_id"]
            who.post(f"{address}/gradio_api/cancel", json={"session_hash": session, "fn_index": 0, "event_id": event})
    who.close()


# ---- a share for each ------------------------------------------------------------------------------------------------


def test_one_visitor_has_a_share_and_others_are_served_in_turn(address, steps, hog):
    replies = hog()
    share = kit("visitors").SHARE
    assert [reply.status_code for reply in replies] == [200] * share + [429] * (len(replies) - share)
    assert f"You have {share} requests waiting or running" in replies[-1].json()["detail"]
    with visitor(2) as other:
        began = time.monotonic()
        event, drawn = answer(other, address, "text_to_image_draw", *T2I.values())
        assert event == "complete" and drawn[1][0]["prompt"] == "a red apple"
        waited = time.monotonic() - began
    assert waited < 4 * 100 * SLOW_STEP_S, "after the draw that runs, not after all eight of the other's"
    with visitor(3) as third:
        assert third.get(f"{address}/config").status_code == 200


def test_a_full_queue_answers_at_once(address, steps):
    visitors = kit("visitors")
    whole, seconds, events = list((T2I | {"steps": 100}).values()), [], []
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(visitor(20 + k)) for k in range(2 + visitors.WAITING // visitors.SHARE)]
        for who in crowd:
            for _ in range(visitors.SHARE):
                began = time.monotonic()
                reply = ask(who, address, "text_to_image_draw", *whole)
                if reply.status_code == 200:
                    events.append(reply.json()["event_id"])
                else:
                    seconds.append(time.monotonic() - began)
                    assert reply.status_code == 503 and "Others are waiting already" in reply.json()["detail"]
        for event in events:
            crowd[0].post(f"{address}/gradio_api/cancel", json={"session_hash": "", "fn_index": 0, "event_id": event})
    assert len(events) == visitors.WAITING + 1 and min(seconds) < 0.1
    settled(lambda: len(steps))


def test_memory_that_ends_is_said_and_the_next_is_served(address, named):
    def ends(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory: ...")

    with visitor(3) as who:
        hook = named["text_to_image"]["tiny"].pipe.unet.register_forward_pre_hook(ends)
        event, said = answer(who, address, "text_to_image_draw", *T2I.values())
        hook.remove()
        assert event == "error" and "not enough memory" in said["error"]
        assert answer(who, address, "text_to_image_draw", *T2I.values())[0] == "complete"


def test_what_an_exception_says_stays_in_the_log(address, named):
    def breaks(*_):
        raise KeyError("hf_" + "secret" * 6, "/home/somebody/weights")

    with visitor(3) as who:
        hook = named["text_to_image"]["tiny"].pipe.unet.register_forward_pre_hook(breaks)
        event, said = answer(who, address, "text_to_image_draw", *T2I.values())
        hook.remove()
        seen = json.dumps(said) + who.get(f"{address}/config").text + who.get(f"{address}/gradio_api/info").text
    assert event == "error" and "hf_" not in seen and "somebody" not in seen and "KeyError" not in seen


def test_a_look_does_not_wait_for_drawings(address, steps, hog):
    hog()
    wait_until(lambda: len(steps) > 0)
    box = {"path": upload(address, png((40, 30))), "meta": {"_type": "gradio.FileData"}}
    with visitor(2) as other:
        event, _ = answer(other, address, "segmentation_predict", box, "tiny", 60, 0)
    assert event == "complete" and len(steps) < 100, "while the first of eight drawings is under way"


def test_models_run_one_at_a_time_in_two_lanes_of_all_pages_together(named):
    fns = gallery.build(named).fns.values()
    lanes = {fn.concurrency_id: fn.concurrency_limit for fn in fns if not fn.concurrency_id.isdigit()}
    assert lanes == {wires.LOOK: 1, wires.DRAW: 1}
    drawn = {fn.api_name for fn in fns if fn.concurrency_id == wires.DRAW and str(fn.api_name).count("_draw")}
    assert drawn == {"ddpm_draw", "families_draw", "text_to_image_draw"}


def test_no_call_goes_around_the_queue(address, steps):
    before = settled(lambda: len(steps))
    with visitor(2) as who:
        for route in ("run", "api"):
            reply = who.post(f"{address}/gradio_api/{route}/text_to_image_draw", json={"data": list(T2I.values())})
            assert reply.status_code == 404
    assert len(steps) == before


def test_callers_by_mcp_have_shares_of_their_own(address, steps, hog):
    pytest.importorskip("mcp")
    hog()

    def call(last: int) -> str:
        with visitor(last) as who:
            arguments = {"labels": ["food"], "count": 1, "seed": 3, "steps": 2, "model": "tiny"}
            body = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {"name": "ddpm_draw", "arguments": arguments},
            }
            headers = {"Accept": "application/json, text/event-stream"}
            return who.post(f"{address}/gradio_api/mcp/", json=body, headers=headers).text

    assert "a visitor's share" in call(1)
    assert "'seeds': ['3']" in call(2)


@pytest.mark.parametrize(
    ("client", "forwarded", "expected"),
    [
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "", "203.0.113.9"),
    ],
)
def test_a_visitor_is_an_address(client, forwarded, expected):
    scope = {"client": (client, 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}
    assert kit("visitors").address(scope) == expected


def test_no_header_makes_another_visitor_of_one(address, steps, hog):
    pytest.importorskip("apps.kit.hosts", reason="which proxies are believed is decided there")
    replies = hog(headers=[{"X-Forwarded-For": f"203.0.113.{k}", "X-Real-IP": f"203.0.113.{k}"} for k in range(12)])
    assert [reply.status_code for reply in replies].count(429) == 12 - kit("visitors").SHARE


# ---- what is sent, and what lies there ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["an upload", "a call"])
def test_a_request_that_comes_too_slowly_is_given_up(address, monkeypatch, kind):
    monkeypatch.setattr(kit("sizes"), "PATIENCE_SECONDS", 0.3)
    host, port = address.removeprefix("http://").split(":")
    what = {
        "an upload": (
            "upload",
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="files"; ',
        ),
        "a call": ("call/ddpm_draw", "application/json", b'{"data": ['),
    }
    path, content_type, part = what[kind]
    head = f"POST /gradio_api/{path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 900\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(head.encode() + f"Content-Type: {content_type}\r\n\r\n".encode() + part)
        said = b""
        while more := line.recv(4096):
            said += more
    assert said.startswith(b"HTTP/1.1 408") and b"too slowly" in said


def test_what_lies_among_the_uploads_is_tidied(tmp_path):
    tidy, now = kit("tidy").tidy, 1_000_000.0

    def lay(name: str, age_s: float, size: int = 10):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (now - age_s, now - age_s))
        return path

    broken_off, under_way = lay("tmpabc123", 1000), lay("tmpdef456", 100)
    old, new, kept = lay("hash1/a.png", 5000), lay("hash2/a.png", 50), lay("hash3/tmp.png", 4000)
    assert tidy(tmp_path, now) == [broken_off] and not broken_off.exists() and under_way.exists()
    assert tidy(tmp_path, now, most=30) == [old] and not old.parent.exists() and kept.exists()
    assert tidy(tmp_path, now, most=0) == [kept, under_way, new] and list(tmp_path.iterdir()) == []
    assert tidy(tmp_path / "not there", now) == []


# ---- nobody waits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "order"), [("text_to_image_draw", T2I | {"steps": 100}), ("ddpm_draw", DDPM | {"steps": 240})]
)
def test_a_draw_stops_once_its_caller_hangs_up(address, steps, endpoint, order):
    with visitor(4) as who:
        event = ask(who, address, endpoint, *order.values()).json()["event_id"]
        with who.stream("GET", f"{address}/gradio_api/call/{endpoint}/{event}"):
            wait_until(lambda: len(steps) > 3)
    assert settled(lambda: len(steps)) < 60


def test_a_draw_stops_once_the_pages_stream_is_closed(address, steps):
    config = httpx.get(f"{address}/config").json()
    [draws] = [each["id"] for each in config["dependencies"] if each["api_name"] == "ddpm_draw"]
    body = {"data": list((DDPM | {"steps": 240}).values()), "fn_index": draws, "session_hash": "leaves-soon"}
    with visitor(4) as who:
        assert who.post(f"{address}/gradio_api/queue/join", json=body).status_code == 200
        with who.stream("GET", f"{address}/gradio_api/queue/data?session_hash=leaves-soon"):
            wait_until(lambda: len(steps) > 3)
    assert settled(lambda: len(steps)) < 60


def test_a_draw_stops_that_nobody_ever_asked_the_answer_of(address, steps, monkeypatch):
    monkeypatch.setattr(kit("visitors"), "GRACE_SECONDS", 1)
    with visitor(4) as who:
        for _ in range(3):
            ask(who, address, "ddpm_draw", *(DDPM | {"steps": 240}).values())
    wait_until(lambda: len(steps) > 3)
    assert settled(lambda: len(steps)) < 100


def test_a_draw_stops_once_its_caller_by_mcp_hangs_up(address, steps):
    pytest.importorskip("mcp")
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "ddpm_draw", "arguments": {"labels": ["food"], "count": 1, "steps": 240, "model": "tiny"}},
    }

    async def hang_up():
        async with httpx.AsyncClient(timeout=60) as who:
            headers = {"Accept": "application/json, text/event-stream"}
            asked = asyncio.create_task(who.post(f"{address}/gradio_api/mcp/", json=body, headers=headers))
            while len(steps) < 4:
                await asyncio.sleep(0.05)
            asked.cancel()

    asyncio.run(hang_up())
    assert settled(lambda: len(steps)) < 100


def wait_until(true, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


# ---- in a browser ----------------------------------------------------------------------------------------------------


def draw_film(page, address):
    page.goto(f"{address}/ddpm")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_selector("#ddpm-sheet .tile:not([disabled])")


def test_more_calls_than_sessions_are_kept_leave_a_persons_film(address, page):
    draw_film(page, address)
    body = {"data": [None, "tiny"]}
    with visitor(1) as who:
        for k in range(2 * KEPT + 10):
            who.post(f"{address}/gradio_api/run/text_to_image_settings", json=body | {"session_hash": f"call-{k}"})
    page.wait_for_selector("#ddpm-film .pair")
    box = page.get_by_label("number input for Frame")
    box.fill("3")
    box.press("Tab")
    page.wait_for_function("() => document.querySelector('#ddpm-film').innerText.includes('after 3 of')")
    page.locator("#ddpm-sheet .tile").nth(1).click()
    page.wait_for_selector("#ddpm-sheet .tile:nth-child(2)[aria-pressed=true]")
    assert not page.get_by_text("is greater than maximum").count()


def test_the_draw_button_comes_back_after_a_refusal_and_says_why(address, steps, page, hog):
    page.goto(f"{address}/ddpm")
    draw = page.get_by_role("button", name="Draw", exact=True)
    draw.wait_for()
    hog()
    draw.click()
    page.get_by_text(re.compile("a visitor's share|currently busy")).first.wait_for()
    page.wait_for_function("() => document.querySelector('#ddpm-status').innerText.includes('Not drawn')")
    assert draw.is_enabled() and not page.get_by_role("button", name="Stop", exact=True).first.is_enabled()


def test_stop_ends_a_drawing_that_waits_for_its_turn(address, steps, page):
    page.goto(f"{address}/ddpm")
    draw = page.get_by_role("button", name="Draw", exact=True)
    page.wait_for_selector("#ddpm-sheet .tile")
    with visitor(7) as other:
        event = ask(other, address, "text_to_image_draw", *(T2I | {"steps": 100}).values()).json()["event_id"]
        before = len(steps)
        wait_until(lambda: len(steps) > before)
        draw.click()
        page.get_by_text("Waiting for the model").wait_for()
        page.get_by_role("button", name="Stop", exact=True).first.click()
        page.get_by_text("Stopped before its turn came").first.wait_for()
        page.wait_for_function("() => document.querySelector('#ddpm-status').innerText.includes('Not drawn')")
        assert draw.is_enabled() and len(steps) - before < 100, "while the other's drawing is under way"
        other.post(f"{address}/gradio_api/cancel", json={"session_hash": "", "fn_index": 0, "event_id": event})
    settled(lambda: len(steps))


def test_the_draw_button_comes_back_after_an_order_that_cannot_be_drawn(address, page):
    page.goto(f"{address}/text_to_image")
    draw = page.get_by_role("button", name="Draw", exact=True)
    page.get_by_label("Negative prompt").fill("x" * 2001)
    draw.click()
    page.get_by_text("Negative prompt has 2,001 characters").first.wait_for()
    page.wait_for_function("() => document.querySelector('#text-to-image-status').innerText.includes('Not drawn')")
    assert draw.is_enabled()


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_sessions_of_one_address_do_not_push_out_those_of_another(monkeypatch):
    visitors = kit("visitors")
    monkeypatch.setattr(visitors, "PERSONS", 4)
    monkeypatch.setattr(visitors, "CALLS", 2)
    presence = visitors.Presence()
    sessions, there = visitors.Sessions(presence), []

    def comes(name, address=None, *, stays=True):
        if address:
            opened = presence.person(name, address)
            opened.__enter__()
            there.append(opened)
            if not stays:
                opened.__exit__(None, None, None)
        sessions.session_data[name] = name
        sessions.update(name)

    comes("ann", "203.0.113.1")
    for k in range(9):
        comes(f"call-{k}")
        comes(f"crowd-{k}", "203.0.113.2", stays=k != 7)
    kept = list(sessions.session_data)
    assert kept[0] == "ann" and [name for name in kept if name.startswith("call")] == ["call-7", "call-8"]
    assert [name for name in kept if name.startswith("crowd")] == ["crowd-5", "crowd-6", "crowd-8"]


def test_messages_of_calls_do_not_push_out_those_of_who_listens(monkeypatch):
    visitors = kit("visitors")
    monkeypatch.setattr(visitors, "MESSAGES", 3)
    presence, event_ids = visitors.Presence(), {}
    messages = visitors.Messages(presence, event_ids)
    with presence.person("page", "203.0.113.1"), presence.counted(presence.streams, "listens"):
        for name in ("page", "listens", *(f"call-{k}" for k in range(9))):
            messages[name], event_ids[name] = object(), {"event"}
    assert set(messages) == {"page", "listens", "call-8"} == set(event_ids)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_answers_arrive_whole_while_the_same_is_asked_again(address, tmp_path):
    side = 1000
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))
    noise.save(buffer := io.BytesIO(), "PNG")
    box = {"path": upload(address, buffer.getvalue()), "meta": {"_type": "gradio.FileData"}}
    with visitor(5) as who:
        event, (mask, overlay, _) = answer(who, address, "segmentation_predict", box, "tiny", 60, 0)
    assert event == "complete"
    done, broken, fetched = threading.Event(), [], [0]

    def ask_again(last: int):
        with visitor(last) as who:
            for _ in range(4):
                answer(who, address, "segmentation_predict", box, "tiny", 60, 0)

    def download(file: dict, whole: bytes):
        with visitor(9) as who:
            while not done.is_set():
                fetched[0] += 1
                try:
                    if who.get(file["url"]).content != whole:
                        broken.append(file["url"])
                except httpx.HTTPError as error:
                    broken.append(repr(error))

    whole = [httpx.get(file["url"]).content for file in (mask, overlay)]
    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(download, *pair) for pair in zip((mask, overlay), whole, strict=True)]
        askers = [pool.submit(ask_again, last) for last in (6, 7)]
        for each in askers:
            each.result()
        done.set()
        for each in readers:
            each.result()
    assert fetched[0] > 10 and not broken, f"{len(broken)} of {fetched[0]} downloads were broken"


def png(size: tuple[int, int]) -> bytes:
    Image.new("RGB", size, (200, 40, 40)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def upload(address: str, data: bytes) -> str:
    return httpx.post(f"{address}/gradio_api/upload", files={"files": ("x.png", data)}, timeout=60).json()[0]


@pytest.mark.parametrize(
    "writer", ["save_bytes_to_cache", "save_pil_to_cache", "save_img_array_to_cache", "save_base64_to_cache"]
)
def test_no_writer_of_gradios_touches_a_file_that_is_served(address, writer, tmp_path):
    """Whoever holds the file open goes on to read what was there: it is left alone, or another takes its name."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    picture.save(buffer := io.BytesIO(), "PNG")
    inputs = {
        "save_bytes_to_cache": (buffer.getvalue(), "a.png", str(tmp_path)),
        "save_pil_to_cache": (picture, str(tmp_path), "a", "png"),
        "save_img_array_to_cache": (np.asarray(picture), str(tmp_path), "png"),
        "save_base64_to_cache": (
            "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
            str(tmp_path),
        ),
    }[writer]
    write = getattr(processing_utils, writer)
    path = write(*inputs)
    with open(path, "r+b") as served:
        served.truncate(10)  # as one who was stopped half-way would leave it
        assert write(*inputs) == path
        assert len(open(path, "rb").read()) > 10, "it is whole again"
        served.seek(0)
        assert len(served.read()) == 10, "and was not written into"
