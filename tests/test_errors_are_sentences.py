"""Commands and launches: a first word at once, expected errors in one sentence, nothing that the screen drowns in."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import types

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from ports import free_port

from apps.kit import hosts, launch, uploads
from hub_models import terminal
from hub_models.store import CheckpointError
from training import loop, machine
from training.checkpoint import RunError
from training.data.split import ROOT

# ---- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["training.classifier", "training.clip", "training.evaluate", "apps.text_to_image"])
def test_the_first_word_comes_before_the_libraries(module):
    """They take many seconds to import; the first word is there within 3 of the command, on a busy machine too."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", module], stderr=subprocess.PIPE, text=True, cwd=ROOT) as command:
        assert command.stderr is not None
        first = command.stderr.readline()
        seconds = time.monotonic() - began
        command.send_signal(signal.SIGKILL)
    assert first == f"{module}: opening its libraries …\n" and seconds < 3


def test_nothing_is_said_where_a_package_is_imported(capsys, monkeypatch):
    hook = sys.excepthook
    terminal.opening()
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "training.ddpm", "--help"])
    monkeypatch.setenv("RANK", "1")
    try:
        terminal.opening()
        assert capsys.readouterr().err == "" and sys.excepthook is terminal.end, "the first process alone speaks"
    finally:
        sys.excepthook = hook
    monkeypatch.setenv("RANK", "0")
    terminal.opening()
    sys.excepthook = hook
    assert capsys.readouterr().err == "training.ddpm: opening its libraries …\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CheckpointError("no such\nvariant"), "error: no such variant\n"),
        (RunError("the folder is held"), "error: the folder is held\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "error: Permission denied: /x; mend that"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device; free that"),
        (ModuleNotFoundError("no", name="datasets.x"), "error: the package datasets is not installed: install vitrail"),
        (type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})("CUDA"), "lower --train_batch_size"),
        (KeyboardInterrupt(), "stopped by ctrl-c"),
    ],
)
def test_an_expected_error_is_one_sentence(capsys, error, said):
    terminal.end(type(error), error, None)
    printed = capsys.readouterr().err
    assert said in printed and "Traceback" not in printed and printed.count("\n") == 1


def test_what_nobody_expects_keeps_its_traceback(capsys):
    try:
        {}["missing"]
    except KeyError as error:
        terminal.end(KeyError, error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err
    own = ModuleNotFoundError("no", name="training.data.x")  # a stranger's package may be called so
    terminal.end(ModuleNotFoundError, own, None)
    assert "pip install" not in capsys.readouterr().err


def test_a_tracker_that_is_not_there_is_a_sentence_with_the_choices(monkeypatch):
    monkeypatch.setattr(loop, "get_available_trackers", lambda: [loop.LoggerType.TENSORBOARD])
    for name in (None, "all", "tensorboard"):
        loop.check_tracker(name)
    with pytest.raises(RunError, match="wandb: its package is not installed; pip install wandb, or take tensorboard"):
        loop.check_tracker("wandb")
    with pytest.raises(RunError, match="is no tracker: choose one of aim, .*tensorboard.*, all, none"):
        loop.check_tracker("tensorbord")


# ---- Windows, by simulation ------------------------------------------------------------------------------------------


def test_no_script_and_no_page_needs_at_import_what_windows_lacks():
    """fcntl, resource, pwd, grp and termios are missing there: whoever imports one of them can do without."""
    import ast

    missing = {"fcntl", "resource", "pwd", "grp", "termios"}
    for path in [p for room in ("apps", "hub_models", "training") for p in (ROOT / room).rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {id(n) for t in ast.walk(tree) if isinstance(t, ast.Try) for s in t.body for n in ast.walk(s)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in guarded:
                names = {a.name for a in node.names} if isinstance(node, ast.Import) else {node.module}
                assert not names & missing, f"{path.name} imports {names & missing}"


def test_a_run_folder_is_held_by_one_process_without_fcntl_too(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "fcntl", None)
    monkeypatch.setattr(machine, "resource", None)
    with machine.locked(tmp_path / "lock", wait=False):
        with pytest.raises(machine.HeldElsewhere), machine.locked(tmp_path / "lock", wait=False):
            pass
    with machine.locked(tmp_path / "lock", wait=True):
        pass
    assert machine.peak_memory() > 2**20
    monkeypatch.setattr(os, "name", "nt")
    machine.flush(tmp_path)  # a folder can't be opened there
    monkeypatch.undo()
    assert machine.peak_memory() > 2**20


# ---- the launch of a page --------------------------------------------------------------------------------------------


def small() -> gr.Blocks:
    with gr.Blocks() as demo:
        box, said = gr.Textbox(), gr.Textbox()
        picture = gr.Image(visible=False, type="filepath")
        gr.Button().click(lambda text: (text.upper(), None), box, [said, picture], api_name="shout")
    return demo


def test_a_folder_of_uploads_that_cannot_be_written_is_said_at_the_start(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(uploads, "get_upload_folder", lambda: str(tmp_path / "file" / "gradio"))
    with pytest.raises(SystemExit, match=r"Uploads can't be kept in .*: set GRADIO_TEMP_DIR"):
        launch.launch(small(), port=free_port(), block=False)


def test_a_port_in_use_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"Cannot listen on 127.0.0.1:{port} .*Choose another --port"):
            launch.launch(small(), port=port, block=False)


@pytest.mark.parametrize(
    ("said", "root"),
    [("/vitrail", "/vitrail"), ("vitrail/", "/vitrail"), ("/a/b/", "/a/b"), ("/", None), (None, None), ("", None),
     ("https://x.org/vitrail/", "https://x.org/vitrail"), ("https://x.org/", "https://x.org")],
)  # fmt: skip
def test_a_root_path_is_a_path_or_a_whole_address(said, root):
    assert hosts.root_path(said, {}) == root
    assert hosts.root_path(None, {"GRADIO_ROOT_PATH": said or ""}) == root


@pytest.mark.parametrize("wrong", ["/a b", "../x", "/<b>", "ftp://x"])
def test_a_root_path_that_is_none_is_refused(wrong):
    with pytest.raises(SystemExit, match="as /vitrail"):
        hosts.root_path(wrong, {})


def test_the_address_behind_a_proxy_is_named():
    own = hosts.names("127.0.0.1", ["demo.example.org"])
    assert hosts.address_behind("/vitrail", own, []) == "http(s)://demo.example.org/vitrail/"
    assert hosts.address_behind(None, own, ["127.0.0.1"]) == "http(s)://demo.example.org/"
    assert hosts.address_behind("https://x.org/v", own, []) == "https://x.org/v/"
    assert hosts.address_behind(None, own, []) is None
    assert hosts.address_behind("/v", hosts.names("127.0.0.1"), []) == "http(s)://<its name>/v/"


class Stripping:
    """ASGI as nginx with `location /vitrail/ { proxy_pass http://app/; }`: strips the path, keeps the Host."""

    def __init__(self, back: int):
        self.back = back

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path = scope["path"].removeprefix("/vitrail") if scope["path"].startswith("/vitrail/") else "/nowhere/to/be"
        query = scope["query_string"].decode()
        headers = [(k, v) for k, v in scope["headers"] if k not in (b"connection", b"accept-encoding")]
        async with httpx.AsyncClient(timeout=60) as client:
            address = f"http://127.0.0.1:{self.back}{path}" + f"?{query}" * bool(query)
            request = client.build_request(scope["method"], address, headers=headers, content=body)
            reply = await client.send(request, stream=True)
            kept = [(k.lower().encode(), v.encode()) for k, v in reply.headers.items() if k.lower() != "content-length"]
            await send({"type": "http.response.start", "status": reply.status_code, "headers": kept})
            async for part in reply.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def test_page_files_and_calls_work_below_a_path(tmp_path, capsys):
    import threading

    import uvicorn

    back, front, demo = free_port(), free_port(), small()
    proxy = uvicorn.Server(uvicorn.Config(Stripping(back), port=front, log_level="error"))
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        launch.launch(demo, port=back, block=False, root_path="/vitrail")
        assert "/vitrail/" in capsys.readouterr().out
        base = f"http://127.0.0.1:{front}/vitrail"
        page = httpx.get(f"{base}/", timeout=30)
        config = httpx.get(f"{base}/config", timeout=30).json()
        assert page.status_code == 200 and config["root"] == base
        assert httpx.get(f"{base}/theme.css", timeout=30).status_code == 200
        sent = httpx.post(f"{base}/gradio_api/upload", files={"files": ("a.txt", b"hello")}, timeout=30).json()
        assert httpx.get(f"{base}/gradio_api/file={sent[0]}", timeout=30).content == b"hello"
        assert Client(base, verbose=False, download_files=str(tmp_path)).predict("hi", api_name="/shout")[0] == "HI"
    finally:
        demo.close(verbose=False)
        proxy.should_exit = True
        thread.join(10)


def test_flags_of_a_page_of_its_own_reach_its_models(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--model", "emoji", "--lora", "a.safetensors", "--root_path", "/v"])
    got = {}
    monkeypatch.setattr(launch, "launch", lambda demo, **given: got.update(given))
    page = types.SimpleNamespace(stem="text_to_image", sentence="", models=("emoji",))
    launch.run(page, lambda names, lora=None: got.update(names=names, lora=lora) or {}, lambda models: None, lora="x")
    assert (got["names"], got["lora"], got["root_path"]) == (["emoji"], "a.safetensors", "/v")
