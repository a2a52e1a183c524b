"""What is shown of drawings and walks, as data that travels between processes, and their pixels as PNG.

Letters: B pictures of a family, S pictures of a walk, R pixels a side.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gradio import processing_utils
from PIL import Image

from apps.kit import answers, pictures
from hub_models.drawing import RECEIPT_KEY
from hub_models.pictures import frame

SIDE_PX, GAP_PX = 256, 16  # of a picture on the sheet, and around it
TILE_PX = 128  # of one on a strip


@dataclass(frozen=True)
class Row:
    """What there is of a family's drawing."""

    name: str
    title: str
    variant: str
    said: str
    pixels: np.ndarray | None  # uint8 (B, R, R, 3)
    seconds: float
    done: int
    total: int
    refusal: str | None
    receipt: dict | None


@dataclass(frozen=True)
class Sheet:
    """A drawing of several families: what the last one of a session left."""

    label: str
    seeds: Sequence[int]
    rows: Sequence[Row]

    def png_file(self) -> str:
        """The path of a PNG with a column for each family and a row for each seed; its text has their receipts."""
        drawn = [row for row in self.rows if row.pixels is not None]
        pitch = SIDE_PX + GAP_PX
        image = Image.new("RGBA", (len(drawn) * pitch + GAP_PX, len(self.seeds) * pitch + GAP_PX), (0, 0, 0, 0))
        for x, row in enumerate(drawn):
            for y, pixels in enumerate(row.pixels):
                image.paste(enlarged(pixels, SIDE_PX), (GAP_PX + x * pitch, GAP_PX + y * pitch))
        text = {RECEIPT_KEY: json.dumps([row.receipt for row in drawn])}
        data = processing_utils.encode_pil_to_bytes(pictures.png_with_text(image, text))
        return answers.cached_file(data, f"families-{self.seeds[0]}.png")


@dataclass(frozen=True)
class Strip:
    """A walk, or why there is none."""

    name: str
    title: str
    variant: str
    way: str  # from where to where
    said: str
    pixels: np.ndarray | None  # uint8 (S, R, R, 3)
    refusal: str | None


def enlarged(pixels: np.ndarray, side_px: int) -> Image.Image:
    """A picture (R, R, 3) at that side, every pixel a square."""
    return Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.NEAREST)


def with_receipt(image: Image.Image, receipt: dict) -> Image.Image:
    """The picture with its receipt in PNG text."""
    return pictures.png_with_text(image, {RECEIPT_KEY: json.dumps(receipt)})


def strip(pixels: np.ndarray) -> Image.Image:
    """A walk (S, R, R, 3) from left to right."""
    return Image.fromarray(np.concatenate([np.asarray(enlarged(each, TILE_PX)) for each in pixels], axis=1))


def fade(first: Image.Image, second: Image.Image, side_px: int, steps: int) -> np.ndarray:
    """uint8 (steps, side, side, 3): the pixels of one picture that become those of the other, in even steps."""
    a, b = (np.asarray(frame(end, side_px)).astype(float) for end in (first, second))
    share = np.linspace(0, 1, steps)[:, None, None, None]
    return ((1 - share) * a + share * b).round().astype(np.uint8)
