"""The tab of walks: between two seeds of a label, and between two pictures, each family in its own space."""

from types import SimpleNamespace

import gradio as gr

from apps.families import words
from apps.families.desk import Desk
from apps.families.fields import families_field
from apps.kit import drawing_page, parts, picture_page, pictures, wires
from apps.kit.page import Page
from apps.kit.wires import endpoint

PREVIEWS = 12  # of walks under way at most


def part(demo: gr.Blocks, desk: Desk, page: Page) -> None:
    form, shown = SimpleNamespace(), SimpleNamespace()
    said = "Seven pictures from one to the other: what lies between tells what kind of space a family has."
    parts.section("Between two pictures, between two seeds", said)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            form.label = gr.Dropdown(desk.labels, value=next(iter(desk.labels), None), label="Label", min_width=150)
            with gr.Row():
                form.seed = gr.Number(0, label="From seed", min_width=110)
                form.other = gr.Number(1, label="To seed", min_width=110)
            with gr.Row():
                shown.walk = gr.Button("Walk", variant="primary", min_width=110, elem_id="families-walk")
                shown.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
        for name, label in (("first", "From picture"), ("second", "To picture")):
            with gr.Column(scale=3, min_width=200):
                setattr(form, name, picture_page.example_box(page, label, height=190))
    shown.line = gr.HTML(parts.status("Pictures are optional."), elem_id="families-walked")
    nothing = parts.blank("Press Walk: a strip for each family.")
    shown.strips = parts.styled(nothing, words.STYLE, elem_id="families-walks")
    _events(demo, desk, form, shown)


def _events(demo: gr.Blocks, desk: Desk, form: SimpleNamespace, shown: SimpleNamespace) -> None:
    def stream(request: gr.Request, label, seed, other, first, second):
        ends = [None if path is None else pictures.read_picture(path) for path in (first, second)]
        walks = desk.walks(label, seed, other, None, *ends)
        if not walks.parts:
            nowhere = parts.status("No family that is here has a space to walk in.")
            yield {shown.strips: words.strips_html(walks.strips()), shown.line: nowhere}
            return
        drawing = drawing_page.Drawing(walks.steps(), desk.walking.get(request.session_hash), previews=PREVIEWS)
        for _ in drawing.shown():
            yield {shown.strips: words.strips_html(walks.strips()), shown.line: drawing.line()}
        yield {shown.strips: words.strips_html(walks.strips()), shown.line: parts.status(f"{drawing.outcome()}.")}

    asked = [form.label, form.seed, form.other, form.first, form.second]
    around = demo, desk.walking, shown.walk, shown.stop, shown.line
    drawing_page.stoppable(*around, stream, asked, [shown.strips, shown.line])
    gallery = gr.Gallery(label="Strips", format="png", visible=False)
    said = gr.JSON(label="Walks", visible=False)
    label, seed, other, *ends = asked
    names = families_field(desk, visible=False)
    endpoint(wires.DRAW, desk.families_between, [label, seed, other, names, *ends], [gallery, said])
