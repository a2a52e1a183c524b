"""What the page computes, for people and for programs: orders checked and drawn, receipts read and verified."""

import dataclasses
import functools
import html
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import gradio as gr
from PIL import Image

from apps.kit import answers, drawing_page, launch, pictures, values
from apps.kit.drawing_page import DEADLINE_SECONDS
from apps.kit.session import StopFlags, Watch
from apps.text_to_image.film import Film, Recorder
from hub_models import store, text_to_image
from hub_models.text_to_image import ReceiptError, Step, TextToImage, Verdict

MAX_PICTURES = 8
MAX_STEPS = 100
MAX_GUIDANCE = 20
MAX_CHARACTERS = text_to_image.MAX_PROMPT_CHARACTERS
SAMPLER_NAMES = {
    "DPM-Solver++": "dpm++", "DDIM": "ddim", "UniPC": "unipc", "DDPM": "ddpm", "Euler": "euler", "LCM": "lcm",
}  # fmt: skip
ANY_STYLE = "any style"


def load_models(names: list[str], lora: str | None = None) -> dict[str, TextToImage | store.CheckpointError]:
    """Each named model, with a LoRA merged into it if one is named, or the error in its place."""
    return launch.load_each(functools.partial(text_to_image.load, lora=lora), names)


# ---- what to draw, checked -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What to draw. `settings` are the arguments that `TextToImage.generate` and `.receipt` share."""

    model: TextToImage
    prompt: str
    seeds: list[int]
    settings: dict

    def steps(self, **how) -> Iterator[Step]:
        """how: `look_inside` of `TextToImage.generate`."""
        return self.model.generate(self.prompt, self.seeds, **self.settings, **how)

    def pngs(self, step: Step) -> list[Image.Image]:
        """The pictures after this step, each with its receipt; of a stopped drawing, what the model takes them for."""
        pngs = []
        for picture, seed in zip(self.model.decode(step.best), self.seeds, strict=True):
            receipt = self.model.receipt(self.prompt, seed, picture=picture, steps_done=step.index + 1, **self.settings)
            line = text_to_image.parameters_text(receipt)
            text = {text_to_image.RECEIPT_KEY: json.dumps(receipt), text_to_image.PARAMETERS_KEY: line}
            pngs.append(pictures.png_with_text(picture, text))
        return pngs

    def notices(self) -> list[str]:
        return notices(self.model, self.prompt, self.settings["negative_prompt"])


def check_text(value, name: str) -> str:
    """The text without what nobody sees in it. Raises InputError for what isn't text, and above MAX_CHARACTERS."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise values.InputError(f"{name} must be text of at most {MAX_CHARACTERS:,} characters.")
    normal = text_to_image.normalise_prompt(value) if len(value) <= MAX_CHARACTERS else value
    if len(normal) > MAX_CHARACTERS:
        most = f"at most {MAX_CHARACTERS:,} are taken"
        raise values.InputError(f"{name} has {len(normal):,} characters, {most}: shorten it.")
    return normal


def check_drawn_seed(value) -> int:
    """The seed in a receipt; `values.typed_seed` would draw a fresh one for nothing and -1."""
    if str(value).strip() in ("", "-1", "None"):
        raise values.InputError("Seed must be a whole number.")
    return values.typed_seed(value)


def with_style(prompt: str, style: str) -> str:
    """What is sent: the prompt, then the style in the words that the model was trained with."""
    if style == ANY_STYLE:
        return prompt
    words = style if style.endswith("style") else f"{style} style"
    return f"{prompt}, {words}" if prompt else words


def without_style(prompt: str, styles: list[str]) -> tuple[str, str]:
    """The prompt and the style that `with_style` made this of."""
    for style in styles:
        ending = with_style("", style)
        if prompt == ending or prompt.endswith(f", {ending}"):
            return prompt.removesuffix(ending).removesuffix(", "), style
    return prompt, ANY_STYLE


def style_choices(model: TextToImage) -> list[str]:
    return [ANY_STYLE, *model.styles]


def max_steps(model: TextToImage) -> int:
    return min(MAX_STEPS, model.max_steps)


def max_guidance(model: TextToImage) -> float:
    return min(MAX_GUIDANCE, model.max_guidance)


def guidance_for(model: TextToImage, scale: float, of: TextToImage) -> float:
    """The guidance of a model where it stands in for another: its own default for the other's, else the same."""
    return model.default_guidance if scale == of.default_guidance else min(scale, model.max_guidance)


def sampler_names(model: TextToImage) -> dict[str, str]:
    """{what it is called: its name} of the samplers that can draw with a model."""
    return {shown: name for shown, name in SAMPLER_NAMES.items() if name in model.samplers}


def is_student(model: TextToImage) -> bool:
    """Whether it was made to draw in a few steps."""
    return model.samplers == text_to_image.FEW_STEPS


def own_settings(model: TextToImage, settings: Mapping) -> dict[str, dict]:
    """What the fields that depend on the model show: these settings of a receipt, or else the model's own defaults."""
    ours = {name: shown for shown, name in sampler_names(model).items()}
    top, most = max_steps(model), max_guidance(model)
    return {
        "style": {
            "choices": style_choices(model),
            "value": settings.get("style", ANY_STYLE),
            "visible": bool(model.styles),
        },
        "steps": {"maximum": top, "value": settings.get("num_inference_steps", min(model.default_steps, top))},
        "guidance": {"maximum": most, "value": min(most, settings.get("guidance_scale", model.default_guidance))},
        "sampler": {
            "choices": list(ours.values()),
            "value": ours.get(settings.get("sampler"), ours[model.default_sampler]),
        },
    }


def check_order(
    model, prompt, negative, count, seed, steps, guidance, sampler, picture, strength, style=ANY_STYLE
) -> Order:
    """The order that raw parameters stand for; gr.Error names what is wrong with the first that is."""
    prompt = check_text(prompt, "Prompt")
    style = values.choice(style, "Style", style_choices(model))
    count = values.number(count, "Pictures", 1, MAX_PICTURES, integer=True)
    first = values.typed_seed(seed)
    settings = {
        "negative_prompt": check_text(negative, "Negative prompt"),
        "num_inference_steps": values.number(steps, "Steps", 1, max_steps(model), integer=True),
        "guidance_scale": values.number(guidance, "Guidance", 1, max_guidance(model)),
        "sampler": SAMPLER_NAMES[values.choice(sampler, "Sampler", sampler_names(model))],
    }
    if picture is not None:
        strength = values.number(strength, "Strength", 0.01, 1)
        settings |= {"image": pictures.read_picture(picture, ground=model.ground), "strength": strength}
    prompt = check_text(with_style(prompt, style), "Prompt")
    return Order(model, prompt, [(first + k) % 2**63 for k in range(count)], settings)


@dataclass(frozen=True)
class Sheet:
    """The last drawing of a visitor."""

    pngs: list[bytes]  # as they are downloaded, receipts and all
    start: Image.Image | None  # what they were drawn from

    def receipt(self, k: int) -> dict:
        with Image.open(io.BytesIO(self.pngs[k])) as png:
            return text_to_image.read_receipt(dict(png.text))


def check_fork(order: Order, after, prompt, guidance, sampler) -> Order:
    """The order with another way on after so many steps; gr.Error says what is wrong with the first that is."""
    image, steps = order.settings.get("image"), order.settings["num_inference_steps"]
    run = text_to_image.steps_run(steps, None if image is None else order.settings["strength"])
    fork = text_to_image.Fork(
        values.number(after, "Steps before the fork", 0, run - 1, integer=True),
        check_text(prompt, "Prompt"),
        values.number(guidance, "Guidance", 1, max_guidance(order.model)),
        SAMPLER_NAMES[values.choice(sampler, "Sampler", sampler_names(order.model))],
    )
    forked = dataclasses.replace(order, settings=order.settings | {"fork": fork})
    try:
        forked.steps()
    except ValueError as error:  # a sampler that takes other timesteps with somebody else's scheduler
        raise values.InputError(html.escape(f"Not forked: {error}.")) from error
    return forked


def notices(model: TextToImage, prompt: str, negative: str) -> list[str]:
    """What to know of these texts before and after they are drawn."""
    said = [] if prompt else ["No prompt: the model draws whatever it likes (unconditional)."]
    if negative and model.reads_guidance:
        said.append("This model reads no negative prompt: choose another one to steer away from something.")
    for name, text in (("prompt", prompt), ("negative prompt", negative)):
        if cut := model.was_cut(text):
            said.append(f"The {name} is cut: the model reads {model.max_length} tokens, and leaves out “{cut}”.")
    return said


# ---- receipts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A receipt read from a PNG, and what this page can do with it."""

    receipt: dict
    name: str  # of the model that drew it, or, where that is not here, of the one that its settings go to
    here: bool  # whether that is the model that drew it
    settings: dict  # those that can be taken, under the receipt's names
    problems: list[str]  # a sentence for each that cannot, and for a model that is not here


def drew(model: TextToImage, receipt: Mapping) -> bool:
    """Whether a receipt names this model's weights, by their hash or, as other programs have it, the head of it."""
    if "weights_sha256" in receipt:
        return receipt["weights_sha256"] == model.weights_sha256
    head = str(receipt.get("model_hash", "")).lower()
    return len(head) >= 8 and model.weights_sha256.startswith(head)


def taken(receipt: Mapping, model: TextToImage) -> tuple[dict, list[str]]:
    """The settings of a receipt that a drawing by this model can have, and what is wrong with each of the others."""
    checks = {
        "prompt": lambda value: check_text(value, "Prompt"),
        "negative_prompt": lambda value: check_text(value, "Negative prompt"),
        "num_inference_steps": lambda value: values.number(value, "Steps", 1, max_steps(model), integer=True),
        "guidance_scale": lambda value: values.number(value, "Guidance", 1, max_guidance(model)),
        "sampler": lambda value: values.choice(value, "Sampler", model.samplers),
        "seed": check_drawn_seed,
        "strength": lambda value: values.number(value, "Strength", 0.01, 1),
    }
    settings, problems = {}, []
    for name, judge in checks.items():
        if name not in receipt:
            if name != "strength":
                problems.append(f"It does not say {name.replace('_', ' ')}.")
            continue
        try:
            settings[name] = judge(receipt[name])
        except values.InputError as error:
            problems.append(f"{html.unescape(error.message)} It stays as it was.")
    return settings, problems


def verify(found: Found, model: TextToImage, path: str, start: str | None, on_step=None) -> Verdict:
    """Draw a PNG's picture again, on_step after every step. Raises ReceiptError where that cannot be done here."""
    altered = text_to_image.altered_fields(found.receipt)
    if not found.here and "weights_sha256" not in altered:
        raise ReceiptError(found.problems[-2 if "strength" in found.receipt else -1])
    receipt = found.receipt
    if "weights_sha256" not in receipt:  # other programs write the head of it alone
        receipt = receipt | {"weights_sha256": model.weights_sha256}
    if "num_inference_steps" in receipt and "num_inference_steps" not in found.settings:
        raise ReceiptError(f"Steps must be a whole number from 1 to {max_steps(model)} to be drawn again here.")
    image = None if start is None else pictures.read_picture(start, ground=model.ground)
    return model.verify(receipt, pictures.read_png(path), image=image, on_step=on_step)


def watch(stop: threading.Event, seconds: float) -> Callable[[Step], None]:
    """What to call after every step of a verification: raises ReceiptError once stop is set or time is out."""
    watching = Watch(stop, seconds)

    def look(step: Step) -> None:
        if cause := watching.over():
            raise ReceiptError(f"{cause} after {step.index + 1} of {step.total} steps: nothing was compared")

    return look


class Desk:
    """The models that are loaded, and the flags of those who draw and of those who verify."""

    def __init__(self, models: Mapping[str, TextToImage]):
        self.models, self.drawing, self.verifying = values.Models(models), StopFlags(), StopFlags()

    def order(self, name, *fields) -> Order:
        """`check_order` for the model of this name."""
        return check_order(self.models.chosen(name), *fields)

    @property
    def student(self) -> TextToImage | None:
        """The first model of few steps; None where there is none."""
        return next((model for model in self.models.values() if is_student(model)), None)

    @property
    def teacher(self) -> TextToImage | None:
        """The first of the others."""
        return next((model for model in self.models.values() if not is_student(model)), None)

    def sketch(self, student: TextToImage, name, prompt, style, seed, guidance, steps: int) -> Order:
        """One picture by a student, in so many steps, for what a form says of the model `name`. Raises InputError."""
        scale = values.number(guidance, "Guidance", 1, MAX_GUIDANCE)
        scale = guidance_for(student, scale, self.models.chosen(name))
        style = style if style in style_choices(student) else ANY_STYLE
        sampler = own_settings(student, {})["sampler"]["value"]
        return check_order(student, prompt, "", 1, seed, steps, scale, sampler, None, None, style)

    def drawn_by(self, model: TextToImage, sheet: Sheet) -> tuple[Order, bool]:
        """The order of a sheet's pictures for this model, from the same noise, and whether this one drew them.

        Another model draws by its own sampler, in its own number of steps. Raises InputError.
        """
        receipts = [sheet.receipt(k) for k in range(len(sheet.pngs))]
        order = self.recorded(receipts[0], sheet.start)
        order = dataclasses.replace(order, seeds=[int(receipt["seed"]) for receipt in receipts])
        if order.model is model:
            return order, True
        own = {
            "num_inference_steps": model.default_steps,
            "guidance_scale": guidance_for(model, order.settings["guidance_scale"], order.model),
            "sampler": model.default_sampler,
        }
        return dataclasses.replace(order, model=model, settings=order.settings | own), False

    def read(self, path: str | None, chosen) -> Found:
        """The receipt in a PNG, for the chosen model where the one that drew it is not here. Raises ReceiptError."""
        self.models.chosen(chosen)
        receipt = text_to_image.read_receipt(pictures.read_png_text(path))
        named = str(receipt.get("model") or "unknown")
        name = next((name for name, model in self.models.items() if drew(model, receipt)), None)
        here = name is not None
        if not here:
            name = named if named in self.models else chosen
        settings, problems = taken(receipt, self.models[name])
        if receipt.get("fork") is not None:
            problems.append(
                "It went another way after some of its steps, which the form above doesn't hold: Verify draws that, "
                "too, and Look inside forks again."
            )
        if not here:
            sha = str(receipt.get("weights_sha256") or receipt.get("model_hash") or "unknown")
            problems.append(
                f"It was drawn by the weights {sha[:12]} of model {named[:60]}, which are not loaded here: start the "
                "page with that --model to draw the same picture."
            )
        if "strength" in receipt:
            problems.append(
                "It was drawn from another picture, which is not in the PNG: give that one as the start picture."
            )
        return Found(receipt, name, here, settings, problems)

    def verified(self, path, start, chosen, session: str | None) -> tuple[Found, Verdict]:
        """The receipt in a PNG, and how its picture, drawn again, compares. Raises ReceiptError where it cannot be."""
        try:
            found = self.read(path, chosen)
            on_step = watch(self.verifying.get(session), DEADLINE_SECONDS)
            return found, verify(found, self.models[found.name], path, start, on_step)
        finally:
            self.verifying.drop(session)

    # Films

    def recorded(self, receipt: Mapping, start: Image.Image | None) -> Order:
        """The order of the picture with this receipt, to be drawn once more. Raises InputError."""
        model = next((m for m in self.models.values() if m.weights_sha256 == receipt["weights_sha256"]), None)
        if model is None:
            raise values.InputError("The model of this drawing is not here any more: draw again.")
        names = ("negative_prompt", "num_inference_steps", "guidance_scale", "sampler")
        settings = {name: receipt[name] for name in names}
        if start is not None:
            settings |= {"image": start, "strength": receipt["strength"]}
        return Order(model, receipt["prompt"], [int(receipt["seed"])], settings)

    def branch(self, film: Film, frame: int, prompt, guidance, sampler) -> Order:
        """A film's drawing, which goes another way at a frame. Raises InputError."""
        if frame == film.last:
            raise values.InputError("That is the end of the film: drag the frame to where it should go another way.")
        return check_fork(self.recorded(film.receipt, film.start), film.steps[frame], prompt, guidance, sampler)

    def film(self, order: Order, session: str | None) -> Film:
        """Of an order of one picture. Raises InputError where it was stopped."""
        recorder = Recorder(order)
        drawing_page.whole(recorder, self.drawing, session)
        return recorder.film()

    def develop(self, film: Film, frame: int) -> None:
        """Decode a frame of a film that is too large to be decoded whole. Raises InputError."""
        film.develop(self.recorded(film.receipt, film.start).model, [frame])

    # For programs

    def text_to_image_draw(
        self, prompt, negative_prompt, count, seed, steps, guidance, sampler, picture=None, strength=None, model=None,
        request: gr.Request = None,
    ):  # fmt: skip
        """Draw pictures. Returns one PNG a picture, a receipt in its text; the receipts; and notices, as of a cut
        prompt.

        Parameters:
            prompt: up to 2,000 characters; empty leaves all to the model
            negative_prompt: what to steer away from
            count: how many pictures, 1 to 8
            seed: the first picture's, reduced modulo 2**63; -1 draws a fresh one; picture k has seed + k
            steps: denoising steps, 1 to 100, at most the timesteps the model was trained with
            guidance: 1 (none) to 20
            sampler: "DPM-Solver++", "DDIM", "UniPC", "DDPM" or "Euler"; of a model of few steps "LCM"
            picture: a file to start from, or nothing
            strength: how much of that picture is redrawn, 0.01 to 1
            model: the name of a loaded model
        """
        asked = prompt, negative_prompt, count, seed, steps, guidance, sampler, picture, strength
        order = self.order(model, *asked)
        pngs = order.pngs(drawing_page.whole(order, self.drawing, request.session_hash))
        made = [json.loads(png.info[text_to_image.RECEIPT_KEY]) for png in pngs]
        captions = [f"{order.prompt or 'no prompt'}, seed {seed}" for seed in order.seeds]
        return list(zip(pngs, captions, strict=True)), made, order.notices()

    def text_to_image_film(
        self, prompt, negative_prompt, seed, steps, guidance, sampler, model=None, request: gr.Request = None
    ):
        """Draw one picture and return its film, its receipt, and where the model looked for each word of the prompt.

        The film is a GIF of at most 24 frames, x_t on the left and the predicted x0 on the right, the receipt in its
        comment. Of each word comes the share of cross-attention that its tokens get, at no more than 60 of the steps,
        and its mean over all steps on a grid.

        Parameters:
            prompt: up to 2,000 characters; empty leaves all to the model
            negative_prompt: what to steer away from
            seed: reduced modulo 2**63; -1 draws a fresh one
            steps: denoising steps, 1 to 100, at most the timesteps the model was trained with
            guidance: 1 (none) to 20
            sampler: "DPM-Solver++", "DDIM", "UniPC", "DDPM" or "Euler"; of a model of few steps "LCM"
            model: the name of a loaded model
        """
        order = self.order(model, prompt, negative_prompt, 1, seed, steps, guidance, sampler, None, None)
        film = self.film(order, request.session_hash)
        return answers.cached_file(film.gif(), "film.gif"), film.receipt, film.attention()

    def text_to_image_fork(
        self, prompt, negative_prompt, seed, steps, guidance, sampler, after, new_prompt, new_guidance, new_sampler,
        model=None, request: gr.Request = None,
    ):  # fmt: skip
        """Draw one picture twice, the same way at first, and return both: a GIF, above as asked and below as changed,
        and the PNG of the second with its receipt, which holds the fork.

        Parameters:
            prompt: up to 2,000 characters; empty leaves all to the model
            negative_prompt: what to steer away from
            seed: reduced modulo 2**63; -1 draws a fresh one
            steps: denoising steps, 1 to 100, at most the timesteps the model was trained with
            guidance: 1 (none) to 20
            sampler: "DPM-Solver++", "DDIM", "UniPC", "DDPM" or "Euler"; of a model of few steps "LCM"
            after: how many steps are the same, 0 to one less than steps
            new_prompt: the prompt from then on
            new_guidance: from then on
            new_sampler: from then on, over the same timesteps
            model: the name of a loaded model
        """
        order = self.order(model, prompt, negative_prompt, 1, seed, steps, guidance, sampler, None, None)
        forked = check_fork(order, after, new_prompt, new_guidance, new_sampler)
        film, other = (self.film(each, request.session_hash) for each in (order, forked))
        return answers.cached_file(film.gif(other), "fork.gif"), other.picture, other.receipt

    def text_to_image_settings(self, picture, model):
        """The settings that a PNG was drawn with, from its receipt or from other programs' `parameters` text.

        Parameters:
            picture: a PNG file, as it was downloaded
            model: the name of the model to take the settings for, where the one that drew it is not here
        """
        try:
            found = self.read(picture, model)
        except ReceiptError as error:
            raise values.InputError(html.escape(str(error))) from error
        settings = found.settings | ({"seed": str(found.settings["seed"])} if "seed" in found.settings else {})
        return {"model": found.name, "weights_here": found.here, "settings": settings, "problems": found.problems}

    def text_to_image_verify(self, picture, start=None, model=None, request: gr.Request = None):
        """Draw a PNG's picture again and compare: "identical", "within 1/255" or "different", and in which fields.

        Parameters:
            picture: a PNG file, as it was downloaded
            start: the picture that it was drawn from, for image-to-image, or nothing
            model: the name of the model to ask, where the receipt's own model was altered
        """
        try:
            _, verdict = self.verified(picture, start, model, request.session_hash)
        except ReceiptError as error:
            raise values.InputError(html.escape(str(error))) from error
        return {"verdict": verdict.state, "fields": list(verdict.fields)}
