"""What the tab "Look inside" shows of a film, as HTML."""

import html

import numpy as np
from PIL import Image

from apps.kit.films import data_url
from apps.kit.heat import heat_map
from apps.kit.pictures import data_url as address
from apps.text_to_image.film import VIEWS, Film, difference

SIDE_PX = 256
OPACITY = 60
FAINT = 1e-3  # of a place's attention: maps below it are no brighter than their share of this
CAPTIONS = dict(zip(VIEWS, ("<b>x<sub>t</sub></b>", "<b>predicted x<sub>0</sub></b>", "<b>with the prompt</b>",
                            "<b>without it</b>"), strict=True))  # fmt: skip
TEXTS = {
    "x_t": "the noisy latents, decoded",
    "x0": "the model's guess of the picture",
    "with": "its guess with the prompt",
    "without": "its guess without the prompt",
}
ASKED_ONCE = "With guidance 1, or without a prompt, the model is asked once: there are no two guesses to compare."
NO_WORDS = "No prompt, so there are no words to look for."
NO_LAYERS = "The U-Net of this model has no cross-attention that can be listened to: there are no maps of its words."


def picks_html(pngs: list[bytes], receipts: list[dict]) -> str:
    """A button for each picture of the last drawing."""
    tiles = []
    for k, (png, receipt) in enumerate(zip(pngs, receipts, strict=True)):
        name = html.escape(f"Picture {k + 1}: {receipt['prompt'] or 'no prompt'}, seed {receipt['seed']}")
        tiles.append(
            f'<button type="button" data-k="{k}" aria-pressed="false" aria-label="{name}. Show its film.">'
            f'<img src="{address(png)}" alt=""><span>seed {html.escape(receipt["seed"])}</span></button>'
        )
    return f'<div class="picks">{"".join(tiles)}</div>'


def film_html(film: Film, frame: int, word: int) -> str:
    """A frame of a film: its views and what the two guesses differ by; and where the model looks for a word."""
    rough = "" if frame in film.sharp else ' class="rough"'
    views, said = film.views(frame), f"after {film.steps[frame]} of {film.total} steps"
    if frame == film.last:
        figures = [_figure(views[0], f"<b>the picture</b> {said}", "the picture", rough)]
    else:
        shown = VIEWS[: len(views)]
        captions = CAPTIONS | {"x_t": f"{CAPTIONS['x_t']} {said}, t = {film.timesteps[frame]}"}
        captions |= {"without": "<b>with the negative prompt</b>"} if film.receipt["negative_prompt"] else {}
        figures = [_figure(views[i], captions[name], TEXTS[name], rough) for i, name in enumerate(shown)]
        if film.guided:
            apart, gain = difference(views[2], views[3])
            caption = f"<b>their difference</b> × {gain}; grey is none"
            figures.append(_figure(apart, caption, "how the two guesses differ", rough))
    note = "" if film.guided else f'<p class="v-note">{ASKED_ONCE}</p>'
    return f'<div class="strip">{"".join(figures)}</div>{note}{_words(film, frame, word)}'


def _words(film: Film, frame: int, word: int) -> str:
    if film.maps is None or film.mean is None:
        return f'<p class="v-note">{NO_LAYERS if film.words else NO_WORDS}</p>'
    here = film.maps[frame] if frame < film.last else film.mean  # (W, g, g)
    chips = "".join(
        f'<button type="button" data-k="{k}" aria-pressed="{str(k == word).lower()}">{html.escape(text)} '
        f"<small>{share(here[k].mean())}</small></button>"
        for k, text in enumerate(film.words)
    )
    name, picture = html.escape(film.words[word]), np.asarray(film.picture.convert("RGB"))
    figures = [
        _heat(picture, film.mean[word], f"“{name}”, mean over steps", f"where it looked for {name} on the whole")
    ]
    if frame < film.last:
        said = f"“{name}” at this step", f"where it looks for {name}"
        figures.insert(0, _heat(film.views(frame)[1], here[word], *said))
    g, which = film.mean.shape[-1], "at this step" if frame < film.last else "on the mean of all steps"
    said = (
        f"Where the U-Net looks for each word: its cross-attention, mean of layers and heads, on a grid "
        f"of {g}\u00a0×\u00a0{g}. "
        f"The numbers are shares of all attention {which}; start and end are the marks around the prompt, which are "
        "read like words."
    )
    left = f'<div class="chosen"><div class="words">{chips}</div><p>{said}</p></div>'
    return f'<div class="strip">{left}{"".join(figures)}</div>'


def share(value: float) -> str:
    """HTML of it in percent, to two digits."""
    return f"{100 * value:.2g} %" if value >= 1e-4 else "&lt; 0.01 %"


def _figure(pixels: np.ndarray, caption: str, alt: str, more: str = "") -> str:
    source = data_url(pixels, SIDE_PX)
    return f'<figure><img src="{source}" alt="{alt}"{more}><figcaption>{caption}</figcaption></figure>'


def _heat(pixels: np.ndarray, values: np.ndarray, title: str, alt: str) -> str:
    """A map over a picture, yellow where it is largest; one that is next to nothing everywhere stays dark."""
    top = float(values.max())
    heat = heat_map(Image.fromarray(pixels), values / max(top, FAINT), SIDE_PX, OPACITY)
    said = f"yellow is {share(top)} of a place's attention" if top >= FAINT else "next to nothing"
    return _figure(np.asarray(heat), f"<b>{title}</b>: {said}", alt)
