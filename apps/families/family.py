"""What the page asks of a family of models, whichever it is: one row of `rows.FAMILIES` each.

Letters: B pictures, S pictures of a walk, R pixels a side.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

ANY = "any"  # the label that leaves the class to the model


def variant_of(name: str) -> str:
    """What tells a model of the page, named as stem=variant, from another of its family."""
    return name.partition("=")[2].rstrip("/").removesuffix("/export").rpartition("/")[2]


@dataclass(frozen=True)
class Frame:
    """Where a family's work is after a step of it."""

    index: int  # 0 … total - 1
    total: int
    paint: Callable[[], np.ndarray]  # what there is to see by then: uint8 (B, R, R, 3)


@dataclass(frozen=True)
class Seen:
    """What a family has made of a visitor's picture by now."""

    said: str
    pictures: Sequence[tuple[str, np.ndarray]] = ()  # what each is, and uint8 (R, R, 3)
    facts: Mapping[str, str] = field(default_factory=dict)


Frames = Generator[Frame]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of a stem draw, look at a picture, and go from one picture to another; `Any` is such a model.

    What a model of it can't do raises ValueError, whose sentence the page shows in its place.
    """

    stem: str
    title: str
    load: Callable[[str], Any]
    labels: Callable[[Any], Sequence[str]]  # those that it can draw
    passes: Callable[[Any], int]  # steps of a drawing and of a walk, each some passes through the network
    how: Callable[[Any], str]  # a sentence on how it makes a picture
    draw: Callable[[Any, str, Sequence[int]], Frames]  # of a label and so many seeds
    receipt: Callable[[Any, str, Sequence[int], int], dict]  # of the same, after so many steps
    look: Callable[[Any, Image.Image, str, int], Generator[Seen]]  # at a picture, told a label or ANY, with a seed
    between_seeds: Callable[[Any, str, int, int, int], Frames] | None = None  # a label, two seeds, S
    between_pictures: Callable[[Any, Image.Image, Image.Image, int], Frames] | None = None  # two pictures, S
    space: str  # a sentence on what it walks through, or on why it can't
    likelihood: str  # "exact", "a bound" or "none"
    bits: str = ""  # the name of the bits per dimension among its metrics
    encoder: str  # what it makes of a picture in one pass, "" for nothing
