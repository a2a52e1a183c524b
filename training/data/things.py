"""Boxes and classes of the things in pictures, as rows of a data set say them, checked by picture.

A row's `objects` is {"bbox": [[left, top, width, height], …], "categories": [class, …]}, as the Hub has it, or a list
of objects with one of each; in pixels of the upright picture. A class is its name, or a number that the data set's
features or id2label.json name; without names it is called by its number. A mask, where one is wanted, is under
"segmentation", as COCO has it: see `outlines`.

Letters: N things of a picture, H × W pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.data import outlines
from training.data.coco import Faults, is_box, listed_faults
from training.data.files import MAX_SKIPPED_SHARE, DataError, Files, choices, first_line, some
from training.data.split import Split

BOX = ("bbox", "bboxes", "boxes")
CLASS = ("categories", "category", "category_id", "labels", "label", "class", "classes")
MASK = ("segmentation", "segmentations", "segments")
BEYOND_PX = 1.0  # how far a box may reach beyond its picture: so much is rounding, and is cut without a word
EXAMPLE = '{"bbox": [[left, top, width, height]], "categories": ["cat"]}'


@dataclass(frozen=True)
class Things:
    """The things in a picture."""

    boxes: np.ndarray  # (N, 4) float32: left, top, right, bottom in pixels, right and bottom exclusive
    labels: np.ndarray  # (N,) int64, indices into label_names
    masks: np.ndarray | None = None  # (N, H, W) bool: the pixels of each that are seen; None where nothing says them
    packed: list[outlines.Packed] | None = None  # of each what `outlines.unpacked` makes the masks of

    def __len__(self) -> int:
        return len(self.labels)


def things_of(
    split: Split, column: str, sizes: Sequence[tuple[int, int]], rows: Sequence[int], masks: bool = False
) -> tuple[list[Things], list[str]]:
    """The things of some rows of a split, whose pictures have these sizes (width, height), and the classes' names.

    masks: whether each has one, packed. A box without area, or that reaches beyond its picture, or a mask without a
    pixel, is left out or cut, which is said. Raises DataError that lists by picture what is wrong: such things where
    they are more than 5 %, what is no box or mask, classes without a name.
    """
    features = split.data.features
    if column not in features:
        raise DataError(
            f"{split.where} has no column '{column}' of boxes. {choices(column, features, 'It has')} In a folder, each "
            f'line of metadata.jsonl has them: {{"file_name": "1.jpg", "objects": {EXAMPLE}}}; or COCO\'s JSON files '
            "lie in it. Or set --objects_column."
        )
    keys = [next((key for key in known if key in _inside(features[column])), None) for known in (BOX, CLASS)]
    if None in keys:
        raise DataError(
            f"{split.where}: column '{column}' holds {', '.join(_inside(features[column])) or features[column]}, but "
            f"{EXAMPLE} is needed."
        )
    box_key, class_key = map(str, keys)
    mask_key = next((key for key in MASK if key in _inside(features[column])), None)
    if masks and mask_key is None:
        raise DataError(
            f"{split.where}: column '{column}' holds {', '.join(_inside(features[column]))}, but no masks: give each "
            'thing its polygons or run lengths under "segmentation", as COCO has them, or learn boxes alone.'
        )
    label_names, number = _classes(split, column, class_key)
    found, faults, odd, count = [], Faults(), Faults(), 0
    values = list(split.data.select_columns([column]).select(rows)[column])
    for value, name, size in zip(values, (split.names[row] for row in rows), sizes, strict=True):
        boxes, labels = (_listed(value, key) for key in (box_key, class_key))
        wrong = _wrong(boxes, labels, number, label_names)
        outlined: list = [None] * len(boxes)
        if masks and not wrong:
            try:
                outlined = _packed(_listed(value, str(mask_key)), size, len(boxes))
            except ValueError as error:
                wrong = str(error)
        if wrong:
            faults.setdefault(wrong, []).append(name)
            boxes = labels = outlined = []
        kept = []
        for box, label, mask in zip(boxes, labels, outlined, strict=True):
            corners = cut_to(box, size, name, odd)
            if corners is not None and mask is not None and not outlines.area(mask, size):
                odd.setdefault("a mask has no pixel", []).append(name)
                corners = None
            if corners is not None:
                kept.append((corners, number[label], mask))
        count += len(boxes)
        corners = np.array([box for box, _, _ in kept], np.float32).reshape(-1, 4)
        packed = [mask for _, _, mask in kept] if masks else None
        found.append(Things(corners, np.array([label for _, label, _ in kept], np.int64), packed=packed))
    _judge(split.where, faults, odd, count)
    return found, label_names


def _packed(values: list, size: tuple[int, int], count: int) -> list[outlines.Packed]:
    """The masks of a row with so many boxes. Raises ValueError, which says what is wrong."""
    if len(values) != count:
        raise ValueError(f"{count} boxes, but {len(values)} masks")
    return [outlines.packed_mask(value, size) for value in values]


def cut_to(box: Sequence[float], size: tuple[int, int], name: str, odd: Faults) -> tuple[float, ...] | None:
    """Left, top, right, bottom of [left, top, width, height], cut to a picture's size; None where that is nothing.

    What is odd about it is noted with the picture's name.
    """
    (left, top, wide, high), (width, height) = box, size
    shown = "[" + ", ".join(f"{value:g}" for value in box) + "]"
    if wide <= 0 or high <= 0:
        odd.setdefault(f"the box {shown} has no area", []).append(name)
        return None
    corners = max(left, 0.0), max(top, 0.0), min(left + wide, float(width)), min(top + high, float(height))
    gone = corners[2] <= corners[0] or corners[3] <= corners[1]
    beyond = max(-left, -top, left + wide - width, top + high - height)
    if gone or beyond > BEYOND_PX:
        where = "outside of" if gone else "beyond"
        odd.setdefault(f"the box {shown} lies {where} its picture of {width} × {height} px", []).append(name)
    return None if gone else corners


def _wrong(boxes: list, labels: list, number: dict, label_names: list[str]) -> str:
    """What makes the objects of a row none, "" where nothing does."""
    if len(boxes) != len(labels):
        return f"{len(boxes)} boxes, but {len(labels)} categories"
    for box in boxes:
        if not is_box(box):
            return f"the box {str(box)[:80]} is not [left, top, width, height]"
    for label in labels:
        if not isinstance(label, int | str) or label not in number:
            return f"the category {str(label)[:40]!r} is none of {some(label_names)}"
    return ""


def _judge(where: str, faults: Faults, odd: Faults, count: int) -> None:
    """Raise DataError for faults, or for odd boxes where they are more than 5 %; else say the odd ones."""
    if faults:
        raise DataError(f"{where} cannot be learned from:{listed_faults(faults)}")
    many = sum(map(len, odd.values()))
    if many > MAX_SKIPPED_SHARE * count:
        hint = ""
        if sum(len(names) for said, names in odd.items() if "lies" in said) * 2 > many:
            hint = " A box is [left, top, width, height] in pixels, not [left, top, right, bottom], nor shares."
        raise DataError(
            f"{where}: {many} of {count} boxes are wrong, more than {MAX_SKIPPED_SHARE:.0%}:{listed_faults(odd)}{hint}"
        )
    if many:
        print(f"{where}: {many} of {count} boxes are cut to their picture or left out:{listed_faults(odd)}")


def _inside(feature: Any) -> dict:
    """The features of an object: of a struct of lists or a list of structs; {} of anything else."""
    inner = feature if isinstance(feature, dict) else getattr(feature, "feature", None)
    return inner if isinstance(inner, dict) else {}


def _listed(value: Any, key: str) -> list:
    """What the objects of a row have under a key, one entry each."""
    if isinstance(value, dict):
        found = value.get(key)
        return found if isinstance(found, list) else []
    return [one.get(key) for one in value] if isinstance(value, list) else []


def _classes(split: Split, column: str, key: str) -> tuple[list[str], dict]:
    """The names of the classes, the same in every split, and {class, as rows have it: its number}."""
    feature = _inside(split.data.features[column])[key]
    while getattr(feature, "feature", None) is not None:
        feature = feature.feature
    if names := getattr(feature, "names", None):  # a ClassLabel
        return list(names), {k: k for k in range(len(names))}
    seen: set = set()
    for part in split.siblings:
        if column in part.column_names:
            labels = (label for value in part[column] for label in _listed(value, key))
            seen.update(label for label in labels if isinstance(label, int | str))
    if all(isinstance(label, str) for label in seen):
        names = sorted({label.strip() for label in seen} - {""})
        index = {name: k for k, name in enumerate(names)}
        return names, {label: index[label.strip()] for label in seen if label.strip()}
    named = _id2label(split)
    if named is not None:
        ids = sorted(named)
        return [named[k] for k in ids], {k: place for place, k in enumerate(ids)}
    ids = sorted(label for label in seen if isinstance(label, int) and label >= 0)
    return [str(k) for k in ids], {k: place for place, k in enumerate(ids)}


def _id2label(split: Split) -> dict[int, str] | None:
    """The names of numbers by id2label.json in the folder; None without one. Raises DataError."""
    path = None if split.folder is None else (split.folder / "id2label.json").absolute()
    if path is None or not path.exists():
        return None
    assert split.folder is not None
    try:
        found = json.loads(Files((split.folder.resolve(),)).read(path).decode("utf-8-sig"))
        named = {int(key): value for key, value in found.items()}
        if not all(isinstance(value, str) and value.strip() for value in named.values()):
            raise ValueError("a name is no text")
    except (DataError, OSError) as error:
        raise DataError(f"{split.where}: {first_line(error)}.") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{split.where}: id2label.json has to be an object of ids and names, such as {{"0": "cat"}}: '
            f"{first_line(error)}."
        ) from error
    return named
