"""What every page shares: the look, the launch, checks of parameters, and errors people can act on."""

import argparse
import contextlib
import html
import importlib.util
import json
import math
import os
import re
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import gradio as gr
import torch

from apps.kit import answers, hosts, uploads, visitors
from hub_models.store import CheckpointError

MAX_UPLOAD = "20mb"


class InputError(gr.Error):
    """A parameter that cannot be used, with the values that can. Is a ValueError."""

    def __init__(self, message: str):
        super().__init__(message, title="Input", print_exception=False)


def as_sent(*components: gr.components.Component) -> None:
    """Have the components' values reach the handler as they were sent, for `number` and the like to judge.

    gradio's own checks end in an error without a reason for most of what isn't of their type.
    """
    for component in components:
        component.preprocess = lambda payload: payload


def cached_file(data: bytes, name: str) -> str:
    """The path of a file in gradio's cache, from where it is served and after an hour deleted."""
    return answers.cached_file(data, name)


# ---- parameters -------------------------------------------------------------------------------------------------------


def number(value, name: str, low: float, high: float, *, integer: bool = False) -> float | int:
    """The value, if it is a finite number in [low, high] (and whole, for `integer`).

    Raises:
        InputError: anything else; names the range.
    """
    kind = "a whole number" if integer else "a number"
    wanted = f"{name} must be {kind} from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{wanted}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{wanted}, not {value}.")
    if integer and value != int(value):
        raise InputError(f"{wanted}, not {value:g}.")
    if not low <= value <= high:
        raise InputError(f"{wanted}, not {str(value)[:20]}.")
    return int(value) if integer else float(value)


def seed(value) -> int:
    """The seed to use, in [0, 2**63): a fresh one for None and -1, else the value reduced modulo 2**63.

    Show the returned one: it is what draws the same picture again.

    Raises:
        InputError: not a whole number.
    """
    if value is None or (value == -1 and not isinstance(value, bool)):
        return secrets.randbelow(2**31)
    whole = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value == int(value))
    if isinstance(value, bool) or not whole:
        raise InputError("Seed must be a whole number, or -1 for a fresh one.")
    return int(value) % 2**63


def typed_seed(value) -> int:
    """`seed` of a number or of its text: a field of text keeps the digits that a browser's numbers round.

    Raises:
        InputError: not a whole number.
    """
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,40}", text) else None if not text else value
    return seed(value)


def choice(value, name: str, options) -> str:
    """The value, if it is one of the options.

    Raises:
        InputError: anything else; names the options.
    """
    options = [str(option) for option in options]
    if isinstance(value, str) and value in options:
        return value
    raise InputError(f"{name} must be one of: {', '.join(map(html.escape, options))}.")


# ---- look -------------------------------------------------------------------------------------------------------------

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


CSS = """
gradio-app, .gradio-container, .gradio-container .wrap, .gradio-container main.contain { min-width: 0; width: 100%; }
.gradio-container { max-width: min(1180px, 100vw) !important; margin: 0 auto !important; padding: 1rem 1.25rem 3rem !important; }
.gradio-container > .main { padding: 0.75rem 0 !important; min-width: 0; max-width: 100% !important; width: 100%; }
.gradio-container .nav-holder { padding: 0.25rem 0 !important; min-width: 0; width: 100%; }
.gradio-container .nav-holder nav { flex-wrap: wrap; justify-content: flex-start !important; gap: 0.25rem !important;
  padding: 0.25rem 0 !important; max-width: 100% !important; }
.html-container { padding: 0 !important; }
.v-heading h1 { font-size: 1.9rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.02em; margin: 0.5rem 0 0.25rem; }
.v-heading p { font-size: 1.05rem; color: var(--body-text-color-subdued); margin: 0 0 0.25rem; }
.v-section { margin-top: 1rem; }
.v-section h2 { font-size: 1.3rem; font-weight: 600; letter-spacing: -0.01em; margin: 0; }
.v-section p, .v-sub p { color: var(--body-text-color-subdued); margin: 0.15rem 0 0; }
.v-sub h3 { font-size: 1.1rem; font-weight: 600; margin: 0; }
.v-sub p { font-size: 0.9rem; }
.v-card { border: 1px solid var(--border-color-primary); border-radius: var(--radius-xl); padding: 1rem;
  background: var(--block-background-fill); }
.v-facts { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 0.9rem; margin: 0; padding-top: 0.75rem;
  border-top: 1px solid var(--border-color-primary); font-size: 0.85rem; }
.v-facts dt { color: var(--body-text-color-subdued); }
.v-facts dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.v-status { font-size: 0.9rem; color: var(--body-text-color-subdued); min-height: 1.5em; }
.v-status progress { display: block; width: 100%; height: 6px; margin-top: 0.4rem; accent-color: var(--primary-600); }
.v-degraded { border-left: 4px solid var(--error-icon-color); border-radius: var(--radius-md); padding: 0.75rem 1rem;
  background: var(--error-background-fill); color: var(--body-text-color); overflow-wrap: anywhere; }
.v-degraded p { margin: 0.35rem 0 0; }
.v-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem; }
.v-link, .v-link:hover { text-align: left; display: flex; flex-direction: column; gap: 0.35rem; padding: 1rem; text-decoration: none;
  color: var(--body-text-color); background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-xl); transition: border-color 0.15s; }
.v-link:hover { border-color: var(--primary-600); }
.v-link strong { font-size: 1.15rem; font-weight: 600; }
.v-link > span { color: var(--body-text-color-subdued); }
.v-link small { margin-top: auto; padding-top: 0.4rem; color: var(--body-text-color-subdued); }
.v-link .v-missing { color: var(--error-icon-color); }
.v-strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 0.6rem; padding: 0.9rem; margin-bottom: 0.4rem;
  min-height: 4rem; background: white; border-radius: var(--radius-lg); border: 1px solid var(--border-color-primary); }
.v-strip img { width: 100%; max-height: 88px; object-fit: contain; }
.v-strip img:only-child { grid-column: 1 / -1; max-height: 190px; }
.v-examples, .v-examples > * { min-width: 0 !important; max-width: 100%; }
.v-examples .gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(52px, 1fr)); gap: 6px; }
.v-examples .gallery-item { aspect-ratio: 1; width: 100%; background: white; border-radius: var(--radius-md); }
.v-examples .gallery-item .container, .v-examples .gallery-item img { width: 100% !important; height: 100% !important;
  border: 0 !important; object-fit: contain; padding: 2px; }
.v-credits { font-size: 0.8rem; color: var(--body-text-color-subdued); }
.v-picture .image-frame img { background: white; }
.v-blank { display: grid; place-items: center; min-height: 260px; padding: 24px; text-align: center; border-radius: 12px;
  border: 1px dashed var(--border-color-primary); color: var(--body-text-color-subdued); }
.chips .wrap { gap: 6px; }
.chips label { border-radius: 999px; padding: 5px 13px; cursor: pointer; min-height: 34px; }
.chips label input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.chips label span { margin: 0; }
.chips label:has(input:checked) { background: var(--primary-600); border-color: var(--primary-600); }
.chips label:has(input:checked) span { color: #fff; }
.chips label:has(input:focus-visible) { outline: 2px solid var(--primary-400); outline-offset: 2px; }
.v-answer { --font-mono: var(--font); }
.v-answer .container { padding: 0 !important; }
:focus-visible { outline: 2px solid var(--primary-600) !important; outline-offset: 2px; }
@media (max-width: 640px) {
  .gradio-container { padding: 0.5rem 0.75rem 2rem !important; }
  .v-heading h1 { font-size: 1.5rem; }
  .v-examples .gallery { grid-auto-flow: column; grid-template-columns: none; grid-template-rows: repeat(2, 56px);
    grid-auto-columns: 56px; overflow-x: auto; padding-bottom: 6px; }
}
@media (prefers-reduced-motion: reduce) { * { animation-duration: 0.01ms !important; transition: none !important; } }
"""


# A window of four panes, in the page itself: no file to fetch.
HEAD = """<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E%3Crect
 width='8' height='8' rx='1.6' fill='%231c1917'/%3E%3Cpath fill='%230d9488' d='M1 1h2.7v2.7H1z'/%3E%3Cpath fill='%23f59e0b'
 d='M4.3 1H7v2.7H4.3z'/%3E%3Cpath fill='%23dc2626' d='M1 4.3h2.7V7H1z'/%3E%3Cpath fill='%232563eb'
 d='M4.3 4.3H7V7H4.3z'/%3E%3C/svg%3E">""".replace("\n", "")


# gradio's example buttons hold a picture and no text: give screen readers and pointers their names once they are there.
NAME_EXAMPLES = """() => {
  const names = NAMES;
  const name = () => {
    const buttons = document.querySelectorAll(".v-examples .gallery-item");
    buttons.forEach((button, i) => { button.setAttribute("aria-label", names[i]); button.title = names[i]; });
    return buttons.length > 0;
  };
  if (!name()) {
    const watch = new MutationObserver(() => { if (name()) watch.disconnect(); });
    watch.observe(document.body, { childList: true, subtree: true });
  }
}"""


def name_examples(page: gr.Blocks, names: Sequence[str]) -> None:
    """Have the example buttons of the page say what they show, in the order of the names."""
    page.load(None, js=NAME_EXAMPLES.replace("NAMES", json.dumps(list(names))))


def blocks(title: str) -> gr.Blocks:
    """An empty page of the house: no analytics, no version check, uploads deleted after an hour."""
    return gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600))


def heading(title: str, text: str) -> gr.HTML:
    """The head of a page: its title and one sentence (plain text both)."""
    return gr.HTML(f"<h1>{html.escape(title)}</h1><p>{html.escape(text)}</p>", elem_classes="v-heading", padding=False)


def section(title: str, text: str) -> gr.HTML:
    """The head of a part of the page: its title and one sentence (plain text both)."""
    return gr.HTML(f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>", elem_classes="v-section", padding=False)


def subheading(title: str, text: str) -> gr.HTML:
    """The head of a card: its title and a few words (plain text both)."""
    return gr.HTML(f"<h3>{html.escape(title)}</h3><p>{html.escape(text)}</p>", elem_classes="v-sub", padding=False)


def facts(rows: dict[str, str]) -> str:
    """HTML of a small table of name and value, for `gr.HTML`: parameters, hash, device, milliseconds."""
    cells = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in rows.items())
    cells = cells.encode("utf-8", "replace").decode()  # a lone surrogate, from somebody's file, can't be sent as JSON
    return f'<dl class="v-facts">{cells}</dl>'


def degraded(name: str, error: Exception) -> gr.HTML:
    """The card that stands in a model's place when its checkpoint cannot be used: the cause, and what to do."""
    body = f"<strong>{html.escape(name)} could not be loaded</strong><p>{html.escape(str(error))}</p>"
    return gr.HTML(f'<div class="v-degraded" role="alert">{body}</div>', padding=False)


def status(text: str, share: float | None = None) -> str:
    """HTML of a line that screen readers speak, over a bar for the share done while that is below 1."""
    shown = share is not None and share < 1
    bar = f'<progress max="1" value="{share:.3f}" aria-label="progress"></progress>' if shown else ""
    return f'<div class="v-status" role="status"><span>{html.escape(text)}</span>{bar}</div>'


# ---- drawings that are watched and stopped ------------------------------------------------------------------------------

# For the css_template of a gr.HTML that shows a sheet of tiles: <div class="sheet cols-N">, N = columns(count).
SHEET_CSS = """
.sheet { display: grid; gap: 12px; margin: 0 auto; align-items: start; }
.cols-1 { grid-template-columns: minmax(0, 420px); justify-content: center; }
.cols-2 { grid-template-columns: repeat(2, minmax(0, 300px)); justify-content: center; }
.cols-3 { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.cols-4 { grid-template-columns: repeat(4, minmax(0, 1fr)); }
.tile img { display: block; width: 100%; aspect-ratio: 1; border-radius: 12px; background: #fff;
            box-shadow: 0 0 0 1px var(--border-color-primary); }
@media (max-width: 640px) { .sheet { gap: 8px; } .cols-3, .cols-4 { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
"""


def columns(count: int) -> int:
    """Columns of a sheet of `count` pictures: 1, 2, 3, 2 × 2, then rows of four."""
    return {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 9: 3}.get(count, 4)


def blank(text: str) -> str:
    """HTML of the frame that stands where nothing is drawn yet."""
    return f'<div class="v-blank">{html.escape(text)}</div>'


SESSIONS_WITH_FLAGS = 1000  # of which a flag is kept: those that stop waiting without a word leave theirs


class StopFlags:
    """One flag a session: its Stop button sets it, and so does closing the tab. Looked at after every step.

    gradio's own `cancels` ends a generator at its next yield only, and leaves it no last word to the page.
    """

    def __init__(self):
        self._flags: OrderedDict[str | None, threading.Event] = OrderedDict()

    def arm(self, session: str | None) -> threading.Event:
        """A fresh flag for the session's next drawing."""
        self._flags[session] = flag = threading.Event()
        while len(self._flags) > SESSIONS_WITH_FLAGS:
            self._flags.popitem(last=False)
        return flag

    def get(self, session: str | None) -> threading.Event:
        return self._flags.get(session) or self.arm(session)

    def set(self, session: str | None) -> None:
        if flag := self._flags.get(session):
            flag.set()

    def drop(self, session: str | None) -> None:
        self._flags.pop(session, None)


def until(steps: Iterator, stop: threading.Event, seconds: float) -> Iterator:
    """The steps of a drawing until they end, stop is set, time is out, or nobody waits: looked at after every step."""
    started, left = time.monotonic(), visitors.left()
    with contextlib.closing(steps):
        for step in steps:
            yield step
            if stop.is_set() or left() or time.monotonic() - started > seconds:
                return


HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}  # of events that are the page's own


def stoppable(demo, flags: StopFlags, draw, stop, stream, inputs, outputs, *, line, stem: str, busy=()):
    """The event that ends a drawing: `draw` starts the generator `stream`, `stop` or a closed tab sets its flag.

    line: the gr.HTML of its status; busy: download buttons that wait until there is something new in them.
    """

    def begin(request: gr.Request):
        flags.arm(request.session_hash)
        waiting = gr.Button(interactive=False), gr.Button(interactive=True), status("Waiting for the model …", 0)
        return *waiting, *(gr.DownloadButton(interactive=False) for _ in busy)

    def halt(request: gr.Request):
        flags.set(request.session_hash)

    def end(request: gr.Request):
        flags.drop(request.session_hash)
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def failed(request: gr.Request):
        return *end(request), status("Not drawn: the message says why.")

    begun = draw.click(begin, None, [draw, stop, line, *busy], queue=False, **HIDDEN)
    drawn = begun.then(stream, inputs, outputs, concurrency_id=stem, concurrency_limit=1, **HIDDEN)
    drawn.failure(failed, None, [draw, stop, line], queue=False, **HIDDEN)  # then `then` isn't run, as on success
    stop.click(halt, None, None, queue=False, **HIDDEN)
    demo.unload(halt)
    return drawn.then(end, None, [draw, stop], queue=False, **HIDDEN)


# ---- launch -----------------------------------------------------------------------------------------------------------


def load_each(load: Callable, names: Sequence[str]) -> dict:
    """{name: model}, with the CheckpointError in the place of a model that cannot be loaded."""
    models = {}
    for name in names:
        try:
            models[name] = load(name)
        except CheckpointError as error:
            models[name] = error
    return models


MCP_HELP = "serve the endpoints as MCP tools as well, at /gradio_api/mcp/ (needs the package mcp)"


def run(stem: str, description: str, load_models: Callable, build: Callable, default: Sequence[str]) -> None:
    """The command line of one page: --model, --port, --host, --allowed_hosts, --proxy, --mcp; then the page, until ctrl-c."""
    parser = argparse.ArgumentParser(prog=f"python -m apps.{stem}", description=description)
    parser.add_argument("--model", action="append", help="a bundled variant, a folder or org/repo; may be repeated")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", help="the address to listen on; 127.0.0.1 by default, 0.0.0.0 lets others in")
    parser.add_argument("--mcp", action="store_true", help=MCP_HELP)
    hosts.add_flags(parser)
    arguments = parser.parse_args()
    models = load_models(arguments.model or list(default))
    launch(
        build(models),
        port=arguments.port,
        host=arguments.host,
        models=models,
        mcp=arguments.mcp,
        allowed_hosts=arguments.allowed_hosts,
        proxy=arguments.proxy,
    )


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
    mcp: bool = False,
    allowed_hosts: Sequence[str] = (),
    proxy: Sequence[str] = (),
) -> str:
    """The address of the running app; prints device, models and address, then waits for ctrl-c unless `block` is False.

    One prediction at a time, visitors taking turns, and a share of the queue for each (`visitors`); no analytics, no share
    link, no run history, no server-side rendering, uploads up to MAX_UPLOAD (then 413), exception texts stay in the server's log.
    mcp: the public endpoints are MCP tools too, by gradio's own server. Raises SystemExit where its package is missing.
    allowed_hosts, proxy: as apps.kit.hosts has them. Files: as apps.kit.uploads has it.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise SystemExit("--mcp needs the package mcp: pip install 'mcp>=1.21,<2'")
    models = models or {}
    host = host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    if port is not None:
        _check_port(host, port)
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
            css=CSS,
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
