"""The page `segmentation`: what stands where, and what happens when."""

from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from apps.kit import homes, launch, parts, picture_page, pictures, wires
from apps.kit.page import Page
from apps.kit.parts import WAITING, status
from apps.kit.pictures import shown_size
from apps.kit.wires import endpoint, wire
from apps.segmentation import words
from apps.segmentation.desk import BACKGROUND, PICTURE, TOP_K, Desk, Look, Stopped, load_models
from apps.segmentation.paint import OPACITY, Seen
from hub_models.segmentation import Segmenter
from hub_models.store import CheckpointError

HERE = Path(__file__).parent
PAGE = Page(
    stem="segmentation",
    title="What is where?",
    sentence="A Swin, a ViT and a U-Net name every pixel of your picture, and say how sure they are. The models of "
    "scenes have seen drawings only: for photographs there are photo and, on the road, street.",
    card="Networks for drawings and for photographs name every pixel and say how sure they are. Blank what they doubt.",
    short="Every pixel named by a Swin, a ViT and a U-Net",
    models=("swin-scenes", "photo", "street", "dpt-scenes", "unet-scenes"),
    gpu_seconds=10,  # its longest work, a picture in tiles through two models, measured at 0.4 s of one CPU thread
    call="segmentation_predict",
)
QUIET, LATEST = wires.quiet(wires.LOOK), wires.latest(wires.LOOK)


def build(models: dict[str, Segmenter | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause."""
    with parts.opened(PAGE, models) as (demo, ready):
        if ready:
            desk = Desk(ready, PAGE)
            asked, shown = _main_part(demo, desk)
            seen = _answer_events(demo, desk, asked, shown)
            _look_events(desk, asked, shown)
            _views_part(desk, asked, seen)
    return demo


# ---- what stands where -----------------------------------------------------------------------------------------------


def _main_part(demo: gr.Blocks, desk: Desk) -> tuple[SimpleNamespace, SimpleNamespace]:
    """What a visitor asks for, and all that shows a result of the chosen model."""
    examples = "Or one of these: scenes no model was trained on, with their truth, and photographs"
    asked, shown = SimpleNamespace(), SimpleNamespace()
    with gr.Row(elem_classes="v-columns", equal_height=False):
        with gr.Column(scale=7, min_width=280):
            asked.box = picture_page.picture_box(PAGE, demo, examples, height=280)
        with gr.Column(scale=9, min_width=320):
            with gr.Column(elem_classes="v-card"):
                _overlay_card(desk, asked, shown)
            with gr.Column(elem_classes="v-card"):
                _pixel_card(asked, shown)
        with gr.Column(scale=6, min_width=260):
            with gr.Column(elem_classes="v-card"):
                _sureness_card(desk, asked, shown)
            with gr.Column(elem_classes="v-card"):
                _table_card(desk, shown)
    asked.hidden = gr.State([BACKGROUND])
    asked.colours = [asked.box, asked.model_name, asked.opacity, asked.below, asked.hidden]
    asked.look = [*asked.colours, asked.x, asked.y]  # the fields of a Look
    return asked, shown


def _overlay_card(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    asked.model_name = parts.model_choice(desk.models)
    shown.overlay = pictures.picture_output("Classes over the picture", height=430, elem_id="segmentation-overlay")
    files = HERE / "legend.css", HERE / "legend.js"
    shown.legend = parts.styled(words.legend_html(None, ()), *files, padding=False, elem_id="segmentation-legend")
    shown.status = gr.HTML(status(WAITING), padding=False, elem_id="segmentation-status")
    shown.home = homes.line(PAGE)
    with gr.Row():
        names = "Mask PNG", "Overlay PNG", "JSON"
        shown.files = [gr.Button(name, size="sm", min_width=90, interactive=False) for name in names]


def _pixel_card(asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    parts.subheading("One pixel", "Click one in the coloured picture, or say where it is.")
    with gr.Row():
        asked.x, asked.y = (
            gr.Number(label=name, minimum=0, step=1, min_width=90, elem_id=f"segmentation-{name}") for name in "xy"
        )
    bare = {"show_label": False, "container": False, "elem_classes": "v-answer"}
    shown.top = gr.Label(num_top_classes=TOP_K, label="At this pixel", elem_id="segmentation-top", **bare)


def _sureness_card(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    parts.subheading("How sure?", "Blank the pixels that the model is less sure of.")
    asked.opacity = gr.Slider(0, 100, OPACITY, step=1, label="Opacity, %")
    asked.below = gr.Slider(0, 99, 0, step=1, label="Don't know below, %")
    curve = words.curve_html(desk.models.first, None, 0)
    shown.curve = parts.styled(curve, HERE / "curve.css", padding=False, elem_id="segmentation-curve")


def _table_card(desk: Desk, shown: SimpleNamespace) -> None:
    parts.subheading("All of it", "Press a heading to sort by it.")
    files = parts.TABLE, HERE / "sort.css", HERE / "sort.js"
    shown.table = parts.styled(words.table_html(None), *files, padding=False, elem_id="segmentation-table")
    shown.facts = gr.HTML(words.card(desk.models.first), padding=False)


# ---- what happens when -----------------------------------------------------------------------------------------------


def _answer_events(demo: gr.Blocks, desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace):
    """What a fresh picture and another model bring about; the event that ends the answer to the former."""

    def fresh_model(path):
        return {shown.status: status("Waiting for the model …", 0)} if path else {}

    def fresh_picture(path):
        return {asked.x: None, asked.y: None} | fresh_model(path)

    def emptied(*look):
        model = desk.models.chosen(Look(*look).name)
        empty = {shown.overlay: None, shown.legend: words.legend_html(None, ()), shown.status: status(WAITING)}
        empty |= {shown.curve: words.curve_html(model, None, 0), shown.top: None, shown.table: words.table_html(None)}
        return empty | {shown.facts: words.card(model)} | dict.fromkeys(shown.files, gr.update(interactive=False))

    def segment(request: gr.Request, *look):
        look = Look(*look)
        model = desk.models.chosen(look.name)
        if look.path is None:
            yield emptied(*look)
            return
        try:
            for event in desk.watched(look, desk.flags.get(request.session_hash)):
                if isinstance(event, Seen):
                    seen = event
                elif event[1] > 1:
                    yield {shown.status: status(f"Tile {event[0]} of {event[1]}", event[0] / event[1])}
        except Stopped:
            yield {}
            return
        width, height = seen.picture.size
        yield {
            shown.overlay: desk.painted(seen, look),
            shown.legend: words.legend_html(seen, look.hidden),
            shown.status: status(f"{look.name}: {len(seen.shares)} classes in {width} × {height} px."),
            shown.curve: words.curve_html(model, seen, look.below),
            shown.top: desk.top(seen, look),
            shown.table: words.table_html(seen),
            shown.facts: words.card(model, seen.seconds),
        } | dict.fromkeys(shown.files, gr.update(interactive=True))

    outputs = [
        shown.overlay,
        shown.legend,
        shown.status,
        shown.curve,
        shown.top,
        shown.table,
        shown.facts,
        *shown.files,
    ]
    how = dict(flags=desk.flags, answer=segment, emptied=emptied, box=asked.box, inputs=asked.look)
    home = desk.models, asked.box, asked.model_name, shown.home
    picked, switched = homes.chosen(*home)
    seen = picture_page.answered(picked, fresh_picture, shown=[*outputs, asked.x, asked.y], **how)
    again = [
        picture_page.answered(trigger, fresh_model, shown=outputs, **how)
        for trigger in (asked.model_name.input, switched)
    ]
    homes.said(*home, [event.success for event in (seen, *again)])
    wires.halting(demo, desk.flags)
    for button, make in zip(shown.files, (desk.mask_file, desk.overlay_file, desk.json_file), strict=True):
        picture_page.saves(button, make, asked.colours)
    mask, painted = gr.File(label="Mask", visible=False), gr.File(label="Overlay", visible=False)
    result = gr.JSON(label="Result", visible=False)
    endpoint(
        wires.LOOK,
        desk.segmentation_predict,
        [asked.box, asked.model_name, asked.opacity, asked.below],
        [mask, painted, result],
    )
    endpoint(wires.LOOK, desk.segmentation_pixel, [asked.box, asked.model_name, asked.x, asked.y], result)
    return seen


def _look_events(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    def at_pixel(*look):
        look = Look(*look)
        if look.path is None:
            return {}
        seen = desk.see(look.path, look.name)
        return {shown.top: desk.top(seen, look), shown.overlay: desk.painted(seen, look)}

    def click(event: gr.SelectData, *colours):
        look = Look(*colours)
        size = desk.see(look.path, look.name).picture.size
        x, y = (
            min(int(at * own / shown), own - 1)
            for at, own, shown in zip(event.index, size, shown_size(size), strict=True)
        )
        return {asked.x: x, asked.y: y} | at_pixel(*look._replace(x=x, y=y))

    def repaint(*look):
        look = Look(*look)
        if look.path is None:
            return {}
        seen = desk.see(look.path, look.name)
        curve = words.curve_html(desk.models.chosen(look.name), seen, look.below)
        return {shown.overlay: desk.painted(seen, look), shown.curve: curve}

    def press(event: gr.EventData, *look):
        look, label = Look(*look), event.label
        left = [each for each in look.hidden if each != label]
        hidden = left if label in look.hidden else [*look.hidden, label]
        seen, look = desk.see(look.path, look.name), look._replace(hidden=hidden)
        legend = words.legend_html(seen, hidden)
        return {asked.hidden: hidden, shown.overlay: desk.painted(seen, look), shown.legend: legend}

    pixel = [shown.top, shown.overlay]
    wire(shown.overlay.select, click, asked.colours, [asked.x, asked.y, *pixel], **QUIET)
    wire([asked.x.input, asked.y.input], at_pixel, asked.look, pixel, **LATEST)
    wire([asked.opacity.change, asked.below.change], repaint, asked.look, [shown.overlay, shown.curve], **LATEST)
    wire(shown.legend.click, press, asked.look, [asked.hidden, shown.overlay, shown.legend], **QUIET)


def _views_part(desk: Desk, asked: SimpleNamespace, seen) -> None:
    """The same picture, seen otherwise; seen: the event that ends the answer to a fresh picture."""
    names = list(desk.models)
    sides = [*names, *desk.others]
    parts.section("The same picture, seen otherwise", "Both follow the picture above.")
    with gr.Row(elem_classes="v-columns", equal_height=False):
        with gr.Column(min_width=320, elem_classes="v-card"):
            parts.subheading("Two at once", "Drag the line.")
            with gr.Row():
                left = gr.Dropdown(sides, value=names[0], label="Left", min_width=130)
                right = gr.Dropdown(sides, value=(names + [PICTURE])[1], label="Right", min_width=130)
            slider = gr.ImageSlider(
                label="Two views", show_label=False, interactive=False, height=380, max_height=380,
                buttons=["fullscreen"], elem_id="segmentation-slider",
            )  # fmt: skip
            pair_note = gr.HTML(status(WAITING), padding=False, elem_id="segmentation-compared")
        with gr.Column(min_width=320, elem_classes="v-card"):
            parts.subheading(
                "What it decides from",
                "Three principal components of the features before the last layer. "
                "Equal colours are equal in all pictures.",
            )
            name = gr.Dropdown(names, value=names[0], label="Model", min_width=130)
            colours = pictures.picture_output("Features", height=380, elem_id="segmentation-features")
            note = gr.HTML(status(WAITING), padding=False, elem_id="segmentation-features-note")

    def compare(path, left, right):
        pair, said = desk.segmentation_compare(path, left, right) if path else (None, WAITING)
        return {slider: pair, pair_note: status(said)}

    def features(path, name):
        image, said = desk.segmentation_features(path, name) if path else (None, WAITING)
        return {colours: image, note: status(said)}

    def emptied():
        return {slider: None, colours: None} | dict.fromkeys((pair_note, note), status(WAITING))

    both, one = ([asked.box, left, right], [slider, pair_note]), ([asked.box, name], [colours, note])
    after = wire(seen.success, compare, *both, **QUIET)
    wire(after.success, features, *one, **QUIET)
    wire(seen.failure, emptied, None, [*both[1], *one[1]], **wires.AT_ONCE)
    wire([left.input, right.input], compare, *both, **LATEST)
    wire(name.input, features, *one, **LATEST)
    said = gr.Textbox(label="Sentence", visible=False)
    endpoint(wires.LOOK, desk.segmentation_compare, both[0], [slider, said])
    endpoint(wires.LOOK, desk.segmentation_features, one[0], [colours, said])


def main() -> None:
    launch.run(PAGE, load_models, build)
