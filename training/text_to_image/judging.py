"""Whether drawn pictures have the colour and the thing that was asked for, 8 things × 6 colours, a fixed list; and the
style.

    prompts = colour_prompts()                                   48 of ("automobile", "red", "a red automobile")
    colour_scores(pictures, captioner)                           {"hue_right": …, "thing_right": …, "both_right": …}

The colour is measured as the training pictures' is (`training.data.recolouring`), the thing is what a captioner says
first (hub_models/captioning), without its colour. A third of the list are pairs of thing and colour that no training
picture was recoloured to: `both_right_kept_out`.

    Styles(known, train).scores(pictures, selection, rows)       {"style_right": …, "style_by_chance": …}

The style is that of the nearest training picture in HOG and colour, where nothing was learned.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from training import judges, metrics
from training.data import captions
from training.data.recoloured import JUDGED_THINGS, JUDGED_WORDS, KEPT_OUT
from training.data.recolouring import coloured, measured, recolour

HOG_PX = 64  # side at which pictures are compared


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


def colour_scores(pictures: Sequence[np.ndarray] | np.ndarray, captioner) -> dict[str, float]:
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
    return any(judges.is_named(text, one) for one in (name, *(coloured(name, word) for word in JUDGED_WORDS)))


class Styles:
    """Training pictures uint8 (N, R, R, 3) of a selection, to find the nearest among."""

    def __init__(self, known: np.ndarray, train):
        self.train, self.features = train, features(known)  # (N, D)
        self.styles = styles_of(train)  # (N,)

    def scores(self, pictures: np.ndarray, selection, rows: Sequence[int]) -> dict[str, float]:
        """Shares whose nearest training picture has the style of the row: of these pictures, and of any at random.

        Pictures of the row's own name aren't looked at: that thing in another style is nearer than another thing in
        this one, and real training pictures would find themselves.
        """
        asked, found, chance = styles_of(selection)[list(rows)], [], []
        names, own = np.array(self.train.names), [selection.names[row] for row in rows]
        for row, name, style in zip(features(pictures), own, asked, strict=True):
            others = names != name
            found.append(self.styles[others][np.linalg.norm(self.features[others] - row, axis=1).argmin()] == style)
            chance.append((self.styles[others] == style).mean())
        return {"style_right": float(np.mean(found)), "style_by_chance": float(np.mean(chance))}


def features(pictures: np.ndarray) -> np.ndarray:
    """HOG and colour of pictures uint8 (N, R, R, 3), at HOG_PX: (N, D)."""
    size = (HOG_PX, HOG_PX)
    return metrics.hog_colour_features(
        np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p in pictures])
    )


def styles_of(selection) -> np.ndarray:
    """The style of each picture of a selection, (N,)."""
    styles = selection.source.column("style")
    return np.array([styles[row] for row in selection.rows])
