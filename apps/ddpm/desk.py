"""What the page computes, for people and for programs: orders checked and drawn, and their films."""

import contextlib
import dataclasses
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import gradio as gr
import numpy as np
from PIL import Image

from apps.ddpm.paint import Film, with_receipt
from apps.kit import drawing_page, films, pictures, values
from apps.kit.session import StopFlags
from hub_models import ddpm
from hub_models.classifier import Classifier
from hub_models.ddpm import DDPM, Step
from hub_models.pictures import to_uint8

MAX_PICTURES = 16
MAX_STEPS = 250
STEPS = 20  # of DPM-Solver++ look like 50 of DDIM
MAX_GUIDANCE = 10
SAMPLER_NAMES = {"DPM-Solver++": "dpm++", "DDIM": "ddim", "DDPM": "ddpm", "Langevin": "langevin"}
ANY = "any"


@dataclass(frozen=True)
class Order:
    """What to draw, checked. `settings` are the arguments that `DDPM.generate` and `.receipt` share."""

    model: DDPM
    labels: list[str]
    seeds: list[int]
    settings: dict

    @property
    def captions(self) -> list[tuple[str, str]]:
        names = self.labels if self.model.label_names else ["picture"] * len(self.labels)
        return [(label, str(seed)) for label, seed in zip(names, self.seeds, strict=True)]

    def receipt(self, k: int | None = None, steps_done: int | None = None) -> dict:
        """Of picture k, or of all."""
        which = slice(None) if k is None else slice(k, k + 1)
        return self.model.receipt(self.labels[which], self.seeds[which], steps_done=steps_done, **self.settings)

    def steps(self) -> Iterator[Step]:
        return self.model.generate(self.labels, self.seeds, **self.settings)


class Recorder:
    """An order whose drawing is filmed: at most films.FRAMES frames, evenly spaced; `film` is what there is so far."""

    def __init__(self, order: Order):
        self.order, self.total = order, order.settings["num_inference_steps"]
        self.kept = films.kept(self.total)
        self.done, self.last = 0, to_uint8(order.model.initial_noise(order.seeds))  # (B, R, R, 3)
        self.frames = []  # (x_t before a step, x0 and noise predicted from it, score's lengths, steps done before, t)

    def steps(self) -> Iterator[Step]:
        with contextlib.closing(self.order.steps()) as steps:
            for step in steps:
                if step.index in self.kept:
                    slopes = step.score.flatten(1).norm(dim=1).cpu().numpy()  # (B,)
                    seen = to_uint8(step.x0), to_uint8(step.noise / 3), slopes
                    self.frames.append((self.last, *seen, step.index, step.timestep))
                self.done, self.last, self.last_guess = step.index + 1, to_uint8(step.x_t), to_uint8(step.x0)
                yield step

    def film(self) -> Film:
        end = self.last if self.done == self.total else self.last_guess  # stopped: the best there is
        none = np.zeros_like(end), np.zeros(len(end), np.float32)
        *seen, steps, timesteps = zip(*self.frames, (self.last, end, *none, self.done, -1), strict=True)
        receipt = self.order.receipt(steps_done=self.done)
        return Film(*map(np.stack, seen), list(steps), list(timesteps), self.total, receipt)


def label_choices(model: DDPM) -> list[str]:
    return [*([ANY] if model.null_label is not None or not model.label_names else []), *model.label_names]


def max_steps(model: DDPM) -> int:
    return min(MAX_STEPS, model.num_train_timesteps)


def own_fields(model: DDPM, guide: Classifier | None = None) -> dict[str, dict]:
    """What the fields that depend on the model, and on the classifier that can guide it, show."""
    options, top, last = label_choices(model), max_steps(model), model.num_train_timesteps - 1
    named, guidance = bool(model.label_names), min(max(model.default_guidance, 1), MAX_GUIDANCE)
    return {
        "labels": {"choices": options, "value": options[1:2] or [ANY], "visible": named},
        "steps": {"maximum": top, "value": min(STEPS, top)},
        "guidance": {"value": guidance, "visible": model.null_label is not None},
        "t": {"maximum": last, "value": model.num_train_timesteps // 4},
        "label": {"choices": options, "value": options[0], "visible": named},
        "fork_label": {"choices": options, "value": options[-1], "visible": named},
        "fork_guidance": {"value": guidance, "visible": model.null_label is not None},
        "guide": {"value": 0, "visible": guide is not None},
        "fork_guide": {"value": 0, "visible": guide is not None},
    }


def guidance_by(guide: Classifier | None, scale) -> dict:
    """The settings of guidance by a classifier, none for a scale of 0. Raises InputError."""
    scale = values.number(scale, "Classifier guidance", 0, MAX_GUIDANCE)
    if scale and guide is None:
        raise values.InputError("No classifier of noisy pictures with these classes is here: set its guidance to 0.")
    return {"guide": guide, "guide_scale": scale} if scale else {}


def check_order(
    model: DDPM, labels, count, seed, steps, guidance, sampler, guide_scale=0, *, guide: Classifier | None = None
) -> Order:
    """The order that raw parameters stand for; gr.Error names the range of the first that is wrong."""
    count, options = values.number(count, "Pictures", 1, MAX_PICTURES, integer=True), label_choices(model)
    if isinstance(labels, str) or labels is None:
        labels = [labels or ANY]
    if not isinstance(labels, list):
        raise values.InputError(f"Classes must be a list of: {', '.join(map(html.escape, options))}.")
    labels = [values.choice(label, "Class", options) for label in labels] or options[:1]
    seed = values.seed(seed)
    guidance = values.number(guidance, "Guidance", 1, MAX_GUIDANCE)
    settings = {
        "num_inference_steps": values.number(steps, "Steps", 1, max_steps(model), integer=True),
        "guidance_scale": guidance if model.null_label is not None else 1.0,
        "sampler": SAMPLER_NAMES[values.choice(sampler, "Sampler", SAMPLER_NAMES)],
    } | guidance_by(guide, guide_scale)
    seeds = [(seed + k) % 2**63 for k in range(count)]
    return Order(model, [labels[k % len(labels)] for k in range(count)], seeds, settings)


def check_fork(
    order: Order, after, label, guidance, sampler, guide_scale=0, *, guide: Classifier | None = None
) -> Order:
    """The order with another way on after so many steps; gr.Error names the range of the first that is wrong."""
    model, steps = order.model, order.settings["num_inference_steps"]
    after = values.number(after, "Steps before the fork", 0, steps - 1, integer=True)
    label = values.choice(label, "Class", label_choices(model))
    guidance = values.number(guidance, "Guidance", 1, MAX_GUIDANCE)
    sampler = SAMPLER_NAMES[values.choice(sampler, "Sampler", SAMPLER_NAMES)]
    labels = [label] * len(order.labels) if model.label_names else None
    by = guidance_by(guide, guide_scale)
    w = guidance if model.null_label is not None else None
    fork = ddpm.Fork(after, labels, w, sampler, by.get("guide_scale", 0.0))
    guided = {"guide": guide, "guide_scale": 0.0} if by else {}  # before the fork, unless the order says another
    return dataclasses.replace(order, settings=guided | order.settings | {"fork": fork})


class Desk:
    """The models that are loaded, the classifiers that can guide them, and the flags of those who draw."""

    def __init__(self, models: Mapping[str, DDPM], guides: Sequence[Classifier] = ()):
        self.models, self.guides, self.flags = values.Models(models), guides, StopFlags()

    def guide_of(self, model: DDPM) -> Classifier | None:
        """The first classifier that sees noisy pictures of this size and knows these classes."""
        fits = (one for one in self.guides if one.reads_noise and one.resolution_px == model.resolution_px)
        return next((one for one in fits if model.label_names and {*model.label_names} <= {*one.label_names}), None)

    def own_fields(self, name) -> dict[str, dict]:
        """See `own_fields`. Raises InputError for a model that isn't here."""
        model = self.models.chosen(name)
        return own_fields(model, self.guide_of(model))

    def order(self, name, *asked) -> Order:
        model = self.models.chosen(name)
        return check_order(model, *asked, guide=self.guide_of(model))

    def branch(self, film: Film, k: int, frame: int, *changed) -> Order:
        """Picture k of a film, which goes another way at a frame. Raises InputError."""
        receipt, after = film.receipt, film.steps[frame]
        if after >= film.total or frame == film.last:
            raise values.InputError("That is the end of the film: drag the frame to where it should go another way.")
        model = next((m for m in self.models.values() if m.weights_sha256 == receipt["weights_sha256"]), None)
        if model is None:
            raise values.InputError("The model of this drawing is not here any more: draw again.")
        settings = {name: receipt[name] for name in ("num_inference_steps", "guidance_scale", "sampler")}
        guide = self.guide_of(model)
        settings |= guidance_by(guide, receipt.get("guide_scale", 0))
        order = Order(model, [receipt["labels"][k]], [int(receipt["seeds"][k])], settings)
        return check_fork(order, after, *changed, guide=guide)

    def noisy(self, image: Image.Image, t, seed, label, name) -> tuple[Image.Image, Image.Image]:
        """The picture t steps into the noise, and what the model sees under it. Raises InputError."""
        model = self.models.chosen(name)
        t = values.number(t, "t", 0, model.num_train_timesteps - 1, integer=True)
        label = values.choice(label, "Class", label_choices(model))
        return model.forward_process(image, t, values.seed(seed), label)

    # For programs

    def ddpm_draw(self, labels, count, seed, steps, guidance, sampler, model, guide_scale, request: gr.Request):
        """Draw pictures. Returns one PNG a picture, a receipt in its text, and the receipt of them all.

        Parameters:
            labels: class names, dealt out in turn over the pictures; "any" leaves the class to the model
            count: how many pictures, 1 to 16
            seed: the first picture's, reduced modulo 2**63; -1 draws a fresh one; picture k has seed + k
            steps: denoising steps, 1 to 250, at most the timesteps the model was trained with
            guidance: 1 (none) to 10
            sampler: "DDIM", "DDPM", "DPM-Solver++" or "Langevin"
            model: the name of a loaded model
            guide_scale: 0 (none) to 10, how far a classifier of noisy pictures guides besides
        """
        order = self.order(model, labels, count, seed, steps, guidance, sampler, guide_scale)
        images = to_uint8(drawing_page.whole(order, self.flags, request.session_hash).x_t)
        drawn = [with_receipt(Image.fromarray(pixels), order.receipt(k)) for k, pixels in enumerate(images)]
        return list(zip(drawn, [f"{label}, {seed}" for label, seed in order.captions], strict=True)), order.receipt()

    def ddpm_film(self, label, seed, steps, guidance, sampler, model, guide_scale, request: gr.Request):
        """Draw one picture and return its film: a GIF with x_t on the left and the predicted x0 on the right.

        Parameters:
            label: a class name, or "any"
            seed: reduced modulo 2**63; -1 draws a fresh one
            steps: denoising steps, 1 to 250, at most the timesteps the model was trained with
            guidance: 1 (none) to 10
            sampler: "DDIM", "DDPM", "DPM-Solver++" or "Langevin"
            model: the name of a loaded model
            guide_scale: 0 (none) to 10, how far a classifier of noisy pictures guides besides
        """
        order = self.order(model, label, 1, seed, steps, guidance, sampler, guide_scale)
        recorder = Recorder(order)
        drawing_page.whole(recorder, self.flags, request.session_hash)
        return recorder.film().gif_file(0), order.receipt()

    def ddpm_fork(
        self, label, seed, steps, guidance, sampler, after, new_label, new_guidance, new_sampler, model,
        guide_scale, new_guide_scale, request: gr.Request,
    ):  # fmt: skip
        """Draw one picture twice, the same way at first, and return a GIF of both: above as asked, below as changed.

        Parameters:
            label: a class name, or "any"
            seed: reduced modulo 2**63; -1 draws a fresh one
            steps: denoising steps, 1 to 250, at most the timesteps the model was trained with
            guidance: 1 (none) to 10
            sampler: "DDIM", "DDPM", "DPM-Solver++" or "Langevin"
            after: how many steps are the same, 0 to one less than steps
            new_label: the class from then on
            new_guidance: from then on
            new_sampler: from then on, over the same timesteps
            model: the name of a loaded model
            guide_scale: 0 (none) to 10, how far a classifier of noisy pictures guides besides
            new_guide_scale: from then on
        """
        order = self.order(model, label, 1, seed, steps, guidance, sampler, guide_scale)
        changed = new_label, new_guidance, new_sampler, new_guide_scale
        recorders = Recorder(order), Recorder(check_fork(order, after, *changed, guide=self.guide_of(order.model)))
        for recorder in recorders:
            drawing_page.whole(recorder, self.flags, request.session_hash)
        film, fork = (recorder.film() for recorder in recorders)
        return film.gif_file(0, fork), fork.receipt

    def ddpm_forward(self, picture, t, seed, label, model):
        """Put noise on a picture, q(x_t | x_0), and return x_t and the picture the model sees under it.

        Parameters:
            picture: an image file
            t: the timestep, 0 to one less than the model was trained with
            seed: of the noise, reduced modulo 2**63; -1 draws a fresh one
            label: a class name, or "any"
            model: the name of a loaded model
        """
        return self.noisy(pictures.read_picture(picture), t, seed, label, model)
