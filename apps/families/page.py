"""The page `families`: its tabs, and the table of what each family is good for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from apps.families import ask, between, draw, styles, texture, words
from apps.families.desk import Desk
from apps.families.fields import families_field
from apps.families.rows import FAMILIES
from apps.kit import launch, parts, wires
from apps.kit.page import Page
from apps.kit.wires import endpoint
from hub_models import translation
from hub_models.store import CheckpointError

PAGE = Page(
    stem="families",
    title="Ways to make a picture",
    sentence="One label, one seed, and each family draws it its own way: in one pass, symbol by symbol, out of noise.",
    card="Families of models draw the same label side by side, look at your picture, and walk between two.",
    short="VAE, GAN, tokens, energy, diffusion side by side",
    models=(
        "autoencoder=vae-32",
        "gan=dcgan-32",
        "tokens=emoji-32",
        "energy=emoji-32",
        "ddpm=emoji-32",
        "translation=pix2pix-32",
    ),
    gpu_seconds=60,
    call="families_draw",
    example={"label": "food", "count": 1, "seed": 7},
)
LOADERS = {stem: family.load for stem, family in FAMILIES.items()} | {styles.STEM: translation.load}


def load_models(names: Sequence[str]) -> dict[str, Any | CheckpointError]:
    """Each model named as stem=variant, or the error in its place. Raises SystemExit for a stem that isn't here."""
    for name in names:
        stem, _, variant = name.partition("=")
        if stem not in LOADERS or not variant:
            raise SystemExit(f"--model {name}: write STEM=MODEL, where STEM is one of {', '.join(LOADERS)}")
    return launch.load_each(lambda name: LOADERS[name.partition("=")[0]](name.partition("=")[2]), names)


def build(models: Mapping[str, Any | CheckpointError]) -> gr.Blocks:
    """The page around loaded models, named as stem=variant; in the place of one that could not be loaded stands the
    cause."""
    with parts.opened(PAGE, models) as (demo, ready):
        translators = {name: model for name, model in ready.items() if name.startswith(f"{styles.STEM}=")}
        desk = Desk({name: model for name, model in ready.items() if name not in translators})
        if ready:
            with gr.Tabs():
                for title, part in _tabs(demo, desk, translators):
                    with gr.Tab(title):
                        part()
    return demo


def _tabs(demo: gr.Blocks, desk: Desk, translators: Mapping[str, Any]) -> Iterator[tuple[str, Callable]]:
    """The tabs that there are models for, in order: title, and what builds it."""
    if desk.members:
        yield "Draw", lambda: draw.part(demo, desk)
        yield "Your picture", lambda: ask.part(demo, desk, PAGE)
        yield "Between two", lambda: between.part(demo, desk, PAGE)
    if translators:
        yield "Another style", lambda: styles.part(demo, translators, PAGE)
    yield "Texture", lambda: texture.part(demo, PAGE)
    if desk.members:
        yield "Compare", lambda: _table_part(desk)


def _table_part(desk: Desk) -> None:
    said = "What a family can by its nature, and under it what was measured of the model that is here."
    parts.section("Which is which", said)
    parts.styled(words.table_html(list(desk.table.values())), words.STYLE, elem_id="families-table")
    names = families_field(desk, visible=False)
    result = gr.JSON(label="Families", visible=False)
    endpoint(wires.LOOK, desk.families_table, [names], result, queue=False)


def main() -> None:
    launch.run(PAGE, load_models, build)
