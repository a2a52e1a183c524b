"""The command line of a page and its launch: the look, the doors, and what is printed."""

import argparse
import contextlib
import importlib.util
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
import torch

from apps.kit import answers, hosts, uploads, visitors
from apps.kit.page import Page
from hub_models.store import CheckpointError

MAX_UPLOAD = "20mb"
STYLE = Path(__file__).with_name("theme.css")

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")


def theme() -> gr.Theme:
    """The house theme: stone greys, one teal, fonts of the system alone (nothing is fetched)."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="stone", radius_size="lg", font=SANS, font_mono=MONO
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_info_text_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_200",
        button_secondary_background_fill_hover="*neutral_300",
        button_cancel_background_fill="*neutral_200",
        button_cancel_background_fill_hover="*neutral_300",
        button_cancel_text_color="*neutral_800",
    )


# A window of four panes, in the page itself: no file to fetch.
HEAD = """<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E
%3Crect width='8' height='8' rx='1.6' fill='%231c1917'/%3E%3Cpath fill='%230d9488' d='M1 1h2.7v2.7H1z'/%3E%3Cpath fill='
%23f59e0b' d='M4.3 1H7v2.7H4.3z'/%3E%3Cpath fill='%23dc2626' d='M1 4.3h2.7V7H1z'/%3E%3Cpath fill='%232563eb'
 d='M4.3 4.3H7V7H4.3z'/%3E%3C/svg%3E">""".replace("\n", "")


def load_each(load: Callable, names: Sequence[str]) -> dict:
    """{name: model}, with the CheckpointError in the place of a model that cannot be loaded."""
    models = {}
    for name in names:
        try:
            models[name] = load(name)
        except CheckpointError as error:
            models[name] = error
    return models


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--port, --host, --root_path, --mcp, --allowed_hosts and --proxy, for the command line of a page."""
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", help="the address to listen on; 127.0.0.1 by default, 0.0.0.0 lets others in")
    said = "the path under which a reverse proxy serves it, as /vitrail (or GRADIO_ROOT_PATH)"
    parser.add_argument("--root_path", metavar="PATH", help=said)
    said = "serve the endpoints as MCP tools as well, at /gradio_api/mcp/ (needs the package mcp)"
    parser.add_argument("--mcp", action="store_true", help=said)
    hosts.add_flags(parser)


def run(page: Page, load_models: Callable, build: Callable, **own: str) -> None:
    """The command line of one page: --model, and what every page has; then the page, until ctrl-c.

    own: {flag: help} of its own, which load_models gets where it is given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m apps.{page.stem}", description=page.sentence)
    parser.add_argument("--model", action="append", help="a bundled variant, a folder or org/repo; may be repeated")
    for flag, said in own.items():
        parser.add_argument(f"--{flag}", metavar="NAME", help=said)
    add_flags(parser)
    given = vars(parser.parse_args())
    options = {flag: value for flag in own if (value := given.pop(flag))}
    models = load_models(given.pop("model") or list(page.models), **options)
    launch(build(models), models=models, **given)


def device_line(models: dict) -> str:
    """One line on where the models run: "cpu, 2 threads" or "cuda, NVIDIA H200"."""
    device = next((torch.device(model.device) for model in models.values() if hasattr(model, "device")), None)
    if device is None:
        return "no model loaded"
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}"


def model_line(name: str, model) -> str:
    """One line on a model: parameters and the head of its weights' hash, or why it is not there."""
    if isinstance(model, Exception):
        return f"{name}: not loaded. {model}"
    return f"{name}: {model.parameters:,} parameters, weights {model.weights_sha256[:12]}"


def launch(
    demo: gr.Blocks,
    *,
    port: int | None = None,
    host: str | None = None,
    models: dict | None = None,
    block: bool = True,
    root_path: str | None = None,
    mcp: bool = False,
    allowed_hosts: Sequence[str] = (),
    proxy: Sequence[str] = (),
) -> str:
    """The address of the running app; prints device, models and address, then waits for ctrl-c unless `block` is False.

    One prediction at a time, visitors taking turns, and a share of the queue for each (`visitors`); no analytics, no
    share link, no run history, no server-side rendering, uploads up to MAX_UPLOAD (then 413), and the texts of
    exceptions stay in the server's log.
    mcp: the public endpoints are MCP tools too, by gradio's own server. Raises SystemExit where its package is missing.
    allowed_hosts, proxy: as apps.kit.hosts has them. Files: as apps.kit.uploads has it.
    root_path: where a proxy that strips it serves the app, "/vitrail", or the whole address there. SystemExit for a
    port in use, a folder of uploads that can't be written, a root_path that is none.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise SystemExit("--mcp needs the package mcp: pip install 'mcp>=1.21,<2'")
    models = models or {}
    host = host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    if port is not None:
        _check_port(host, port)
    uploads.check_folder()
    root_path = hosts.root_path(root_path)
    served, proxies = hosts.names(host, allowed_hosts), hosts.proxies(proxy)
    uploads.guard(demo)
    answers.whole_files()
    app_kwargs = visitors.admit(demo)
    watching = app_kwargs.pop("lifespan")

    @contextlib.asynccontextmanager
    async def doors(app):
        if demo.mcp_server_obj is not None:
            uploads.guard_mcp(demo.mcp_server_obj)
        app.middleware_stack = hosts.HostCheck(uploads.OwnFilesOnly(app.middleware_stack), served, proxies)
        async with watching(app):
            yield

    with hosts.unproxied():
        _, address, _ = demo.launch(
            server_name=host,
            server_port=port,
            theme=theme(),
            css=STYLE.read_text(encoding="utf-8"),
            head=HEAD,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            show_error=False,
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=mcp,
            root_path=root_path,
            max_file_size=MAX_UPLOAD,
            footer_links=["api", "settings"],
            app_kwargs={"lifespan": doors, **app_kwargs},
        )
    if not isinstance(demo.app.middleware_stack, hosts.HostCheck):
        demo.close(verbose=False)
        raise SystemExit("This version of gradio starts without its doors: install the one of requirements.lock.")
    print(f"Device  {device_line(models)}")
    for name, model in models.items():
        print(f"Model   {model_line(name, model)}")
    if served.literals or served.allowed:
        print(f"Served  as {served}; --allowed_hosts adds names")
    print(f"Open    {address}", flush=True)
    if behind := hosts.address_behind(root_path, served, proxies):
        print(f"Behind  the proxy: {behind}", flush=True)
    if block:
        demo.block_thread()
    return address


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SystemExit(f"Cannot listen on {host}:{port} ({error.strerror}). Choose another --port.") from None
