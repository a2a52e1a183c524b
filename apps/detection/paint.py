"""A picture with what was found in it: boxes with class and score, and the pixels of each thing where they are known.

Scores and overlaps are shares. Letters: N things, K classes, H × W pixels of a picture, h × w of what is shown.
"""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from apps.kit.pictures import SHOWN_PX, shown_size
from hub_models.detection import Detections, silenced_by
from hub_models.palette import default_palette

MASK_OPACITY = 0.45
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Doubles:
    """What is done with boxes of the same thing."""

    silence: bool = False  # whether the surest of those that overlap silences the others
    overlap: float = 0.5  # intersection over union, from which on
    across: bool = False  # whether of all classes, or each of its own


@dataclass(frozen=True)
class Seen:
    """A picture as a model sees it."""

    picture: Image.Image  # RGB
    candidates: Detections  # the surest first, as many as the page takes
    total: int  # how many there were
    seconds: float

    @functools.cached_property
    def colours(self) -> list[Colour]:
        """Of each class: as the page of segmentation has them, where the first is the background."""
        return colours_of(self.candidates.label_names)

    @property
    def nbytes(self) -> int:
        """Memory it takes, about."""
        masks = self.candidates.masks
        return 3 * self.picture.width * self.picture.height + 64 * self.total + (0 if masks is None else masks.nbytes)

    def above(self, threshold: float) -> Detections:
        """The candidates with a higher score."""
        return self.candidates.only(self.candidates.scores > threshold)

    def found(self, threshold: float, doubles: Doubles) -> Detections:
        """The answer: the candidates above the threshold, without those that others silence, where that is asked."""
        above = self.above(threshold)
        if not doubles.silence:
            return above
        return above.only(silenced_by(above, doubles.overlap, across_classes=doubles.across) < 0)


def colours_of(label_names: list[str]) -> list[Colour]:
    return [(r, g, b) for r, g, b in default_palette(["background", *label_names])[1:]]


def ink(colour: Colour) -> Colour:
    """Black or white, whichever is read better on the colour (WCAG's relative luminance)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.array(colour) / 255]
    bright = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return (0, 0, 0) if (bright + 0.05) / 0.05 >= 1.05 / (bright + 0.05) else (255, 255, 255)


def drawn(seen: Seen, found: Detections, *, full: bool = False) -> Image.Image:
    """The picture at the size of the page with the things found painted on it, the surest on top.

    full: at its own size, where that is larger.
    """
    own = full and max(seen.picture.size) > SHOWN_PX
    size = seen.picture.size if own else shown_size(seen.picture.size)
    image = seen.picture.resize(size, Image.Resampling.BICUBIC)
    order = range(len(found) - 1, -1, -1)
    if found.masks is not None:
        for k in order:
            image = _masked(image, found.masks[k], seen.colours[found.labels[k]])
    pen, unit = ImageDraw.Draw(image), max(size) / SHOWN_PX
    font = ImageFont.load_default(max(8.0, 24 * unit))
    scale = np.array(size * 2) / np.array(seen.picture.size * 2)
    for k in order:
        colour = seen.colours[found.labels[k]]
        words = f"{found.label_names[found.labels[k]]} {found.scores[k]:.0%}"
        _box(pen, size, found.boxes[k] * scale, colour, words, font)
    return image


def _masked(image: Image.Image, mask: np.ndarray, colour: Colour) -> Image.Image:
    """The image under a thing's pixels (H, W) in a colour, with their outline."""
    shape = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BILINEAR)
    shape = shape.point(lambda value: 255 * (value >= 128))
    inner = shape.filter(ImageFilter.MinFilter(5))
    flat = Image.new("RGB", image.size, colour)
    image = Image.composite(Image.blend(image, flat, MASK_OPACITY), image, inner)
    rim = np.asarray(shape).astype(bool) & ~np.asarray(inner).astype(bool)
    return Image.composite(flat, image, Image.fromarray(rim.astype(np.uint8) * 255))


def _box(pen: ImageDraw.ImageDraw, size: tuple[int, int], box: np.ndarray, colour: Colour, words: str, font) -> None:
    """A box in pixels of the image with its words above it, or inside where there is no room."""
    unit = max(size) / SHOWN_PX
    most = np.array(size) - 1
    (left, top), (right, bottom) = (corner.clip(0, most).tolist() for corner in (box[:2], np.maximum(box[2:], box[:2])))
    wide, pad = max(2, round(4 * unit)), round(4 * unit)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(255, 255, 255), width=wide + 2)
    pen.rectangle((left, top, right, bottom), outline=colour, width=wide)
    text = pen.textbbox((0, 0), words, font)
    width, height = text[2] + 2 * pad, text[3] + 2 * pad
    x, y = max(0.0, min(left, size[0] - width)), top - height if top >= height else top
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + pad, y + pad - 1), words, ink(colour), font)
