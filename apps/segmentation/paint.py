"""A picture as a model divides it, and its classes as colours over the picture.

Opacity and confidence are percentages. Letters: H × W pixels of a picture, K classes.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from apps.kit.pictures import SHOWN_PX, shown_picture, shown_size
from hub_models.segmentation import Segmentation, Share

OPACITY = 65
BAND = 256  # rows painted at once
BLANK = np.array([(231, 229, 228), (196, 192, 188)], np.float32)  # stripes over pixels that nobody is sure of


@dataclass(frozen=True)
class Seen:
    """A picture as a model divides it."""

    picture: Image.Image  # RGB
    result: Segmentation
    seconds: float

    @functools.cached_property
    def shown(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Picture (h, w, 3), ids and confidence (h, w) at the size of the page, where SHOWN_PX is the longer side."""
        size = shown_size(self.picture.size)
        ids = Image.fromarray(self.result.ids).resize(size, Image.Resampling.NEAREST)
        confidence = Image.fromarray(self.result.confidence).resize(size, Image.Resampling.NEAREST)
        return shown_picture(self.picture), np.asarray(ids), np.asarray(confidence)

    @functools.cached_property
    def shares(self) -> list[Share]:
        return self.result.shares()

    @property
    def nbytes(self) -> int:
        """Memory it takes, about."""
        arrays = (self.result.ids, self.result.confidence, self.result.probabilities)
        return sum(array.nbytes for array in arrays) + 3 * self.result.ids.size + 8 * SHOWN_PX**2

    def known(self, confidence: float) -> float:
        """The share of the pixels whose confidence is at least so many percent."""
        return float((self.result.confidence >= confidence / 100).mean())

    def hidden_ids(self, hidden: Collection[str]) -> list[int]:
        return [k for k, name in enumerate(self.result.label_names) if name in hidden]


def paint(
    picture: np.ndarray,
    ids: np.ndarray,
    confidence: np.ndarray | None,
    palette: np.ndarray,
    *,
    opacity: float = OPACITY,
    below: float = 0,
    hidden: Collection[int] = (),
) -> np.ndarray:
    """The picture (H, W, 3) uint8 under its classes' colours at `opacity` percent, outlined a little stronger.

    Pixels whose confidence (H, W) is under `below` percent are blanked by stripes; hidden ids and those without a
    colour in the palette (K, 3) stay as they are. All (H, W) arrays are read in bands, so that a large picture takes
    little more memory than itself.
    """
    strength = np.zeros(256, np.float32)
    strength[: len(palette)] = opacity / 100
    strength[list(hidden)] = 0
    colours = np.zeros((256, 3), np.float32)
    colours[: len(palette)] = palette
    height, width = ids.shape
    stripe_px = max(2, max(height, width) // 96)
    out = np.empty_like(picture)
    for top in range(0, height, BAND):
        rows = slice(top, min(top + BAND, height))
        band, base = ids[rows], picture[rows].astype(np.float32)
        alpha = strength[band]  # (rows, W)
        alpha = np.where(_outline(ids, rows), np.minimum(1, alpha * 1.6), alpha)[..., None]
        painted = base + alpha * (colours[band] - base)
        if below > 0 and confidence is not None:
            y, x = np.ogrid[rows, :width]
            stripes = BLANK[((x + y) // stripe_px) % 2]
            unsure = confidence[rows] < below / 100
            painted[unsure] = 0.08 * base[unsure] + 0.92 * stripes[unsure]
        out[rows] = painted.round().clip(0, 255)
    return out


def _outline(ids: np.ndarray, rows: slice) -> np.ndarray:
    """Where a class ends, in these rows: pixels whose left or upper neighbour, or the one after, is of another."""
    first, last = max(rows.start - 1, 0), min(rows.stop + 1, len(ids))
    part = ids[first:last]
    edge = np.zeros(part.shape, bool)
    across, down = part[:, 1:] != part[:, :-1], part[1:] != part[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge[rows.start - first : rows.stop - first]


def overlay(
    seen: Seen, opacity: float, below: float, hidden: Collection[str], *, pixel=None, full: bool = False
) -> Image.Image:
    """The picture with its classes as the page shows it, and a ring around `pixel` (x, y of the picture) if given.

    full: at the picture's own size instead.
    """
    result = seen.result
    picture, ids, confidence = (np.asarray(seen.picture), result.ids, result.confidence) if full else seen.shown
    options = {"opacity": opacity, "below": below, "hidden": seen.hidden_ids(hidden)}
    image = Image.fromarray(paint(picture, ids, confidence, result.palette, **options))
    if pixel is not None:
        x, y = ((at + 0.5) * shown / own for at, shown, own in zip(pixel, image.size, seen.picture.size, strict=True))
        draw = ImageDraw.Draw(image)
        for radius, colour, width in ((11, "black", 6), (10, "white", 3)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return image
