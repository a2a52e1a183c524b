"""The page `text_to_image`: what stands where, and what happens when."""

import html
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
from gradio import processing_utils

from apps.kit import answers, drawing_page, launch, parts, pictures, values, wires
from apps.kit.page import Page
from apps.kit.wires import AT_ONCE, HIDDEN, endpoint, wire
from apps.text_to_image import words
from apps.text_to_image.desk import (
    MAX_PICTURES,
    Desk,
    Sheet,
    load_models,
    own_settings,
    without_style,
)
from apps.text_to_image.inside import inside_part
from apps.text_to_image.live import live_events, live_part
from hub_models.store import CheckpointError
from hub_models.text_to_image import ReceiptError, TextToImage

HERE = Path(__file__).parent
PAGE = Page(
    stem="text_to_image",
    title="Write, and watch it drawn",
    sentence="A latent diffusion model reads your words and draws them out of noise. Every PNG knows how it was made.",
    card="A latent diffusion model reads your words and draws them. Every PNG knows how it was made.",
    short="Small latent diffusion whose PNGs know how they were made",
    models=("emoji", "emoji-few"),
    gpu_seconds=15,  # the largest order, 8 pictures of 100 steps, measured at 8.4 s of one CPU thread
    call="text_to_image_draw",
    example={"prompt": "a red apple", "count": 2, "seed": "7"},
)
PICTURES = 4
PREVIEWS = 12  # of a drawing under way at most
IDEAS = ("a sunflower", "a red apple", "a sleeping cat face", "a rocket", "an octopus with a hat", "a green house")
ENTER_DRAWS = "() => document.querySelector('#text-to-image-draw').click()"  # nothing, while that button is off
NO_PNG = "Drop a PNG that was drawn here: its settings go back into the form, and Verify draws it again."


def build(models: dict[str, TextToImage | CheckpointError]) -> gr.Blocks:
    """The page around loaded models; in the place of one that could not be loaded stands the cause."""
    with parts.opened(PAGE, models) as (demo, ready):
        if ready:
            desk = Desk(ready)
            with gr.Tabs():
                with gr.Tab("Draw"):
                    form = _draw_part(demo, desk)
                    _restore_part(demo, desk, form)
                with gr.Tab("Look inside") as tab:
                    inside_part(desk, form, tab)
    return demo


# ---- an order, and its drawing ---------------------------------------------------------------------------------------


def _draw_part(demo: gr.Blocks, desk: Desk) -> SimpleNamespace:
    """The fields that say what to draw: `order` those of check_order, `own` those that depend on the model."""
    form, own = SimpleNamespace(), own_settings(desk.models.first, {})
    names = list(desk.models)
    form.model_name = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)
    with gr.Row(equal_height=True):
        form.prompt = gr.Textbox(
            "", label="Prompt", show_label=False, container=False, placeholder="What shall it draw?", max_lines=4,
            scale=8, min_width=260, elem_id="text-to-image-prompt",
        )  # fmt: skip
        draw = gr.Button("Draw", variant="primary", scale=1, min_width=110, elem_id="text-to-image-draw")
        stop = gr.Button("Stop", variant="stop", scale=1, min_width=90, interactive=False)
    sent = parts.styled(words.sent_html(desk.models.first), HERE / "sent.css", elem_id="text-to-image-sent")
    form.style = gr.Radio(**own["style"], label="Style", show_label=False, container=False, elem_classes="chips")
    if desk.student is not None:
        form.live = live_part(desk, desk.student)
    with gr.Row(equal_height=False):
        with gr.Column(scale=8, min_width=320):
            sheet, line = _sheet_column(form.prompt)
        with gr.Column(scale=4, min_width=280):
            _settings_column(form, own)
    form.order = [form.prompt, form.negative, form.count, form.seed, form.steps, form.guidance, form.sampler]
    form.order += [form.picture, form.strength]
    form.own = [form.style, form.steps, form.guidance, form.sampler]
    _draw_events(demo, desk, form, (draw, stop, line, sheet))
    if desk.student is not None:
        live_events(desk, form.live, form, (draw, line, sheet))
    texts = [form.model_name, form.prompt, form.style, form.negative]

    def say_sent(name, *texts):
        return {sent: words.sent_html(desk.models.chosen(name), *texts)}

    def fit_to_model(name):
        return wires.fitted(form, own_settings(desk.models.chosen(name), {}))

    form.prompt.submit(None, js=ENTER_DRAWS)
    wire([each.change for each in texts], say_sent, texts, sent, trigger_mode="always_last", **AT_ONCE)
    wire(form.model_name.input, fit_to_model, form.model_name, form.own, **AT_ONCE)
    return form


def _sheet_column(prompt: gr.Textbox) -> tuple[gr.HTML, gr.HTML]:
    nothing = parts.blank("Write what you want to see and press Enter: it forms here out of noise.")
    files = drawing_page.SHEET, HERE / "sheet.css", HERE / "sheet.js"
    sheet = parts.styled(nothing, *files, elem_id="text-to-image-sheet")
    line = gr.HTML(parts.status("Nothing drawn yet."), elem_id="text-to-image-status")
    ideas = [[idea] for idea in IDEAS]
    gr.Examples(ideas, prompt, label="Ideas", api_name=f"{PAGE.stem}_idea", api_visibility="private")
    return sheet, line


def _settings_column(form: SimpleNamespace, own: dict[str, dict]) -> None:
    form.count = gr.Slider(1, MAX_PICTURES, PICTURES, step=1, label="Pictures")
    form.steps = gr.Slider(1, **own["steps"], step=1, label="Steps")
    scale = {"label": "Guidance", "info": "1 switches it off.", "step": 0.1}
    form.guidance = gr.Slider(1, **own["guidance"], **scale)
    form.sampler = gr.Radio(**own["sampler"], label="Sampler", elem_classes="chips")
    said = "Of the first picture; each next has one more."
    form.seed = gr.Textbox("0", label="Seed", info=said, max_lines=1, elem_id="text-to-image-seed")
    form.fresh = gr.Checkbox(True, label="New seed every time")
    form.negative = gr.Textbox("", label="Negative prompt", info="What to steer away from.", max_lines=3)
    with gr.Accordion("Start from a picture", open=False) as form.from_picture:
        form.picture = pictures.picture_input("Start picture", height=200)
        form.strength = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength", info="How much of it is redrawn.")


def _draw_events(demo: gr.Blocks, desk: Desk, form: SimpleNamespace, around: tuple) -> None:
    """around: the buttons Draw and Stop, the line of the status, and the sheet."""
    draw, stop, line, sheet = around
    drawn = form.drawn = gr.State(None, time_to_live=3600)  # a Sheet

    def finished(order, step, said):
        pngs = [processing_utils.encode_pil_to_bytes(png) for png in order.pngs(step)]
        return {
            sheet: words.sheet_html(pngs, order),
            line: parts.status(said),
            drawn: Sheet(pngs, order.settings.get("image")),
        }

    def first():
        name, model = next(iter(desk.models.items()))
        own = [own_settings(model, {})[field]["value"] for field in ("steps", "guidance", "sampler")]
        order = desk.order(name, IDEAS[0], "", PICTURES, "0", *own, None, None)
        *_, step = order.steps()
        return finished(order, step, f"An example: “{order.prompt}”, from seed {order.seeds[0]}.")

    def stream(request: gr.Request, name, fresh, prompt, negative, count, seed, *rest):
        order = desk.order(name, prompt, negative, count, None if fresh else seed, *rest)
        flag = desk.drawing.get(request.session_hash)
        drawing = drawing_page.Drawing(order.steps(), flag, previews=PREVIEWS)
        seed = {form.seed: str(order.seeds[0])}
        for step in drawing.shown():
            yield seed | {sheet: words.preview_html(step, order.seeds), line: drawing.line()}
        said = " ".join([f"{drawing.outcome()}, seed {order.seeds[0]}.", *order.notices()])
        yield seed | finished(order, drawing.step, said)

    def start_from(event: gr.EventData, was: Sheet | None):
        if was is None:
            return {}
        k = values.number(event.k, "Picture", 0, len(was.pngs) - 1, integer=True)
        return {form.picture: answers.cached_file(was.pngs[k], "start.png"), form.from_picture: gr.update(open=True)}

    inputs, outputs = [form.model_name, form.fresh, *form.order, form.style], [sheet, line, form.seed, drawn]
    drawing_page.opened(demo, desk.drawing, first, [sheet, line, drawn], drawn)
    drawing_page.stoppable(demo, desk.drawing, draw, stop, line, stream, inputs, outputs)
    wire(sheet.click, start_from, drawn, [form.picture, form.from_picture], **HIDDEN)
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    receipts, said = gr.JSON(label="Receipts", visible=False), gr.JSON(label="Notices", visible=False)
    endpoint(wires.DRAW, desk.text_to_image_draw, [*form.order, form.model_name], [gallery, receipts, said])


# ---- a PNG that was drawn, and its receipt ---------------------------------------------------------------------------


def _restore_part(demo: gr.Blocks, desk: Desk, form: SimpleNamespace) -> None:
    parts.section("Restore or verify", "A PNG drawn here carries its receipt: drop it, and everything is as it was.")
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            png = pictures.picture_input(
                "PNG with a receipt", height=240, sources=["upload"], elem_id="text-to-image-png"
            )
            again = gr.Button("Verify", interactive=False)
            cancel = gr.Button("Cancel", variant="stop", visible=False)
        with gr.Column(scale=8, min_width=320):
            note = parts.styled(parts.blank(NO_PNG), HERE / "verdict.css", elem_id="text-to-image-receipt")

    def restore(path, chosen):
        """Everything on the form as the PNG's receipt has it; the rest stays."""
        if path is None:
            return {note: parts.blank(NO_PNG), again: gr.update(interactive=False)}
        try:
            found = desk.read(path, chosen)
        except (ReceiptError, pictures.PictureError) as error:
            return {note: _refused("Nothing to restore", error), again: gr.update(interactive=False)}
        settings, model, started = found.settings, desk.models[found.name], "strength" in found.receipt
        prompt, style = without_style(settings.get("prompt", ""), model.styles)
        restored = {form.model_name: found.name, form.prompt: prompt, form.count: 1}
        restored |= {form.negative: settings.get("negative_prompt", ""), form.fresh: "seed" not in settings}
        restored |= {form.from_picture: gr.update(open=started)} | ({} if started else {form.picture: None})
        restored |= {form.seed: str(settings["seed"])} if "seed" in settings else {}
        restored |= {form.strength: settings["strength"]} if "strength" in settings else {}
        restored |= wires.fitted(form, own_settings(model, settings | {"style": style}))
        return restored | {note: words.restored_html(found), again: gr.update(interactive=True)}

    fields = [*form.order, *form.own, form.model_name, form.fresh, form.from_picture]
    wire(png.change, restore, [png, form.model_name], [note, again, *dict.fromkeys(fields)], **AT_ONCE)
    _verify_events(demo, desk, form, (png, again, cancel, note))
    result, asked = gr.JSON(label="Result", visible=False), [png, form.picture, form.model_name]
    endpoint(wires.DRAW, desk.text_to_image_settings, [png, form.model_name], result, queue=False)
    endpoint(wires.DRAW, desk.text_to_image_verify, asked, result)


def _verify_events(demo: gr.Blocks, desk: Desk, form: SimpleNamespace, around: tuple) -> None:
    """around: the PNG, the buttons Verify and Cancel, and the note."""
    png, again, cancel, note = around

    def begin(request: gr.Request):
        desk.verifying.arm(request.session_hash)
        said = parts.status("Drawing it again …", 0)
        return {note: said, again: gr.update(interactive=False), cancel: gr.update(visible=True)}

    def end(path):
        return {again: gr.update(interactive=path is not None), cancel: gr.update(visible=False)}

    def failed(path):
        return end(path) | {note: words.card("Not verified", ["The message says why."], "bad")}

    def verify(request: gr.Request, path, start, chosen):
        try:
            found, verdict = desk.verified(path, start, chosen, request.session_hash)
        except (ReceiptError, pictures.PictureError) as error:
            return {note: _refused("Cannot be verified here", error)}
        return {note: words.verdict_html(verdict, found)}

    begun = wire(again.click, begin, None, [note, again, cancel], **AT_ONCE)
    verified = wire(begun.then, verify, [png, form.picture, form.model_name], note, **wires.quiet(wires.DRAW))
    wire(verified.then, end, png, [again, cancel], **AT_ONCE)
    wire(verified.failure, failed, png, [again, cancel, note], **AT_ONCE)
    cancel.click(wires.halting(demo, desk.verifying), None, None, **AT_ONCE)


def _refused(title: str, error: Exception) -> str:
    return words.card(title, [html.unescape(getattr(error, "message", str(error)))], "bad")


def main() -> None:
    said = "a LoRA for each --model: a .safetensors file, or the export folder of a training with --lora_rank"
    launch.run(PAGE, load_models, build, lora=said)
