"""Two things in one picture, composed from training pictures of one style; captions say both and where they are.

    pairs = Pairs(selection, recoloured, count=2500)
    pairs.picture(7), pairs.captions[7]       ["a lion and a heart", "a lion to the left of a heart, noto style"]

Pair i is a function of (seed, i) and the selection alone. Some things are recoloured ones, whose colour is said.
"""

import hashlib
import json
import random

from PIL import Image

from training.data import captions
from training.data.recoloured import Recoloured

VERSION = 1  # to be raised when the same numbers give other pairs
# How it is said that the first is at the left of the second, at its right, above it, below it.
SIDES = {
    "left": ("to the left of", "left of", "beside", "next to"),
    "right": ("to the right of", "right of", "beside", "next to"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
SIZE = (0.40, 0.50)  # a thing's longer side, as a share of the picture's
COLOURED = 0.4  # share of the things that are recoloured ones


class Pairs:
    """`count` pictures of two things of different names, as `training.text_to_image` takes them.

    picture(i): RGBA (R, R) on transparent ground, R as of the source's `preload`; places[i]: the side of the second on
    which the first is; things[i]: what the two are called. recoloured: of the same selection.
    """

    def __init__(self, selection, recoloured: Recoloured, *, count: int, seed: int = 0):
        self.source, self._parts = selection.source, (selection, recoloured)
        styles = self.source.column("style")
        by_style = ({}, {})  # of the selection, of the recoloured: style -> indices
        for index, row in enumerate(selection.rows):
            by_style[0].setdefault(styles[row], []).append(index)
        for index, style in enumerate(recoloured.styles):
            by_style[1].setdefault(style, []).append(index)
        usual = sorted(style for style in by_style[0] if len({selection.names[i] for i in by_style[0][style]}) > 1)
        self._laid, self.places, self.things, self.captions = [], [], [], []
        for number in range(count):
            rng = random.Random(f"pair/{VERSION}/{seed}/{number}")
            style = rng.choice(usual)
            first = self._pick(rng, by_style, style)
            second = self._pick(rng, by_style, style)
            while self._name(second) == self._name(first):
                second = (0, rng.choice(by_style[0][style]))
            side = rng.choice(tuple(SIDES))
            self._laid.append((first, second, [rng.uniform(*SIZE) for _ in range(2)], rng.uniform(-0.06, 0.06)))
            self.places.append(side)
            self.things.append(tuple(self._called(thing) for thing in (first, second)))
            self.captions.append(_said(rng, *self.things[-1], side, captions.STYLE_WORDS.get(style)))
        self.prompts = [texts[-1] for texts in self.captions]
        content = json.dumps(
            [VERSION, selection.data_hash, recoloured.data_hash, self._laid, self.places, self.captions]
        )
        self.data_hash = hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._laid)

    def picture(self, index: int) -> Image.Image:
        first, second, sizes, shift = self._laid[index]
        arts = [_cut(self._parts[kind].picture(at)) for kind, at in (first, second)]
        side = max(self._parts[0].picture(0).size)
        for at, (art, share) in enumerate(zip(arts, sizes, strict=True)):
            size = [max(1, round(n * share * side / max(art.size))) for n in art.size]
            arts[at] = art.resize(size, Image.Resampling.LANCZOS)
        canvas = Image.new("RGBA", (side, side))
        across = self.places[index] in ("left", "right")
        if self.places[index] in ("right", "below"):
            arts.reverse()
        for art, middle, away in zip(arts, (0.255, 0.745), (shift, -shift), strict=True):
            centre = (middle, 0.5 + away) if across else (0.5 + away, middle)
            canvas.paste(art, tuple(round(c * side - n / 2) for c, n in zip(centre, art.size, strict=True)), art)
        return canvas

    def _pick(self, rng: random.Random, by_style, style: str) -> tuple[int, int]:
        """Which part (0 the selection, 1 the recoloured) and which picture of it."""
        kind = int(rng.random() < COLOURED and style in by_style[1])
        return kind, rng.choice(by_style[kind][style])

    def _name(self, thing: tuple[int, int]) -> str:
        return self._parts[thing[0]].names[thing[1]]

    def _called(self, thing: tuple[int, int]) -> str:
        """With its article and, of a recoloured one, its colour; without commas."""
        kind, at = thing
        return (self._parts[1].captions[at][0] if kind else captions.plain(self._name(thing))).replace(",", "")


def _said(rng: random.Random, one: str, other: str, side: str, style: str | None) -> list[str]:
    """Both with "and" in any order, and where one is to the other, from either; now and then with the style."""
    both = [one, other]
    rng.shuffle(both)
    if rng.random() < 0.5:
        one, other, side = other, one, OPPOSITE[side]
    texts = [" and ".join(both), f"{one} {rng.choice(SIDES[side])} {other}"]
    return [f"{text}, {style} style" if style and rng.random() < 0.3 else text for text in texts]


def _cut(art: Image.Image) -> Image.Image:
    """The drawing without the transparent ground around it."""
    return art.crop(art.getchannel("A").getbbox() or (0, 0, *art.size))
