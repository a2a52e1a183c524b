"""A page that draws to an order: it is watched as it forms on a sheet, stopped, and called by programs.

An order has `steps()`, and each of these `index` and `total`.
"""

import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from apps.kit import parts, wires
from apps.kit.session import StopFlags, until
from apps.kit.values import InputError
from apps.kit.wires import AT_ONCE, wire

DEADLINE_SECONDS = 300  # a drawing that takes longer is stopped, and says so
SHEET = Path(__file__).with_name("sheet.css")  # of a part that shows <div class="sheet cols-N">, N = columns(count)


def columns(count: int) -> int:
    """Columns of a sheet of `count` pictures: 1, 2, 3, 2 × 2, then rows of four."""
    return {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 9: 3}.get(count, 4)


class Drawing:
    """A drawing under way: `shown` gives the steps that are worth a message to the page, `step` is the last done."""

    def __init__(self, steps: Generator, stop, *, previews: int, seconds: float = DEADLINE_SECONDS):
        self.steps, self.stop, self.previews, self.seconds = steps, stop, previews, seconds
        self.started = time.monotonic()
        self.step: Any = None

    def shown(self) -> Iterator:
        """`previews` of the steps, evenly spaced, and one a second: each costs a message to the page."""
        last, worth = self.started, None
        for step in until(self.steps, self.stop, self.seconds):
            self.step = step
            if worth is None:
                worth = set(np.linspace(0, step.total - 1, self.previews).round().astype(int).tolist())
            if step.index in worth or time.monotonic() - last > 1:
                yield step
                last = time.monotonic()

    def line(self, more: str = "") -> str:
        """HTML of how far it is, with a bar."""
        done, total = self.step.index + 1, self.step.total
        return parts.status(f"Step {done} of {total}{more}, {time.monotonic() - self.started:.1f} s", done / total)

    def outcome(self) -> str:
        """A sentence, without its stop, on how it ended: "Done: 20 steps in 3.1 s"."""
        done, total, seconds = self.step.index + 1, self.step.total, time.monotonic() - self.started
        late = f"Out of time ({self.seconds:g} s: ask for fewer steps or pictures)"
        cause = "Stopped" if self.stop.is_set() else late
        said = f"Done: {done} steps" if done == total else f"{cause} after {done} of {total} steps"
        return f"{said} in {seconds:.1f} s"


def whole(order, flags: StopFlags, session: str | None):
    """The last step of an order that a program waits for. Raises InputError where it was stopped before."""
    with flags.armed(session) as stop:
        for step in until(order.steps(), stop, DEADLINE_SECONDS):
            last = step
    if last.index + 1 < last.total:
        raise InputError(f"Stopped after {last.index + 1} of {last.total} steps: ask for less at a time.")
    return last


def opened(demo: gr.Blocks, flags: StopFlags, first: Callable, outputs: Sequence, drawn: gr.State):
    """The event that ends the drawing that the page opens with: first() gives {component: value}.

    It is made when the first visitor comes, and shown to all: none of them waits for other drawings. drawn: the one of
    the outputs that holds a visitor's drawing; who has one already, or has begun one, keeps it.
    """
    made = gr.State(None)

    @functools.cache
    def values() -> list:
        said = first()
        return [said.get(component, gr.skip()) for component in outputs]

    def show(request: gr.Request, kept, own):
        free = own is None and not flags.has(request.session_hash)
        return {made: None} | (dict(zip(outputs, kept, strict=True)) if free and kept else {})

    ready = wire(demo.load, lambda: {made: values()}, None, made, **wires.quiet(wires.LOOK))
    return wire(ready.then, show, [made, drawn], [made, *outputs], **AT_ONCE)


def stoppable(demo: gr.Blocks, flags: StopFlags, draw: gr.Button, stop: gr.Button, line: gr.HTML,
              stream: Callable, inputs: Sequence, outputs: Sequence, *, busy: Sequence = ()):  # fmt: skip
    """The event that ends a drawing: `draw` starts stream(request, *inputs), `stop` or a closed tab sets its flag.

    line: its status; busy: download buttons that wait until there is something new in them.
    """
    on, off = gr.update(interactive=True), gr.update(interactive=False)

    def begin(request: gr.Request):
        flags.arm(request.session_hash)
        return {draw: off, stop: on, line: parts.status("Waiting for the model …", 0)} | dict.fromkeys(busy, off)

    def end(request: gr.Request):
        flags.drop(request.session_hash)
        return {draw: on, stop: off}

    def failed(request: gr.Request):
        return end(request) | {line: parts.status("Not drawn: the message says why.")}

    begun = wire(draw.click, begin, None, [draw, stop, line, *busy], **AT_ONCE)
    drawn = wire(begun.then, stream, inputs, outputs, **wires.quiet(wires.DRAW))
    wire(drawn.failure, failed, None, [draw, stop, line], **AT_ONCE)  # then `then` isn't run, as on success
    wire(stop.click, wires.halting(demo, flags), **AT_ONCE)
    return wire(drawn.then, end, None, [draw, stop], **AT_ONCE)
