"""The page `families`: its tabs, and the table of what each family is good for."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from apps.families import ask, between, draw, texture, words
from apps.families.desk import Desk
from apps.families.rows import FAMILIES
from apps.kit import launch, parts, wires
from apps.kit.page import Page
from apps.kit.wires import endpoint
from hub_models.store import CheckpointError

PAGE = Page(
    stem="families",
    title="Ways to make a picture",
    sentence="One label, one seed, and each family draws it its own way: in one pass, symbol by symbol, out of noise.",
    card="Families of models draw the same label side by side, look at your picture, and walk between two.",
    short="GAN, tokens and diffusion side by side",
    models=("gan=dcgan-32", "tokens=emoji-32", "ddpm=emoji-32"),
    gpu_seconds=60,
    call="families_draw",
    example={"label": "food", "count": 1, "seed": 7},
)


def load_models(names: Sequence[str]) -> dict[str, Any | CheckpointError]:
    """Each model named as stem=variant, or the error in its place. Raises SystemExit for a stem that isn't here."""
    for name in names:
        stem, _, variant = name.partition("=")
        if stem not in FAMILIES or not variant:
            raise SystemExit(f"--model {name}: write STEM=MODEL, where STEM is one of {', '.join(FAMILIES)}")
    return launch.load_each(lambda name: FAMILIES[name.partition("=")[0]].load(name.partition("=")[2]), names)


def build(models: Mapping[str, Any | CheckpointError]) -> gr.Blocks:
    """The page around loaded models, named as stem=variant; in the place of one that could not be loaded stands the
    cause."""
    with parts.opened(PAGE, models) as (demo, ready):
        if ready:
            desk = Desk(ready)
            with gr.Tabs():
                with gr.Tab("Draw"):
                    draw.part(demo, desk)
                with gr.Tab("Your picture"):
                    ask.part(demo, desk, PAGE)
                with gr.Tab("Between two"):
                    between.part(demo, desk, PAGE)
                with gr.Tab("Texture"):
                    texture.part(demo, PAGE)
                with gr.Tab("Compare"):
                    _table_part(desk)
    return demo


def _table_part(desk: Desk) -> None:
    said = "What a family can by its nature, and under it what was measured of the model that is here."
    parts.section("Which is which", said)
    parts.styled(words.table_html(list(desk.table.values())), words.STYLE, elem_id="families-table")
    names = draw.families_field(desk, visible=False)
    result = gr.JSON(label="Families", visible=False)
    endpoint(wires.LOOK, desk.families_table, [names], result, queue=False)


def main() -> None:
    launch.run(PAGE, load_models, build)
