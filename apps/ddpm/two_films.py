"""Two films in step: two orders of as many steps, out of one noise unless told otherwise, under one slider."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from apps.ddpm import desk as orders
from apps.ddpm import plot, words
from apps.ddpm.desk import ANY, MAX_GUIDANCE, SAMPLER_NAMES, Desk, Order, Recorder
from apps.ddpm.paint import Film
from apps.kit import drawing_page, parts, values, wires
from apps.kit.session import StopFlags
from apps.kit.wires import AT_ONCE, HIDDEN, endpoint, fitted, wire
from hub_models.ddpm import DDPM
from hub_models.drawing import Step

HERE = Path(__file__).parent
PREVIEWS = 10  # of a drawing under way at most
NAMES = "First", "Second"


class Pair:
    """Two orders of one picture each and of as many steps, drawn in step and filmed; its steps are the first one's."""

    def __init__(self, *both: Order):
        self.recorders = [Recorder(order) for order in both]

    def steps(self) -> Iterator[Step]:
        with contextlib.ExitStack() as stack:
            both = [stack.enter_context(contextlib.closing(recorder.steps())) for recorder in self.recorders]
            for step, _ in zip(*both, strict=True):
                yield step

    def films(self) -> list[Film]:
        return [recorder.film() for recorder in self.recorders]


def own_fields(model: DDPM) -> dict[str, dict]:
    """What the fields that depend on the model show: two classes, where it knows two."""
    own = orders.own_fields(model)
    options = own["label"]["choices"]
    named = [label for label in options if label != ANY] or options
    return {
        "label": own["label"] | {"value": named[0]},
        "other_label": own["label"] | {"value": named[min(1, len(named) - 1)]},
        "steps": own["steps"],
        "guidance": own["guidance"],
        "other_guidance": own["guidance"],
    }


class TwoFilms:
    """What the tab computes."""

    def __init__(self, desk: Desk):
        self.desk, self.flags = desk, StopFlags()

    def pair(self, name, label, seed, steps, guidance, sampler, same_noise, other_label, other_seed, *rest) -> Pair:
        """Two orders, the second with the seed of the first where the noise is the same. Raises InputError."""
        same_noise = values.switch(same_noise, "Same noise")
        first = self.desk.order(name, label, 1, seed, steps, guidance, sampler)
        other_seed = first.seeds[0] if same_noise else other_seed
        return Pair(first, self.desk.order(name, other_label, 1, other_seed, steps, *rest))

    def ddpm_two_films(
        self, label, seed, steps, guidance, sampler, same_noise, other_label, other_seed, other_guidance, other_sampler,
        model, request: gr.Request,
    ):  # fmt: skip
        """Draw two pictures in step and return a GIF of both films, one above the other, and the receipts of both.

        Parameters:
            label: a class name, or "any"
            seed: reduced modulo 2**63; -1 draws a fresh one
            steps: denoising steps of both, 1 to 250, at most the timesteps the model was trained with
            guidance: 1 (none) to 10
            sampler: "DDIM", "DDPM", "DPM-Solver++" or "Langevin"
            same_noise: whether the second starts from the noise of the first, too
            other_label: the class of the second
            other_seed: of the second, where it has a noise of its own
            other_guidance: of the second
            other_sampler: of the second
            model: the name of a loaded model
        """
        second = same_noise, other_label, other_seed, other_guidance, other_sampler
        pair = self.pair(model, label, seed, steps, guidance, sampler, *second)
        drawing_page.whole(pair, self.flags, request.session_hash)
        film, other = pair.films()
        return film.gif_file(0, other), [film.receipt, other.receipt]


def part(demo: gr.Blocks, desk: Desk, model_name: gr.Radio) -> None:
    """The tab, for the model of that name."""
    films, form, shown = TwoFilms(desk), SimpleNamespace(own=own_fields(desk.models.first)), SimpleNamespace()
    said = "Two drawings, one slider: see where class, guidance or sampler part what began as the same noise."
    parts.section("Two films in step", said)
    with gr.Row(equal_height=True):
        first = _order_fields(form, NAMES[0], "", gr.Number(0, label="Seed", min_width=100, render=False))
        hidden = {"visible": False, "render": False, "elem_id": "ddpm-two-own-seed"}
        own_seed = gr.Number(1, label="Seed", min_width=100, **hidden)
        same = gr.Checkbox(True, label="Same noise for both", render=False)
        second = _order_fields(form, NAMES[1], "other_", own_seed, same)
    with gr.Row(equal_height=False):
        form.steps = gr.Slider(1, **form.own["steps"], step=1, label="Steps", scale=3, min_width=260)
        shown.draw = gr.Button("Draw both", variant="primary", min_width=110, elem_id="ddpm-two-draw")
        shown.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
    shown.line = gr.HTML(parts.status("Nothing drawn yet."), elem_id="ddpm-two-status")
    shown.frame = gr.Slider(0, 1, 0, step=1, label="Frame of both", interactive=False, elem_id="ddpm-two-frame")
    nothing = parts.blank("Press Draw both: the films run side by side here.")
    shown.both = parts.styled(nothing, HERE / "pair.css", HERE / "two_films.css", elem_id="ddpm-two")
    shown.gif = gr.DownloadButton("Download GIF of both", interactive=False, size="sm", elem_classes="v-narrow")
    label, seed, *how = first
    _events(demo, films, [model_name, label, seed, form.steps, *how, same, *second], shown)
    wire(same.change, lambda same: {own_seed: gr.update(visible=not same)}, same, own_seed, **AT_ONCE)

    def fit_to_model(name):
        return fitted(form, own_fields(desk.models.chosen(name)))

    wire(model_name.change, fit_to_model, model_name, [getattr(form, key) for key in form.own], **HIDDEN)


def _order_fields(form: SimpleNamespace, name: str, before: str, seed: gr.Number, *more: gr.Checkbox) -> list:
    """The fields of one of both: class, seed, guidance, sampler; those that the model fits are form.<before>…

    more: what stands between them besides.
    """
    label, guidance = f"{before}label", f"{before}guidance"
    with gr.Column(elem_classes="v-card", min_width=300):
        gr.HTML(f"<h3>{name}</h3>", elem_classes="v-sub", padding=False)
        with gr.Row():
            setattr(form, label, gr.Dropdown(**form.own[label], label="Class", min_width=120))
            seed.render()
        for field in more:
            field.render()
        setattr(form, guidance, gr.Slider(1, MAX_GUIDANCE, **form.own[guidance], step=0.5, label="Guidance"))
        sampler = gr.Radio(list(SAMPLER_NAMES), label="Sampler", elem_classes="chips", value="DPM-Solver++")
    return [getattr(form, label), seed, getattr(form, guidance), sampler]


def _events(demo: gr.Blocks, films: TwoFilms, asked: list, shown: SimpleNamespace) -> None:
    kept = gr.State(None, time_to_live=3600)  # both Films of the last drawing

    def stream(request: gr.Request, *order):
        pair, flag = films.pair(*order), films.flags.get(request.session_hash)
        drawing = drawing_page.Drawing(pair.steps(), flag, previews=PREVIEWS)
        for _ in drawing.shown():
            yield {shown.both: forming_html(pair), shown.line: drawing.line()}
        both = pair.films()
        frame = gr.update(maximum=both[0].last, value=both[0].last, interactive=True)
        said = {shown.line: parts.status(f"{drawing.outcome()}."), shown.frame: frame, kept: both}
        yield said | {shown.both: frames_html(both, both[0].last)}

    def gif_file(both):
        return {shown.gif: gr.update(value=both[0].gif_file(0, both[1]), interactive=True)} if both else {}

    def scrub(both, at):
        if both is None:
            return {}
        return {shown.both: frames_html(both, values.number(at, "Frame", 0, both[0].last, integer=True))}

    around = demo, films.flags, shown.draw, shown.stop, shown.line
    ended = drawing_page.stoppable(
        *around, stream, asked, [shown.both, shown.line, shown.frame, kept], busy=[shown.gif]
    )
    wire(ended.then, gif_file, kept, shown.gif, **HIDDEN)
    wire(shown.frame.change, scrub, [kept, shown.frame], shown.both, trigger_mode="always_last", **HIDDEN)
    animation = gr.File(label="GIF", visible=False)
    receipts = gr.JSON(label="Receipts", visible=False)
    endpoint(wires.DRAW, films.ddpm_two_films, [*asked[1:], asked[0]], [animation, receipts])


def forming_html(pair: Pair) -> str:
    """Both pictures as they form."""
    both = zip(pair.recorders, NAMES, strict=True)
    return words.row_html(*((recorder.last[0], f"<b>{name}</b>", words.NOISY) for recorder, name in both))


def frames_html(both: list[Film], at: int) -> str:
    """One frame of both films, how far apart they are in it, and how far before and after."""
    shown = "".join(
        f"<section><h4>{name}</h4><p>{words.settings(film.receipt)}</p>{words.frame_html(film, 0, at)}</section>"
        for film, name in zip(both, NAMES, strict=True)
    )
    return f'<div class="two">{shown}</div>{plot.apart_html(both, at)}'
