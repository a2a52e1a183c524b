"""Numbers as colours: a scale whose lightness only rises, and maps laid over what they are of. Opacity is in percent.

Letters: h × w the places of a map.
"""

import numpy as np
from PIL import Image

# Viridis (van der Walt & Smith 2015), every eighth of it: lightness only rises, to the colour-blind as to everybody.
STOPS = "#440154 #472c7a #3b518b #2c718e #21908d #27ad81 #5cc863 #aadc32 #fde725".split()
VIRIDIS = np.array([list(bytes.fromhex(colour[1:])) for colour in STOPS], np.float32)  # (9, 3)


def colours(values: np.ndarray) -> np.ndarray:
    """Viridis for values in [0, 1] of any shape: float32 (…, 3)."""
    places = np.linspace(0, 1, len(VIRIDIS))
    return np.stack([np.interp(values, places, channel) for channel in VIRIDIS.T], -1).astype(np.float32)


def heat_map(picture: Image.Image, values: np.ndarray, side_px: int, opacity: float) -> Image.Image:
    """A square picture, the greyer the more is over it, under the map (h, w) of values in [0, 1]: RGB of side_px."""
    base = picture.resize((side_px, side_px), Image.Resampling.BICUBIC)
    grey = np.asarray(base.convert("L"), np.float32)[..., None]
    ground = np.asarray(base, np.float32) * (1 - opacity / 100) + grey * opacity / 100  # (side_px, side_px, 3)
    smooth = Image.fromarray(values.astype(np.float32)).resize((side_px, side_px), Image.Resampling.BICUBIC)
    mixed = ground + opacity / 100 * (colours(np.asarray(smooth).clip(0, 1)) - ground)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
