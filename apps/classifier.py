"""What a ViT and a Swin take a picture for, side by side, and two maps of where they looked.

python -m apps.classifier [--model vit --model swin] [--port 7860]
"""

import html
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from apps import ui
from apps.kit import pictures
from apps.kit.page import Page
from hub_models import classifier
from hub_models.classifier import Classifier
from hub_models.store import CheckpointError

STEM = "classifier"
PAGE = Page(
    stem="classifier",
    title="What do you see?",
    sentence="A ViT and a Swin, which have seen drawings only, and photo, which has seen photographs, name what is in your "
    "picture. Then see where they looked.",
    card="A ViT and a Swin name a drawing, a third network a photograph, and show where they looked.",
    short="A ViT and a Swin say what they see, and where they looked",
    models=("vit", "swin", "photo"),
    gpu_seconds=10,  # an occlusion map measured at 1.3 s on one CPU thread
    call="classifier_predict",
)
MODELS = list(PAGE.models)
FAMILIES = {"VisionTransformer": "ViT", "SwinTransformer": "Swin"}  # what people call timm's classes
EXAMPLES = Path(__file__).parent / "examples" / STEM

TOP_K = 5
TOP_ANSWER = "top answer"
PATCHES_A_SIDE = 8  # the grey patch covers an eighth of a side and moves by half of itself: 15 × 15 places
BATCH = 25  # places a step: 9 steps, and Stop acts between two
MAP_PX = 448
DEADLINE_SECONDS = 300  # a map that takes longer is stopped, and says so

AMBER = np.array([(255, 255, 255), (253, 224, 71), (249, 115, 22), (153, 27, 27)], np.float32)
RED, BLUE = np.array([(220, 38, 38), (37, 99, 235)], np.float32)


def load_models(names: Sequence[str]) -> dict[str, Classifier | CheckpointError]:
    """Each named model, or the error in its place."""
    return ui.load_each(classifier.load, names)


# ---- what the handlers compute ----------------------------------------------------------------------------------------


def answer(model: Classifier, image: Image.Image) -> tuple[dict[str, float], str]:
    """The top labels with their probabilities, and the facts below them as HTML."""
    start = time.perf_counter()
    [top] = model.predict([image], TOP_K)
    milliseconds = (time.perf_counter() - start) * 1000
    return dict(top), card(model, milliseconds)


def card(model: Classifier, milliseconds: float | None = None) -> str:
    """HTML: parameters, weights hash, device, and the measured time of a prediction."""
    return ui.facts(
        {
            "Answered in": "no picture yet" if milliseconds is None else f"{milliseconds:.0f} ms",
            "Parameters": f"{model.parameters / 1e6:.1f} M",
            "Weights": model.weights_sha256[:12],
            "Device": ui.device_line({model.name: model}),
        }
    )


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


def occlusion(
    model: Classifier, image: Image.Image, label: str, stop: threading.Event
) -> Iterator[tuple[Image.Image, str]]:
    """The occlusion map of `label` as it fills, until `stop` is set, as pairs of overlay and status HTML."""
    [[(top, _)]] = model.predict([image], 1)
    label = top if label == TOP_ANSWER else ui.choice(label, "Label", model.label_names)
    whole = float(model.logits([image]).softmax(-1)[0, model.label_names.index(label)])
    patch_px = max(2, model.resolution_px // PATCHES_A_SIDE)
    stride_px = patch_px // 2
    steps = model.occlusion_steps(image, label, patch_px=patch_px, stride_px=stride_px, batch_size=BATCH)
    for step in ui.until(steps, stop, DEADLINE_SECONDS):
        spread = classifier.spread(step.drop, size_px=model.resolution_px, patch_px=patch_px, stride_px=stride_px)
        text = f"{model.name}, “{label}” at {whole:.0%}: {step.done} of {step.total} places covered"
        if step.done == step.total:
            text = (
                f"{model.name} says “{label}” at {whole:.0%}. Covering one {patch_px} × {patch_px} px place "
                f"moves that to between {whole - step.drop.max():.0%} and {whole - step.drop.min():.0%}."
            )
        centres = slice(
            stride_px // 2, None, stride_px
        )  # where the spread map is flat: between them it is drawn smooth
        overlay = occlusion_overlay(image, spread[centres, centres])
        yield overlay, ui.status(text, step.done / step.total)
    if step.done < step.total:
        cause = "Stopped" if stop.is_set() else f"Out of time ({DEADLINE_SECONDS} s)"
        yield overlay, ui.status(f"{cause} after {step.done} of {step.total} places.")


def _enlarge(values: np.ndarray) -> np.ndarray:
    """The map (h, w) at MAP_PX a side, smooth between its cells, inside the range it had."""
    image = Image.fromarray(values.astype(np.float32)).resize((MAP_PX, MAP_PX), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(values.min(), values.max())


def _blend(image: Image.Image, colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    """The picture, a little greyed so that the colours speak, under `colour` (H, W, 3) at strength `alpha` (H, W)."""
    framed = classifier.frame(image, MAP_PX)
    ground = 0.5 * np.asarray(framed, np.float32) + 0.5 * np.asarray(framed.convert("L"), np.float32)[..., None]
    return Image.fromarray((ground + alpha[..., None] * (colour - ground)).round().clip(0, 255).astype(np.uint8))


# ---- the page ---------------------------------------------------------------------------------------------------------

WAITING = "Choose a picture above first."


def build(models: dict[str, Classifier | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause."""
    ready = {name: model for name, model in models.items() if not isinstance(model, Exception)}
    with_attention = {name: model for name, model in ready.items() if model.has_attention}
    index = EXAMPLES / "index.json"
    examples = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []

    with ui.blocks("What do you see? · Vitrail") as page:
        ui.heading(
            "What do you see?",
            "A ViT and a Swin, which have seen drawings only, and photo, which has seen photographs, name what is in your "
            "picture. Then see where they looked.",
        )
        if not ready:
            for name, error in models.items():
                ui.degraded(name, error)
            return page

        with gr.Row(elem_classes="v-columns"):
            with gr.Column(scale=5, min_width=320):
                box = pictures.picture_input("Your picture", height=320, elem_id="classifier-picture")
                if examples:
                    _examples(page, examples, box)
            with gr.Column(scale=7, min_width=320):
                answers: list[gr.components.Component] = []
                with gr.Row(equal_height=False):
                    for name, model in models.items():
                        with gr.Column(min_width=240, elem_classes="v-card"):
                            if name not in ready:
                                ui.degraded(name, model)
                                continue
                            kind = type(model.model).__name__
                            ui.subheading(FAMILIES.get(kind, kind), f"model “{name}”")
                            answers.append(
                                gr.Label(
                                    num_top_classes=TOP_K,
                                    label=f"{name} says",
                                    show_label=False,
                                    container=False,
                                    elem_classes="v-answer",
                                )
                            )
                            answers.append(gr.HTML(card(model), label=f"{name}: facts", padding=False))

        ui.section(
            "Where did they look?", "Both maps lie on the picture as the models get it: whole, in a white square."
        )
        with gr.Row(elem_classes="v-columns"):
            with gr.Column(min_width=320, elem_classes="v-card"):
                ui.subheading("Attention rollout", "What the ViT's answer is drawn from, through all of its layers.")
                if with_attention:
                    attention_model = gr.Radio(
                        list(with_attention),
                        value=next(iter(with_attention)),
                        label="Model",
                        visible=len(with_attention) > 1,
                    )
                    rollout_map = pictures.picture_output("Attention rollout")
                    rollout_note = gr.HTML(ui.status(WAITING), label="Status", padding=False)
                else:
                    gr.HTML(ui.status("Needs a ViT: none of the models above is a plain one."), padding=False)
            with gr.Column(min_width=320, elem_classes="v-card"):
                ui.subheading("Occlusion", "Red: hiding this place lowers the answer. Blue: it raises it.")
                with gr.Row():
                    model_name = gr.Radio(list(ready), value=next(iter(ready)), label="Model", min_width=140)
                    labels = list(dict.fromkeys(label for model in ready.values() for label in model.label_names))
                    label_name = gr.Dropdown([TOP_ANSWER, *labels], value=TOP_ANSWER, label="Label", min_width=140)
                with gr.Row():
                    draw = gr.Button("Draw the map", variant="primary", min_width=120)
                    stop = gr.Button("Stop", variant="stop", min_width=80, interactive=False)
                occlusion_map = pictures.picture_output("Occlusion map")
                occlusion_note = gr.HTML(ui.status(WAITING), label="Status", padding=False)

        # What the page does when its picture changes, and the same under a name for the API.
        def predict(path):
            image = pictures.read_picture(path)
            return [part for model in ready.values() for part in answer(model, image)]

        def rollout(path, name):
            image = pictures.read_picture(path)
            model = with_attention[ui.choice(name, "Model", with_attention)]
            return rollout_overlay(model, image), ui.status(
                f"{model.name}: the redder, the more of it flows into the answer."
            )

        stops = ui.StopFlags()

        def covered(path, name, label, stop):
            image = pictures.read_picture(path)
            yield from occlusion(ready[ui.choice(name, "Model", ready)], image, label, stop)

        def occlude(path, name, label, request: gr.Request):
            yield from covered(path, name, label, stops.get(request.session_hash))

        def classifier_predict(picture):
            """What each loaded model takes a picture for: its five most probable labels, and the facts below as HTML.

            Parameters:
                picture: a picture file
            """
            return predict(picture)

        def classifier_rollout(picture, model):
            """The picture under a ViT's attention rollout: white for least, through amber, to dark red for most.

            Parameters:
                picture: a picture file
                model: the name of a loaded ViT
            """
            return rollout(picture, model)

        def classifier_occlusion(picture, model, label, request: gr.Request):
            """The picture under the map of what covering a place does to a label: red lowers it, blue raises it.

            It comes again after every step as it fills; the last one is whole.

            Parameters:
                picture: a picture file
                model: the name of a loaded model
                label: one of the model's labels, or "top answer"
            """
            try:
                yield from covered(picture, model, label, stops.arm(request.session_hash))
            finally:
                stops.drop(request.session_hash)

        def halt(request: gr.Request):
            stops.set(request.session_hash)

        def emptied():
            parts = [part for model in ready.values() for part in (None, card(model))]
            return [*parts, *([None, ui.status(WAITING)] if with_attention else []), None, ui.status(WAITING)]

        def look(path, *attention):
            if path is None:
                return emptied()
            parts = predict(path)
            parts += rollout(path, *attention) if attention else []
            return [*parts, None, ui.status("Draw the map to see it.")]

        maps = [rollout_map, rollout_note] if with_attention else []
        attention_in = [attention_model] if with_attention else []
        everything = [*answers, *maps, occlusion_map, occlusion_note]
        one = dict(concurrency_id=STEM, concurrency_limit=1)
        quiet = dict(api_visibility="private", show_progress="hidden")

        ui.stoppable(
            page, stops, draw, stop, occlude, [box, model_name, label_name], [occlusion_map, occlusion_note],
            line=occlusion_note, stem=STEM,
        )  # fmt: skip
        # A new picture ends the map of the one before it: nobody waits for that any more.
        box.change(halt, None, None, queue=False, **quiet)
        seen = box.change(look, [box, *attention_in], everything, trigger_mode="always_last", **one, **quiet)
        seen.failure(emptied, None, everything, queue=False, **quiet)

        gr.Button("Predict", visible=False).click(
            classifier_predict, box, answers, api_name="classifier_predict", **one
        )
        gr.Button("Occlusion", visible=False).click(
            classifier_occlusion, [box, model_name, label_name], [occlusion_map, occlusion_note],
            api_name="classifier_occlusion", **one,
        )  # fmt: skip
        if with_attention:
            gr.Button("Rollout", visible=False).click(
                classifier_rollout, [box, attention_model], maps, api_name="classifier_rollout", **one
            )
            attention_model.change(
                lambda path, name: rollout(path, name) if path else [None, ui.status(WAITING)],
                [box, attention_model],
                maps,
                **one,
                **quiet,
            )
    return page


def _examples(page: gr.Blocks, examples: list[dict], box: gr.Image) -> None:
    """The example pictures as buttons that say what they show, and the credits of their makers."""
    with gr.Column(elem_classes="v-examples"):
        gr.Examples(
            [[str(EXAMPLES / row["file"])] for row in examples],
            box,
            label="Or one of these: our models never saw them",
            examples_per_page=len(examples),
            api_name="classifier_example",
            api_visibility="private",
        )
        makers = sorted({f"{row['style'].partition('-')[0]} ({row['license']})" for row in examples})
        credits = html.escape(f"Art: {', '.join(makers)}.")
        gr.HTML(credits, elem_classes="v-credits", padding=False)
    ui.name_examples(page, [f"{row['name']}, {row['style']}" for row in examples])


def main() -> None:
    ui.run(PAGE, load_models, build)


if __name__ == "__main__":
    main()
