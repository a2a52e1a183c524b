"""Colours for classes that come without any, the same on every page and in every file."""

import colorsys
from collections.abc import Sequence


def default_palette(label_names: Sequence[str]) -> list[tuple[int, ...]]:
    """A colour for each class, the same for the same place in any list; "background" is dark grey."""
    colours = []
    for k, name in enumerate(label_names):
        lightness, saturation = ((0.55, 0.75), (0.40, 0.85), (0.70, 0.60))[k % 3]
        colour = colorsys.hls_to_rgb((k * 0.61803398875) % 1, lightness, saturation)  # the golden ratio
        colours.append((48, 48, 52) if name == "background" else tuple(round(255 * part) for part in colour))
    return colours
