"""The page `pretrain`: what stands where, and what happens when."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import gradio as gr
from PIL import Image

from apps.kit import launch, parts, picture_page, pictures, values, wires
from apps.kit.page import Page
from apps.kit.wires import endpoint, wire
from apps.pretrain import words
from apps.pretrain.column import LABELS
from apps.pretrain.desk import FINE, LAYERS, MAX_NEAR, MAX_PICTURES, Desk
from apps.pretrain.known import known
from hub_models import pretrain, store
from hub_models.pretrain import Tower
from hub_models.store import CheckpointError

PAGE = Page(
    stem="pretrain",
    title="Ways to learn to see",
    sentence="Towers side by side, each by what it learned from: what is alike to it in several pictures, where a "
    "patch looks, and which pictures lie next to each other.",
    card="Towers by what they learned from: what is alike to them, where a patch looks, nearest pictures.",
    short="What towers learn to see, each way beside the others",
    models=(),  # those of hub_models/weights/pretrain, by name and in their order, once they are there
    gpu_seconds=30,
    call="pretrain_neighbours",
    also=("classifier/vit", "classifier/swin"),
)
NEAR = 8
NAMES = tuple(f"Picture {k + 1}" for k in range(MAX_PICTURES))
OPENS = "pleading face", "face blowing a kiss", "firefighter", "fox"  # each box with one of the examples
NONE_YET = "No tower that learned without labels came with these weights. Train one: python -m training.pretrain."
QUIET, LATEST = wires.quiet(wires.LOOK), wires.latest(wires.LOOK)


def load_models(names: Sequence[str]) -> dict[str, Tower | CheckpointError]:
    """Each named tower, or the error in its place; a classifier, which was told labels, under LABELS and its name."""
    own = [name for name in names if not name.startswith(LABELS)] or PAGE.models
    labelled = [name for name in names if name.startswith(LABELS)] or [
        f"{LABELS}{also.partition('/')[2]}" for also in PAGE.also
    ]

    def told(name: str) -> Tower:
        tower = pretrain.load(store.resolve("classifier", name.removeprefix(LABELS)))
        tower.name = name
        return tower

    return launch.load_each(pretrain.load, own) | launch.load_each(told, labelled)


def build(models: Mapping[str, Tower | CheckpointError]) -> gr.Blocks:
    """The page around loaded towers; in the place of one that could not be loaded stands the cause."""
    with parts.opened(PAGE, models) as (demo, ready):
        if ready:
            desk, asked, shown = Desk(ready), SimpleNamespace(), SimpleNamespace()
            if all(name.startswith(LABELS) for name in ready):
                gr.HTML(parts.status(NONE_YET), elem_id="pretrain-none")
            _pictures(asked)
            with gr.Tabs():
                with gr.Tab("Alike"):
                    said = "Each patch by three principal components of all pictures together, as colours; below, how "
                    parts.section("Patches compared", f"{said}like it is to the framed one. Click another.")
                    said = {"label": "Layer", "elem_classes": "chips"}
                    asked.layer = gr.Radio([*LAYERS], value=FINE, **said)
                    shown.patches = _cards("patches", "Patches stand here.")
                with gr.Tab("Heads"):
                    said = "The framed patch's attention, head by head: bright is most, dark is out of its reach."
                    parts.section("Where a patch looks", said)
                    asked.depth = gr.Slider(0, 100, 100, step=1, label="Depth of the block, %")
                    shown.attention = _cards("attention", "Heads stand here.")
                with gr.Tab("Neighbours"):
                    parts.section(
                        "Nearest pictures", f"Of the chosen one, by the cosine of features, among {known().credit}"
                    )
                    shown.near = _cards("near", "Neighbours stand here.")
            shown.note = gr.HTML(parts.status(parts.WAITING), elem_id="pretrain-note")
            _events(demo, desk, asked, shown)
            _endpoints(desk, asked)
    return demo


# ---- what stands where -----------------------------------------------------------------------------------------------


def _pictures(asked: SimpleNamespace) -> None:
    with gr.Row(equal_height=False):
        asked.boxes = []
        known_names = [row["name"] for row in PAGE.examples]
        for k, name in enumerate(NAMES):
            with gr.Column(min_width=150):
                first = known_names.index(OPENS[k]) if OPENS[k] in known_names else None
                given = {"height": 170, "example": first, "elem_id": f"pretrain-picture-{k + 1}"}
                asked.boxes.append(picture_page.example_box(PAGE, name, **given))
    if PAGE.examples:
        credits = " · ".join(dict.fromkeys(row["credit"] for row in PAGE.examples[:1]))
        gr.HTML(credits, elem_classes="v-credits", padding=False)
    with gr.Row():
        chips = {"label": "The patch is in", "elem_classes": "chips", "min_width": 320}
        asked.number = gr.Radio([(name, k) for k, name in enumerate(NAMES, 1)], value=1, **chips)
        asked.place = [gr.Slider(0, 100, 50, step=0.5, label=f"{name}, %", min_width=140) for name in ("Row", "Column")]


def _cards(name: str, text: str) -> gr.HTML:
    return parts.styled(parts.blank(text), words.STYLE, words.CLICK, padding=False, elem_id=f"pretrain-{name}")


# ---- what happens when -----------------------------------------------------------------------------------------------


def _read(paths: Sequence[str | None]) -> dict[int, tuple[str, Image.Image]]:
    """{number from 1: path and picture} of the boxes that have one."""
    return {k: (path, pictures.read_picture(path)) for k, path in enumerate(paths, 1) if path}


def _events(demo: gr.Blocks, desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    values.as_sent(asked.layer, asked.depth, asked.number, *asked.place)
    maps = [shown.patches, shown.attention]
    every = [*maps, shown.near, shown.note]
    inputs = [*asked.boxes, asked.number, *asked.place, asked.layer, asked.depth]

    def emptied(*_):
        return dict.fromkeys([*maps, shown.near], parts.blank(parts.WAITING)) | {
            shown.note: parts.status(parts.WAITING)
        }

    def seen(*given):
        """The maps, and the pictures that there are with the place among them; None without a picture."""
        *paths, number, row, column, layer, depth = given
        found = _read(paths)
        if not found:
            return None
        number = number if number in found else next(iter(found))
        place = desk.place([*found].index(number) + 1, row, column, len(found))
        shown_, images = list(found.values()), [image for _, image in found.values()]
        share = values.percent(depth, "Depth") / 100
        alike, heads = [], []
        for tower in desk.columns.values():
            try:
                alike.append(words.patches(tower, desk.patches(tower, shown_, place, layer), place))
            except values.InputError as error:
                alike.append(words.refused(tower, error.message))
            try:
                heads.append(words.attention(tower, desk.looked(tower, images[place.picture], place, share), place))
            except values.InputError as error:
                heads.append(words.refused(tower, error.message))
        made = {shown.patches: words.cards(images, alike), shown.attention: words.cards(images, heads)}
        return made, images[place.picture], number

    def compare(*given):
        found = seen(*given)
        return found[0] if found else {}

    def near(image: Image.Image) -> str:
        return words.cards([], [
            words.neighbours(tower, desk.neighbours(tower, image, NEAR), known().agreement(desk.features(tower)))
            for tower in desk.columns.values()
        ])  # fmt: skip

    def answer(request: gr.Request, *given):
        found = seen(*given)
        if found is None:
            yield emptied()
            return
        made, image, number = found
        yield made | {shown.note: parts.status("Looking for neighbours …")}
        said = f"{len(desk.columns)} towers; neighbours of picture {number}."
        yield {shown.near: near(image), shown.note: parts.status(said)}

    def clicked(event: gr.EventData, *given):
        boxes = [k for k, path in enumerate(given[:MAX_PICTURES], 1) if path]
        at = values.number(event.picture, "Picture", 1, max(len(boxes), 1), integer=True)
        if not boxes:
            return {}
        row, column = values.percent(event.row, "Row"), values.percent(event.column, "Column")
        moved = [*given[:MAX_PICTURES], boxes[int(at) - 1], row, column, *given[-2:]]
        fields = dict(zip([asked.number, *asked.place], moved[MAX_PICTURES:-2], strict=True))
        return fields | compare(*moved)

    picture_page.answered(
        [demo.load, *(box.change for box in asked.boxes), asked.number.input], lambda path: {}, flags=desk.looking,
        answer=answer, emptied=emptied, box=asked.boxes[0], inputs=inputs, shown=every,
    )  # fmt: skip
    wire(
        [asked.layer.input, asked.depth.input, *(slider.input for slider in asked.place)],
        compare,
        inputs,
        maps,
        **LATEST,
    )
    for cards in maps:
        wire(cards.click, clicked, inputs, [asked.number, *asked.place, *maps], **QUIET)


def _endpoints(desk: Desk, asked: SimpleNamespace) -> None:
    """What programs ask for, with fields of their own where those of the page are of several pictures."""
    picture = pictures.picture_input("Picture", visible=False)
    names = gr.CheckboxGroup(list(desk.columns), value=list(desk.columns), label="Towers", visible=False)
    number = gr.Number(1, label="Picture of the patch", visible=False)
    count = gr.Slider(1, MAX_NEAR, NEAR, step=1, label="Neighbours", visible=False)
    sheets = gr.Gallery(label="Sheets", format="png", visible=False)
    said = gr.JSON(label="Towers", visible=False)
    endpoint(
        wires.LOOK, desk.pretrain_patches, [*asked.boxes, number, *asked.place, asked.layer, names], [sheets, said]
    )
    endpoint(wires.LOOK, desk.pretrain_attention, [picture, *asked.place, asked.depth, names], [sheets, said])
    endpoint(wires.LOOK, desk.pretrain_neighbours, [picture, count, names], said)


def main() -> None:
    launch.run(PAGE, load_models, build)
