"""The kit's parts under the names that pages had before it; goes with the last page that uses them."""

# ruff: noqa: F401
import gradio as gr

from apps.kit.answers import cached_file
from apps.kit.drawing_page import SHEET, columns
from apps.kit.launch import MCP_HELP, device_line, launch, load_each, run, theme
from apps.kit.page import Page
from apps.kit.parts import NAME_EXAMPLES, blank, blocks, degraded, facts, heading, section, status, subheading
from apps.kit.session import StopFlags, until
from apps.kit.values import InputError, as_sent, choice, number, seed, typed_seed
from apps.kit.wires import AT_ONCE, HIDDEN, halting, quiet, wire

SHEET_CSS = SHEET.read_text(encoding="utf-8")


def name_examples(page, names) -> None:
    import json

    page.load(None, js=f"() => ({NAME_EXAMPLES.read_text(encoding='utf-8')})({json.dumps(list(names))})")


def stoppable(demo, flags, draw, stop, stream, inputs, outputs, *, line, stem, busy=()):
    def begin(request: gr.Request):
        flags.arm(request.session_hash)
        waiting = gr.Button(interactive=False), gr.Button(interactive=True), status("Waiting for the model …", 0)
        return *waiting, *(gr.DownloadButton(interactive=False) for _ in busy)

    def end(request: gr.Request):
        flags.drop(request.session_hash)
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def failed(request: gr.Request):
        return *end(request), status("Not drawn: the message says why.")

    begun = draw.click(begin, None, [draw, stop, line, *busy], queue=False, **HIDDEN)
    drawn = begun.then(stream, inputs, outputs, concurrency_id=stem, concurrency_limit=1, **HIDDEN)
    drawn.failure(failed, None, [draw, stop, line], queue=False, **HIDDEN)
    stop.click(halting(demo, flags), None, None, queue=False, **HIDDEN)
    return drawn.then(end, None, [draw, stop], queue=False, **HIDDEN)
