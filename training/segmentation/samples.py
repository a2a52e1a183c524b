"""What a segmenter learns from: squares of pictures with the class of each pixel.

Letters: R side of the training picture in pixels.
"""

import math
import random

import numpy as np
import torch
from PIL import Image

from hub_models import segmentation as contract
from training.data.art import recoloured
from training.data.masks import IGNORE, MaskSource, PaintedSource
from training.segmentation.config import SegmentationConfig


class MaskedPictures:
    """Augmented training samples {"pixels": (3, R, R) normalised, "mask": (R, R)}; see `training.order.Samples`."""

    def __init__(self, source: MaskSource | PaintedSource, cfg: SegmentationConfig, served: contract.Segmenter):
        self.source, self.cfg, self.served, self.data_hash = source, cfg, served, source.data_hash
        source.preload()

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        cfg, rng = self.cfg, random.Random(int(torch.randint(2**62, (), generator=draw)))
        picture, mask = self.source.pair(index)
        zoom = math.exp(rng.uniform(*map(math.log, cfg.scale)))
        picture, mask = cut(picture, mask, round(zoom * self.served.seen_side(picture)), cfg.resolution, rng)
        if cfg.random_flip and rng.random() < 0.5:
            picture, mask = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), np.ascontiguousarray(mask[:, ::-1])
        if cfg.color_jitter:
            picture = recoloured(picture, cfg.color_jitter, rng)
        if rng.random() < cfg.grayscale:
            picture = picture.convert("L").convert("RGB")
        return {"pixels": self.served.pixel_values([np.asarray(picture)])[0], "mask": torch.from_numpy(mask)}


def cut(picture: Image.Image, mask: np.ndarray, long_px: int, side_px: int, rng: random.Random):
    """A square of side_px, RGB, and its mask int64, from anywhere of the picture resized to a longer side of long_px.

    What is beyond the picture is filled with its edges, as when the model is served, and has no answer.
    """
    picture = contract.at_side(picture, max(1, long_px))
    resized = Image.fromarray(mask.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    pixels, (left, top, right, bottom) = contract.padded(picture, side_px)
    whole = np.full(pixels.shape[:2], IGNORE, np.int64)
    whole[top:bottom, left:right] = resized
    y, x = (rng.randint(0, length - side_px) for length in whole.shape)
    window = np.s_[y : y + side_px, x : x + side_px]
    return Image.fromarray(pixels[window]), whole[window]
