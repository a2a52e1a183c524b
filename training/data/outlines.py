"""Masks of single things as COCO has them, polygons or run lengths, packed; by pycocotools.

    packed = packed_mask([[1, 1, 9, 1, 9, 7]], (24, 16))     # polygons, [x, y, x, y, …] in pixels
    packed_mask({"size": [16, 24], "counts": [30, 4, …]}, (24, 16))     # or run lengths, as numbers or as a text
    unpacked([packed], (24, 16))                             # (1, 16, 24) bool

Letters: N things, H × W pixels of the picture.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Packed = bytes  # the counts of COCO's compressed run lengths


def packed_mask(value: Any, size: tuple[int, int]) -> Packed:
    """The mask of a thing in a picture of size (width, height).

    value: a list of polygons, or one, or {"size": [height, width], "counts"}, or any of these as a text of JSON. Raises
    ValueError, which says what is wrong.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"the mask {value[:60]!r} is no JSON") from None
    width, height = size
    if not value:
        raise ValueError("a thing has no mask")
    if isinstance(value, dict):
        return _of_runs(value, height, width)
    polygons = [value] if isinstance(value, list) and all(map(_is_number, value)) else value
    if not isinstance(polygons, list) or not all(_is_polygon(polygon) for polygon in polygons):
        raise ValueError(f"the mask {str(value)[:60]} is no list of polygons [x, y, x, y, x, y, …], nor run lengths")
    edges = (float(width), float(height))  # what lies beyond is cut: the way there would be walked by the pixel
    flat = [[min(max(float(x), 0.0), edges[k % 2]) for k, x in enumerate(polygon)] for polygon in polygons]
    return coco_mask.merge(coco_mask.frPyObjects(flat, height, width))["counts"]


def _of_runs(value: dict, height: int, width: int) -> Packed:
    """The mask of {"size", "counts"}. Raises ValueError."""
    counts, said = value.get("counts"), value.get("size")
    if not isinstance(said, list) or list(said) != [height, width]:
        raise ValueError(f"run lengths are for a size of {said}, but the picture is {[height, width]} high and wide")
    if isinstance(counts, str):
        counts = _numbers(counts)
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        raise ValueError("run lengths have no list or text of `counts`")
    if sum(counts) != height * width:
        raise ValueError(f"run lengths make {sum(counts)} pixels of {height * width}")
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]


def _numbers(text: str) -> list[int]:
    """The run lengths of COCO's compressed text, as its maskApi.c decodes them. Raises ValueError."""
    runs: list[int] = []
    value = shift = 0
    for place, letter in enumerate(text):
        part = ord(letter) - 48
        if not 0 <= part < 64 or shift > 25:
            raise ValueError(f"run lengths have {letter!r} at place {place} of their text")
        value |= (part & 31) << shift
        shift += 5
        if not part & 32:
            if part & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("run lengths end in the midst of a number")
    return runs


def unpacked(masks: Sequence[Packed], size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) bool of the masks in a picture of size (width, height)."""
    width, height = size
    if not masks:
        return np.zeros((0, height, width), bool)
    found = coco_mask.decode([{"size": [height, width], "counts": counts} for counts in masks])  # (H, W, N)
    return np.ascontiguousarray(found.transpose(2, 0, 1)).astype(bool)


def area(mask: Packed, size: tuple[int, int]) -> int:
    """How many pixels of a picture of size (width, height) a mask has."""
    return int(coco_mask.area({"size": [size[1], size[0]], "counts": mask}))


def _is_polygon(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
