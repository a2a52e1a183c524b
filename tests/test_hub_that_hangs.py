"""A Hub that hangs, or asks to be left alone for a day: said soon, and nobody sleeps that long. No server is needed."""

import sys
import time
from email.utils import formatdate

import httpx2
import pytest

from hub_models import client
from hub_models.publish import packing, patience


def answering(status: int = 200, **headers) -> httpx2.Response:
    return httpx2.Response(status, headers=headers)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "86400"}, 86400), ({"Retry-After": " 1.5 "}, 1.5), ({"Retry-After": "soon"}, None), ({}, None),
     ({"ratelimit": '"api";r=0;t=120'}, 121)],
)  # fmt: skip
def test_what_the_hub_asks_for_is_read(headers, seconds):
    assert client.asked_to_wait(httpx2.Response(429, headers=headers)) == seconds
    assert client.asked_to_wait(None) is None


def test_a_date_is_a_time_to_wait_until():
    in_a_day = answering(503, **{"Retry-After": formatdate(time.time() + 86_400, usegmt=True)})
    assert client.asked_to_wait(in_a_day) == pytest.approx(86_400, abs=5)
    past = answering(503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert client.asked_to_wait(past) == 0


def hasty(handler) -> client._Hasty:
    return client._Hasty({}, transport=httpx2.MockTransport(handler))


def test_a_pull_is_not_put_to_sleep_for_a_day():
    asked = {"Retry-After": "86400", "ratelimit": '"api";r=0;t=86400'}
    got = hasty(lambda request: httpx2.Response(429, headers=asked)).get("https://hub.test/x")
    assert client.asked_to_wait(got) is None, "huggingface_hub keeps its own pace then"
    short = hasty(lambda request: httpx2.Response(429, headers={"Retry-After": "2"})).get("https://hub.test/x")
    assert client.asked_to_wait(short) == 2


def test_a_server_that_hung_is_not_asked_again_at_once():
    asked = []

    def hang(request):
        asked.append(request.url.host)
        raise httpx2.ReadTimeout("no answer", request=request)

    hub = hasty(hang)
    with pytest.raises(httpx2.ReadTimeout):
        hub.get("https://hub.test/x")
    with pytest.raises(client.HungUp, match="hub.test"):
        hub.get("https://hub.test/y")
    with pytest.raises(httpx2.ReadTimeout):
        hub.get("https://other.test/y")
    assert asked == ["hub.test", "other.test"]


@pytest.mark.parametrize(("method", "path", "first"), [("GET", "/api/whoami", 20), ("POST", "/api/repos/create", 20),
                                                       ("POST", "/api/models/x/commit/main", 60)])  # fmt: skip
def test_a_push_to_a_hub_that_hangs_ends_within_two_minutes(monkeypatch, method, path, first):
    waited = []

    def hang(request):
        waited.append(request.extensions["timeout"]["read"])
        raise httpx2.ReadTimeout("no answer", request=request)

    monkeypatch.setattr(patience.time, "sleep", waited.append)
    hub = patience._Patient(time.monotonic() + 3600)
    hub._transport = httpx2.MockTransport(hang)
    hub._mounts = {}
    hub.event_hooks = {}
    with pytest.raises((patience.GaveUp, httpx2.ReadTimeout)) as caught:
        for _ in range(patience.ATTEMPTS):  # who can't be repeated by the client is by its caller
            try:
                hub.request(method, f"https://hub.test{path}", content=b"x" if method == "POST" else None)
            except httpx2.ReadTimeout:
                continue
    assert isinstance(caught.value, patience.GaveUp) and "no answer in time" in str(caught.value)
    assert waited[0] == pytest.approx(first, abs=1) and sum(waited) <= 120


def test_a_wait_of_a_day_is_said_instead_of_waited(monkeypatch):
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: pytest.fail("it slept"))
    with pytest.raises(patience.GaveUp, match="asks to wait 86400 s"):
        patience.wait(1, "GET /x", None, answering(429, **{"Retry-After": "86400"}))


def test_the_line_that_repeats_a_push_of_a_space_has_all_that_was_said(tmp_path, monkeypatch, capsys):
    import importlib.util

    from training.data.split import ROOT

    spec = importlib.util.spec_from_file_location("space_build", ROOT / "spaces" / "build.py")
    assert spec and spec.loader
    build = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "space_build", build)
    spec.loader.exec_module(build)
    (tmp_path / "app.py").write_text("")
    monkeypatch.setattr(build, "build", lambda *_: tmp_path)

    def refused(folder, repo_id, *, again, **_):
        raise packing.PushError(f"{repo_id} was not pushed; repeat with: {again}")

    monkeypatch.setattr(build.upload, "push", refused)
    argv = ["ddpm", "--model", "my runs/x/export", "--output", "build/mine", "--hardware", "cpu-basic", "--private",
            "--harmless", "README.md:line-8:ab", "--push", "--repo_id", "org/demo"]  # fmt: skip
    with pytest.raises(SystemExit):
        build.main(argv)
    line = capsys.readouterr().err
    assert "python spaces/build.py ddpm --model 'my runs/x/export' --output build/mine --hardware cpu-basic" in line
    assert "--private --harmless README.md:line-8:ab --push --repo_id org/demo" in line
