"""Write a prompt and watch a latent diffusion model draw it; every PNG carries what draws it again: the page `text_to_image`.

    python -m apps.text_to_image [--model emoji --model FOLDER --model org/repo] [--port 7860]

Any folder or Hub repo of a Stable-Diffusion-type pipeline can be served. Letters: B pictures, h × w latent pixels.
"""

import base64
import html
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import gradio as gr
import numpy as np
from gradio import processing_utils
from PIL import Image

from apps import ui
from apps.kit import pictures, visitors
from hub_models import store, text_to_image
from hub_models.text_to_image import ReceiptError, Step, TextToImage, Verdict

STEM = "text_to_image"
MAX_PICTURES = 8
MAX_STEPS = 100
MAX_GUIDANCE = 20
MAX_CHARACTERS = text_to_image.MAX_PROMPT_CHARACTERS
PICTURES = 4
DEADLINE_SECONDS = 300  # a drawing that takes longer is stopped, and says so
PREVIEWS = 12  # of a drawing under way at most: each costs a message to the page
SAMPLER_NAMES = {"DPM-Solver++": "dpm++", "DDIM": "ddim", "UniPC": "unipc", "DDPM": "ddpm", "Euler": "euler"}
ANY_STYLE = "any style"
IDEAS = ("a red apple", "a sleeping cat face", "a rocket", "an octopus with a hat", "a green house")


# ---- what to draw, checked --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What to draw. `settings` are the arguments that `TextToImage.generate` and `.receipt` share."""

    model: TextToImage
    prompt: str
    seeds: list[int]
    settings: dict

    def steps(self) -> Iterator[Step]:
        return self.model.generate(self.prompt, self.seeds, **self.settings)

    def pngs(self, step: Step) -> list[Image.Image]:
        """The pictures after this step, each with its receipt; of a stopped drawing, what the model takes them for."""
        done = step.index + 1
        drawn = self.model.decode(step.latents if done == step.total else step.x0)
        receipts = [
            self.model.receipt(self.prompt, seed, picture=picture, steps_done=done, **self.settings)
            for seed, picture in zip(self.seeds, drawn, strict=True)
        ]
        return [
            pictures.png_with_text(
                picture,
                {
                    text_to_image.RECEIPT_KEY: json.dumps(receipt),
                    text_to_image.PARAMETERS_KEY: text_to_image.parameters_text(receipt),
                },
            )
            for picture, receipt in zip(drawn, receipts, strict=True)
        ]

    def notices(self) -> list[str]:
        return notices(self.model, self.prompt, self.settings["negative_prompt"])


def check_text(value, name: str) -> str:
    """The text without what nobody sees in it. Raises ui.InputError for what isn't text, and above MAX_CHARACTERS."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ui.InputError(f"{name} must be text of at most {MAX_CHARACTERS:,} characters.")
    normal = text_to_image.normalise_prompt(value) if len(value) <= MAX_CHARACTERS else value
    if len(normal) > MAX_CHARACTERS:
        raise ui.InputError(f"{name} has {len(normal):,} characters, at most {MAX_CHARACTERS:,} are taken: shorten it.")
    return normal


def check_drawn_seed(value) -> int:
    """The seed in a receipt; `ui.typed_seed` would draw a fresh one for nothing and -1."""
    if str(value).strip() in ("", "-1", "None"):
        raise ui.InputError("Seed must be a whole number.")
    return ui.typed_seed(value)


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
    return min(MAX_STEPS, model.num_train_timesteps)


def check_order(
    model, prompt, negative, count, seed, steps, guidance, sampler, picture, strength, style=ANY_STYLE
) -> Order:
    """The order that raw parameters stand for; gr.Error names what is wrong with the first that is."""
    prompt = check_text(prompt, "Prompt")
    style = ui.choice(style, "Style", style_choices(model))
    count = ui.number(count, "Pictures", 1, MAX_PICTURES, integer=True)
    first = ui.typed_seed(seed)
    settings = {
        "negative_prompt": check_text(negative, "Negative prompt"),
        "num_inference_steps": ui.number(steps, "Steps", 1, max_steps(model), integer=True),
        "guidance_scale": ui.number(guidance, "Guidance", 1, MAX_GUIDANCE),
        "sampler": SAMPLER_NAMES[ui.choice(sampler, "Sampler", SAMPLER_NAMES)],
    }
    if picture is not None:
        strength = ui.number(strength, "Strength", 0.01, 1)
        settings |= {"image": pictures.read_picture(picture, ground=model.ground), "strength": strength}
    prompt = check_text(with_style(prompt, style), "Prompt")
    return Order(model, prompt, [(first + k) % 2**63 for k in range(count)], settings)


def notices(model: TextToImage, prompt: str, negative: str) -> list[str]:
    """What to know of these texts before and after they are drawn."""
    said = [] if prompt else ["No prompt: the model draws whatever it likes (unconditional)."]
    for name, text in (("prompt", prompt), ("negative prompt", negative)):
        if cut := model.was_cut(text):
            said.append(f"The {name} is cut: the model reads {model.max_length} tokens, and leaves out “{cut}”.")
    return said


# ---- receipts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A receipt read from a PNG, and what this page can do with it."""

    receipt: dict
    name: str  # of the model that drew it, or, where that is not here, of the one that its settings go to
    here: bool  # whether that is the model that drew it
    settings: dict  # those that can be taken, under the receipt's names
    problems: list[str]  # a sentence for each that cannot, and for a model that is not here

    @property
    def prompt(self) -> str:
        return self.settings.get("prompt", "")


def read(path: str | None, models: dict[str, TextToImage], chosen: str) -> Found:
    """The receipt in a PNG, for these models. Raises ReceiptError, in words for the page, where there is none."""
    receipt = text_to_image.read_receipt(pictures.read_png_text(path))
    name = next((name for name, model in models.items() if drew(model, receipt)), None)
    here = name is not None
    if name is None:
        name = receipt.get("model")
        name = name if isinstance(name, str) and name in models else chosen
    settings, problems = taken(receipt, models[name])
    if not here:
        sha = receipt.get("weights_sha256") or receipt.get("model_hash") or "unknown"
        problems.append(
            f"It was drawn by the weights {str(sha)[:12]} of model {str(receipt.get('model') or 'unknown')[:60]}, which are "
            "not loaded here: start the page with that --model to draw the same picture."
        )
    if "strength" in receipt:
        problems.append(
            "It was drawn from another picture, which is not in the PNG: give that one as the start picture."
        )
    return Found(receipt, name, here, settings, problems)


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
        "num_inference_steps": lambda value: ui.number(value, "Steps", 1, max_steps(model), integer=True),
        "guidance_scale": lambda value: ui.number(value, "Guidance", 1, MAX_GUIDANCE),
        "sampler": lambda value: ui.choice(value, "Sampler", SAMPLER_NAMES.values()),
        "seed": check_drawn_seed,
        "strength": lambda value: ui.number(value, "Strength", 0.01, 1),
    }
    settings, problems = {}, []
    for name, judge in checks.items():
        if name not in receipt:
            if name != "strength":
                problems.append(f"It does not say {name.replace('_', ' ')}.")
            continue
        try:
            settings[name] = judge(receipt[name])
        except ui.InputError as error:
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
    started, left = time.monotonic(), visitors.left()

    def look(step: Step) -> None:
        if stop.is_set() or left() or time.monotonic() - started > seconds:
            cause = "stopped" if stop.is_set() else f"out of time ({seconds} s)"
            raise ReceiptError(f"{cause} after {step.index + 1} of {step.total} steps: nothing was compared")

    return look


FIELDS = {
    "picture": "the pixels",
    "weights_sha256": "weights",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "image_sha256": "start picture",
    "picture_sha256": "the picture's hash",
    "steps_done": "steps done",
    "negative_prompt": "negative prompt",
}
VERDICTS = {
    "identical": ("Identical", "Drawn again, every pixel came out the same."),
    "within 1/255": ("Within 1/255", "Drawn again, no pixel is off by more than 1 of 255: the same picture, rounded otherwise."),
    "different": ("Different", "Drawn again, another picture comes out."),
}  # fmt: skip


def verdict_html(verdict: Verdict, found: Found) -> str:
    """What verifying showed, and each field that does not fit: altered by hand, or other than what is here."""
    title, text = VERDICTS[verdict.state]
    altered = text_to_image.altered_fields(found.receipt)
    edited = [FIELDS.get(name, name) for name in verdict.fields if name in altered or name == "picture"]
    others = [FIELDS.get(name, name) for name in verdict.fields if name not in altered and name != "picture"]
    lines = [text]
    if edited:
        lines.append(f"Altered since it was drawn: {', '.join(edited)}.")
    if others:
        lines.append(f"Not as it was drawn: {', '.join(others)}.")
    tone = "good" if verdict.state != "different" and not verdict.fields else "bad"
    return card(title, lines, tone) + receipt_html(found)


def card(title: str, lines: list[str], tone: str = "") -> str:
    body = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<div class="verdict {tone}" role="status"><strong>{html.escape(title)}</strong>{body}</div>'


def restored_html(found: Found) -> str:
    """That the settings are back on the form, or what of them cannot be, over the receipt."""
    title = "Settings restored" if found.here else "Settings restored, without their weights"
    return card(title, found.problems or ["They stand in the form above: Draw draws it again."]) + receipt_html(found)


def receipt_html(found: Found) -> str:
    receipt = found.receipt
    rows = {
        "Prompt": receipt.get("prompt", "") or "(none)",
        "Negative prompt": receipt.get("negative_prompt", ""),
        "Seed": receipt.get("seed", ""),
        "Steps": receipt.get("num_inference_steps", ""),
        "Stopped after": receipt.get("steps_done", ""),
        "Guidance": receipt.get("guidance_scale", ""),
        "Sampler": next((shown for shown, name in SAMPLER_NAMES.items() if name == receipt.get("sampler")), ""),
        "Strength": receipt.get("strength", ""),
        "Model": receipt.get("model", ""),
        "Weights": str(receipt.get("weights_sha256") or receipt.get("model_hash") or "")[:12],
        "Device": receipt.get("device", ""),
    }
    return ui.facts({name: str(value)[:MAX_CHARACTERS] for name, value in rows.items() if value not in ("", None)})


# ---- pictures into the page -------------------------------------------------------------------------------------------


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def preview_html(step: Step, seeds: list[int]) -> str:
    """The sheet of a drawing under way, from its latents' colours (B, h, w, 3); the browser draws them large and smooth."""
    tiles = []
    for k, seed in enumerate(seeds):
        picture = '<div class="pending"></div>'
        if step.preview is not None:
            buffer = io.BytesIO()
            Image.fromarray(step.preview[k]).save(buffer, "PNG")
            picture = f'<img class="rough" src="{data_url(buffer.getvalue())}" alt="Preview of picture {k + 1}">'
        tiles.append(f'<figure class="tile">{picture}<figcaption>seed {seed}</figcaption></figure>')
    return f'<div class="sheet cols-{ui.columns(len(tiles))}">{"".join(tiles)}</div>'


def sheet_html(pngs: list[bytes], order: Order) -> str:
    """The sheet of finished pictures. Each is the PNG itself, receipt and all, however it is saved from the page."""
    tiles = []
    for k, (png, seed) in enumerate(zip(pngs, order.seeds, strict=True)):
        alt = html.escape(f"Picture {k + 1}: {order.prompt or 'no prompt'}, seed {seed}")
        tiles.append(
            f'<figure class="tile"><img src="{data_url(png)}" alt="{alt}"><figcaption><span>seed {seed}</span>'
            f'<button type="button" data-save="{html.escape(file_name(order.prompt, seed))}">Download PNG</button>'
            f'<button type="button" data-start="{k}">Start from it</button></figcaption></figure>'
        )
    return f'<div class="sheet cols-{ui.columns(len(tiles))}">{"".join(tiles)}</div>'


def file_name(prompt: str, seed: int) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
    return f"{words or 'picture'}-{seed}.png"


def sent_html(model: TextToImage, prompt, style, negative) -> str:
    """What will be sent of the form as it stands, with what the model leaves out struck through, and the notices."""
    try:
        style = ui.choice(style, "Style", style_choices(model))
        prompt = check_text(with_style(check_text(prompt, "Prompt"), style), "Prompt")
        negative = check_text(negative, "Negative prompt")
    except ui.InputError as error:
        return f'<div class="sent"><p class="notice" role="status">{error.message}</p></div>'
    cut = model.was_cut(prompt) or ""
    kept = html.escape(prompt.removesuffix(cut)) + (f"<del>{html.escape(cut)}</del>" if cut else "")
    lines = f"<p>Will be sent: <q>{kept}</q></p>" if prompt else ""
    lines += "".join(
        f'<p class="notice" role="status">{html.escape(said)}</p>' for said in notices(model, prompt, negative)
    )
    return f'<div class="sent">{lines}</div>'


# ---- the page ---------------------------------------------------------------------------------------------------------

SHEET_CSS = (
    ui.SHEET_CSS
    + """
.tile { margin: 0; }
.tile .rough { filter: blur(6px); clip-path: inset(0 round 12px); }
.pending { aspect-ratio: 1; border-radius: 12px; background: var(--neutral-200); opacity: 0.4; }
.tile figcaption { display: flex; flex-wrap: wrap; gap: 2px 12px; padding: 5px 2px 0; font-size: 12px; line-height: 1.5;
                   color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.tile figcaption span { flex: 1; min-width: max-content; }
.tile button { padding: 2px 0; margin: 0; background: none; border: 0; cursor: pointer; font-size: 12px; font-weight: 500;
               color: var(--link-text-color); text-decoration: underline; text-underline-offset: 2px; }
"""
)

SHEET_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.save) {
    const link = document.createElement('a');
    link.href = button.closest('figure').querySelector('img').src;
    link.download = button.dataset.save;
    link.click();
  } else trigger('click', { k: Number(button.dataset.start) });
});
"""

SENT_CSS = """
.sent { min-height: 1.6em; font-size: 0.9rem; line-height: 1.6; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.sent p { margin: 0; }
.sent q { color: var(--body-text-color); quotes: "“" "”"; }
.sent del { opacity: 0.6; }
.sent .notice { color: var(--body-text-color); border-left: 3px solid var(--color-accent); padding-left: 0.6rem; margin-top: 0.25rem; }
"""

VERDICT_CSS = """
.verdict { padding: 0.75rem 1rem; border-radius: var(--radius-lg); border: 1px solid var(--border-color-primary);
           border-left: 4px solid var(--neutral-400); overflow-wrap: anywhere; }
.verdict p { margin: 0.3rem 0 0; color: var(--body-text-color); }
.verdict.good { border-left-color: var(--primary-600); }
.verdict.bad { border-left-color: var(--error-icon-color); }
.v-facts { margin-top: 0.9rem; }
"""

ENTER_DRAWS = "() => document.querySelector('#text-to-image-draw').click()"  # nothing, while that button is off
NO_PNG = "Drop a PNG that was drawn here: its settings go back into the form, and Verify draws it again."


def build(models: dict[str, TextToImage | store.CheckpointError]) -> gr.Blocks:
    """The page around loaded models; in the place of one that could not be loaded stands the cause."""
    usable = {name: model for name, model in models.items() if isinstance(model, TextToImage)}
    with ui.blocks("Write, and watch it drawn · Vitrail") as demo:
        ui.heading(
            "Write, and watch it drawn",
            "A latent diffusion model reads your words and draws them out of noise. Every PNG knows how it was made.",
        )
        for name, model in models.items():
            if name not in usable:
                ui.degraded(name, model)
        if usable:
            form = _draw_part(demo, usable)
            _restore_part(demo, usable, form)
            _draw_endpoint(usable, form)
    return demo


@dataclass(frozen=True)
class Form:
    """The fields of the page that say what to draw, and the flags of its sessions."""

    prompt: gr.Textbox
    negative: gr.Textbox
    count: gr.Slider
    seed: gr.Textbox
    steps: gr.Slider
    guidance: gr.Slider
    sampler: gr.Radio
    picture: gr.Image
    strength: gr.Slider
    style: gr.Radio
    fresh: gr.Checkbox
    from_picture: gr.Accordion
    model_name: gr.Radio
    flags: ui.StopFlags

    @property
    def order(self) -> list:
        """The inputs of check_order, style apart."""
        return [self.prompt, self.negative, self.count, self.seed, self.steps, self.guidance, self.sampler, self.picture,
                self.strength]  # fmt: skip

    @property
    def of_model(self) -> list:
        """What depends on the chosen model."""
        return [self.style, self.steps, self.guidance, self.sampler]


def fitted(model: TextToImage, settings: Mapping) -> list[dict]:
    """The fields Form.of_model for a model, at these settings or else at its own defaults."""
    ours = {name: shown for shown, name in SAMPLER_NAMES.items()}
    top = max_steps(model)
    return [
        {"choices": style_choices(model), "value": settings.get("style", ANY_STYLE), "visible": bool(model.styles)},
        {"maximum": top, "value": settings.get("num_inference_steps", min(model.default_steps, top))},
        {"value": settings.get("guidance_scale", model.default_guidance)},
        {"value": ours[settings.get("sampler", model.default_sampler)]},
    ]


def _draw_part(demo, models) -> Form:
    first = next(iter(models.values()))
    style, steps, guidance, sampler = fitted(first, {})
    model_name = gr.Radio(list(models), value=next(iter(models)), label="Model", visible=len(models) > 1)
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(
            "", label="Prompt", show_label=False, container=False, placeholder="What shall it draw?", max_lines=4, scale=8,
            min_width=260, elem_id="text-to-image-prompt",
        )  # fmt: skip
        draw = gr.Button("Draw", variant="primary", scale=1, min_width=110, elem_id="text-to-image-draw")
        stop = gr.Button("Stop", variant="stop", scale=1, min_width=90, interactive=False)
    sent = gr.HTML(sent_html(first, "", ANY_STYLE, ""), css_template=SENT_CSS, elem_id="text-to-image-sent")
    style = gr.Radio(**style, label="Style", show_label=False, container=False, elem_classes="chips")
    with gr.Row(equal_height=False):
        with gr.Column(scale=8, min_width=320):
            sheet = gr.HTML(
                ui.blank("Write what you want to see and press Enter: it forms here out of noise."),
                css_template=SHEET_CSS,
                js_on_load=SHEET_JS,
                elem_id="text-to-image-sheet",
            )
            status = gr.HTML(ui.status("Nothing drawn yet."), elem_id="text-to-image-status")
            gr.Examples(
                [[idea] for idea in IDEAS], prompt, label="Ideas", api_name=f"{STEM}_idea", api_visibility="private"
            )
        with gr.Column(scale=4, min_width=280):
            count = gr.Slider(1, MAX_PICTURES, PICTURES, step=1, label="Pictures")
            steps = gr.Slider(1, **steps, step=1, label="Steps")
            guidance = gr.Slider(
                1,
                MAX_GUIDANCE,
                **guidance,
                step=0.1,
                label="Guidance",
                info="1 switches it off.",
            )
            sampler = gr.Radio(list(SAMPLER_NAMES), **sampler, label="Sampler", elem_classes="chips")
            seed = gr.Textbox(
                "0", label="Seed", info="Of the first picture; each next has one more.", max_lines=1,
                elem_id="text-to-image-seed",
            )  # fmt: skip
            fresh = gr.Checkbox(True, label="New seed every time")
            negative = gr.Textbox("", label="Negative prompt", info="What to steer away from.", max_lines=3)
            with gr.Accordion("Start from a picture", open=False) as from_picture:
                picture = pictures.picture_input("Start picture", height=200)
                strength = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength", info="How much of it is redrawn.")
    form = Form(prompt, negative, count, seed, steps, guidance, sampler, picture, strength, style, fresh, from_picture,
                model_name, ui.StopFlags())  # fmt: skip
    drawn = gr.State(None, time_to_live=3600)  # the PNGs on the sheet

    def draw_stream(
        name, fresh, style, prompt, negative, count, seed, steps, guidance, sampler, picture, strength,
        request: gr.Request,
    ):  # fmt: skip
        model = models[ui.choice(name, "Model", models)]
        seed = None if fresh else seed
        order = check_order(model, prompt, negative, count, seed, steps, guidance, sampler, picture, strength, style)
        flag = form.flags.get(request.session_hash)
        total, started = None, time.monotonic()
        for step in ui.until(order.steps(), flag, DEADLINE_SECONDS):
            now = time.monotonic()
            if total is None:
                total, shown = step.total, 0.0
                previews = set(np.linspace(0, total - 1, PREVIEWS).round().astype(int).tolist())
            if step.index in previews or now - shown > 1:
                text = f"Step {step.index + 1} of {total}, {now - started:.1f} s"
                tiles = preview_html(step, order.seeds)
                yield tiles, ui.status(text, (step.index + 1) / total), str(order.seeds[0]), gr.skip()
                shown = time.monotonic()
        pngs = [processing_utils.encode_pil_to_bytes(png) for png in order.pngs(step)]
        seconds, done = time.monotonic() - started, step.index + 1
        cause = "Stopped" if flag.is_set() else f"Out of time ({DEADLINE_SECONDS} s: ask for fewer steps or pictures)"
        text = f"Done: {done} steps" if done == total else f"{cause} after {done} of {total} steps"
        text = " ".join([f"{text} in {seconds:.1f} s, seed {order.seeds[0]}.", *order.notices()])
        yield sheet_html(pngs, order), ui.status(text), str(order.seeds[0]), pngs

    def start_from(pngs, event: gr.EventData):
        if pngs is None:
            return gr.skip(), gr.skip()
        k = ui.number(event.k, "Picture", 0, len(pngs) - 1, integer=True)
        return ui.cached_file(pngs[k], "start.png"), gr.Accordion(open=True)

    def say_sent(name, prompt, style, negative):
        return sent_html(models[ui.choice(name, "Model", models)], prompt, style, negative)

    def fit_to_model(name):
        return [gr.update(**field) for field in fitted(models[ui.choice(name, "Model", models)], {})]

    inputs = [model_name, fresh, style, *form.order]
    ui.stoppable(
        demo, form.flags, draw, stop, draw_stream, inputs, [sheet, status, seed, drawn], line=status, stem=STEM
    )
    prompt.submit(None, js=ENTER_DRAWS)
    sheet.click(start_from, drawn, [picture, from_picture], **ui.HIDDEN)
    gr.on(
        [prompt.change, style.change, negative.change, model_name.change],
        say_sent,
        [model_name, prompt, style, negative],
        sent,
        trigger_mode="always_last",
        queue=False,
        **ui.HIDDEN,
    )
    model_name.input(fit_to_model, model_name, form.of_model, queue=False, **ui.HIDDEN)
    return form


def _restore_part(demo, models, form: Form) -> None:
    ui.section("Restore or verify", "A PNG drawn here carries its receipt: drop it, and everything is as it was.")
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            png = pictures.picture_input(
                "PNG with a receipt", height=240, sources=["upload"], elem_id="text-to-image-png"
            )
            again = gr.Button("Verify", interactive=False)
            cancel = gr.Button("Cancel", variant="stop", visible=False)
        with gr.Column(scale=8, min_width=320):
            note = gr.HTML(ui.blank(NO_PNG), css_template=VERDICT_CSS, elem_id="text-to-image-receipt")

    def restore(path, chosen):
        """Everything on the form as the PNG's receipt has it; the rest stays."""
        fields = [gr.skip()] * 13
        if path is None:
            return ui.blank(NO_PNG), gr.Button(interactive=False), *fields
        try:
            found = read(path, models, ui.choice(chosen, "Model", models))
        except (ReceiptError, pictures.PictureError) as error:
            message = getattr(error, "message", str(error))
            return card("Nothing to restore", [html.unescape(message)], "bad"), gr.Button(interactive=False), *fields
        settings, model = found.settings, models[found.name]
        prompt, style = without_style(found.prompt, model.styles)
        return (
            restored_html(found),
            gr.Button(interactive=True),
            found.name,
            prompt,
            settings.get("negative_prompt", ""),
            1,
            str(settings["seed"]) if "seed" in settings else gr.skip(),
            "seed" not in settings,
            settings.get("strength", gr.skip()),
            gr.skip() if "strength" in found.receipt else None,
            gr.Accordion(open="strength" in found.receipt),
            *(gr.update(**field) for field in fitted(model, settings | {"style": style})),
        )

    flags = ui.StopFlags()  # of verifications, which a drawing's own leave alone

    def begin(request: gr.Request):
        flags.arm(request.session_hash)
        return ui.status("Drawing it again …", 0), gr.Button(interactive=False), gr.Button(visible=True)

    def halt(request: gr.Request):
        flags.set(request.session_hash)

    def end(path):
        return gr.Button(interactive=path is not None), gr.Button(visible=False)

    def failed(path):
        return *end(path), card("Not verified", ["The message says why."], "bad")

    def drawn_again(path, start, chosen, session):
        try:
            found = read(path, models, ui.choice(chosen, "Model", models))
            on_step = watch(flags.get(session), DEADLINE_SECONDS)
            return found, verify(found, models[found.name], path, start, on_step)
        finally:
            flags.drop(session)

    def verify_here(path, start, chosen, request: gr.Request):
        try:
            found, verdict = drawn_again(path, start, chosen, request.session_hash)
        except (ReceiptError, pictures.PictureError) as error:
            message = getattr(error, "message", str(error))
            return card("Cannot be verified here", [html.unescape(message)], "bad")
        return verdict_html(verdict, found)

    def text_to_image_settings(picture, model):
        """The settings that a PNG was drawn with, from its receipt or from other programs' `parameters` text.

        Parameters:
            picture: a PNG file, as it was downloaded
            model: the name of the model to take the settings for, where the one that drew it is not here
        """
        try:
            found = read(picture, models, ui.choice(model, "Model", models))
        except ReceiptError as error:
            raise ui.InputError(html.escape(str(error))) from error
        settings = found.settings | ({"seed": str(found.settings["seed"])} if "seed" in found.settings else {})
        return {"model": found.name, "weights_here": found.here, "settings": settings, "problems": found.problems}

    def text_to_image_verify(picture, start=None, model=None, request: gr.Request = None):
        """Draw a PNG's picture again and compare: "identical", "within 1/255" or "different", and in which fields.

        Parameters:
            picture: a PNG file, as it was downloaded
            start: the picture that it was drawn from, for image-to-image, or nothing
            model: the name of the model to ask, where the receipt's own model was altered
        """
        try:
            _, verdict = drawn_again(picture, start, model, request.session_hash)
        except ReceiptError as error:
            raise ui.InputError(html.escape(str(error))) from error
        return {"verdict": verdict.state, "fields": list(verdict.fields)}

    outputs = [form.model_name, form.prompt, form.negative, form.count, form.seed, form.fresh, form.strength, form.picture,
               form.from_picture, *form.of_model]  # fmt: skip
    png.change(restore, [png, form.model_name], [note, again, *outputs], queue=False, **ui.HIDDEN)
    one = {"concurrency_id": STEM, "concurrency_limit": 1}
    begun = again.click(begin, None, [note, again, cancel], queue=False, **ui.HIDDEN)
    verified = begun.then(verify_here, [png, form.picture, form.model_name], note, **one, **ui.HIDDEN)
    verified.then(end, png, [again, cancel], queue=False, **ui.HIDDEN)
    verified.failure(failed, png, [again, cancel, note], queue=False, **ui.HIDDEN)
    cancel.click(halt, None, None, queue=False, **ui.HIDDEN)
    demo.unload(halt)
    result = gr.JSON(label="Result", visible=False)
    gr.Button(visible=False).click(
        text_to_image_settings, [png, form.model_name], result, api_name="text_to_image_settings", queue=False
    )
    gr.Button(visible=False).click(
        text_to_image_verify, [png, form.picture, form.model_name], result, api_name="text_to_image_verify", **one
    )


def _draw_endpoint(models, form: Form) -> None:
    """`text_to_image_draw`: for programs, which want the pictures and not the watching."""
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    receipts = gr.JSON(label="Receipts", visible=False)
    said = gr.JSON(label="Notices", visible=False)

    def text_to_image_draw(
        prompt, negative_prompt, count, seed, steps, guidance, sampler, picture=None, strength=None, model=None,
        request: gr.Request = None,
    ):  # fmt: skip
        """Draw pictures. Returns one PNG a picture, a receipt in its text; the receipts; and notices, as of a cut prompt.

        Parameters:
            prompt: up to 2,000 characters; empty leaves all to the model
            negative_prompt: what to steer away from
            count: how many pictures, 1 to 8
            seed: the first picture's, reduced modulo 2**63; -1 draws a fresh one; picture k has seed + k
            steps: denoising steps, 1 to 100, at most the timesteps the model was trained with
            guidance: 1 (none) to 20
            sampler: "DPM-Solver++", "DDIM", "UniPC", "DDPM" or "Euler"
            picture: a file to start from, or nothing
            strength: how much of that picture is redrawn, 0.01 to 1
            model: the name of a loaded model
        """
        loaded = models[ui.choice(model, "Model", models)]
        order = check_order(loaded, prompt, negative_prompt, count, seed, steps, guidance, sampler, picture, strength)
        flag = form.flags.arm(request.session_hash)
        try:
            for step in ui.until(order.steps(), flag, DEADLINE_SECONDS):
                last = step
        finally:
            form.flags.drop(request.session_hash)
        if last.index + 1 < last.total:
            raise ui.InputError(f"Stopped after {last.index + 1} of {last.total} steps: ask for less at a time.")
        pngs = order.pngs(last)
        made = [json.loads(png.info[text_to_image.RECEIPT_KEY]) for png in pngs]
        captions = [f"{order.prompt or 'no prompt'}, seed {seed}" for seed in order.seeds]
        return list(zip(pngs, captions, strict=True)), made, order.notices()

    gr.Button(visible=False).click(
        text_to_image_draw,
        [*form.order, form.model_name],
        [gallery, receipts, said],
        api_name="text_to_image_draw",
        concurrency_id=STEM,
        concurrency_limit=1,
    )


def load_models(names: list[str]) -> dict[str, TextToImage | store.CheckpointError]:
    """Each named model, or the error in its place."""
    return ui.load_each(text_to_image.load, names)


def main() -> None:
    ui.run(STEM, __doc__.splitlines()[0], load_models, build, ["emoji"])


if __name__ == "__main__":
    main()
