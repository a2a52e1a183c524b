"""What the films of drawings share: the steps that are kept, pixels large enough to look at, and the GIF with receipts.

Letters: F frames of a film, R pixels a side of a picture.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from apps.kit import pictures
from hub_models.drawing import RECEIPT_KEY

FRAMES = 61  # of a film at most
GIF_FRAMES = 40
GAP_PX = 8
PICK = Path(__file__).with_name("pick.js")  # of a part with buttons of which one is pressed: each has its data-k


def kept(total: int) -> set[int]:
    """The steps, of so many, before which a film has a frame: evenly spaced; the result is one more."""
    return set(spread(total - 1, min(total, FRAMES - 1)))


def spread(last: int, count: int) -> list[int]:
    """At most so many frames of a film, from its first to the last, evenly spaced."""
    return np.unique(np.linspace(0, last, count).round().astype(int)).tolist()


def enlarge(pixels: np.ndarray, side_px: int) -> Image.Image:
    """A picture (R, R, 3) of bytes at about side_px a side, by a whole factor, so that pixels stay equally large."""
    factor = max(1, side_px // pixels.shape[0])
    return Image.fromarray(pixels).resize((pixels.shape[1] * factor,) * 2, Image.Resampling.LANCZOS)


def data_url(pixels: np.ndarray, side_px: int) -> str:
    """`enlarge` as an address, for HTML."""
    enlarge(pixels, side_px).save(buffer := io.BytesIO(), "WEBP", quality=90, method=1)
    return pictures.data_url(buffer.getvalue(), "webp")


def gif(frames: Iterable[Sequence[Sequence[Image.Image]]], receipts: Sequence[Mapping]) -> bytes:
    """A GIF of frames that are rows of equal tiles; the last frame stays. Its comment holds the receipts, as PNG text
    does: JSON under our own key.
    """
    shown = []
    for rows in frames:
        pitch = rows[0][0].width + GAP_PX
        image = Image.new("RGB", (len(rows[0]) * pitch - GAP_PX, len(rows) * pitch - GAP_PX), "white")
        for y, row in enumerate(rows):
            for x, tile in enumerate(row):
                image.paste(tile, (x * pitch, y * pitch))
        shown.append(image.quantize(256, method=Image.Quantize.FASTOCTREE))  # median cut takes 0.2 s for noise
    buffer, durations = io.BytesIO(), [90] * (len(shown) - 1) + [1800]
    options: dict = {"duration": durations, "loop": 0, "comment": json.dumps({RECEIPT_KEY: list(receipts)})}
    shown[0].save(buffer, "GIF", save_all=True, append_images=shown[1:], **options)
    return buffer.getvalue()
