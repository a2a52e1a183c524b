"""What a captioner learns from: single pictures somewhere on a ground, painted scenes, or views of photographs.

Letters: R side in pixels.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from hub_models import captioning as contract
from hub_models.pictures import WHITE
from training.captioning.config import CaptioningConfig
from training.data.art import any_colour, inked, on_ground, recoloured
from training.data.captions import MOST_SAID, Captions, largest, scene_caption, spoken
from training.data.scenes import SOLID, Scene, SceneObject, Scenes
from training.data.sources import Source

MASK_SIDE = 16  # cells a side of what is known of where things are


class CaptionedPictures:
    """Training samples of single pictures, and of scenes if there are any.

    {"pixels": (3, R, R) normalised, "caption": text, "names": what it names, as it is said there, in lines, "cells":
    (MOST_SAID, MASK_SIDE, MASK_SIDE) how much of each cell each of these covers, in [0, 1]}. See
    `training.order.Samples`.
    """

    def __init__(self, source: Source, scenes: Scenes | None, cfg: CaptioningConfig, served: contract.Captioner):
        self.source, self.scenes, self.cfg, self.served = source, scenes, cfg, served
        self.captions = Captions(source)
        self.data_hash = source.data_hash + (scenes.data_hash if scenes else "")
        source.preload(served.resolution_px)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        cfg, rng = self.cfg, random.Random(int(torch.randint(2**62, (), generator=draw)))
        if self.scenes is not None and rng.random() < cfg.scenes:
            scene = self.scenes.scene(rng.randrange(len(self.scenes)))
            picture, caption = scene.image, scene_caption(scene.objects, rng)
            told = largest(scene.objects)
            names, masks = [spoken(one.name) for one in told], [seen_of(scene, one) for one in told]
        else:
            picture, mask = placed(self.source.picture(index), self.served.resolution_px, cfg, rng)
            caption = self.captions.describe(index, rng.getrandbits(62))
            names, masks = [self.captions.plain(index)], [mask]
        if cfg.color_jitter:
            picture = recoloured(picture, cfg.color_jitter, rng)
        cells = torch.zeros(MOST_SAID, MASK_SIDE, MASK_SIDE)
        for n, mask in enumerate(masks):
            cells[n] = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), MASK_SIDE)[0]
        pixels = self.served.pixel_values([picture])[0]
        return {"pixels": pixels, "caption": caption, "names": "\n".join(names), "cells": cells}


def seen_of(scene: Scene, one: SceneObject) -> np.ndarray:
    """Where an object of a scene is seen, bool (R, R): the pixels of its class within its box."""
    left, top, right, bottom = one.box
    seen = np.zeros(scene.mask.shape, bool)
    seen[top:bottom, left:right] = scene.mask[top:bottom, left:right] == one.label
    return seen


def placed(art: Image.Image, side_px: int, cfg: CaptioningConfig, rng: random.Random) -> tuple[Image.Image, np.ndarray]:
    """A single picture somewhere on a ground of side_px, RGB, and where it is solid, bool (side_px, side_px).

    It is zoomed, turned, perhaps inked; most of it is in sight.
    """
    if cfg.object_ink and rng.random() < cfg.object_ink:
        art = inked(art, rng)
    side = max(1, round(rng.uniform(*cfg.zoom) * side_px))
    art = art.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
    if cfg.rotation_deg:
        art = art.rotate(rng.uniform(-cfg.rotation_deg, cfg.rotation_deg), Image.Resampling.BICUBIC)
    colour = any_colour(rng) if rng.random() < cfg.ground_share else WHITE
    whole = Image.new("RGBA", (side_px, side_px))
    room = side_px - side
    left, top = (rng.randint(min(0, room), max(0, room)) for _ in range(2))
    whole.paste(art, (left, top))
    return on_ground(whole, colour), np.asarray(whole.getchannel("A")) >= SOLID
