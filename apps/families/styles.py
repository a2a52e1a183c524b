"""The tab of styles: a picture that comes in, as each set of emoji would have drawn it."""

import time
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from apps.families import measured, words
from apps.families.family import Seen, variant_of
from apps.kit import parts, picture_page, pictures, values, wires
from apps.kit.page import Page
from apps.kit.session import StopFlags
from apps.kit.wires import endpoint
from hub_models.pictures import frame
from hub_models.translation import Translator

STEM = "translation"
TITLES = {True: "Learned from pairs", False: "Learned without pairs"}  # by whether the discriminator sees both
FACTS = (  # of validation pairs, in results.json
    ("Nearer to the truth than the input", "validation/nearer_than_input"),
    ("In the style asked for", "validation/style_right"),
)
NOTHING = parts.blank("What it is in other styles stands here.")


class Studio:
    """What the tab computes, for people and for programs."""

    def __init__(self, models: Mapping[str, Translator]):
        self.models, self.looking = values.Models(models), StopFlags()

    def families_styles(self, picture, model):
        """Draw a picture again in every style that a translator knows. Returns a picture for each style, and what was
            measured of the model.

        Parameters:
            picture: an image file; it goes in whole, in a white square as small as the model sees
            model: the name of a loaded translator, translation=variant
        """
        translator, read = self.models.chosen(model), pictures.read_picture(picture)
        drawn = zip(in_styles(translator, read), translator.style_names, strict=True)
        return list(drawn), {"model": model, "styles": translator.style_names, "facts": facts(translator)}


def in_styles(model: Translator, picture: Image.Image) -> list[Image.Image]:
    """The picture in every style of the model, in their order."""
    return model.translate([picture] * len(model.style_names), model.style_names)


def facts(model: Translator) -> dict[str, str]:
    """What was measured of it on validation pairs; nothing where nobody has."""
    metrics, _ = measured.documents(STEM, model.name)
    found = ((said, measured.number(metrics, name)) for said, name in FACTS)
    return {said: f"{value:.0%}" for said, value in found if value is not None}


def seen(model: Translator, picture: Image.Image) -> Seen:
    side = model.resolution_px
    given = np.asarray(frame(picture, side))
    made = [
        (style, np.asarray(drawn)) for style, drawn in zip(model.style_names, in_styles(model, picture), strict=True)
    ]
    how = f"In one pass a style, {side} pixels a side. It isn't told which style yours has."
    return Seen(how, [("as it goes in", given), *made], facts(model))


def title(model: Translator) -> str:
    return "Translator" if model.discriminator is None else TITLES[model.discriminator.conditional]


def part(demo: gr.Blocks, models: Mapping[str, Any], page: Page) -> None:
    studio = Studio(models)
    said = "The same thing in each style, by a U-Net that is told which. An emoji does best."
    parts.section("As others would have drawn it", said)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=260):
            box = picture_page.example_box(page, "Your picture", height=240, example=0, elem_id="families-style")
        with gr.Column(scale=8, min_width=320):
            line = gr.HTML(parts.status(parts.WAITING), elem_id="families-styled")
            shown = parts.styled(NOTHING, words.STYLE, elem_id="families-styles")

    def emptied(*_):
        return {shown: NOTHING, line: parts.status(parts.WAITING)}

    def answer(request: gr.Request, path):
        if path is None:
            return emptied()
        picture, began = pictures.read_picture(path), time.monotonic()
        answers = {name: (title(model), variant_of(name), seen(model, picture), None)
                   for name, model in studio.models.items()}  # fmt: skip
        count = sum(len(model.style_names) for model in studio.models.values())
        took = f"{count} pictures in {words.seconds(time.monotonic() - began)}."
        return {shown: words.answers_html(answers), line: parts.status(took)}

    picture_page.answered(
        [box.change, demo.load], lambda path: {}, flags=studio.looking, answer=answer, emptied=emptied,
        box=box, inputs=[box], shown=[shown, line],
    )  # fmt: skip
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    result = gr.JSON(label="Model", visible=False)
    name = gr.Radio(list(studio.models), value=next(iter(studio.models)), label="Model", visible=False)
    endpoint(wires.LOOK, studio.families_styles, [box, name], [gallery, result])
