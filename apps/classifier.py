"""What a ViT and a Swin take a picture for, side by side, and two maps of where they looked.

python -m apps.classifier [--model vit --model swin] [--port 7860]
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import gradio as gr
import numpy as np
from PIL import Image

from apps.kit import drawing_page, homes, launch, parts, picture_page, pictures, values, wires
from apps.kit.page import Page
from apps.kit.parts import status
from apps.kit.session import StopFlags, until
from apps.kit.wires import endpoint, wire
from hub_models import classifier
from hub_models.classifier import Classifier
from hub_models.store import CheckpointError

PAGE = Page(
    stem="classifier",
    title="What do you see?",
    sentence="A ViT and a Swin, which have seen drawings only, and photo, which has seen photographs, name what is in "
    "your picture. Then see where they looked.",
    card="A ViT and a Swin name a drawing, a third network a photograph, and show where they looked.",
    short="A ViT and a Swin say what they see, and where they looked",
    models=("vit", "swin", "photo"),
    gpu_seconds=10,  # an occlusion map measured at 1.3 s on one CPU thread
    call="classifier_predict",
)
FAMILIES = {"VisionTransformer": "ViT", "SwinTransformer": "Swin"}  # what people call timm's classes
TOP_K = 5
TOP_ANSWER = "top answer"
PATCHES_A_SIDE = 8  # the grey patch covers an eighth of a side and moves by half of itself: 15 × 15 places
BATCH = 25  # places a step: 9 steps, and Stop acts between two
MAP_PX = 448
DEADLINE_SECONDS = 300  # a map that takes longer is stopped, and says so
WAITING = "Choose a picture above first."

AMBER = np.array([(255, 255, 255), (253, 224, 71), (249, 115, 22), (153, 27, 27)], np.float32)
RED, BLUE = np.array([(220, 38, 38), (37, 99, 235)], np.float32)


def load_models(names: Sequence[str]) -> dict[str, Classifier | CheckpointError]:
    """Each named model, or the error in its place."""
    return launch.load_each(classifier.load, names)


# ---- the maps, as pixels ---------------------------------------------------------------------------------------------


def rollout_overlay(model: Classifier, image: Image.Image) -> Image.Image:
    """The framed picture under the model's attention rollout: white for least, through amber, to dark red for most."""
    amount = _enlarge(model.attention_rollout(image))  # (MAP_PX, MAP_PX) in [0, 1]
    colour = np.stack([np.interp(amount, np.linspace(0, 1, len(AMBER)), channel) for channel in AMBER.T], -1)
    return _blend(image, colour, 0.15 + 0.5 * amount)


def occlusion_overlay(image: Image.Image, drop: np.ndarray) -> Image.Image:
    """The framed picture under a map (h, w): red where covering it lowers the label, blue where it raises it."""
    amount = _enlarge(drop / max(np.abs(drop).max(), 1e-6))  # (MAP_PX, MAP_PX) in [-1, 1]
    colour = np.where(amount[..., None] > 0, RED, BLUE)
    return _blend(image, colour, 0.75 * np.abs(amount))


def _enlarge(values: np.ndarray) -> np.ndarray:
    """The map (h, w) at MAP_PX a side, smooth between its cells, inside the range it had."""
    image = Image.fromarray(values.astype(np.float32)).resize((MAP_PX, MAP_PX), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(values.min(), values.max())


def _blend(image: Image.Image, colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    """The picture, a little greyed so that the colours speak, under `colour` (H, W, 3) at strength `alpha` (H, W)."""
    framed = classifier.frame(image, MAP_PX)
    ground = 0.5 * np.asarray(framed, np.float32) + 0.5 * np.asarray(framed.convert("L"), np.float32)[..., None]
    return Image.fromarray((ground + alpha[..., None] * (colour - ground)).round().clip(0, 255).astype(np.uint8))


# ---- what is computed ------------------------------------------------------------------------------------------------


def answer(model: Classifier, image: Image.Image, note: str = "") -> tuple[dict[str, float], str]:
    """The top labels with their probabilities, and the facts below them as HTML, under what is to be said first."""
    start = time.perf_counter()
    [top] = model.predict([image], TOP_K)
    return dict(top), homes.note(note) + parts.model_facts(model, time.perf_counter() - start)


def occlusion(
    model: Classifier, image: Image.Image, label: str, stop: threading.Event
) -> Iterator[tuple[Image.Image, str]]:
    """The occlusion map of `label` as it fills, until `stop` is set, as pairs of overlay and status HTML."""
    [[(top, _)]] = model.predict([image], 1)
    label = top if label == TOP_ANSWER else values.choice(label, "Label", model.label_names)
    whole = float(model.logits([image]).softmax(-1)[0, model.label_names.index(label)])
    patch_px = max(2, model.resolution_px // PATCHES_A_SIDE)
    stride_px = patch_px // 2
    centres = slice(stride_px // 2, None, stride_px)  # where a spread map is flat: between them it is drawn smooth
    steps = model.occlusion_steps(image, label, patch_px=patch_px, stride_px=stride_px, batch_size=BATCH)
    for step in until(steps, stop, DEADLINE_SECONDS):
        spread = classifier.spread(step.drop, size_px=model.resolution_px, patch_px=patch_px, stride_px=stride_px)
        text = f"{model.name}, “{label}” at {whole:.0%}: {step.done} of {step.total} places covered"
        if step.done == step.total:
            text = (
                f"{model.name} says “{label}” at {whole:.0%}. Covering one {patch_px} × {patch_px} px place "
                f"moves that to between {whole - step.drop.max():.0%} and {whole - step.drop.min():.0%}."
            )
        overlay = occlusion_overlay(image, spread[centres, centres])
        yield overlay, status(text, step.done / step.total)
    if step.done < step.total:
        cause = "Stopped" if stop.is_set() else f"Out of time ({DEADLINE_SECONDS} s)"
        yield overlay, status(f"{cause} after {step.done} of {step.total} places.")


class Desk:
    """The models that are loaded, those that show their attention, and the flags of those who draw a map."""

    def __init__(self, models: Mapping[str, Classifier]):
        self.models, self.flags = values.Models(models), StopFlags()
        self.with_attention = values.Models((name, model) for name, model in models.items() if model.has_attention)

    def covered(self, path: str | None, name, label, stop: threading.Event) -> Iterator[tuple[Image.Image, str]]:
        """`occlusion` of the picture in the file by the model of this name."""
        image = pictures.read_picture(path)
        yield from occlusion(self.models.chosen(name), image, label, stop)

    # For programs

    def classifier_predict(self, picture):
        """What each loaded model takes a picture for: its five most probable labels, and the facts below as HTML.

        The facts begin with a sentence where the model has not seen such pictures.

        Parameters:
            picture: a picture file
        """
        image = pictures.read_picture(picture)
        found = homes.of(image, self.models)
        notes = {name: homes.sentence(found, name, self.models) for name in self.models}
        return [part for name, model in self.models.items() for part in answer(model, image, notes[name])]

    def classifier_rollout(self, picture, model):
        """The picture under a ViT's attention rollout: white for least, through amber, to dark red for most.

        Parameters:
            picture: a picture file
            model: the name of a loaded ViT
        """
        image, vit = pictures.read_picture(picture), self.with_attention.chosen(model)
        return rollout_overlay(vit, image), status(f"{vit.name}: the redder, the more of it flows into the answer.")

    def classifier_occlusion(self, picture, model, label, request: gr.Request):
        """The picture under the map of what covering a place does to a label: red lowers it, blue raises it.

        It comes again after every step as it fills; the last one is whole.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            label: one of the model's labels, or "top answer"
        """
        with self.flags.armed(request.session_hash) as stop:
            yield from self.covered(picture, model, label, stop)


# ---- what stands where -----------------------------------------------------------------------------------------------


def build(models: dict[str, Classifier | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause."""
    ready = {name: model for name, model in models.items() if not isinstance(model, Exception)}
    with parts.opened(PAGE, ready or models) as (demo, _):  # beside one that answers, the cause stands in its column
        if ready:
            desk, shown = Desk(ready), SimpleNamespace()
            with gr.Row(elem_classes="v-columns"):
                with gr.Column(scale=5, min_width=320):
                    shown.box = _picture_box(demo)
                with gr.Column(scale=7, min_width=320), gr.Row(equal_height=False):
                    shown.answers = [part for name in models for part in _answer_column(name, models[name])]
            said = "Both maps lie on the picture as the models get it: whole, in a white square."
            parts.section("Where did they look?", said)
            with gr.Row(elem_classes="v-columns"):
                with gr.Column(min_width=320, elem_classes="v-card"):
                    _rollout_card(desk, shown)
                with gr.Column(min_width=320, elem_classes="v-card"):
                    _occlusion_card(desk, shown)
            _answer_events(desk, shown)
            _occlusion_events(demo, desk, shown)
    return demo


def _picture_box(demo: gr.Blocks) -> gr.Image:
    names = [", ".join((row["name"], row.get("style", "photograph"))) for row in PAGE.examples]
    return picture_page.picture_box(PAGE, demo, "Or one of these: no model has seen them", height=320, names=names)


def _answer_column(name: str, model: Classifier | CheckpointError) -> list[gr.components.Component]:
    """A card for a model; returns its answer and the facts below, nothing for one that could not be loaded."""
    with gr.Column(min_width=240, elem_classes="v-card"):
        if isinstance(model, Exception):
            parts.degraded(name, model)
            return []
        kind, bare = type(model.model).__name__, {"show_label": False, "container": False, "elem_classes": "v-answer"}
        parts.subheading(FAMILIES.get(kind, kind), f"model “{name}”")
        top = gr.Label(num_top_classes=TOP_K, label=f"{name} says", **bare)
        return [top, gr.HTML(parts.model_facts(model), label=f"{name}: facts", padding=False)]


def _rollout_card(desk: Desk, shown: SimpleNamespace) -> None:
    """shown.rollout: map and note, shown.vit: the choice of a model; [] both where no model shows its attention."""
    parts.subheading("Attention rollout", "What the ViT's answer is drawn from, through all of its layers.")
    names, shown.vit, shown.rollout = list(desk.with_attention), [], []
    if not names:
        gr.HTML(status("Needs a ViT: none of the models above is a plain one."), padding=False)
        return
    shown.vit = [gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)]
    shown.rollout = [pictures.picture_output("Attention rollout"), _note()]


def _occlusion_card(desk: Desk, shown: SimpleNamespace) -> None:
    parts.subheading("Occlusion", "Red: hiding this place lowers the answer. Blue: it raises it.")
    names, labels = list(desk.models), [label for model in desk.models.values() for label in model.label_names]
    with gr.Row():
        shown.model = gr.Radio(names, value=names[0], label="Model", min_width=140)
        choices = list(dict.fromkeys([TOP_ANSWER, *labels]))
        shown.label = gr.Dropdown(choices, value=TOP_ANSWER, label="Label", min_width=140)
    with gr.Row():
        shown.draw = gr.Button("Draw the map", variant="primary", min_width=120)
        shown.stop = gr.Button("Stop", variant="stop", min_width=80, interactive=False)
    shown.map, shown.note = pictures.picture_output("Occlusion map"), _note()


def _note() -> gr.HTML:
    return gr.HTML(status(WAITING), label="Status", padding=False)


# ---- what happens when -----------------------------------------------------------------------------------------------


def _answer_events(desk: Desk, shown: SimpleNamespace) -> None:
    """A new picture is answered, and ends the occlusion map of the one before it: nobody waits for that any more."""

    def rolled(path, *vit):
        made = desk.classifier_rollout(path, *vit) if path and vit else (None, status(WAITING))
        return dict(zip(shown.rollout, made, strict=False))

    def emptied(*_):
        facts = [part for model in desk.models.values() for part in (None, parts.model_facts(model))]
        empty = dict(zip(shown.answers, facts, strict=True)) | rolled(None)
        return empty | {shown.map: None, shown.note: status(WAITING)}

    def look(request: gr.Request, path, *vit):
        if path is None:
            return emptied()
        seen = dict(zip(shown.answers, desk.classifier_predict(path), strict=True)) | rolled(path, *vit)
        return seen | {shown.map: None, shown.note: status("Draw the map to see it.")}

    asked, every = [shown.box, *shown.vit], [*shown.answers, *shown.rollout, shown.map, shown.note]
    how = dict(flags=desk.flags, answer=look, emptied=emptied, box=shown.box)
    picture_page.answered(shown.box.change, lambda path: {}, inputs=asked, shown=every, **how)
    endpoint(wires.LOOK, desk.classifier_predict, shown.box, shown.answers)
    if shown.vit:
        wire(shown.vit[0].change, rolled, asked, shown.rollout, **wires.quiet(wires.LOOK))
        endpoint(wires.LOOK, desk.classifier_rollout, asked, shown.rollout)


def _occlusion_events(demo: gr.Blocks, desk: Desk, shown: SimpleNamespace) -> None:
    def stream(request: gr.Request, *asked):
        for overlay, note in desk.covered(*asked, desk.flags.get(request.session_hash)):
            yield {shown.map: overlay, shown.note: note}

    asked, seen = [shown.box, shown.model, shown.label], [shown.map, shown.note]
    drawing_page.stoppable(demo, desk.flags, shown.draw, shown.stop, shown.note, stream, asked, seen)
    endpoint(wires.DRAW, desk.classifier_occlusion, asked, seen)


def main() -> None:
    launch.run(PAGE, load_models, build)


if __name__ == "__main__":
    main()
