"""While one types, a student of few steps sketches; a switch shows what it and its teacher make of the same noise."""

import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
from gradio import processing_utils

from apps.kit import drawing_page, parts, values, wires
from apps.kit.drawing_page import DEADLINE_SECONDS
from apps.kit.session import Newest, until
from apps.kit.wires import AT_ONCE, wire
from apps.text_to_image import words
from apps.text_to_image.desk import Desk, Order, Sheet, is_student
from hub_models.text_to_image import TextToImage

HERE = Path(__file__).parent
LANE = "live"  # of its own, so that sketches take no turn from a picture that somebody ordered
STEPS = 2  # of a sketch
STAMP = "(...fields) => [...fields.slice(0, -1), performance.now()]"  # of two requests the later one counts
SAYS = "Sketched while you type, in {steps} steps. Press Enter, and the model draws."
TEACHER, STUDENT = "teacher", "student"


class Sketches:
    """Sketches by a student, one at a time for each visitor: what is typed later overtakes what came before it."""

    def __init__(self, desk: Desk, student: TextToImage):
        self.desk, self.student, self.newest = desk, student, Newest()

    def sketch(
        self, session: str | None, stamp: float, name, prompt, style, seed, guidance
    ) -> tuple[Order, list[bytes]] | None:
        """The order and its PNG; None for no text, once something newer was typed, and while a drawing is under way.

        Raises InputError for what can't be drawn.
        """
        self.newest.note(session, stamp)
        order = self.desk.sketch(self.student, name, prompt, style, seed, guidance, STEPS)
        if not order.prompt or self.desk.drawing.has(session):
            return None
        overtaken = self.newest.overtaken(session, stamp)
        if overtaken.is_set():
            return None
        for step in until(order.steps(), overtaken, DEADLINE_SECONDS):
            last = step
        if last.index + 1 < last.total or self.desk.drawing.has(session):
            return None
        return order, [processing_utils.encode_pil_to_bytes(png) for png in order.pngs(last)]


def live_part(desk: Desk, student: TextToImage) -> SimpleNamespace:
    """The fields: whether to sketch, and by whom the last drawing is shown. `typed` is clicked once keys rest."""
    live = SimpleNamespace(sketches=Sketches(desk, student))
    steps = {TEACHER: desk.teacher.default_steps if desk.teacher else 0, STUDENT: student.default_steps}
    with gr.Row():
        live.on = gr.Checkbox(True, label="Sketch while I type", elem_id="text-to-image-live", min_width=180)
        shown = [(f"{name}, {count} steps", name) for name, count in steps.items()]
        live.by = gr.Radio(
            shown, value=TEACHER, label="Drawn by", info="From the same noise.", elem_classes="chips",
            elem_id="text-to-image-by", visible=desk.teacher is not None, min_width=260,
        )  # fmt: skip
    live.typed = parts.styled("", HERE / "live.js", elem_id="text-to-image-typed", padding=False)
    return live


def live_events(desk: Desk, live: SimpleNamespace, form: SimpleNamespace, around: tuple) -> None:
    """form.drawn is the Sheet of the last drawing. around: the button Draw, the line of the status, and the sheet."""
    draw, line, sheet = around

    def note(request: gr.Request, stamp):
        live.sketches.newest.note(request.session_hash, stamp)

    def sketch(request: gr.Request, on, name, prompt, style, seed, guidance, stamp):
        if not on:
            return {}
        began = time.monotonic()
        try:
            made = live.sketches.sketch(request.session_hash, stamp, name, prompt, style, seed, guidance)
        except values.InputError:
            return {}  # the line below the prompt says what is wrong with it
        if made is None:
            return {}
        order, pngs = made
        said = f"{SAYS.format(steps=STEPS)} {1000 * (time.monotonic() - began):.0f} ms, seed {order.seeds[0]}."
        return {sheet: words.sheet_html(pngs, order, start=False), line: parts.status(said)}

    def show(request: gr.Request, by, drawn: Sheet | None):
        by = values.choice(by, "Drawn by", (TEACHER, STUDENT))
        if drawn is None:
            raise values.InputError("Nothing is drawn yet: draw first.")
        order, ours = desk.drawn_by(live.sketches.student if by == STUDENT else desk.teacher, drawn)
        pngs = drawn.pngs
        if not ours:
            step = drawing_page.whole(order, desk.drawing, request.session_hash)
            pngs = [processing_utils.encode_pil_to_bytes(png) for png in order.pngs(step)]
        said = f"By the {by}, in {order.settings['num_inference_steps']} steps, from the same noise."
        return {sheet: words.sheet_html(pngs, order, start=ours), line: parts.status(said)}

    def chosen(name):
        return {live.by: STUDENT if is_student(desk.models.chosen(name)) else TEACHER}

    stamp = gr.Number(visible=False)
    asked = [live.on, form.model_name, form.prompt, form.style, form.seed, form.guidance, stamp]
    at = {"js": STAMP}
    wire(live.typed.click, note, stamp, None, trigger_mode="multiple", **at, **AT_ONCE)
    wire(live.typed.click, sketch, asked, [sheet, line], **at, **wires.latest(LANE))
    wire(live.by.input, show, [live.by, form.drawn], [sheet, line], **wires.latest(wires.DRAW))
    wire(draw.click, chosen, form.model_name, live.by, **AT_ONCE)
