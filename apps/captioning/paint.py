"""What a model looked at for the words of a caption, as a map. Opacity is a percentage. Letters: h × w patches."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from hub_models import captioning
from hub_models.captioning import Caption, Evidence

MAP_PX = 560
OPACITY = 65

# Viridis (van der Walt & Smith 2015), every eighth of it: lightness only rises, to the colour-blind as to everybody.
STOPS = "#440154 #472c7a #3b518b #2c718e #21908d #27ad81 #5cc863 #aadc32 #fde725".split()
VIRIDIS = np.array([list(bytes.fromhex(colour[1:])) for colour in STOPS], np.float32)  # (9, 3)


@dataclass(frozen=True)
class Looked:
    """A picture as the model sees it, a caption of it, and the evidence for its words."""

    seen: Image.Image  # RGB, square
    caption: Caption
    words: list[Evidence]

    def log_prob(self, word: int) -> float:
        """Of the word, given those before it."""
        return sum(self.caption.token_log_probs[self.caption.words[word][1]])


def colours(values: np.ndarray) -> np.ndarray:
    """Viridis for values in [0, 1] of any shape: float32 (…, 3)."""
    places = np.linspace(0, 1, len(VIRIDIS))
    return np.stack([np.interp(values, places, channel) for channel in VIRIDIS.T], -1).astype(np.float32)


def heat_map(seen: Image.Image, attention: np.ndarray, patches: np.ndarray, opacity: float) -> Image.Image:
    """What the model sees under its attention (h, w) at `opacity` percent; a line around the patches, bool (h, w)."""
    base = seen.resize((MAP_PX, MAP_PX), Image.Resampling.BICUBIC)
    grey = np.asarray(base.convert("L"), np.float32)[..., None]
    ground = np.asarray(base, np.float32) * (1 - opacity / 100) + grey * opacity / 100  # (MAP_PX, MAP_PX, 3)
    smooth = Image.fromarray(attention.astype(np.float32)).resize((MAP_PX, MAP_PX), Image.Resampling.BICUBIC)
    coloured = colours(np.asarray(smooth).clip(0, 1))
    mixed = ground + opacity / 100 * (coloured - ground)
    return outlined(Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)), patches)


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
