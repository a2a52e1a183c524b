"""The tab of the grandfather of them all: a texture of any size from a small piece, by histograms, without training."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import gradio as gr
import numpy as np
from gradio import processing_utils
from PIL import Image

from apps.families import words
from apps.kit import answers, drawing_page, parts, pictures, values, wires
from apps.kit.page import Page, index_of
from apps.kit.session import StopFlags
from apps.kit.wires import AT_ONCE, HIDDEN, endpoint, wire
from hub_models import textures
from hub_models.textures import State

SIDES_PX = (64, 512)  # of what is made here
ITERATIONS = 15  # at most
SAID = (
    "Noise is given the histograms of a small piece, band by band of a steerable pyramid, again and again (Heeger & "
    "Bergen 1995). No network, nothing learned: what the statistics of single bands hold comes back, and what they "
    "don't, such as where one brick ends, is lost."
)


@dataclass(frozen=True)
class Order:
    """A texture to make."""

    texture: Image.Image
    side_px: int
    seed: int
    iterations: int

    def steps(self) -> Iterator[State]:
        return textures.synthesise(self.texture, self.side_px, self.seed, iterations=self.iterations)


class Loom:
    """What the tab computes, for people and for programs."""

    def __init__(self):
        self.weaving = StopFlags()

    def order(self, picture: str | None, side_px, seed, iterations) -> Order:
        """Raises PictureError and InputError, which say what can be asked for."""
        texture = pictures.read_picture(picture)
        least = textures.least_side(levels=4)
        if min(texture.size) < least or max(texture.size) > textures.TEXTURE_PX * min(texture.size) / least:
            raise values.InputError(f"A texture has {least} pixels a side at least, and is not a strip.")
        side = values.number(side_px, "Side", *SIDES_PX, integer=True)
        return Order(texture, side, values.seed(seed), values.number(iterations, "Rounds", 1, ITERATIONS, integer=True))

    def families_texture(self, picture, side, seed, iterations, request: gr.Request):
        """Make a square of a picture's texture by Heeger & Bergen 1995: noise with the histograms of its bands.

        Parameters:
            picture: an image file, 64 pixels a side at least; it goes in at 512 at most
            side: of what comes out, 64 to 512 pixels
            seed: of the noise, reduced modulo 2**63; -1 draws a fresh one
            iterations: how often bands and pixels are matched in turn, 1 to 15
        """
        return drawing_page.whole(
            self.order(picture, side, seed, iterations), self.weaving, request.session_hash
        ).picture


def part(demo: gr.Blocks, page: Page) -> None:
    form, shown, loom = SimpleNamespace(), SimpleNamespace(), Loom()
    folder = page.folder / "textures"
    rows = index_of(folder)
    files = {row["name"]: str(folder / row["file"]) for row in rows}
    gr.HTML(f"<p>{html.escape(SAID)}</p>", padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=240):
            first = next(iter(files.values()), None)
            form.picture = pictures.picture_input("Texture", height=200, value=first)
            if files:
                chosen = gr.Radio(list(files), value=next(iter(files)), label="Or one of these", elem_classes="chips")
                wire(chosen.input, lambda name: {form.picture: files.get(name)}, chosen, form.picture, **AT_ONCE)
                credit = " · ".join(row["credit"] for row in rows)
                gr.HTML(html.escape(credit), elem_classes="v-credits", padding=False)
        with gr.Column(scale=3, min_width=220):
            form.side = gr.Slider(*SIDES_PX, 256, step=32, label="Side, px")
            form.iterations = gr.Slider(1, ITERATIONS, 5, step=1, label="Rounds")
            form.seed = gr.Number(0, label="Seed", min_width=110)
            with gr.Row():
                shown.weave = gr.Button("Make more", variant="primary", min_width=110, elem_id="families-weave")
                shown.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
            shown.png = gr.DownloadButton("Download PNG", interactive=False, size="sm", elem_classes="v-narrow")
        with gr.Column(scale=6, min_width=280):
            shown.line = gr.HTML(parts.status("Nothing made yet."), elem_id="families-woven")
            nothing = parts.blank("What is made stands here, after each round.")
            shown.texture = parts.styled(nothing, words.STYLE, elem_id="families-texture")
    shown.made = gr.State(None, time_to_live=3600)  # the last picture of a session, (R, R, 3)
    _events(demo, loom, form, shown)


def _events(demo: gr.Blocks, loom: Loom, form: SimpleNamespace, shown: SimpleNamespace) -> None:
    def stream(request: gr.Request, picture, side, seed, iterations):
        order = loom.order(picture, side, seed, iterations)
        drawing = drawing_page.Drawing(order.steps(), loom.weaving.get(request.session_hash), previews=ITERATIONS)
        for state in drawing.shown():
            yield {shown.texture: texture_html(state.picture), shown.line: drawing.line()}
        made = drawing.step.picture
        yield {shown.texture: texture_html(made), shown.made: np.asarray(made),
               shown.line: parts.status(f"{drawing.outcome()}, seed {order.seed}")}  # fmt: skip

    def png_file(made):
        if made is None:
            return {}
        path = answers.cached_file(processing_utils.encode_pil_to_bytes(Image.fromarray(made)), "texture.png")
        return {shown.png: gr.update(value=path, interactive=True)}

    asked = [form.picture, form.side, form.seed, form.iterations]
    around = demo, loom.weaving, shown.weave, shown.stop, shown.line
    ended = drawing_page.stoppable(
        *around, stream, asked, [shown.texture, shown.line, shown.made], busy=[shown.png]
    )  # fmt: skip
    wire(ended.then, png_file, shown.made, shown.png, **HIDDEN)
    result = gr.Image(label="Texture", format="png", visible=False)
    endpoint(wires.DRAW, loom.families_texture, asked, result)


def texture_html(picture: Image.Image) -> str:
    """A texture at its own size, as wide as there is room."""
    url = pictures.data_url(pictures.png_bytes(picture))
    return f'<img class="texture" src="{url}" alt="The texture made" width="{picture.width}" height="{picture.height}">'
