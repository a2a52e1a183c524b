"""The page `classifier`: what stands where, and what happens when."""

from types import SimpleNamespace

import gradio as gr

from apps.classifier import words
from apps.classifier.desk import GRAD_CAM, METHODS, TOP_ANSWER, TOP_K, Desk, load_models, own_fields
from apps.classifier.paint import MAP_PX
from apps.kit import drawing_page, launch, parts, picture_page, pictures, values, wires
from apps.kit.page import Page
from apps.kit.parts import status
from apps.kit.wires import endpoint, fitted, wire
from hub_models.classifier import Classifier
from hub_models.store import CheckpointError

PAGE = Page(
    stem="classifier",
    title="What do you see?",
    sentence="A ViT and a Swin, which have seen drawings only, and photo, which has seen photographs, name what is in "
    "your picture. Then put them under the microscope: where they looked, what a patch can see, and what is alike.",
    card="A ViT and a Swin name a drawing, a third network a photograph, and show where they looked.",
    short="A ViT and a Swin say what they see, and where they looked",
    models=("vit", "swin", "photo"),
    gpu_seconds=10,  # an occlusion map measured at 1.3 s on one CPU thread
    call="classifier_predict",
)
WAITING = "Choose a picture above first."
NOT_DRAWN = "Draw the map to see it."
NO_EXAMPLE = "none"
QUIET, LATEST = wires.quiet(wires.LOOK), wires.latest(wires.LOOK)


def build(models: dict[str, Classifier | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause."""
    ready = {name: model for name, model in models.items() if not isinstance(model, Exception)}
    with parts.opened(PAGE, ready or models) as (demo, _):  # beside one that answers, the cause stands in its column
        if ready:
            desk, asked, shown = Desk(ready), SimpleNamespace(), SimpleNamespace()
            with gr.Row(elem_classes="v-columns"):
                with gr.Column(scale=5, min_width=320):
                    asked.box = _picture_box(demo)
                with gr.Column(scale=7, min_width=320), gr.Row(equal_height=False):
                    shown.answers = [part for name in models for part in _answer_column(name, models[name])]
            said = "One model at a time, on the picture as it gets it: whole, in a white square."
            parts.section("Under the microscope", said)
            own = own_fields(desk.models.first)
            asked.model = parts.model_choice(desk.models)
            with gr.Tabs(overflow_behavior="wrap"):
                with gr.Tab("Where it looked"):
                    _maps_tab(own, asked, shown)
                with gr.Tab("One patch"):
                    _reach_tab(own, asked, shown)
                with gr.Tab("Alike"):
                    _alike_tab(own, asked, shown)
            seen = _answer_events(desk, asked, shown)
            _view_events(desk, asked, shown, seen)
            _occlusion_events(demo, desk, asked, shown)
            _endpoints(desk, asked, shown)
    return demo


# ---- what stands where -----------------------------------------------------------------------------------------------


def _picture_box(demo: gr.Blocks) -> gr.Image:
    names = [", ".join((row["name"], row.get("style", "photograph"))) for row in PAGE.examples]
    return picture_page.picture_box(PAGE, demo, "Or one of these: no model has seen them", height=320, names=names)


def _answer_column(name: str, model: Classifier | CheckpointError) -> list[gr.components.Component]:
    """A card for a model; returns its answer and the facts below, nothing for one that could not be loaded."""
    with gr.Column(min_width=240, elem_classes="v-card"):
        if isinstance(model, Exception):
            parts.degraded(name, model)
            return []
        bare = {"show_label": False, "container": False, "elem_classes": "v-answer"}
        parts.subheading(words.family(model), f"model “{name}”")
        top = gr.Label(num_top_classes=TOP_K, label=f"{name} says", **bare)
        return [top, gr.HTML(parts.model_facts(model), label=f"{name}: facts", padding=False)]


def _maps_tab(own: dict, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    asked.label = gr.Dropdown(**own["label"], label="Label")
    with gr.Row(elem_classes="v-columns"):
        with gr.Column(min_width=320, elem_classes="v-card"):
            parts.subheading("By a look inside", "White for least, through amber, to dark red for most.")
            chips = {"label": "Method", "show_label": False, "container": False, "elem_classes": "chips"}
            asked.method = gr.Radio(**own["method"], **chips)
            shown.heat = pictures.picture_output("Map of where it looked", elem_id="classifier-map")
            shown.heat_note = _note()
        with gr.Column(min_width=320, elem_classes="v-card"):
            parts.subheading("Occlusion", "Red: hiding this place lowers the answer. Blue: it raises it.")
            with gr.Row():
                shown.draw = gr.Button("Draw the map", variant="primary", min_width=120)
                shown.stop = gr.Button("Stop", variant="stop", min_width=80, interactive=False)
            shown.map, shown.note = pictures.picture_output("Occlusion map"), _note()


def _reach_tab(own: dict, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    with gr.Row(elem_classes="v-columns"):
        with gr.Column(min_width=320, elem_classes="v-card"):
            shown.reach = pictures.picture_output("What the patch has seen", height=380, elem_id="classifier-reach")
        with gr.Column(min_width=320, elem_classes="v-card"):
            said = "A Swin's patches look around in windows; shifting these every other block passes it on. "
            parts.subheading("One patch on its way", f"{said}Click a patch, and walk through the blocks.")
            chips = {"label": "Blocks passed", "elem_classes": "chips", "elem_id": "classifier-block"}
            asked.block = gr.Radio(**own["block"], **chips)
            asked.place = _place()
            shown.reach_note = _note()


def _alike_tab(own: dict, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    said = "What a layer says of each place, by its three principal components as colours, and by how like it is to "
    parts.subheading("Patches compared", f"{said}the framed one. Click another in your picture.")
    with gr.Row():
        asked.layer = gr.Slider(1, **own["layer"], step=1, label="Layer", min_width=320)
        asked.token = _place()
    shown.alike_note = _note()
    with gr.Row(elem_classes="v-columns", equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="v-card"):
            parts.subheading("Your picture", "The colours are fitted to it.")
            shown.alike = _pair(0, "")
        with gr.Column(scale=7, min_width=320, elem_classes="v-card"):
            parts.subheading("A second one", "In the same colours, compared with the same patch.")
            with gr.Row():
                with gr.Column(scale=2, min_width=140):
                    asked.second = pictures.picture_input("Second picture", height=150, elem_id="classifier-second")
                    names = [NO_EXAMPLE, *(row["name"] for row in PAGE.examples)]
                    asked.example = gr.Dropdown(names, value=NO_EXAMPLE, label="Or an example")
                with gr.Column(scale=5, min_width=280):
                    shown.alike += _pair(1, ", second picture")


def _pair(number: int, of: str) -> list[gr.Image]:
    """Where the tokens of a picture are shown, as colours and by their likeness."""
    with gr.Row():
        return [
            pictures.picture_output(said + of, height=240, min_width=130, elem_id=f"classifier-{name}-{number}")
            for name, said in (("colours", "Principal components"), ("likeness", "Likeness"))
        ]


def _place() -> list[gr.Slider]:
    """Row and column of a place in the picture, in percent."""
    return [gr.Slider(0, 100, 50, step=0.5, label=f"{name}, %", min_width=140) for name in ("Row", "Column")]


def _note() -> gr.HTML:
    return gr.HTML(status(WAITING), padding=False)


# ---- what happens when -----------------------------------------------------------------------------------------------


def _answer_events(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace):
    """A new picture is answered, and ends the occlusion map of the one before it: nobody waits for that any more.

    The event that ends the answer.
    """
    notes = [shown.heat_note, shown.reach_note, shown.alike_note, shown.note]
    maps = [shown.heat, shown.reach, *shown.alike, shown.map]

    def emptied(*_):
        facts = [part for model in desk.models.values() for part in (None, parts.model_facts(model))]
        empty = dict(zip(shown.answers, facts, strict=True)) | dict.fromkeys(maps)
        return empty | dict.fromkeys(notes, status(WAITING))

    def look(request: gr.Request, path):
        if path is None:
            return emptied()
        seen = dict(zip(shown.answers, desk.classifier_predict(path), strict=True))
        return seen | {shown.map: None, shown.note: status(NOT_DRAWN)}

    how = dict(flags=desk.flags, answer=look, emptied=emptied, box=asked.box)
    every = [*shown.answers, *maps, *notes]
    return picture_page.answered(asked.box.change, lambda path: {}, inputs=[asked.box], shown=every, **how)


def in_words(make, path, *rest):
    """What make(path, …) gives and a status line; None, and the reason, where there is no picture or no such thing."""
    if path is None:
        return None, status(WAITING)
    try:
        made, said = make(path, *rest)
    except values.InputError as error:
        made, said = None, error.message
    except pictures.PictureError:  # another picture may have come that can't be read: its own event says so
        if is_readable(path):
            raise
        made, said = None, WAITING
    return made, status(said)


def is_readable(path: str) -> bool:
    """Whether there is a picture in this file."""
    try:
        pictures.read_picture(path)
    except pictures.PictureError:
        return False
    return True


def _view_events(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace, seen) -> None:
    """All that is under the microscope; seen: the event that ends the answer to a fresh picture."""

    def at_once(*look):
        made, said = in_words(desk.at_once, *look)
        return {shown.heat: made, shown.heat_note: said}

    def reach(*look):
        made, said = in_words(desk.reach, *look)
        return {shown.reach: made, shown.reach_note: said}

    def alike(*look):
        made, said = in_words(desk.alike, *look)
        return dict(zip(shown.alike, made or [None] * 4, strict=True)) | {shown.alike_note: said}

    def clicked(event: gr.SelectData):
        """Row and column in percent, to half a percent as the sliders have them."""
        return [min(max(round(200 * at / MAP_PX) / 2, 0), 100) for at in reversed(event.index)]

    def reach_there(event: gr.SelectData, *look):
        place = clicked(event)
        return dict(zip(asked.place, place, strict=True)) | reach(*look[:3], *place)

    def alike_there(event: gr.SelectData, *look):
        place = clicked(event)
        return dict(zip(asked.token, place, strict=True)) | alike(*look[:3], *place, look[-1])

    def fit(request: gr.Request, name, label, method):
        desk.flags.set(request.session_hash)  # a map of the model before
        return fitted(asked, own_fields(desk.models.chosen(name), label, method))

    def redrawn(path):
        return {shown.map: None, shown.note: status(NOT_DRAWN if path else WAITING)}

    fields = [asked.label, asked.method, asked.block, asked.layer]
    values.as_sent(*fields)  # what was asked of the model before may come when they have become those of another
    first, second, third = views = (
        (at_once, [asked.box, asked.model, asked.label, asked.method], [shown.heat, shown.heat_note]),
        (reach, [asked.box, asked.model, asked.block, *asked.place], [shown.reach, shown.reach_note]),
        (alike, [asked.box, asked.model, asked.layer, *asked.token, asked.second], [*shown.alike, shown.alike_note]),
    )
    switched = wire(asked.model.input, fit, [asked.model, asked.label, asked.method], fields, **wires.AT_ONCE)
    for event in (seen.success, wire(switched.then, redrawn, asked.box, [shown.map, shown.note], **QUIET).then):
        for view in views:
            event = wire(event, *view, **QUIET).then
    wire([asked.label.input, asked.method.input], *first, **LATEST)
    wire([asked.block.input, *(slider.input for slider in asked.place)], *second, **LATEST)
    wire([asked.layer.input, *(slider.input for slider in asked.token)], *third, **LATEST)
    wire(shown.reach.select, reach_there, second[1], [*asked.place, *second[2]], **QUIET)
    for image in shown.alike[:2]:
        wire(image.select, alike_there, third[1], [*asked.token, *third[2]], **QUIET)
    files = {row["name"]: str(PAGE.folder / row["file"]) for row in PAGE.examples}
    wire(
        asked.example.input, lambda name: {asked.second: files.get(name)}, asked.example, asked.second, **wires.AT_ONCE
    )
    compared = wire(asked.second.change, *third, **LATEST)
    wire(compared.failure, lambda: {asked.second: None}, None, asked.second, **wires.AT_ONCE)


def _occlusion_events(demo: gr.Blocks, desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    def stream(request: gr.Request, *look):
        for overlay, note in desk.covered(*look, desk.flags.get(request.session_hash)):
            yield {shown.map: overlay, shown.note: note}

    look, seen = [asked.box, asked.model, asked.label], [shown.map, shown.note]
    drawing_page.stoppable(demo, desk.flags, shown.draw, shown.stop, shown.note, stream, look, seen)


def _endpoints(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    """What programs ask for, with fields of their own: those of the page show what one model has."""
    names, box = list(desk.models), asked.box
    labels = dict.fromkeys([TOP_ANSWER, *(label for model in desk.models.values() for label in model.label_names)])
    model = gr.Radio(names, value=names[0], label="Model", visible=False)
    label = gr.Dropdown(list(labels), value=TOP_ANSWER, label="Label", visible=False)
    method = gr.Radio(METHODS, value=GRAD_CAM, label="Method", visible=False)
    map_, note = gr.Image(label="Map", format="png", visible=False), gr.HTML(label="What it shows", visible=False)
    endpoint(wires.LOOK, desk.classifier_predict, box, shown.answers)
    endpoint(wires.DRAW, desk.classifier_occlusion, [box, model, label], [map_, note])
    endpoint(wires.DRAW, desk.classifier_explain, [box, label, method, model], [map_, note])
    if vits := list(desk.with_attention):
        vit = gr.Radio(vits, value=vits[0], label="Model", visible=False)
        endpoint(wires.LOOK, desk.classifier_rollout, [box, vit], [map_, note])


def main() -> None:
    launch.run(PAGE, load_models, build)
