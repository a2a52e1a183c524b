"""What a model looked at for the words of a caption, as a map. Opacity is a percentage. Letters: h × w patches."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from apps.kit import heat
from hub_models import captioning
from hub_models.captioning import Caption, Evidence

MAP_PX = 560
OPACITY = 65


@dataclass(frozen=True)
class Looked:
    """A picture as the model sees it, a caption of it, and the evidence for its words."""

    seen: Image.Image  # RGB, square
    caption: Caption
    words: list[Evidence]

    def log_prob(self, word: int) -> float:
        """Of the word, given those before it."""
        return sum(self.caption.token_log_probs[self.caption.words[word][1]])


def heat_map(seen: Image.Image, attention: np.ndarray, patches: np.ndarray, opacity: float) -> Image.Image:
    """What the model sees under its attention (h, w) at `opacity` percent; a line around the patches, bool (h, w)."""
    return outlined(heat.heat_map(seen, attention, MAP_PX, opacity), patches)


def covered_picture(seen: Image.Image, patches: np.ndarray) -> Image.Image:
    """What the model was shown to see what the word is worth without it."""
    picture = captioning.covered(seen, patches)
    return outlined(picture.resize((MAP_PX, MAP_PX), Image.Resampling.NEAREST), patches)


def outlined(image: Image.Image, patches: np.ndarray) -> Image.Image:
    """The picture with a line, white on black so that it is seen on any ground, around the patches, bool (h, w)."""
    draw, walls = ImageDraw.Draw(image), np.pad(patches, 1)
    ys, xs = (
        np.rint(np.linspace(0, side - 1, count + 1)).astype(int)
        for side, count in zip(image.size[::-1], patches.shape, strict=True)
    )
    across = walls[1:, 1:-1] != walls[:-1, 1:-1]  # (h + 1, w): above row y
    down = walls[1:-1, 1:] != walls[1:-1, :-1]  # (h, w + 1): left of column x
    lines = [(xs[x], ys[y], xs[x + 1], ys[y]) for y, x in np.argwhere(across)]
    lines += [(xs[x], ys[y], xs[x], ys[y + 1]) for y, x in np.argwhere(down)]
    for colour, width in (("black", 7), ("white", 3)):
        for line in lines:
            draw.line([int(at) for at in line], fill=colour, width=width)
    return image
