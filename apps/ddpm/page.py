"""The page `ddpm`: what stands where, and what happens when."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np

from apps.ddpm import field, scales, two_films, words
from apps.ddpm.desk import ANY, MAX_GUIDANCE, MAX_PICTURES, SAMPLER_NAMES, Desk, Recorder
from apps.ddpm.scales import JUDGE
from apps.kit import answers, drawing_page, films, launch, parts, pictures, values, wires
from apps.kit.page import Page
from apps.kit.wires import HIDDEN, endpoint, fitted, wire
from hub_models import classifier, ddpm
from hub_models.classifier import Classifier
from hub_models.ddpm import DDPM
from hub_models.store import CheckpointError

HERE = Path(__file__).parent
PAGE = Page(
    stem="ddpm",
    title="Draw out of noise",
    sentence="A U-Net has learned to take noise off small pictures. Start it from nothing but noise, and it draws.",
    card="A diffusion model turns noise into new emoji, step by step, and you watch. Then run the film backwards.",
    short="Watch a diffusion model draw new emoji out of noise",
    models=("emoji-32",),
    gpu_seconds=60,  # the largest order, 16 pictures of 250 steps, measured at 54 s on one CPU thread
    call="ddpm_draw",
    example={"labels": ["food"], "count": 4, "seed": 7},
    also=("classifier/swin", "classifier/noised"),
)
PREVIEWS = 10  # of a drawing under way at most
NO_PICTURE = "Upload a picture, or take one you drew."
GUIDE = "guide="  # before the name of a classifier of noisy pictures, among the names of models
LATEST = {"trigger_mode": "always_last"} | HIDDEN


def load_models(names: Sequence[str]) -> dict[str, DDPM | Classifier | CheckpointError]:
    """Each named model, or the error in its place.

    Under JUDGE and its name a classifier that judges their pictures, under GUIDE one of noisy pictures that guides.
    """
    drawing = [name for name in names if not name.startswith((JUDGE, GUIDE))] or PAGE.models
    found = launch.load_each(ddpm.load, drawing)
    for role, usual in ((JUDGE, "swin"), (GUIDE, "noised")):
        named = [name for name in names if name.startswith(role)] or [role + usual]
        found |= launch.load_each(lambda name, role=role: classifier.load(name.removeprefix(role)), named)
    return found


def build(models: dict[str, DDPM | Classifier | CheckpointError]) -> gr.Blocks:
    """The page around loaded models; in the place of one that could not be loaded stands the cause.

    Names that begin with JUDGE are classifiers, of which the first that knows a model's classes judges its pictures;
    with GUIDE classifiers of noisy pictures, of which the first that fits a model can guide it.
    """
    judges = {name.removeprefix(JUDGE): model for name, model in models.items() if name.startswith(JUDGE)}
    drawing = {name: model for name, model in models.items() if not name.startswith(JUDGE)}
    with parts.opened(PAGE, drawing) as (demo, opened):
        ready = {name: model for name, model in opened.items() if not name.startswith(GUIDE)}
        if ready:
            desk, names = Desk(ready, [opened[name] for name in opened if name not in ready]), list(ready)
            form, shown = SimpleNamespace(), SimpleNamespace()
            form.own = desk.own_fields(names[0])
            form.model_name = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)
            with gr.Tabs():
                with gr.Tab("Draw"):
                    _draw_part(form, shown)
                    _film_events(desk, form, shown, _draw_events(demo, desk, form, shown))
                with gr.Tab("Into the noise"):
                    _forward_part(desk, form, shown.film)
                with gr.Tab("Two films"):
                    two_films.part(demo, desk, form.model_name)
                with gr.Tab("Guidance"):
                    scales.part(demo, desk, form.model_name, judges)
                with gr.Tab("Score field"):
                    field.part(desk, form.model_name)

            def fit_to_model(name):
                return fitted(form, desk.own_fields(name))

            own = [getattr(form, key) for key in form.own]
            wire(form.model_name.change, fit_to_model, form.model_name, own, **HIDDEN)
    return demo


# ---- an order, its drawing, and the film of it -----------------------------------------------------------------------


def _draw_part(form: SimpleNamespace, shown: SimpleNamespace) -> None:
    """`form.order` are the fields of check_order; `shown.film` is the Film of the last drawing."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=260):
            said = "Several are dealt out in turn; any leaves it to the model."
            form.labels = gr.CheckboxGroup(**form.own["labels"], label="Classes", info=said, elem_classes="chips")
            form.count = gr.Slider(1, MAX_PICTURES, 8, step=1, label="Pictures")
            with gr.Row():
                shown.draw = gr.Button("Draw", variant="primary", min_width=110)
                shown.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
        with gr.Column(scale=9, min_width=320):
            nothing = parts.blank("Choose a class and press Draw: the pictures form here.")
            files = drawing_page.SHEET, HERE / "sheet.css", films.PICK
            shown.sheet = parts.styled(nothing, *files, elem_id="ddpm-sheet")
            shown.line = gr.HTML(parts.status("Nothing drawn yet."), elem_id="ddpm-status")
        with gr.Column(scale=4, min_width=240):
            said = "Of the first picture; each next has one more."
            form.seed = gr.Number(0, label="Seed", info=said, elem_id="ddpm-seed")
            form.fresh = gr.Checkbox(True, label="New seed every time")
            form.steps = gr.Slider(1, **form.own["steps"], step=1, label="Steps")
            top, said = MAX_GUIDANCE, "1 switches it off."
            form.guidance = gr.Slider(1, top, **form.own["guidance"], step=0.5, label="Guidance", info=said)
            said = "By its gradient. 0 switches it off."
            form.guide = gr.Slider(0, top, **form.own["guide"], step=0.5, label="Classifier guidance", info=said)
            said = "Langevin wants some 200 steps, and is rough."
            chips = {"label": "Sampler", "elem_classes": "chips", "value": "DPM-Solver++"}
            form.sampler = gr.Radio(list(SAMPLER_NAMES), info=said, **chips)
            shown.png = gr.DownloadButton("Download PNG with receipt", interactive=False, size="sm")
    form.order = [form.labels, form.count, form.seed, form.steps, form.guidance, form.sampler, form.guide]
    parts.section("Film of one picture", "Choose a picture above, then drag: what the model saw, and what it guessed.")
    shown.film, shown.chosen = gr.State(None, time_to_live=3600), gr.State(0)
    shown.frame = gr.Slider(0, 1, 0, step=1, label="Frame", interactive=False, elem_id="ddpm-frame")
    nothing = parts.blank("The film comes with the first drawing.")
    shown.pair = parts.styled(nothing, HERE / "pair.css", elem_id="ddpm-film")
    shown.gif = gr.DownloadButton("Download GIF", interactive=False, size="sm", elem_classes="v-narrow")
    parts.subheading("Fork it", "Drag to a frame, change something, and see where the picture goes from there.")
    shown.other = gr.State(None, time_to_live=3600)
    with gr.Row(equal_height=False):
        form.fork_label = gr.Dropdown(**form.own["fork_label"], label="Class from here", min_width=160)
        top = MAX_GUIDANCE
        form.fork_guidance = gr.Slider(1, top, **form.own["fork_guidance"], step=0.5, label="Guidance from here")
        form.fork_guide = gr.Slider(0, top, **form.own["fork_guide"], step=0.5, label="Classifier guidance from here")
        chips |= {"label": "Sampler from here", "elem_id": "ddpm-fork-sampler"}
        form.fork_sampler = gr.Radio(list(SAMPLER_NAMES), **chips)
        shown.fork = gr.Button("Fork at this frame", min_width=160)
    form.fork = [form.fork_label, form.fork_guidance, form.fork_sampler, form.fork_guide]
    shown.fork_line = gr.HTML("", elem_id="ddpm-fork-line")
    shown.branch = parts.styled("", HERE / "pair.css", elem_id="ddpm-fork")
    shown.both = gr.DownloadButton("Download GIF of both", visible=False, size="sm", elem_classes="v-narrow")


def _draw_events(demo: gr.Blocks, desk: Desk, form: SimpleNamespace, shown: SimpleNamespace):
    """The events that end a drawing: of a visitor, and the one that the page opens with."""

    def finished(recorder, said):
        film, tiles = recorder.film(), words.sheet_html(recorder.last, recorder.order.captions, done=True)
        frame = gr.update(maximum=film.last, value=film.last, interactive=True)
        shows = {shown.sheet: tiles, shown.line: parts.status(said), shown.film: film}
        return shows | {shown.chosen: 0, shown.frame: frame} | unforked(shown)

    def first():
        name, own, count = next(iter(desk.models)), form.own, form.count.value
        labels = [label for label in own["labels"]["choices"] if label != ANY][:count]
        order = desk.order(name, labels, count, 0, own["steps"]["value"], own["guidance"]["value"], form.sampler.value)
        recorder = Recorder(order)
        for _ in recorder.steps():
            pass
        return finished(recorder, f"An example of {count} classes, from seed 0.")

    def stream(request: gr.Request, name, fresh, labels, count, seed, *rest):
        order = desk.order(name, labels, count, None if fresh else seed, *rest)
        recorder, flag = Recorder(order), desk.flags.get(request.session_hash)
        drawing = drawing_page.Drawing(recorder.steps(), flag, previews=PREVIEWS)
        seed = {form.seed: order.seeds[0]}
        for step in drawing.shown():
            tiles = words.sheet_html(recorder.last, order.captions, done=False)
            yield seed | {shown.sheet: tiles, shown.line: drawing.line(f", t = {step.timestep}")}
        yield seed | finished(recorder, f"{drawing.outcome()}, seed {order.seeds[0]}")

    around = demo, desk.flags, shown.draw, shown.stop, shown.line
    outputs = [shown.sheet, shown.line, form.seed, shown.film, shown.chosen, shown.frame, *unforked(shown)]
    inputs, busy = [form.model_name, form.fresh, *form.order], [shown.png, shown.gif]
    ended = drawing_page.stoppable(*around, stream, inputs, outputs, busy=busy)
    rest = [output for output in outputs if output is not form.seed]
    opened = drawing_page.opened(demo, desk.flags, first, rest, shown.film)
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    receipt = gr.JSON(label="Receipt", visible=False)
    animation = gr.File(label="GIF", visible=False)
    label = gr.Textbox(ANY if ANY in form.own["label"]["choices"] else "", label="Class", visible=False)
    *usual, by = form.order
    endpoint(wires.DRAW, desk.ddpm_draw, [*usual, form.model_name, by], [gallery, receipt])
    one = [label, form.seed, form.steps, form.guidance, form.sampler]
    endpoint(wires.DRAW, desk.ddpm_film, [*one, form.model_name, by], [animation, receipt])
    after, (*changed, new_by) = gr.Number(0, label="Steps before the fork", visible=False), form.fork
    endpoint(wires.DRAW, desk.ddpm_fork, [*one, after, *changed, form.model_name, by, new_by], [animation, receipt])
    return ended, opened


def unforked(shown: SimpleNamespace) -> dict:
    """What a film without a fork shows of one."""
    return {shown.other: None, shown.fork_line: "", shown.branch: "", shown.both: gr.update(visible=False)}


def _film_events(desk: Desk, form: SimpleNamespace, shown: SimpleNamespace, ended: Sequence) -> None:
    """What the film of a drawing that has ended is good for; it is None again after an hour."""

    def sheet_file(film):
        return {shown.png: gr.update(value=film.sheet_file(), interactive=True)} if film else {}

    def gif_file(film, k):
        return {shown.gif: gr.update(value=film.gif_file(k), interactive=True)} if film else {}

    def scrub(film, k, at, other=None):
        if film is None:
            return {}
        at = values.number(at, "Frame", 0, film.last, integer=True)
        branch = {shown.branch: words.frame_html(other, 0, other.frame_beside(film, at))} if other else {}
        return {shown.pair: words.frame_html(film, k, at)} | branch

    def last_frame(film, k):
        return scrub(film, k, film and film.last)  # the slider may still be at a frame of the film before

    def pick(event: gr.EventData, film, at):
        if film is not None:
            k = values.number(event.k, "Picture", 0, len(film.receipt["seeds"]) - 1, integer=True)
            yield {shown.chosen: k} | scrub(film, k, at) | unforked(shown)
            yield gif_file(film, k)

    def fork(request: gr.Request, film, k, at, *changed):
        if film is None:
            raise values.InputError("Draw something first: then its film can go another way.")
        at = values.number(at, "Frame", 0, film.last, integer=True)
        recorder = Recorder(desk.branch(film, k, at, *changed))
        drawing_page.whole(recorder, desk.flags, request.session_hash)
        other = recorder.film()
        said = {shown.other: other, shown.fork_line: parts.status(words.fork_said(other.receipt))}
        both = {shown.both: gr.update(value=film.gif_file(k, other), visible=True)}
        return said | both | scrub(film, k, film.last, other) | {shown.frame: film.last}

    one = [shown.film, shown.chosen]
    for event in ended:
        saved = wire(event.then, sheet_file, shown.film, shown.png, **HIDDEN)
        wire(saved.then, gif_file, one, shown.gif, **HIDDEN)
    wire(shown.frame.change, scrub, [*one, shown.frame, shown.other], [shown.pair, shown.branch], **LATEST)
    wire(shown.film.change, last_frame, one, shown.pair, **HIDDEN)
    picked = [shown.chosen, shown.pair, shown.gif, *unforked(shown)]
    wire(shown.sheet.click, pick, [shown.film, shown.frame], picked, **LATEST)
    forked = [shown.other, shown.fork_line, shown.both, shown.pair, shown.branch, shown.frame]
    wire(shown.fork.click, fork, [*one, shown.frame, *form.fork], forked, **wires.quiet(wires.DRAW))


# ---- noise on a visitor's picture ------------------------------------------------------------------------------------


def _forward_part(desk: Desk, form: SimpleNamespace, drawn: gr.State) -> None:
    side = desk.models.first.resolution_px
    parts.section(
        "What training asks",
        "Training shows the model pictures with noise on them and asks what is under it. Drag t from a clean picture "
        f"to nothing but noise, and see what it answers. It goes in at {side} × {side} pixels.",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            upload = pictures.picture_input("Your picture", height=240)
            take = gr.Button("Take the first picture drawn", size="sm")
            form.t = gr.Slider(0, **form.own["t"], step=1, label="t")
            form.label = gr.Dropdown(**form.own["label"], label="Tell the model what it is")
            seed = gr.Number(0, label="Seed of the noise")
        with gr.Column(scale=5, min_width=320):
            pair = parts.styled(parts.blank(NO_PICTURE), HERE / "pair.css", elem_id="ddpm-noisy")
            numbers = gr.HTML("")
    small = gr.State(None, time_to_live=3600)  # the picture at no more than 256 px: dragging t decodes nothing

    def shrink(path):
        if path is None:
            return {small: None}
        image = pictures.read_picture(path)
        image.thumbnail((256, 256))
        return {small: image}

    def from_film(film):
        if film is None:
            raise values.InputError("Draw a picture in the first tab, then take it here.")
        return {upload: answers.cached_file(pictures.png_bytes(films.enlarge(film.noisy[-1, 0], 256)), "drawn.png")}

    def show(image, t, *rest):
        if image is None:
            return {pair: parts.blank(NO_PICTURE), numbers: ""}
        x_t, x0 = map(np.asarray, desk.noisy(image, t, *rest))
        noisy = words.pair_html(x_t, x0, f"<b>x<sub>t</sub></b> at t = {int(t)}")
        return {pair: noisy, numbers: words.shares_html(desk.models.chosen(rest[-1]), int(t))}

    asked, shown = [small, form.t, seed, form.label, form.model_name], [pair, numbers]
    shrunk = wire(upload.change, shrink, upload, small, **HIDDEN)
    wire(shrunk.success, show, asked, shown, **wires.quiet(wires.LOOK))
    wire(take.click, from_film, drawn, upload, **HIDDEN)
    wire([form.t.change, seed.change, form.label.change], show, asked, shown, **wires.latest(wires.LOOK))
    outputs = [gr.Image(label=name, format="png", visible=False) for name in ("x_t", "x0")]
    endpoint(wires.LOOK, desk.ddpm_forward, [upload, *asked[1:]], outputs)


def main() -> None:
    launch.run(PAGE, load_models, build)
