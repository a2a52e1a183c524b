"""The score on a plane through three drawn pictures, and Langevin chains on it.

Letters: N points of the grid, K chains of S steps.
"""

import html
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import torch
from PIL import Image

from apps.ddpm import desk as orders
from apps.ddpm import plot, words
from apps.ddpm.desk import ANY, Desk, Order
from apps.ddpm.paint import with_receipt
from apps.ddpm.plane import Plane, chains, scores, square
from apps.kit import drawing_page, parts, values, wires
from apps.kit.session import Recent, StopFlags
from apps.kit.wires import HIDDEN, endpoint, fitted, wire
from hub_models.ddpm import DDPM
from hub_models.pictures import to_uint8

HERE = Path(__file__).parent
GRID, MARGIN = 13, 0.3  # points a side, and room around the three pictures
STARTS = 2, 6, 10  # rows and columns of the grid where chains start
CHAIN_STEPS = 16
KEPT = 64  # fields that are remembered
NAMES = "First", "Second", "Third"


@dataclass(frozen=True)
class Three:
    """Three pictures that were drawn, and by what; it travels between processes, so the model isn't in it."""

    name: str  # of the model
    captions: list[tuple[str, str]]  # class and seed of each
    x: np.ndarray  # (3, 3, R, R) float32 in [-1, 1]

    @property
    def pixels(self) -> np.ndarray:
        return to_uint8(torch.from_numpy(self.x))  # (3, R, R, 3)


@dataclass(frozen=True)
class Field:
    """The score of a model at one level of noise on a plane. Slopes are of log q(x_t) by x_t, points are clean ones."""

    t: int
    corners: np.ndarray  # (3, 2) where the pictures are
    points: np.ndarray  # (N, 2)
    slopes: np.ndarray  # (N, 2) the score's part in the plane
    lengths: np.ndarray  # (N,) of the whole score
    paths: np.ndarray  # (K, S + 1, 2) of the chains; none as long as they are not drawn

    @property
    def share(self) -> float:
        """The share of the score's length that lies in the plane, the median of the points."""
        return float(np.median(np.linalg.norm(self.slopes, axis=1) / np.maximum(self.lengths, 1e-12)))

    def document(self) -> dict:
        """It, for JSON."""
        arrays = {"pictures": self.corners, "points": self.points, "scores": self.slopes, "lengths": self.lengths}
        return {"t": self.t} | {name: array.tolist() for name, array in (arrays | {"chains": self.paths}).items()}


def fields(model: DDPM, pictures: torch.Tensor, t: int, label: str, seed: int) -> Iterator[Field]:
    """The field on the plane through pictures (3, 3, R, R), on the CPU; first without chains, then with them.

    Raises ValueError where the pictures lie on a line, or nothing is left of them at t.
    """
    if not model.scheduler.alphas_cumprod[t] > 0:
        raise ValueError(f"at t = {t} nothing is left of the pictures")

    def score(x: torch.Tensor) -> torch.Tensor:
        return model.look(x.to(model.device), t, label).score.cpu()

    plane, a = Plane.through(pictures), model.scheduler.alphas_cumprod[t].cpu()
    corners = plane.coordinates(pictures)  # (3, 2)
    points = square(corners, GRID, MARGIN)  # (N, 2)
    slopes, lengths = scores(plane, score, a, points)
    none = torch.zeros(0, 1, 2)
    field = Field(t, *(tensor.numpy() for tensor in (corners, points, slopes, lengths, none)))
    yield field
    starts = points.view(GRID, GRID, 2)[STARTS, :][:, STARTS].reshape(-1, 2)  # (K, 2)
    draw = torch.Generator().manual_seed(seed)
    yield replace(field, paths=chains(plane, score, a, starts, CHAIN_STEPS, draw).numpy())


def own_fields(model: DDPM) -> dict[str, dict]:
    """What the fields that depend on the model show: three classes, where it knows three."""
    own = orders.own_fields(model)
    options = own["label"]["choices"]
    named = [label for label in options if label != ANY] or options
    three = {name: own["label"] | {"value": named[k % len(named)]} for k, name in enumerate(NAMES)}
    return three | {"t": own["t"] | {"value": model.num_train_timesteps * 3 // 5}, "label": own["label"]}


class Fields:
    """What the tab computes."""

    def __init__(self, desk: Desk):
        self.desk, self.flags, self.recent = desk, StopFlags(), Recent(KEPT)

    def order(self, name, first, second, third, seed) -> Order:
        """Three pictures of these classes, of a seed and the next two. Raises InputError."""
        own = orders.own_fields(self.desk.models.chosen(name))
        rest = own["steps"]["value"], own["guidance"]["value"], next(iter(orders.SAMPLER_NAMES))
        return self.desk.order(name, [first, second, third], 3, seed, *rest)

    def three(self, name, order: Order, session: str | None) -> Three:
        """They, drawn. Raises InputError."""
        return Three(name, order.captions, drawing_page.whole(order, self.flags, session).x_t.cpu().numpy())

    def fields(self, three: Three, t, label) -> Iterator[Field]:
        """The field of three pictures, without chains and with them, or at once where it is remembered."""
        model = self.desk.models.chosen(three.name)
        t = values.number(t, "t", 0, model.num_train_timesteps - 1, integer=True)
        label = values.choice(label, "Class", orders.label_choices(model))
        key = (three.name, *three.captions, t, label)
        if field := self.recent.get(key):
            yield field
            return
        try:
            for field in fields(model, torch.from_numpy(three.x), t, label, int(three.captions[0][1])):
                yield field
        except ValueError as error:
            raise values.InputError(f"There is no plane to show: {error}. Choose another class, seed or t.") from None
        self.recent.keep(key, field)

    def ddpm_field(self, first, second, third, seed, t, label, model, request: gr.Request):
        """Draw three pictures, and the score of the model on the plane through them. Returns the pictures, each a PNG
        with its receipt, and coordinates on two orthonormal axes of the plane, in the units of pixels from -1 to 1:
        pictures, points of a grid, the scores there as far as they lie in the plane, their whole lengths, and the
        points of Langevin chains. At timestep t a point stands for the square root of alpha_bar times its picture.

        Parameters:
            first: the class of the first picture
            second: of the second
            third: of the third
            seed: of the first picture, reduced modulo 2**63; -1 draws a fresh one; each next has one more
            t: the timestep, 0 to one less than the model was trained with
            label: what the model is told while it is asked for its score: a class name, or "any"
            model: the name of a loaded model
        """
        order = self.order(model, first, second, third, seed)
        three = self.three(model, order, request.session_hash)
        *_, field = self.fields(three, t, label)
        drawn = [with_receipt(Image.fromarray(pixels), order.receipt(k)) for k, pixels in enumerate(three.pixels)]
        return list(zip(drawn, [f"{label}, {seed}" for label, seed in three.captions], strict=True)), field.document()


def part(desk: Desk, model_name: gr.Radio) -> None:
    """The tab, for the model of that name."""
    parts.section(
        "The slope that it climbs",
        "Three pictures span a plane in the space of all pictures. An arrow is the model's score there: the way to "
        "more probable pictures at noise level t, as far as it lies in the plane. Langevin chains follow the arrows.",
    )
    form = SimpleNamespace(own=own_fields(desk.models.first))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            three = [gr.Dropdown(**form.own[name], label=f"{name} picture", min_width=120) for name in NAMES]
            vars(form).update(zip(NAMES, three, strict=True))
            seed = gr.Number(0, label="Seed", info="Of the first picture; each next has one more.")
            draw = gr.Button("Draw three and the field", variant="primary", elem_id="ddpm-field-draw")
            form.t = gr.Slider(0, **form.own["t"], step=1, label="t of the field", elem_id="ddpm-field-t")
            form.label = gr.Dropdown(**form.own["label"], label="Tell the model what it is")
        with gr.Column(scale=7, min_width=320):
            nothing = parts.blank("Press the button: the plane with its arrows appears here.")
            shown = parts.styled(nothing, HERE / "field.css", elem_id="ddpm-field")
    made, kept = Fields(desk), gr.State(None, time_to_live=3600)

    def draw_three(request: gr.Request, name, *asked):
        return {kept: made.three(name, made.order(name, *asked), request.session_hash)}

    def show(three, t, label):
        if three is not None:
            for field in made.fields(three, t, label):
                yield {shown: field_html(desk.models.chosen(three.name), three, field)}

    asked, look = [model_name, *three, seed], [kept, form.t, form.label]
    drawn = wire(draw.click, draw_three, asked, kept, **wires.quiet(wires.LOOK))
    wire(drawn.success, show, look, shown, **wires.quiet(wires.LOOK))
    wire([form.t.change, form.label.change], show, look, shown, **wires.latest(wires.LOOK))

    def fit_to_model(name):
        return {kept: None} | fitted(form, own_fields(desk.models.chosen(name)))

    own = [getattr(form, key) for key in form.own]
    wire(model_name.change, fit_to_model, model_name, [kept, *own], **HIDDEN)
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    document = gr.JSON(label="Field", visible=False)
    endpoint(wires.LOOK, made.ddpm_field, [*three, seed, form.t, form.label, model_name], [gallery, document])


def field_html(model: DDPM, three: Three, field: Field) -> str:
    """The plot, which picture is which, the scale of its colours, and what it does not show."""
    names = " · ".join(f"<b>{k + 1}</b> {html.escape(label)}, seed {seed}" for k, (label, seed) in
                       enumerate(three.captions))  # fmt: skip
    lengths = np.linalg.norm(field.slopes, axis=1)
    ramp = ", ".join(plot.colour(share) for share in (0, 0.5, 1))
    svg = plot.plane_svg(
        field.points, field.slopes, field.corners, three.pixels, field.paths,
        f"The score at t = {field.t} on the plane through three pictures: {len(field.points)} arrows and "
        f"{len(field.paths)} chains",
    )  # fmt: skip
    chains = (
        f"{len(field.paths)} Langevin chains of {CHAIN_STEPS} steps, from a ring to a dot, stay in the plane: slope "
        "and noise are projected onto it. In training there was noise in all directions, here there is none off the "
        "plane. "
        if len(field.paths)
        else "Drawing the chains … "
    )
    return (
        f'<div class="field">{svg}<p class="names">{names}</p>'
        f'<p class="ramp">{lengths.min():.3g}<i style="background: linear-gradient(90deg, {ramp})"></i>'
        f"{lengths.max():.3g}<span>length of the score in the plane</span></p>"
        f"<p>{chains}The plane shows {field.share:.0%} of the score's length, the median of the points; the rest "
        f"points out of it.</p>{words.shares_html(model, field.t)}</div>"
    )
