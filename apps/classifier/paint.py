"""Maps of a picture as pixels: over the picture as the models get it, framed, at MAP_PX a side."""

import numpy as np
from PIL import Image, ImageDraw

from hub_models import windows
from hub_models.pictures import frame

MAP_PX = 448
AMBER = np.array([(255, 255, 255), (253, 224, 71), (249, 115, 22), (153, 27, 27)], np.float32)
RED, BLUE = np.array([(220, 38, 38), (37, 99, 235)], np.float32)
UNSEEN = np.array((41, 37, 36), np.float32)
TEAL = np.array((13, 148, 136), np.float32)


def heat(image: Image.Image, amount: np.ndarray, *, cells: bool = False) -> Image.Image:
    """The picture under a map (h, w): white for 0 and less, through amber, to dark red for 1 and more.

    cells: each keeps its edges, instead of running smoothly into the next.
    """
    amount = amount.clip(0, 1).astype(np.float32)
    amount = _cells(amount) if cells else _enlarge(amount)  # (MAP_PX, MAP_PX)
    colour = np.stack([np.interp(amount, np.linspace(0, 1, len(AMBER)), channel) for channel in AMBER.T], -1)
    return _blend(image, colour, 0.15 + 0.5 * amount)


def occlusion_overlay(image: Image.Image, drop: np.ndarray) -> Image.Image:
    """The picture under a map (h, w): red where covering it lowers the label, blue where it raises it."""
    amount = _enlarge(drop / max(np.abs(drop).max(), 1e-6))  # (MAP_PX, MAP_PX) in [-1, 1]
    colour = np.where(amount[..., None] > 0, RED, BLUE)
    return _blend(image, colour, 0.75 * np.abs(amount))


def reach(image: Image.Image, groups: np.ndarray, seen: np.ndarray, chosen: np.ndarray) -> Image.Image:
    """The picture with lines between groups (h, w) of tokens, dark where not seen (H, W), and what is chosen framed."""
    ground = np.array(frame(image, MAP_PX), np.float32)  # (MAP_PX, MAP_PX, 3)
    dark = ~_cells(seen)
    ground[dark] = 0.3 * ground[dark] + 0.7 * UNSEEN
    number = _cells(windows.over_patches(groups, seen.shape))
    for axis in (0, 1):
        edge = number != np.roll(number, 1, axis)
        edge |= np.roll(edge, -1, axis)  # two pixels wide; around the picture as well where its ends differ
        ground[edge] = TEAL
    return _framed(Image.fromarray(ground.round().astype(np.uint8)), chosen)


def colours(values: np.ndarray, chosen: np.ndarray | None = None) -> Image.Image:
    """Colours (h, w, 3) uint8 as cells of a picture; what is chosen (h, w) of them framed."""
    return _framed(Image.fromarray(_cells(values)), chosen)


def framed_heat(image: Image.Image, amount: np.ndarray, chosen: np.ndarray | None = None) -> Image.Image:
    """`heat` in cells (h, w); what is chosen (h, w) of them framed."""
    return _framed(heat(image, amount, cells=True), chosen)


def _framed(image: Image.Image, chosen: np.ndarray | None) -> Image.Image:
    """The picture with a frame around the cells that are chosen (h, w), which make a rectangle."""
    if chosen is not None:
        rows, columns = (np.flatnonzero(_cells(chosen).any(axis)) for axis in (1, 0))
        box, draw = (columns[0], rows[0], columns[-1], rows[-1]), ImageDraw.Draw(image)
        for margin, colour, width in ((3, "white", 6), (1, "#dc2626", 3)):
            around = np.clip(np.add(box, (-margin, -margin, margin, margin)), 0, MAP_PX - 1)
            draw.rectangle(around.tolist(), outline=colour, width=width)
    return image


def _cells(values: np.ndarray) -> np.ndarray:
    """The map (h, w, …) at MAP_PX a side, each of its cells a square."""
    rows, columns = (np.arange(MAP_PX) * side // MAP_PX for side in values.shape[:2])
    return values[rows][:, columns]


def _enlarge(values: np.ndarray) -> np.ndarray:
    """The map (h, w) at MAP_PX a side, smooth between its cells, inside the range it had."""
    image = Image.fromarray(values.astype(np.float32)).resize((MAP_PX, MAP_PX), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(values.min(), values.max())


def _blend(image: Image.Image, colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    """The picture, a little greyed so that the colours speak, under `colour` (H, W, 3) at strength `alpha` (H, W)."""
    framed = frame(image, MAP_PX)
    ground = 0.5 * np.asarray(framed, np.float32) + 0.5 * np.asarray(framed.convert("L"), np.float32)[..., None]
    return Image.fromarray((ground + alpha[..., None] * (colour - ground)).round().clip(0, 255).astype(np.uint8))
