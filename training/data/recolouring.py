"""The colour of a drawing as a word, and the same drawing in another colour.

    measured(picture).word                        "red", what most of a picture's coloured part is; None where it is
    motley recolour(picture, "blue")                     the picture with that part blue, shades and outlines kept
    coloured("red apple", "blue")                 "blue apple", a name that says the colour

Colours are compared in OKLCh (Ottosson 2020): lightness L in [0, 1], chroma C (0 is grey, 0.3 the strongest there is),
hue h in degrees. A word is a range of all three, so that brown is a dark orange and pink a light red.

Letters: R side of a picture in pixels, P pixels that belong to the thing.
"""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.data.art import on_ground

VERSION = 1  # to be raised when the same picture gives another word, or the same word another picture
# Where a word's hues begin (degrees, clockwise to the next), as most people name them.
HUES = ((-15, "red"), (40, "orange"), (79, "yellow"), (115, "green"), (203, "blue"), (283, "purple"), (330, "pink"))
# What a thing is turned to, but for white, which would be lost on white: L and C to bring the mean of its coloured part
# near, and h. A range is left alone within.
TARGETS = {
    "red": ((0.50, 0.62), (0.17, 0.24), 26),
    "orange": ((0.68, 0.76), (0.14, 0.19), 58),
    "yellow": ((0.83, 0.90), (0.14, 0.19), 95),
    "green": ((0.55, 0.75), (0.14, 0.21), 144),
    "blue": ((0.48, 0.68), (0.12, 0.19), 254),
    "purple": ((0.45, 0.62), (0.13, 0.20), 303),
    "pink": ((0.74, 0.82), (0.10, 0.15), 354),
    "brown": ((0.36, 0.50), (0.06, 0.09), 52),
    "black": ((0.22, 0.28), (0.0, 0.0), 0),
    "grey": ((0.58, 0.70), (0.0, 0.0), 0),
}
WORDS = tuple(TARGETS)
GREY_C = 0.045  # below this chroma a pixel has no hue
NEAR = 35.0  # degrees around the dominant hue that count as one colour
LEAST_SHARE = 0.35  # of a thing's pixels that have to be near the dominant hue
LEAST_OF_CHROMA = 0.65  # of all chroma that has to be near it
PAPER_L, PAPER_C = 0.97, 0.02  # lighter and greyer than that is white ground

_TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


@dataclass(frozen=True)
class Colour:
    """What the coloured part of a thing looks like: medians in OKLCh, and how much of the thing it is."""

    word: str
    lightness: float
    chroma: float
    hue: float  # degrees
    share: float  # of the thing's pixels


def oklch(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """L, C, h in degrees (…) each, of sRGB bytes (…, 3)."""
    value = rgb.astype(np.float32) / np.float32(255)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ _TO_LMS.T.astype(np.float32)) @ _TO_LAB.T.astype(np.float32)
    return lab[..., 0], np.hypot(lab[..., 1], lab[..., 2]), np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360


def rgb_of(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """sRGB bytes (…, 3); what no screen shows loses chroma until it can, in steps of a tenth."""
    angle, made, left = np.radians(hue), np.zeros((*lightness.shape, 3)), np.ones(lightness.shape, bool)
    for less in np.linspace(1, 0, 11):
        strong = less * chroma[left]
        lab = np.stack([lightness[left], strong * np.cos(angle[left]), strong * np.sin(angle[left])], -1)
        linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T
        made[left] = linear.clip(0, 1)
        left[left] = ((linear < -0.002) | (linear > 1.002)).any(-1)
        if not left.any():
            break
    value = np.where(made <= 0.0031308, 12.92 * made, 1.055 * made ** (1 / 2.4) - 0.055)
    return np.round(255 * value).astype(np.uint8)


def measured(picture: Image.Image) -> Colour | None:
    """The one colour of a thing on transparent or white ground; None where it has no pixels, several colours or none.

    Grey, black and white are words, too, of a thing of which nearly nothing has a hue.
    """
    step = max(1, min(picture.size) // 64)  # every pixel of 64 is enough
    picture = Image.fromarray(np.asarray(picture)[::step, ::step])
    rgb = np.asarray(on_ground(picture, (255, 255, 255)))
    lightness, chroma, hue = (part[_thing(picture, rgb)] for part in oklch(rgb))  # (P,) each
    if len(lightness) < 0.01 * rgb.shape[0] * rgb.shape[1]:
        return None
    strong = chroma >= GREY_C
    if strong.mean() < 0.08:
        middle = float(np.median(lightness))
        word = "black" if middle < 0.4 else "white" if middle > 0.86 else "grey"
        return Colour(word, middle, float(np.median(chroma)), 0.0, float(1 - strong.mean()))
    peak = _peak(hue[strong], chroma[strong])
    near = strong & (np.abs(_apart(hue, peak)) <= NEAR)
    if near.mean() < LEAST_SHARE or chroma[near].sum() < LEAST_OF_CHROMA * chroma[strong].sum():
        return None
    middle = [float(np.median(value)) for value in (lightness[near], chroma[near], _apart(hue[near], peak))]
    turned = (peak + middle[2]) % 360
    return Colour(word_of(middle[0], middle[1], turned), middle[0], middle[1], turned, float(near.mean()))


def word_of(lightness: float, chroma: float, hue: float) -> str:
    """The word for a colour that has a hue."""
    word = [name for begins, name in HUES if (hue + 15) % 360 >= begins + 15][-1]
    if word in ("red", "orange", "yellow") and hue < 95 and lightness < 0.58 and chroma < 0.115:
        return "brown"
    if word == "orange" and lightness < 0.56:
        return "brown"
    if word == "red" and (hue + 15) % 360 < 37 and lightness > 0.71:
        return "pink"
    return word


def _thing(picture: Image.Image, rgb: np.ndarray) -> np.ndarray:
    """(R, R) bool: the opaque pixels, or in a picture without transparency those that aren't white."""
    if picture.mode == "RGBA" and (alpha := np.asarray(picture.getchannel("A"))).min() < 128:
        return alpha >= 128
    lightness, chroma, _ = oklch(rgb)
    return (lightness < PAPER_L) | (chroma > PAPER_C)


def _apart(hue: np.ndarray, other: float) -> np.ndarray:
    """Degrees from `other` to each hue, in [-180, 180)."""
    return (hue - other + 180) % 360 - 180


def _peak(hue: np.ndarray, weight: np.ndarray) -> float:
    """The hue around which most weight lies within NEAR, to 5 degrees."""
    counts = np.bincount((hue // 5).astype(int) % 72, weight, 72)
    wide = int(NEAR // 5)
    around = sum(np.roll(counts, shift) for shift in range(-wide, wide + 1))
    return float(np.argmax(around + 1e-3 * counts) * 5 + 2.5)


def recolour(picture: Image.Image, word: str) -> Image.Image | None:
    """A drawing, RGBA, whose one colour is turned to `word`; None where it has none, or the result doesn't measure so.

    Pixels near the dominant hue take the new hue and keep their differences: hues half of them, lightness by a power
    that leaves black and white where they are. All others, and alpha, stay.
    """
    before = measured(picture)
    if before is None or before.word in ("black", "white", "grey"):
        return None
    (dark, light), (weak, strong), target = TARGETS[word]
    lightness, chroma, hue = oklch(np.asarray(picture.convert("RGB")))
    apart = _apart(hue, before.hue)
    part = np.clip((NEAR + 12 - np.abs(apart)) / 12, 0, 1) * np.clip(chroma / GREY_C - 0.3, 0, 1)  # (R, R) in [0, 1]
    power = np.log(np.clip(before.lightness, dark, light)) / np.log(np.clip(before.lightness, 0.05, 0.97))
    scale = np.clip(before.chroma, weak, strong) / before.chroma
    at = part > 0  # P pixels
    new = rgb_of(np.clip(lightness[at], 0, 1) ** power, chroma[at] * scale, target + 0.4 * apart[at])
    made = np.array(picture.convert("RGBA"))
    made[at, :3] = np.round(made[at, :3] + part[at, None] * (new - made[at, :3].astype(float)))
    made = Image.fromarray(made)
    after = measured(made)
    return made if after is not None and after.word == word else None


_SAID = re.compile(rf"\b(?:{'|'.join(WORDS)}|white|gray|golden|silver)\b ?", re.IGNORECASE)


def coloured(name: str, word: str) -> str:
    """A name that says this colour, in place of the one that it says, if any: "blue apple"."""
    return f"{word} {_SAID.sub('', name).strip() or 'thing'}"


def can_be_coloured(name: str) -> bool:
    """Whether a colour word before the name says what is meant: not of flags, nor of names with an article."""
    return ":" not in name and not name.lower().startswith(("the ", "a ", "an ", "flag"))
