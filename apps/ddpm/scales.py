"""The same seeds under several scales of guidance, side by side, and what a classifier makes of each.

Letters: N pictures of a scale, R × R pixels.
"""

import contextlib
import dataclasses
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import torch
from PIL import Image

from apps.ddpm import desk as orders
from apps.ddpm import words
from apps.ddpm.desk import MAX_GUIDANCE, MAX_PICTURES, SAMPLER_NAMES, Desk, Order
from apps.ddpm.paint import with_receipt
from apps.kit import drawing_page, parts, values, wires
from apps.kit.session import StopFlags
from apps.kit.wires import HIDDEN, endpoint, fitted, wire
from hub_models.classifier import Classifier
from hub_models.ddpm import DDPM
from hub_models.drawing import Step
from hub_models.pictures import to_uint8

HERE = Path(__file__).parent
JUDGE = "classifier="  # before the name of a classifier, among the names of models
SCALES, MAX_SCALES = "1, 2, 3, 5, 8", 5
COUNT = 8
MAX_STEPS = 50  # of 5 × 16 pictures: as much work as the largest order of the first tab
PREVIEWS = 15
SAID = (
    "<b>Confidence</b> is the probability that {judge} gives the class that was asked for, the mean over {count} "
    "pictures. <b>Diversity</b> is the mean distance between two of them in what its last layer is given, each scaled "
    "to length 1: 0 where all look the same to it, 1.41 where two have nothing in common."
)
NO_JUDGE = (
    "Confidence and diversity are left out: no classifier of these classes is loaded. Start the page with "
    f"<code>--model {JUDGE}FOLDER</code>."
)


def judge_of(model: DDPM, judges: Mapping[str, Classifier]) -> Classifier | None:
    """The first classifier that knows the model's classes, and no other ones."""
    return next((judge for judge in judges.values() if set(judge.label_names) == set(model.label_names)), None)


def measured(judge: Classifier, label: str, pictures: np.ndarray) -> dict[str, float]:
    """confidence and diversity, as SAID has them, of pictures (N, R, R, 3) that were to be of a class."""
    images = [Image.fromarray(pixels) for pixels in pictures]
    probability = judge.logits(images).softmax(1)[:, judge.label_names.index(label)]  # (N,)
    features = torch.nn.functional.normalize(judge.features(images), dim=1)  # (N, D)
    return {"confidence": float(probability.mean()), "diversity": float(torch.pdist(features).mean())}


class Series:
    """Orders of the same pictures that differ in guidance, drawn one after the other; `sheets` are those done."""

    def __init__(self, orders: Sequence[Order]):
        self.orders, self.sheets = orders, []  # sheets of (N, R, R, 3)
        self.forming: np.ndarray | None = None  # of the next one

    @property
    def guidances(self) -> list[float]:
        return [order.settings["guidance_scale"] for order in self.orders]

    def steps(self) -> Iterator[Step]:
        done = 0
        for order in self.orders:
            with contextlib.closing(order.steps()) as steps:
                for step in steps:
                    self.forming = to_uint8(step.best)
                    if step.index + 1 == step.total:
                        self.sheets.append(self.forming)
                        self.forming = None
                    yield dataclasses.replace(step, index=done, total=step.total * len(self.orders))
                    done += 1


def check_scales(text) -> list[float]:
    """The numbers in a text, each once. Raises InputError, which says what they can be."""
    wanted = f"Scales must be 2 to {MAX_SCALES} numbers from 1 to {MAX_GUIDANCE} with commas between, as {SCALES}."
    try:
        scales = list(dict.fromkeys(float(part) for part in text[:200].split(",")))
    except (TypeError, ValueError, AttributeError):
        raise values.InputError(wanted) from None
    if not 2 <= len(scales) <= MAX_SCALES or not all(1 <= scale <= MAX_GUIDANCE for scale in scales):
        raise values.InputError(wanted)
    return scales


def own_fields(model: DDPM) -> dict[str, dict]:
    """What the fields that depend on the model show."""
    names, top = model.label_names, min(MAX_STEPS, model.num_train_timesteps)
    return {
        "label": {"choices": names, "value": next(iter(names), None), "visible": bool(names)},
        "steps": {"maximum": top, "value": min(orders.STEPS, top)},
    }


class Scales:
    """What the tab computes."""

    def __init__(self, desk: Desk, judges: Mapping[str, Classifier]):
        self.desk, self.judges, self.flags = desk, judges, StopFlags()

    def series(self, name, label, seed, scales, count, steps, sampler) -> Series:
        """The orders of what was asked. Raises InputError."""
        model = self.desk.models.chosen(name)
        if model.null_label is None or not model.label_names:
            raise values.InputError(
                "This model knows no guidance: it was not trained to draw with and without a class."
            )
        label = values.choice(label, "Class", model.label_names)
        count = values.number(count, "Pictures", 2, MAX_PICTURES, integer=True)
        steps = values.number(steps, "Steps", 1, own_fields(model)["steps"]["maximum"], integer=True)
        seed = values.seed(seed)
        asked = [(label, count, seed, steps, scale, sampler) for scale in check_scales(scales)]
        return Series([self.desk.order(name, *one) for one in asked])

    def numbers(self, series: Series) -> list[dict[str, float]]:
        """What its classifier makes of each sheet there is; [] where there is no classifier for the model."""
        order = series.orders[0]
        judge = judge_of(order.model, self.judges)
        return [measured(judge, order.labels[0], sheet) for sheet in series.sheets] if judge else []

    def ddpm_scales(self, label, seed, scales, count, steps, sampler, model, request: gr.Request):
        """Draw the same seeds under several scales of guidance. Returns the first picture of each, a PNG with its
        receipt, and what a classifier makes of all: confidence and diversity, null where none knows these classes.

        Parameters:
            label: a class name
            seed: the first picture's, reduced modulo 2**63; -1 draws a fresh one; picture k has seed + k
            scales: 2 to 5 numbers from 1 (no guidance) to 10, as text with commas between them
            count: how many pictures of each scale are measured, 2 to 16
            steps: denoising steps, 1 to 50, at most the timesteps the model was trained with
            sampler: "DDIM", "DDPM", "DPM-Solver++" or "Langevin"
            model: the name of a loaded model
        """
        series = self.series(model, label, seed, scales, count, steps, sampler)
        drawing_page.whole(series, self.flags, request.session_hash)
        pairs = zip(series.orders, series.sheets, strict=True)
        drawn = [with_receipt(Image.fromarray(sheet[0]), order.receipt(0)) for order, sheet in pairs]
        numbers = self.numbers(series) or [{"confidence": None, "diversity": None}] * len(drawn)
        judge = judge_of(series.orders[0].model, self.judges)
        rows = [{"guidance": scale} | row for scale, row in zip(series.guidances, numbers, strict=True)]
        captions = [f"guidance {scale:g}" for scale in series.guidances]
        seeds = [str(seed) for seed in series.orders[0].seeds]
        said = {"classifier": judge and judge.name, "label": label, "seeds": seeds, "scales": rows}
        return list(zip(drawn, captions, strict=True)), said


def part(demo: gr.Blocks, desk: Desk, model_name: gr.Radio, judges: Mapping) -> None:
    """The tab, for the model of that name. judges: {name: Classifier, or the error in its place}."""
    ready = {name: judge for name, judge in judges.items() if not isinstance(judge, Exception)}
    said = "Guidance pushes a picture towards its class. See what that gives, and what it costs."
    parts.section("One seed, several scales of guidance", said)
    for name, error in judges.items():
        if name not in ready:
            parts.degraded(f"Classifier “{name}”", error)
    form, shown = SimpleNamespace(own=own_fields(desk.models.first)), SimpleNamespace()
    with gr.Row(equal_height=False):
        form.label = gr.Dropdown(**form.own["label"], label="Class", min_width=140)
        seed = gr.Number(0, label="Seed", min_width=100)
        scales = gr.Textbox(SCALES, label="Scales", max_lines=1, min_width=160, elem_id="ddpm-scales-asked")
        count = gr.Slider(2, MAX_PICTURES, COUNT, step=1, label="Pictures", info="Of each scale.", min_width=180)
        form.steps = gr.Slider(1, **form.own["steps"], step=1, label="Steps", min_width=180)
    with gr.Row(equal_height=False):
        chips = {"label": "Sampler", "elem_classes": "chips", "value": "DPM-Solver++"}
        sampler = gr.Radio(list(SAMPLER_NAMES), scale=4, min_width=300, **chips)
        shown.draw = gr.Button("Draw them", variant="primary", min_width=110, elem_id="ddpm-scales-draw")
        shown.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
    shown.line = gr.HTML(parts.status("Nothing drawn yet."), elem_id="ddpm-scales-status")
    nothing = parts.blank("Press Draw them: a column for each scale.")
    shown.columns = parts.styled(nothing, HERE / "scales.css", elem_id="ddpm-scales")
    _events(demo, Scales(desk, ready), [model_name, form.label, seed, scales, count, form.steps, sampler], shown)

    def fit_to_model(name):
        return fitted(form, own_fields(desk.models.chosen(name)))

    wire(model_name.change, fit_to_model, model_name, [form.label, form.steps], **HIDDEN)


def _events(demo: gr.Blocks, made: Scales, asked: list, shown: SimpleNamespace) -> None:
    def stream(request: gr.Request, *order):
        series, flag = made.series(*order), made.flags.get(request.session_hash)
        drawing = drawing_page.Drawing(series.steps(), flag, previews=PREVIEWS)
        for _ in drawing.shown():
            yield {shown.columns: columns_html(series, []), shown.line: drawing.line()}
        numbers, judge = made.numbers(series), judge_of(series.orders[0].model, made.judges)
        said = {shown.line: parts.status(f"{drawing.outcome()}, seed {series.orders[0].seeds[0]}")}
        yield said | {shown.columns: columns_html(series, numbers) + said_html(series, judge)}

    around = demo, made.flags, shown.draw, shown.stop, shown.line
    drawing_page.stoppable(*around, stream, asked, [shown.columns, shown.line])
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    measures = gr.JSON(label="Measures", visible=False)
    endpoint(wires.DRAW, made.ddpm_scales, [*asked[1:], asked[0]], [gallery, measures])


# ---- what it looks like ----------------------------------------------------------------------------------------------


def columns_html(series: Series, numbers: Sequence[Mapping[str, float]]) -> str:
    """A column for each scale: its first picture, the other seeds below it, and its numbers where they are there."""
    sheets = [*series.sheets, *([] if series.forming is None else [series.forming])]
    label = html.escape(series.orders[0].labels[0])
    columns = ""
    for k, (scale, sheet) in enumerate(zip(series.guidances, sheets, strict=False)):
        name = f"{label}, guidance {scale:g}"
        others = "".join(f'<img src="{words.data_url(pixels, 64)}" alt="">' for pixels in sheet[1:])
        rows = "".join(f"<dt>{key.title()}</dt><dd>{_shown(key, value)}</dd>" for key, value in
                       (numbers[k] if k < len(numbers) else {}).items())  # fmt: skip
        columns += (
            f'<figure><figcaption>Guidance <b>{scale:g}</b></figcaption><img class="first"'
            f' src="{words.data_url(sheet[0], 256)}" alt="{name}"><div class="others">{others}</div>'
            f"<dl>{rows}</dl></figure>"
        )
    return f'<div class="scales">{columns}</div>'


def _shown(key: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.0%}" if key == "confidence" else f"{value:.2f}"


def said_html(series: Series, judge: Classifier | None) -> str:
    """What the numbers are, or why there are none."""
    count = len(series.orders[0].seeds)
    said = SAID.format(judge=f"the classifier {html.escape(judge.name)}", count=count) if judge else NO_JUDGE
    return f'<p class="said">{said}</p>'
