"""What the page shows of drawings and of noisy pictures, as HTML. Letters: B pictures of R × R pixels."""

import html
from collections.abc import Sequence

import numpy as np

from apps.ddpm.paint import Film
from apps.kit import parts
from apps.kit.drawing_page import columns
from apps.kit.films import data_url
from hub_models.ddpm import DDPM

GUESS = "<b>predicted x<sub>0</sub></b>"
NOISY, CLEAN = "the noisy picture", "the model's guess of the clean picture"


def sheet_html(pictures: np.ndarray, captions: Sequence[tuple[str, str]], *, done: bool) -> str:
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
    return f'<div class="sheet cols-{columns(len(tiles))}">{"".join(tiles)}</div>'


def row_html(*figures: tuple[np.ndarray, str, str]) -> str:
    """Pictures (R, R, 3) side by side, each with a caption that may hold markup, and a text in its place."""
    shown = "".join(
        f'<figure><img src="{data_url(pixels, 320)}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'
        for pixels, caption, alt in figures
    )
    return f'<div class="pair of-{len(figures)}">{shown}</div>'


def pair_html(left: np.ndarray, right: np.ndarray, left_caption: str, right_caption: str = GUESS) -> str:
    """A noisy picture, and the guess made from it."""
    return row_html((left, left_caption, NOISY), (right, right_caption, CLEAN))


def frame_html(film: Film, k: int, frame: int) -> str:
    """A frame of picture k's film: x_t, and what the model made of it."""
    done, t = film.steps[frame], film.timesteps[frame]
    left = f"<b>x<sub>t</sub></b> after {done} of {film.total} steps"
    if t < 0:
        return pair_html(film.noisy[frame, k], film.guess[frame, k], left, "<b>the picture</b>")
    noise = f"<b>predicted noise</b>, score of length {film.slopes[frame, k]:.3g}"
    return row_html(
        (film.noisy[frame, k], f"{left}, t = {t}", NOISY),
        (film.guess[frame, k], GUESS, CLEAN),
        (film.noise[frame, k], noise, "the noise that the model sees in it"),
    )


def settings(receipt: dict) -> str:
    """HTML of how the one picture of a receipt was drawn."""
    guidance = f"guidance {receipt['guidance_scale']:g}"
    return html.escape(", ".join([*receipt["labels"], f"seed {receipt['seeds'][0]}", guidance, receipt["sampler"]]))


def fork_said(receipt: dict) -> str:
    """A sentence on where a drawing forked, and into what."""
    fork, sampler = receipt["fork"], receipt["fork"]["sampler"]
    changes = [*(fork["labels"] or ()), f"guidance {fork['guidance_scale'] or 1:g}", sampler]
    return f"Another way after {fork['at']} of {receipt['num_inference_steps']} steps: {', '.join(changes)}."


def shares_html(model: DDPM, t: int) -> str:
    """How much of a picture is left at t."""
    alpha_bar = float(model.scheduler.alphas_cumprod[t])
    shares = f"{alpha_bar**0.5:.3f} of the picture + {(1 - alpha_bar) ** 0.5:.3f} of noise"
    return parts.facts({"x_t is": shares, "Signal to noise": f"{alpha_bar / max(1 - alpha_bar, 1e-12):.3g}"})
