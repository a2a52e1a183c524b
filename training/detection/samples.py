"""What a detector learns from: parts of pictures with the boxes or masks of what is in them.

Letters: R side of the training picture in pixels, r that of its masks, M the most things that a picture shows, N those
of this one, H × W pixels of a part.
"""

import math
import random

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from hub_models import detection as contract
from training.data.art import recoloured
from training.data.boxes import BoxSource, PaintedBoxes
from training.data.things import Things
from training.detection.config import DetectionConfig

NONE = -1  # the label of a row that is no thing
MASK_STRIDE = {"maskformer": 4}  # of masks, as those on a Swin tell them; others see each pixel


class BoxedPictures:
    """Augmented training samples {"pixels": (3, R, R), "boxes": (M, 4), "labels": (M,)}; see `training.order.Samples`.

    pixels: as the image processor gives them. boxes: centre x, centre y, width, height as shares of the picture.
    labels: NONE in the rows after the last thing. For a model that makes masks, these in the place of boxes: "masks"
    (M, r, r) in [0, 1], how much of each cell is the thing's.
    """

    def __init__(self, source: BoxSource | PaintedBoxes, cfg: DetectionConfig, served: contract.Detector):
        self.source, self.cfg, self.served, self.data_hash = source, cfg, served, source.data_hash
        source.preload()

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        cfg, rng = self.cfg, random.Random(int(torch.randint(2**62, (), generator=draw)))
        picture, things = self.source.pair(index)
        if not self.served.makes_masks:
            things = Things(things.boxes, things.labels)
        zoom = math.exp(rng.uniform(*map(math.log, cfg.scale)))
        picture, things = part_of(picture, things, zoom, rng, cfg.least_seen)
        flipped = cfg.random_flip and rng.random() < 0.5
        if flipped:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if cfg.color_jitter:
            picture = recoloured(picture, cfg.color_jitter, rng)
        if rng.random() < cfg.grayscale:
            picture = picture.convert("L").convert("RGB")
        [inputs] = self.served.preprocess([picture])
        pixels, most, count = inputs["pixel_values"][0], max(1, self.source.most_things), len(things)
        labels = torch.full((most,), NONE)
        labels[:count] = torch.from_numpy(things.labels)
        if self.served.makes_masks:
            stride = MASK_STRIDE.get(self.served.kind, 1)
            masks = torch.zeros(most, *(side // stride for side in pixels.shape[1:]))  # (M, r, r)
            if count:
                whole = torch.from_numpy(things.masks).float()[None]  # (1, N, H, W)
                masks[:count] = F.interpolate(whole, masks.shape[1:], mode="area")[0]
            return {"pixels": pixels, "masks": masks.flip(2) if flipped else masks, "labels": labels}
        boxes = torch.zeros(most, 4)
        boxes[:count] = torch.from_numpy(as_shares(things.boxes, picture.size))
        if flipped:
            boxes[:count, 0] = 1 - boxes[:count, 0]
        return {"pixels": pixels, "boxes": boxes, "labels": labels}


def as_shares(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Centre x, centre y, width, height (N, 4) of boxes in a picture of size (width, height), as shares of it."""
    boxes = boxes / np.array([*size, *size], np.float32)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def part_of(
    picture: Image.Image, things: Things, zoom: float, rng: random.Random, least_seen: float
) -> tuple[Image.Image, Things]:
    """A part of a picture with 1/zoom of its width and height, and the things in it, in pixels of that.

    Where zoom is below 1 it is the whole, and around it the pixels of its edges. Boxes and masks are cut to the part;
    where less than the share `least_seen` of the one is left, or of the other where there are masks, the thing is gone.
    """
    width, height = (max(1, round(side / zoom)) for side in picture.size)
    left, top = (
        rng.randint(min(0, whole - part), max(0, whole - part))
        for whole, part in zip(picture.size, (width, height), strict=True)
    )
    around = [
        (max(0, -top), max(0, top + height - picture.height)),
        (max(0, -left), max(0, left + width - picture.width)),
    ]
    pixels = np.pad(np.asarray(picture.convert("RGB")), [*around, (0, 0)], mode="edge")
    y, x = max(0, top), max(0, left)
    shown = Image.fromarray(np.ascontiguousarray(pixels[y : y + height, x : x + width]))
    corners = things.boxes - np.array([left, top, left, top], np.float32)
    cut = np.clip(corners, 0, np.array([width, height, width, height], np.float32))
    before, after = ((b[:, 2:] - b[:, :2]).prod(1) for b in (corners, cut))
    whole = masks = things.masks
    if whole is not None:
        masks = np.pad(whole, [(0, 0), *around])[:, y : y + height, x : x + width]
        before, after = whole.sum((1, 2)), masks.sum((1, 2))
    kept = (after > 0) & (after >= least_seen * before)
    return shown, Things(cut[kept], things.labels[kept], None if masks is None else masks[kept])
