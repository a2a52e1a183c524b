"""Draw pictures out of noise with the diffusion model, and watch: the page `ddpm`.

    python -m apps.ddpm [--model emoji-32 --model FOLDER --model org/repo] [--port 7860]

Letters: B pictures of R × R pixels, F kept frames of a film.
"""

import base64
import html
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr
import numpy as np
from gradio import processing_utils
from PIL import Image

from apps import ui
from apps.kit import pictures
from hub_models import ddpm, store
from hub_models.ddpm import DDPM, Step

MAX_PICTURES = 16
MAX_STEPS = 250
STEPS = 20  # of DPM-Solver++ look like 50 of DDIM
MAX_GUIDANCE = 10
DEADLINE_SECONDS = 300  # a drawing that takes longer is stopped, and says so
PREVIEWS = 10  # pictures of a drawing under way: a yield costs more than a step
FILM_FRAMES = 61
GIF_FRAMES = 40
SAMPLER_NAMES = {"DPM-Solver++": "dpm++", "DDIM": "ddim", "DDPM": "ddpm"}
ANY = "any"


# ---- pictures into the page -------------------------------------------------------------------------------------------


def enlarge(pixels: np.ndarray, side_px: int) -> Image.Image:
    """A picture (R, R, 3) of bytes at about side_px a side, by a whole factor, so that its pixels stay equally large."""
    factor = max(1, side_px // pixels.shape[0])
    return Image.fromarray(pixels).resize((pixels.shape[1] * factor,) * 2, Image.Resampling.LANCZOS)


def data_url(pixels: np.ndarray, side_px: int, quality: int = 90) -> str:
    buffer = io.BytesIO()
    enlarge(pixels, side_px).save(buffer, "WEBP", quality=quality, method=1)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def sheet_html(pictures: np.ndarray, captions: list[tuple[str, str]], *, done: bool) -> str:
    """The sheet of pictures (B, R, R, 3): buttons that choose the film's picture, once the drawing is done."""
    side_px = 256 if done else 128
    tiles = []
    for k, (pixels, (label, detail)) in enumerate(zip(pictures, captions, strict=True)):
        name = f"Picture {k + 1}: {label}, seed {detail}"
        tiles.append(
            f'<button type="button" class="tile" data-k="{k}" aria-pressed="{str(done and k == 0).lower()}"'
            f' aria-label="{html.escape(name)}. Show its film." {"" if done else "disabled"}>'
            f'<img src="{data_url(pixels, side_px)}" alt="{html.escape(name)}">'
            f"<span><b>{html.escape(label)}</b> {html.escape(detail)}</span></button>"
        )
    return f'<div class="sheet cols-{ui.columns(len(tiles))}">{"".join(tiles)}</div>'


def pair_html(left: np.ndarray, right: np.ndarray, left_caption: str, right_caption: str) -> str:
    """Two pictures (R, R, 3) side by side, with captions that may hold markup."""
    figures = "".join(
        f'<figure><img src="{data_url(pixels, 320)}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'
        for pixels, caption, alt in (
            (left, left_caption, "the noisy picture"),
            (right, right_caption, "the model's guess of the clean picture"),
        )
    )
    return f'<div class="pair">{figures}</div>'


def sheet(pictures: np.ndarray) -> Image.Image:
    """The pictures (B, R, R, 3), enlarged, on one transparent sheet."""
    tiles = [enlarge(pixels, 256) for pixels in pictures]
    cols, gap = ui.columns(len(tiles)), 16
    rows, pitch = -(-len(tiles) // cols), tiles[0].width + gap
    image = Image.new("RGBA", (cols * pitch + gap, rows * pitch + gap), (0, 0, 0, 0))
    for k, tile in enumerate(tiles):
        image.paste(tile, (gap + k % cols * pitch, gap + k // cols * pitch))
    return image


def with_receipt(image: Image.Image, receipt: dict) -> Image.Image:
    """The picture with its receipt in PNG text: JSON under our own key, and one line that other programs read."""
    line = (
        f"{', '.join(receipt['labels'])}\nSteps: {receipt['num_inference_steps']}, Sampler: {receipt['sampler']}, "
        f"CFG scale: {receipt['guidance_scale']:g}, Seed: {receipt['seeds'][0]}, "
        f"Model hash: {receipt['weights_sha256'][:10]}, Model: {receipt['model']}"
    )
    return pictures.png_with_text(image, {ddpm.RECEIPT_KEY: json.dumps(receipt), "parameters": line})


# ---- drawing ----------------------------------------------------------------------------------------------------------


@dataclass
class Film:
    """What the last drawing of a session left: bytes, as one of 16 pictures of 32 px takes 6 MB."""

    noisy: np.ndarray  # (F, B, R, R, 3) uint8, x_t before each kept step, and the pictures last
    guess: np.ndarray  # (F, B, R, R, 3) uint8, the x0 predicted from it
    steps: list[int]  # (F,) steps done before each frame
    timesteps: list[int]  # (F,) its t, and -1 for the pictures
    total: int
    captions: list[tuple[str, str]]
    receipt: dict

    def picture(self, k: int) -> np.ndarray:
        return self.noisy[-1, k]  # (R, R, 3)

    def frame_html(self, k: int, frame: int) -> str:
        done, t = self.steps[frame], self.timesteps[frame]
        left = f"<b>x<sub>t</sub></b> after {done} of {self.total} steps" + (f", t = {t}" if t >= 0 else "")
        right = "<b>predicted x<sub>0</sub></b>" if t >= 0 else "<b>the picture</b>"
        return pair_html(self.noisy[frame, k], self.guess[frame, k], left, right)

    def gif(self, k: int) -> bytes:
        """An animated GIF of picture k, x_t on the left and predicted x0 on the right; the last frame stays."""
        frames = []
        for frame in np.unique(np.linspace(0, len(self.steps) - 1, GIF_FRAMES).round().astype(int)):
            left, right = enlarge(self.noisy[frame, k], 160), enlarge(self.guess[frame, k], 160)
            image = Image.new("RGB", (2 * left.width + 8, left.height), "white")
            image.paste(left, (0, 0))
            image.paste(right, (left.width + 8, 0))
            frames.append(image.quantize(256, method=Image.Quantize.FASTOCTREE))  # median cut takes 0.2 s for noise
        buffer, durations = io.BytesIO(), [90] * (len(frames) - 1) + [1800]
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
        return buffer.getvalue()


class Recorder:
    """Keeps FILM_FRAMES frames of a drawing, evenly spaced; `film` is what there is so far."""

    def __init__(self, noise: np.ndarray, total: int):
        self.kept = set(np.linspace(0, total - 1, min(total, FILM_FRAMES - 1)).round().astype(int).tolist())
        self.last, self.total = noise, total
        self.noisy, self.guess, self.steps, self.timesteps = [], [], [], []

    def add(self, step: Step) -> None:
        if step.index in self.kept:
            self.noisy.append(self.last)
            self.guess.append(ddpm.to_uint8(step.x0))
            self.steps.append(step.index)
            self.timesteps.append(step.timestep)
        self.done, self.last, self.last_guess = step.index + 1, ddpm.to_uint8(step.x_t), ddpm.to_uint8(step.x0)

    def film(self, captions: list[tuple[str, str]], receipt: dict) -> Film:
        end = self.last if self.done == self.total else self.last_guess  # stopped: the best there is
        return Film(
            np.stack([*self.noisy, self.last]),
            np.stack([*self.guess, end]),
            [*self.steps, self.done],
            [*self.timesteps, -1],
            self.total,
            captions,
            receipt,
        )


@dataclass(frozen=True)
class Order:
    """What to draw, checked."""

    model: DDPM
    labels: list[str]
    seeds: list[int]
    num_inference_steps: int
    guidance_scale: float
    sampler: str

    @property
    def captions(self) -> list[tuple[str, str]]:
        names = self.labels if self.model.label_names else ["picture"] * len(self.labels)
        return [(label, str(seed)) for label, seed in zip(names, self.seeds, strict=True)]

    def receipt(self, k: int | None = None, steps_done: int | None = None) -> dict:
        """Of picture k, or of all."""
        which = slice(None) if k is None else slice(k, k + 1)
        return self.model.receipt(
            self.labels[which],
            self.seeds[which],
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            steps_done=steps_done,
        )

    def steps(self) -> Iterator[Step]:
        return self.model.generate(
            self.labels,
            self.seeds,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
        )


def label_choices(model: DDPM) -> list[str]:
    return [*([ANY] if model.null_label is not None or not model.label_names else []), *model.label_names]


def max_steps(model: DDPM) -> int:
    return min(MAX_STEPS, model.num_train_timesteps)


def check_order(model: DDPM, labels, count, seed, steps, guidance, sampler) -> Order:
    """The order that raw parameters stand for; gr.Error names the range of the first that is wrong."""
    count = ui.number(count, "Pictures", 1, MAX_PICTURES, integer=True)
    if isinstance(labels, str) or labels is None:
        labels = [labels or ANY]
    if not isinstance(labels, list):
        raise ui.InputError(f"Classes must be a list of: {', '.join(map(html.escape, label_choices(model)))}.")
    labels = [ui.choice(label, "Class", label_choices(model)) for label in labels] or label_choices(model)[:1]
    seed = ui.seed(seed)
    guidance = ui.number(guidance, "Guidance", 1, MAX_GUIDANCE)
    return Order(
        model,
        [labels[k % len(labels)] for k in range(count)],
        [(seed + k) % 2**63 for k in range(count)],
        ui.number(steps, "Steps", 1, max_steps(model), integer=True),
        guidance if model.null_label is not None else 1.0,
        SAMPLER_NAMES[ui.choice(sampler, "Sampler", SAMPLER_NAMES)],
    )


# ---- the page ---------------------------------------------------------------------------------------------------------

STYLE = """<style>
.ddpm-style { display: none; }
.ddpm-gif { width: 320px !important; max-width: 100%; align-self: center; }
</style>"""

SHEET_CSS = (
    ui.SHEET_CSS
    + """
.tile { display: block; margin: 0 !important; padding: 0; text-align: left; background: none; border: 0; border-radius: 12px;
        cursor: pointer; color: var(--body-text-color-subdued); }
.tile[disabled] { cursor: progress; opacity: 1; }
.tile span { display: block; padding: 5px 2px 0; font-size: 12px; line-height: 1.35; font-weight: 400; }
.tile b { color: var(--body-text-color); font-weight: 600; margin-right: 4px; }
.tile[aria-pressed=true] img { box-shadow: 0 0 0 3px var(--primary-500); }
.tile:focus-visible { outline: 2px solid var(--primary-400); outline-offset: 4px; }
"""
)

SHEET_JS = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('.tile');
  if (!tile || tile.disabled) return;
  element.querySelectorAll('.tile').forEach((other) => other.setAttribute('aria-pressed', String(other === tile)));
  trigger('click', { k: Number(tile.dataset.k) });
});
"""

PAIR_CSS = """
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 320px)); gap: 16px; justify-content: center; }
.pair figure { margin: 0; }
.pair img { display: block; width: 100%; aspect-ratio: 1; border-radius: 12px; background: #fff;
            box-shadow: 0 0 0 1px var(--border-color-primary); }
.pair figcaption { padding: 6px 2px 0; font-size: 13px; line-height: 1.4; color: var(--body-text-color-subdued);
                   font-variant-numeric: tabular-nums; }
.pair b { color: var(--body-text-color); }
"""


def build(models: dict[str, DDPM | store.CheckpointError]) -> gr.Blocks:
    """The page around loaded models; in the place of one that could not be loaded stands the cause."""
    usable = {name: model for name, model in models.items() if isinstance(model, DDPM)}
    stops = ui.StopFlags()

    with ui.blocks("Draw out of noise") as demo:
        ui.heading(
            "Draw out of noise",
            "A U-Net has learned to take noise off small pictures. Start it from nothing but noise, and it draws.",
        )
        for name, model in models.items():
            if name not in usable:
                ui.degraded(name, model)
        if usable:
            gr.HTML(STYLE, elem_classes="ddpm-style")
            names = list(usable)
            model_name = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)
            with gr.Tabs():
                with gr.Tab("Draw"):
                    _draw_tab(demo, usable, model_name, stops, drawn := gr.State(None, time_to_live=3600))
                with gr.Tab("Into the noise"):
                    _forward_tab(usable, model_name, drawn)
    return demo


def _draw_tab(demo, models, model_name, stops, film):
    first = models[model_name.value]
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=260):
            labels = gr.CheckboxGroup(
                label_choices(first),
                value=label_choices(first)[1:2] or [ANY],
                label="Classes",
                info="Several are dealt out in turn; any leaves it to the model.",
                elem_classes="chips",
                visible=bool(first.label_names),
            )
            count = gr.Slider(1, MAX_PICTURES, 8, step=1, label="Pictures")
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", min_width=110)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
        with gr.Column(scale=9, min_width=320):
            pictures = gr.HTML(
                ui.blank("Choose a class and press Draw: the pictures form here."),
                css_template=SHEET_CSS,
                js_on_load=SHEET_JS,
                elem_id="ddpm-sheet",
            )
            status = gr.HTML(ui.status("Nothing drawn yet."), elem_id="ddpm-status")
        with gr.Column(scale=4, min_width=240):
            seed = gr.Number(0, label="Seed", info="Of the first picture; each next has one more.", elem_id="ddpm-seed")
            fresh = gr.Checkbox(True, label="New seed every time")
            steps = gr.Slider(1, max_steps(first), min(STEPS, max_steps(first)), step=1, label="Steps")
            guidance = gr.Slider(
                1,
                MAX_GUIDANCE,
                min(max(first.default_guidance, 1), MAX_GUIDANCE),
                step=0.5,
                label="Guidance",
                info="1 switches it off.",
                visible=first.null_label is not None,
            )
            sampler = gr.Radio(list(SAMPLER_NAMES), value="DPM-Solver++", label="Sampler", elem_classes="chips")
            png = gr.DownloadButton("Download PNG with receipt", interactive=False, size="sm")
    ui.section("Film of one picture", "Choose a picture above, then drag: what the model saw, and what it guessed.")
    chosen = gr.State(0)
    frame = gr.Slider(0, 1, 0, step=1, label="Frame", interactive=False, elem_id="ddpm-frame")
    strip = gr.HTML(ui.blank("The film comes with the first drawing."), css_template=PAIR_CSS, elem_id="ddpm-film")
    gif = gr.DownloadButton("Download GIF", interactive=False, size="sm", elem_classes="ddpm-gif")

    def draw_stream(labels, count, seed, fresh, steps, guidance, sampler, model_name, request: gr.Request):
        model = models[ui.choice(model_name, "Model", models)]
        order = check_order(model, labels, count, None if fresh else seed, steps, guidance, sampler)
        flag = stops.get(request.session_hash)
        recorder = Recorder(ddpm.to_uint8(model.initial_noise(order.seeds)), order.num_inference_steps)
        previews = set(np.linspace(0, order.num_inference_steps - 1, PREVIEWS).round().astype(int).tolist())
        started = shown = time.monotonic()
        for step in ui.until(order.steps(), flag, DEADLINE_SECONDS):
            recorder.add(step)
            now = time.monotonic()
            if step.index in previews or now - shown > 1:
                text = f"Step {step.index + 1} of {step.total}, t = {step.timestep}, {now - started:.1f} s"
                tiles = sheet_html(recorder.last, order.captions, done=False)
                yield tiles, ui.status(text, (step.index + 1) / step.total), order.seeds[0], *([gr.skip()] * 3)
                shown = time.monotonic()
        seconds, done, total = time.monotonic() - started, recorder.done, recorder.total
        receipt = order.receipt(steps_done=done)
        result = recorder.film(order.captions, receipt)
        cause = "Stopped" if flag.is_set() else f"Out of time ({DEADLINE_SECONDS} s: ask for fewer steps or pictures)"
        text = f"Done: {done} steps" if done == total else f"{cause} after {done} of {total} steps"
        text += f" in {seconds:.1f} s, seed {order.seeds[0]}"
        yield (
            sheet_html(result.noisy[-1], order.captions, done=True),
            ui.status(text),
            order.seeds[0],
            result,
            0,
            gr.Slider(maximum=len(result.steps) - 1, value=len(result.steps) - 1, interactive=True),
        )

    def sheet_file(film):
        if film is None:
            return gr.skip()
        data = processing_utils.encode_pil_to_bytes(with_receipt(sheet(film.noisy[-1]), film.receipt))
        path = ui.cached_file(data, f"ddpm-{film.receipt['seeds'][0]}.png")
        return gr.DownloadButton(value=path, interactive=True)

    def gif_file(film, k):
        if film is None:
            return gr.skip()
        path = ui.cached_file(film.gif(k), f"ddpm-{film.receipt['seeds'][k]}.gif")
        return gr.DownloadButton(value=path, interactive=True)

    def scrub(film, k, frame):
        if film is None:
            return gr.skip()
        return film.frame_html(k, ui.number(frame, "Frame", 0, len(film.steps) - 1, integer=True))

    def last_frame(film, k):
        return gr.skip() if film is None else film.frame_html(k, len(film.steps) - 1)

    def pick(film, frame, event: gr.EventData):
        if film is not None:
            k = ui.number(event.k, "Picture", 0, len(film.captions) - 1, integer=True)
            yield k, scrub(film, k, frame), gr.skip()
            yield gr.skip(), gr.skip(), gif_file(film, k)

    def fit_to_model(name):
        """Chips, ranges and defaults of another model."""
        model = models[ui.choice(name, "Model", models)]
        options, top = label_choices(model), max_steps(model)
        default = min(max(model.default_guidance, 1), MAX_GUIDANCE)
        return (
            gr.CheckboxGroup(options, value=options[1:2] or [ANY], visible=bool(model.label_names)),
            gr.Slider(maximum=top, value=min(STEPS, top)),
            gr.Slider(value=default, visible=model.null_label is not None),
        )

    outputs = [pictures, status, seed, film, chosen, frame]
    inputs = [labels, count, seed, fresh, steps, guidance, sampler, model_name]
    ended = ui.stoppable(
        demo, stops, draw, stop, draw_stream, inputs, outputs, line=status, stem="ddpm", busy=[png, gif]
    )
    ended.then(sheet_file, film, png, **ui.HIDDEN).then(gif_file, [film, chosen], gif, **ui.HIDDEN)
    frame.change(scrub, [film, chosen, frame], strip, trigger_mode="always_last", **ui.HIDDEN)
    film.change(last_frame, [film, chosen], strip, **ui.HIDDEN)  # the slider may still be at a frame of the last film
    pictures.click(pick, [film, frame], [chosen, strip, gif], trigger_mode="always_last", **ui.HIDDEN)
    model_name.change(fit_to_model, model_name, [labels, steps, guidance], **ui.HIDDEN)
    _draw_endpoints(models, inputs, stops)


def _draw_endpoints(models, inputs, stops):
    """`ddpm_draw` and `ddpm_film`: for programs, which want the pictures and not the watching."""
    labels, count, seed, _fresh, steps, guidance, sampler, model_name = inputs
    pictures = gr.Gallery(label="Pictures", format="png", visible=False)
    receipt = gr.JSON(label="Receipt", visible=False)
    animation = gr.File(label="GIF", visible=False)

    def record(order: Order, request: gr.Request) -> Recorder:
        flag = stops.arm(request.session_hash)
        recorder = Recorder(ddpm.to_uint8(order.model.initial_noise(order.seeds)), order.num_inference_steps)
        try:
            for step in ui.until(order.steps(), flag, DEADLINE_SECONDS):
                recorder.add(step)
        finally:
            stops.drop(request.session_hash)
        if recorder.done < recorder.total:
            raise ui.InputError(f"Stopped after {recorder.done} of {recorder.total} steps: ask for less at a time.")
        return recorder

    def ddpm_draw(labels, count, seed, steps, guidance, sampler, model, request: gr.Request):
        """Draw pictures. Returns one PNG a picture, a receipt in its text, and the receipt of them all.

        Parameters:
            labels: class names, dealt out in turn over the pictures; "any" leaves the class to the model
            count: how many pictures, 1 to 16
            seed: the first picture's, reduced modulo 2**63; -1 draws a fresh one; picture k has seed + k
            steps: denoising steps, 1 to 250, at most the timesteps the model was trained with
            guidance: 1 (none) to 10
            sampler: "DDIM", "DDPM" or "DPM-Solver++"
            model: the name of a loaded model
        """
        order = check_order(models[ui.choice(model, "Model", models)], labels, count, seed, steps, guidance, sampler)
        images = record(order, request).last
        drawn = [with_receipt(Image.fromarray(pixels), order.receipt(k)) for k, pixels in enumerate(images)]
        return list(zip(drawn, [f"{label}, {seed}" for label, seed in order.captions], strict=True)), order.receipt()

    def ddpm_film(label, seed, steps, guidance, sampler, model, request: gr.Request):
        """Draw one picture and return its film: a GIF with x_t on the left and the predicted x0 on the right.

        Parameters:
            label: a class name, or "any"
            seed: reduced modulo 2**63; -1 draws a fresh one
            steps: denoising steps, 1 to 250, at most the timesteps the model was trained with
            guidance: 1 (none) to 10
            sampler: "DDIM", "DDPM" or "DPM-Solver++"
            model: the name of a loaded model
        """
        order = check_order(models[ui.choice(model, "Model", models)], label, 1, seed, steps, guidance, sampler)
        film = record(order, request).film(order.captions, order.receipt())
        return ui.cached_file(film.gif(0), f"ddpm-{order.seeds[0]}.gif"), order.receipt()

    label = gr.Textbox(ANY if ANY in label_choices(models[model_name.value]) else "", label="Class", visible=False)
    together = {"concurrency_id": "ddpm", "concurrency_limit": 1}
    gr.Button(visible=False).click(
        ddpm_draw,
        [labels, count, seed, steps, guidance, sampler, model_name],
        [pictures, receipt],
        api_name="ddpm_draw",
        **together,
    )
    gr.Button(visible=False).click(
        ddpm_film,
        [label, seed, steps, guidance, sampler, model_name],
        [animation, receipt],
        api_name="ddpm_film",
        **together,
    )


def _forward_tab(models, model_name, film):
    first = models[model_name.value]
    ui.section(
        "What training asks",
        "Training shows the model pictures with noise on them and asks what is under it. Drag t from a clean picture to "
        f"nothing but noise, and see what it answers. It goes in at {first.resolution_px} × {first.resolution_px} pixels.",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            upload = pictures.picture_input("Your picture", height=240)
            take = gr.Button("Take the first picture drawn", size="sm")
            t = gr.Slider(0, first.num_train_timesteps - 1, first.num_train_timesteps // 4, step=1, label="t")
            label = gr.Dropdown(
                label_choices(first),
                value=label_choices(first)[0],
                label="Tell the model what it is",
                visible=bool(first.label_names),
            )
            seed = gr.Number(0, label="Seed of the noise")
        with gr.Column(scale=5, min_width=320):
            pair = gr.HTML(
                ui.blank("Upload a picture, or take one you drew."), css_template=PAIR_CSS, elem_id="ddpm-noisy"
            )
            numbers = gr.HTML("")
    small = gr.State(None, time_to_live=3600)  # the picture at no more than 256 px: dragging t decodes nothing

    def shrink(path):
        if path is None:
            return None
        image = pictures.read_picture(path)
        image.thumbnail((256, 256))
        return image

    def from_film(film):
        if film is None:
            raise ui.InputError("Draw a picture in the first tab, then take it here.")
        return ui.cached_file(processing_utils.encode_pil_to_bytes(enlarge(film.picture(0), 256)), "drawn.png")

    def noisy(image, t, seed, label, model):
        model = models[ui.choice(model, "Model", models)]
        t = ui.number(t, "t", 0, model.num_train_timesteps - 1, integer=True)
        label = ui.choice(label, "Class", label_choices(model))
        return model, t, *model.forward_process(image, t, ui.seed(seed), label)

    def show(image, t, seed, label, model_name):
        if image is None:
            return ui.blank("Upload a picture, or take one you drew."), ""
        model, t, x_t, x0 = noisy(image, t, seed, label, model_name)
        alpha_bar = float(model.scheduler.alphas_cumprod[t])
        shares = f"{alpha_bar**0.5:.3f} of the picture + {(1 - alpha_bar) ** 0.5:.3f} of noise"
        left = f"<b>x<sub>t</sub></b> at t = {t}"
        return (
            pair_html(np.asarray(x_t), np.asarray(x0), left, "<b>predicted x<sub>0</sub></b>"),
            ui.facts({"x_t is": shares, "Signal to noise": f"{alpha_bar / max(1 - alpha_bar, 1e-12):.3g}"}),
        )

    def ddpm_forward(picture, t, seed, label, model):
        """Put noise on a picture, q(x_t | x_0), and return x_t and the picture the model sees under it.

        Parameters:
            picture: an image file
            t: the timestep, 0 to one less than the model was trained with
            seed: of the noise, reduced modulo 2**63; -1 draws a fresh one
            label: a class name, or "any"
            model: the name of a loaded model
        """
        return noisy(pictures.read_picture(picture), t, seed, label, model)[2:]

    def fit_to_model(name):
        model = models[ui.choice(name, "Model", models)]
        options = label_choices(model)
        last = model.num_train_timesteps - 1
        return gr.Slider(maximum=last, value=last // 4), gr.Dropdown(
            options, value=options[0], visible=bool(model.label_names)
        )

    inputs, shown = [small, t, seed, label, model_name], [pair, numbers]
    upload.change(shrink, upload, small, **ui.HIDDEN).success(show, inputs, shown, **ui.HIDDEN)
    take.click(from_film, film, upload, **ui.HIDDEN)
    gr.on(
        [t.change, seed.change, label.change],
        show,
        inputs,
        shown,
        trigger_mode="always_last",
        concurrency_id="ddpm_forward",
        concurrency_limit=2,
        **ui.HIDDEN,
    )
    model_name.change(fit_to_model, model_name, [t, label], **ui.HIDDEN)
    gr.Button(visible=False).click(
        ddpm_forward,
        [upload, t, seed, label, model_name],
        [gr.Image(label="x_t", format="png", visible=False), gr.Image(label="x0", format="png", visible=False)],
        api_name="ddpm_forward",
        concurrency_id="ddpm_forward",
        concurrency_limit=2,
    )


def load_models(names: list[str]) -> dict[str, DDPM | store.CheckpointError]:
    """Each named model, or the error in its place."""
    return ui.load_each(ddpm.load, names)


def main() -> None:
    ui.run("ddpm", __doc__.splitlines()[0], load_models, build, ["emoji-32"])


if __name__ == "__main__":
    main()
