"""What a detector learns from: parts of pictures with the boxes of what is in them.

Letters: R side of the training picture in pixels, M the most things that a picture shows, N those of this one.
"""

import math
import random

import numpy as np
import torch
from PIL import Image

from hub_models import detection as contract
from training.data.art import recoloured
from training.data.boxes import BoxSource, PaintedBoxes
from training.data.things import Things
from training.detection.config import DetectionConfig

NONE = -1  # the label of a row that is no thing


class BoxedPictures:
    """Augmented training samples {"pixels": (3, R, R), "boxes": (M, 4), "labels": (M,)}; see `training.order.Samples`.

    pixels: as the image processor gives them. boxes: centre x, centre y, width, height as shares of the picture.
    labels: NONE in the rows after the last thing.
    """

    def __init__(self, source: BoxSource | PaintedBoxes, cfg: DetectionConfig, served: contract.Detector):
        self.source, self.cfg, self.served, self.data_hash = source, cfg, served, source.data_hash
        source.preload()

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        cfg, rng = self.cfg, random.Random(int(torch.randint(2**62, (), generator=draw)))
        picture, things = self.source.pair(index)
        zoom = math.exp(rng.uniform(*map(math.log, cfg.scale)))
        picture, boxes, labels = part_of(picture, things, zoom, rng, cfg.least_seen)
        if cfg.random_flip and rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes[:, 0] = 1 - boxes[:, 0]
        if cfg.color_jitter:
            picture = recoloured(picture, cfg.color_jitter, rng)
        if rng.random() < cfg.grayscale:
            picture = picture.convert("L").convert("RGB")
        rows = np.zeros((max(1, self.source.most_things), 4), np.float32)
        named = np.full(len(rows), NONE, np.int64)
        rows[: len(boxes)], named[: len(boxes)] = boxes, labels
        [inputs] = self.served.preprocess([picture])
        return {"pixels": inputs["pixel_values"][0], "boxes": torch.from_numpy(rows), "labels": torch.from_numpy(named)}


def part_of(
    picture: Image.Image, things: Things, zoom: float, rng: random.Random, least_seen: float
) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A part of a picture with 1/zoom of its width and height, its boxes (N, 4) as in `BoxedPictures`, and labels (N,).

    Where zoom is below 1 it is the whole, and around it the pixels of its edges. A box is cut to the part; where less
    than the share `least_seen` of it is left, the thing is gone.
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
    kept = (after > 0) & (after >= least_seen * before)
    cut = cut[kept] / np.array([width, height, width, height], np.float32)
    boxes = np.concatenate([(cut[:, :2] + cut[:, 2:]) / 2, cut[:, 2:] - cut[:, :2]], 1)
    return shown, boxes.astype(np.float32), things.labels[kept]
