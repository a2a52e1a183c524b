"""Maps of places as pixels: a few cells that the page's style enlarges, or laid over a picture as one PNG.

Letters: h × w places.
"""

import io

import numpy as np
from PIL import Image, ImageDraw

from apps.kit import heat
from hub_models.pictures import frame

TILE_PX = 160  # a picture on a sheet for programs
SHOWN_PX = 128  # a picture under the cells of the page
OPAQUE = 185  # of 255, of the cells over a picture


def opaque(colours: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) uint8 as cells that hide what lies under them: (h, w, 4)."""
    return np.concatenate([colours, np.full((*colours.shape[:2], 1), 255, np.uint8)], -1)


def glass(amount: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Amounts (h, w) in [0, 1] as cells to see through, (h, w, 4) uint8: viridis; dark where not `seen` (h, w)."""
    colours = heat.colours(amount.clip(0, 1)).round().astype(np.uint8)
    cells = np.concatenate([colours, np.full((*amount.shape, 1), OPAQUE, np.uint8)], -1)
    if seen is not None:
        cells[~seen] = (41, 37, 36, 215)
    return cells


def shown(picture: Image.Image, side_px: int = SHOWN_PX) -> bytes:
    """The picture as the towers get it, whole in a white square, as a small JPEG."""
    frame(picture, side_px).save(buffer := io.BytesIO(), "JPEG", quality=82)
    return buffer.getvalue()


def laid(picture: Image.Image, cells: np.ndarray, chosen: tuple[int, int] | None = None) -> Image.Image:
    """The picture, framed, under cells (h, w, 4), TILE_PX a side; the chosen one of them framed in red."""
    over = Image.fromarray(cells).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
    ground = frame(picture, TILE_PX).convert("RGBA")
    made = Image.alpha_composite(ground, over).convert("RGB")
    if chosen is not None:
        (row, column), (h, w) = chosen, cells.shape[:2]
        box = [column * TILE_PX // w, row * TILE_PX // h, (column + 1) * TILE_PX // w - 1, (row + 1) * TILE_PX // h - 1]
        ImageDraw.Draw(made).rectangle(box, outline="#dc2626", width=3)
    return made


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Pictures of TILE_PX in rows."""
    made = Image.new("RGB", (TILE_PX * max(map(len, rows)), TILE_PX * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            made.paste(picture, (x * TILE_PX, y * TILE_PX))
    return made
