"""What may be done to a drawing with transparent ground: lay it on a colour, ink its edges, change its colours."""

import random

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter


def any_colour(rng=random) -> tuple[int, int, int]:
    red, green, blue = (rng.randrange(256) for _ in range(3))
    return red, green, blue


def on_ground(picture: Image.Image, colour: tuple[int, int, int], margin: float = 0.0) -> Image.Image:
    """The picture as RGB, its transparent parts over `colour`, with that share of its sides as ground around it."""
    across, down = round(margin * picture.width), round(margin * picture.height)
    ground = Image.new("RGB", (picture.width + 2 * across, picture.height + 2 * down), colour)
    ground.paste(picture, (across, down), picture if picture.mode == "RGBA" else None)
    return ground


def inked(picture: Image.Image, rng=random) -> Image.Image:
    """A picture whose edges, of any colour, are drawn over in black, one to three pixels wide.

    RGB, or RGBA: there the outline counts as an edge, too, and alpha stays as it is. rng: a random.Random.
    """
    edges = np.asarray(picture.filter(ImageFilter.FIND_EDGES)).max(-1).copy()  # (H, W), strongest of the channels
    edges[[0, -1]] = edges[:, [0, -1]] = 0  # the filter copies the rim
    mask = Image.fromarray(np.where(edges > rng.uniform(40, 120), 255, 0).astype(np.uint8))
    mask = mask.filter(ImageFilter.MaxFilter(3) if rng.random() < 0.5 else ImageFilter.SMOOTH)
    ink = Image.new(picture.mode, picture.size, "black")
    if picture.mode == "RGBA":
        ink.putalpha(picture.getchannel("A"))
    return Image.composite(ink, picture, mask)


def recoloured(picture: Image.Image, amount: float, rng=random) -> Image.Image:
    """An RGB or RGBA picture with brightness, contrast and saturation changed by up to `amount`, hue by a third of it.

    amount in [0, 1], as a share; alpha stays as it is. rng: a random.Random.
    """
    for enhance in (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness):
        picture = enhance(picture).enhance(rng.uniform(1 - amount, 1 + amount))
    hue, saturation, value = picture.convert("RGB").convert("HSV").split()
    turn = round(255 * rng.uniform(-amount / 3, amount / 3))
    turned = Image.merge("HSV", (hue.point(lambda h: (h + turn) % 256), saturation, value)).convert("RGB")
    if picture.mode == "RGBA":
        turned.putalpha(picture.getchannel("A"))
    return turned
