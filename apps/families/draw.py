"""The tab where several families draw the same label and seeds, and are watched."""

from types import SimpleNamespace

import gradio as gr

from apps.families import words
from apps.families.desk import MAX_PICTURES, Desk
from apps.families.fields import families_field
from apps.kit import drawing_page, parts, wires
from apps.kit.wires import HIDDEN, endpoint, wire

PREVIEWS = 30  # of a drawing under way at most


def part(demo: gr.Blocks, desk: Desk) -> None:
    form, shown = SimpleNamespace(), SimpleNamespace()
    with gr.Row(equal_height=False):
        form.label = gr.Dropdown(desk.labels, value=next(iter(desk.labels), None), label="Label", min_width=150)
        form.count = gr.Slider(1, MAX_PICTURES, 1, step=1, label="Pictures", info="Of each family.", min_width=170)
        form.seed = gr.Number(0, label="Seed", info="The next has one more.", min_width=130, elem_id="families-seed")
        form.fresh = gr.Checkbox(True, label="New seed every time", min_width=150)
        with gr.Column(min_width=220), gr.Row():
            shown.draw = gr.Button("Draw", variant="primary", min_width=110, elem_id="families-draw")
            shown.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80, elem_id="families-stop")
    form.families = families_field(desk, visible=len(desk.members) > 1)
    shown.line = gr.HTML(parts.status("Nothing drawn yet."), elem_id="families-status")
    nothing = parts.blank("Choose a label and press Draw: every family draws it here, one after the other.")
    shown.sheet = parts.styled(nothing, words.STYLE, elem_id="families-sheet")
    shown.png = gr.DownloadButton("Download PNG with receipts", interactive=False, size="sm", elem_classes="v-narrow")
    shown.drawn = gr.State(None, time_to_live=3600)  # the Sheet of the last drawing
    _events(demo, desk, form, shown)


def _events(demo: gr.Blocks, desk: Desk, form: SimpleNamespace, shown: SimpleNamespace) -> None:
    def finished(order, said):
        sheet = order.sheet()
        tiles = words.sheet_html(sheet, under_way=False)
        return {shown.sheet: tiles, shown.line: parts.status(said), shown.drawn: sheet}

    def first():
        order = desk.order(next(iter(desk.labels), None), 1, 0, None)
        for _ in order.steps():
            pass
        return finished(order, f"An example: “{order.label}” from seed 0.")

    def stream(request: gr.Request, fresh, label, count, seed, families):
        order = desk.order(label, count, None if fresh else seed, families)
        drawing = drawing_page.Drawing(order.steps(), desk.drawing.get(request.session_hash), previews=PREVIEWS)
        seed = {form.seed: order.seeds[0]}
        for _ in drawing.shown():
            tiles = words.sheet_html(order.sheet(), under_way=True)
            yield seed | {shown.sheet: tiles, shown.line: drawing.line()}
        yield seed | finished(order, f"{drawing.outcome()}, seed {order.seeds[0]}")

    def png_file(sheet):
        return {shown.png: gr.update(value=sheet.png_file(), interactive=True)} if sheet else {}

    order = [form.label, form.count, form.seed, form.families]
    outputs = [shown.sheet, shown.line, shown.drawn]
    around = demo, desk.drawing, shown.draw, shown.stop, shown.line
    ended = drawing_page.stoppable(*around, stream, [form.fresh, *order], [*outputs, form.seed], busy=[shown.png])
    for event in (ended, drawing_page.opened(demo, desk.drawing, first, outputs, shown.drawn)):
        wire(event.then, png_file, shown.drawn, shown.png, **HIDDEN)
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    said = gr.JSON(label="Families", visible=False)
    endpoint(wires.DRAW, desk.families_draw, order, [gallery, said])
