"""The file of a mask as class ids: numbers as they stand in it, the indices of a palette, or colours.

label_colors.json, beside id2label.json, says which class a colour is: {"road": "#804080", "sky": [70, 130, 180]}, by
name or id; the colour of 255, or of "void", has no answer.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from hub_models.pictures import formats
from training.data.files import MAX_SKIPPED_SHARE, DataError, Files, first_line, shown

COLOURS = "label_colors.json"
IGNORE = 255  # no answer here: left out of loss and metrics
NO_ANSWER = {"255", "void", "ignore", "unlabeled", "unlabelled"}
NEAR = 40  # of 255: how far a colour in a lossy file may be from the one that was painted
LISTED = 8  # colours that a message lists


@dataclass
class Colours:
    """Classes by colour: rgb (C, 3), ids (C,). changed: of each mask that wasn't exact, the share of such pixels."""

    rgb: np.ndarray
    ids: np.ndarray
    changed: list[float] = field(default_factory=list)

    def ids_of(self, pixels: np.ndarray, lossy: bool) -> np.ndarray:
        """Class ids int64 (H, W) of colours uint8 (H, W, 3): of another colour that of the nearest.

        Raises DataError where more than 5 % are none of these, or, of a lossy file, not near one.
        """
        seen, back = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)  # (S, 3), (H·W,)
        away = np.abs(seen[:, None].astype(int) - self.rgb).max(2)  # (S, C)
        other = (away.min(1) > (NEAR if lossy else 0))[back]
        if other.mean() > MAX_SKIPPED_SHARE:
            raise DataError(
                f"{other.mean():.0%} of its mask are of no colour in {COLOURS}, such as "
                f"{_listed(pixels.reshape(-1, 3)[other])}: add them"
            )
        if (share := float((away.min(1) > 0)[back].mean())) > 0:
            self.changed.append(share)
        return self.ids[away.argmin(1)[back]].reshape(pixels.shape[:2])


def read_mask(content: bytes, colours: Colours | None) -> np.ndarray:
    """What stands in the file of a mask, int64 (H, W). Raises DataError where that isn't a number for each pixel."""
    try:
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            kind, values = f"{image.mode} {image.format}", np.asarray(image)
            lossy = image.format in ("JPEG", "MPO", "AVIF", "HEIF") or b"VP8 " in content[:64]
            rgb = np.asarray(image.convert("RGB")) if colours else values
    except Exception as error:  # PIL raises a dozen kinds
        raise DataError(f"its mask cannot be read: {first_line(error)}") from error
    if colours:
        return colours.ids_of(rgb, lossy)
    if values.ndim == 3:  # grey as RGB or with alpha is still a mask
        grey, alpha = np.split(values, [1 if values.shape[2] == 2 else 3], axis=2)
        if (grey != grey[..., :1]).any():
            raise DataError(
                f"its mask is in colours ({kind}): each pixel has to be one number, its class id, or {COLOURS} has to "
                f'say which class each colour is, such as {{"name": "#804080"}}. It has {_listed(grey.reshape(-1, 3))}'
            )
        if alpha.size and np.ptp(alpha) and not np.ptp(grey):
            raise DataError(f"its mask is in the alpha channel ({kind}): save it as a grey picture of class ids")
        values = grey[..., 0]
    if lossy:
        raise DataError(f"ids in a {kind.split()[1]} come back as shades: save masks as PNG")
    if values.dtype.kind == "f" and (values != np.floor(values)).any():
        raise DataError(f"its mask has fractions in it ({kind}): each pixel has to be one number, its class id")
    return values.astype(np.int64)


def palette_of(content: bytes) -> dict[bytes, int]:
    """{colour: index} of what a mask shows by its palette; {} without one, or where a colour is there twice."""
    with Image.open(io.BytesIO(content), formats=formats()) as image:
        if image.mode != "P":
            return {}
        seen, palette = np.unique(np.asarray(image)), bytes(image.getpalette("RGB") or [])
    shown = [(palette[3 * k : 3 * k + 3], int(k)) for k in seen]
    return dict(shown) if len(dict(shown)) == len(shown) else {}


def _listed(colours: np.ndarray) -> str:
    """The most frequent of colours (N, 3), as in style sheets."""
    seen, counts = np.unique(colours, axis=0, return_counts=True)
    first = seen[np.argsort(-counts, kind="stable")[:LISTED]]
    return ", ".join("#" + bytes(c.astype(np.uint8)).hex() for c in first) + (" …" if len(seen) > LISTED else "")


def read_colours(where: str, folder: Path) -> dict[str, tuple[int, ...]] | None:
    """{class, as it is called: its colour} as the file has it, None without one. Raises DataError."""
    path = (folder / COLOURS).absolute()
    if not path.exists():
        return None
    try:
        found = json.loads(Files((folder.resolve(),)).read(path).decode("utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}")
        if all(key.startswith("#") for key in found):  # the other way round
            found = {str(name): colour for colour, name in found.items()}
        colours = {name: _colour(value) for name, value in found.items()}
    except (DataError, OSError) as error:
        raise DataError(f"{where}: {first_line(error)}.") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{where}: {COLOURS} has to be an object of classes and colours, such as {{"road": "#804080"}}: '
            f"{first_line(error)}."
        ) from error
    if len(set(colours.values())) < len(colours):
        raise DataError(f"{where}: {COLOURS} has a colour twice: each class needs its own.")
    return colours


def _colour(value) -> tuple[int, ...]:
    if isinstance(value, str):
        return ImageColor.getrgb(value)[:3]
    if len(value) != 3 or any(type(part) is not int or not 0 <= part <= 255 for part in value):
        raise ValueError(f"{value!r} is no colour")
    return tuple(value)


def by_colour(where: str, colours: dict[str, tuple[int, ...]], id2label: dict[int, str]) -> Colours:
    """The colours of classes. Raises DataError for one of a class that isn't there."""
    number = {name: k for k, name in id2label.items()}
    ids = []
    for name in colours:
        known = number.get(name, int(name) if name.isdecimal() and int(name) in id2label else None)
        if known is None and name.lower() not in NO_ANSWER:
            raise DataError(f"{where}: {COLOURS} has the class {shown(name)}, which id2label.json doesn't have.")
        ids.append(IGNORE if known is None else known)
    return Colours(np.array(list(colours.values()), np.int64), np.array(ids, np.int64))
