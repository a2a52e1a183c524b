"""Offline by construction; and for pages `serve(demo) -> url` and `page`, a browser that never leaves the machine."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported anywhere
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import contextlib
import random
import re
import shutil
import sys
import tempfile

import numpy as np
import pytest
import torch
from ports import free_port

# Uploads are named by their content, and gradio deletes those of a server that ends: of every one with that folder.
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="vitrail-tests-")
pytest.register_assert_rewrite("children", "families", "hostile_pictures", "loopback_hub", "opening", "tiny_models")

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
CHROMIUM_FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost"]  # addresses, too
HERE = re.compile(r"^(data|blob|about):|^(https?|wss?)://(127\.0\.0\.1|localhost)(:\d+)?(/|$)")
NO_CHROMIUM = "no chromium: install it, or point CHROMIUM at one"
LONG = [f"test_{name}.py" for name in (  # by the time they take
    "spaces", "hub", "smoke", "end_to_end", "classifier", "captioning_app", "doors_visitors", "doors_pictures",
    "text_to_image_inside", "segmentation_app", "doors_data", "ddpm", "homes", "doors_code", "photo_captions",
    "house", "fuzz", "doors_folders", "ddpm_scales", "text_to_image", "text_to_image_app", "doors_hosts",
)]  # fmt: skip
LEFT: list[str] = []  # connections and look-ups of this process that were not for this machine


def pytest_collection_modifyitems(items):
    """Long files first: `make test` hands out whole files, and one begun last leaves the other process without work."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_unconfigure():
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)


def _note_departures(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        target = args[1] if event == "socket.connect" else args[:2]
        host = target[0] if isinstance(target, tuple) else None  # a unix socket's address is a path
        host = host.decode() if isinstance(host, bytes) else host
        if host not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"):
            LEFT.append(f"{event} {host}")


sys.addaudithook(_note_departures)


@pytest.fixture(autouse=True)
def _same_draws():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@contextlib.contextmanager
def serving():
    """start(demo) -> the address of the app, launched in this process on a free port as its users get it.

    Closing fails if the process looked up or connected to anything but this machine meanwhile.
    """
    from apps.kit import launch

    running, before = [], len(LEFT)

    def start(demo) -> str:
        running.append(demo)
        return launch.launch(demo, port=free_port(), block=False).rstrip("/")

    yield start
    for demo in running:
        demo.close(verbose=False)
    assert not LEFT[before:], f"the server reached for {LEFT[before:]}"


@pytest.fixture
def serve():
    """serve(demo) -> its address; closed after the test."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def serve_once():
    """serve_once(demo) -> its address; closed after the module."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def browser():
    """A headless chromium from $CHROMIUM or the path; without one the test skips, or fails under REQUIRE_BROWSER=1."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail(NO_CHROMIUM) if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A fresh page; the test fails on any request that leaves this machine and on any error thrown in the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    left, thrown = [], []

    # Watched, and refused by the browser itself: with a route through this process nothing would be cached.
    context.on("request", lambda request: None if HERE.match(request.url) else left.append(request.url))
    page = context.new_page()
    page.on("websocket", lambda socket: None if HERE.match(socket.url) else left.append(socket.url))
    page.on("pageerror", lambda error: thrown.append(str(error)))
    yield page
    context.close()
    assert not left, f"requests left 127.0.0.1: {left}"
    assert not thrown, f"errors in the page: {thrown}"


def pytest_terminal_summary(terminalreporter):
    skipped = [test for test in terminalreporter.stats.get("skipped", []) if NO_CHROMIUM in str(test.longrepr)]
    if skipped:
        where = ", ".join(sorted({test.nodeid.partition("::")[0] for test in skipped}))
        terminalreporter.write_sep("!", "BROWSER TESTS SKIPPED: no chromium found", red=True, bold=True)
        terminalreporter.write_line(
            f"in {where}. Install chromium or set CHROMIUM=/path; REQUIRE_BROWSER=1 makes this an error."
        )
