"""Whether drawn pictures have the colour and the thing that was asked for: 8 things × 6 colours, a fixed list.

    prompts = colour_prompts()                                   48 of ("automobile", "red", "a red automobile")
    colour_scores(pictures, captioner)                           {"hue_right": …, "thing_right": …, "both_right": …}

The colour is measured as the training pictures' is (`training.data.recolouring`), the thing is what a captioner says
first (hub_models/captioning), without its colour. A third of the list are pairs of thing and colour that no training
picture was recoloured to: `both_right_kept_out`.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from training.data import captions
from training.data.recoloured import JUDGED_THINGS, JUDGED_WORDS, KEPT_OUT
from training.data.recolouring import coloured, measured, recolour


def colour_prompts() -> list[tuple[str, str, str]]:
    """(thing, colour, prompt) of each, the things in order, with all colours of one after another."""
    return [(thing, word, captions.plain(coloured(thing, word))) for thing in JUDGED_THINGS for word in JUDGED_WORDS]


def painted(selection) -> list[Image.Image] | None:
    """A real picture for each prompt, recoloured where need be, the first style that can be; None if one is missing."""
    found = {}
    for thing, word, _ in colour_prompts():
        for index in (i for i, name in enumerate(selection.names) if name == thing):
            picture = selection.picture(index)
            colour = measured(picture)
            made = picture if colour and colour.word == word else recolour(picture, word)
            if made is not None:
                found[thing, word] = made
                break
    return list(found.values()) if len(found) == len(colour_prompts()) else None


def colour_scores(pictures: Sequence[np.ndarray], captioner) -> dict[str, float]:
    """Shares of the pictures uint8 (R, R, 3), in the order of `colour_prompts`, that are as asked for."""
    asked = colour_prompts()
    shown = [Image.fromarray(picture) for picture in pictures]
    colours = [measured(picture) for picture in shown]
    said = [best[0].text for best in captioner.caption_all(shown)]
    hue = np.array([c is not None and c.word == word for c, (_, word, _) in zip(colours, asked, strict=True)])
    thing = np.array([is_named(text, name) for text, (name, _, _) in zip(said, asked, strict=True)])
    out = np.array([(name, word) in KEPT_OUT for name, word, _ in asked])
    return {
        "hue_right": float(hue.mean()),
        "thing_right": float(thing.mean()),
        "both_right": float((hue & thing).mean()),
        "both_right_kept_out": float((hue & thing)[out].mean()),
    }


def is_named(text: str, name: str) -> bool:
    """Whether a caption's first thing is `name`, in any colour."""
    first = captions.core(text.split(",")[0])
    return first in {captions.core(name), *(captions.core(coloured(name, word)) for word in JUDGED_WORDS)}
