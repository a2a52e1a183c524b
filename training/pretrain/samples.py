"""Parts of pictures, each recoloured in its own way: what towers learn from.

Letters: V views, R side in pixels, U places of a picture.
"""

import random

import numpy as np
import torch
from PIL import Image, ImageFilter

from training.data.art import any_colour, inked, on_ground
from training.data.sources import Source
from training.data.views import part_of
from training.pretrain.config import PretrainConfig

RATIO = (0.75, 4 / 3)  # width by height of a part
BLUR_PX = (0.1, 1.5)  # deviation of the blur, at 64 px


class UnlabelledPictures:
    """Training samples {"views": (V, 3, R, R) in [-1, 1], "uniform": (U,) in [0, 1)}; see `training.order.Samples`.

    The last local_views of the views are small parts. "uniform" is what an objective that leaves out or turns draws by.
    """

    def __init__(self, source: Source, cfg: PretrainConfig, places: int):
        self.source, self.cfg, self.places, self.data_hash = source, cfg, places, source.data_hash
        source.preload(cfg.resolution + cfg.resolution // 4)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict[str, torch.Tensor]:
        rng = random.Random(int(torch.randint(2**62, (), generator=draw)))
        picture, large = self.source.picture(index), self.cfg.views - self.cfg.local_views
        scales = [self.cfg.scale] * large + [self.cfg.local_scale] * self.cfg.local_views
        views = torch.stack([pixels_of(view_of(picture, scale, self.cfg, rng)) for scale in scales])
        return {"views": views, "uniform": torch.rand(self.places, generator=draw)}


def view_of(picture: Image.Image, scale: tuple[float, float], cfg: PretrainConfig, rng: random.Random) -> Image.Image:
    """A part of a picture, R × R, RGB, whose area is a share in `scale`: mirrored or not, in other colours."""
    ground = any_colour(rng) if rng.random() < cfg.ground_share else (255, 255, 255)
    seen = on_ground(picture, ground, rng.uniform(0, cfg.margin))
    if rng.random() < cfg.ink_share:
        seen = inked(seen, rng)
    area, ratio = rng.uniform(*scale), rng.uniform(*RATIO)
    shares = [min(1.0, side**0.5) for side in (area * ratio, area / ratio)]
    jitter = cfg.color_jitter if rng.random() < cfg.colour_share else 0.0
    seen = part_of(seen, (shares[0], shares[1]), (cfg.resolution, cfg.resolution), rng, jitter)
    if rng.random() < cfg.grayscale_share:
        seen = seen.convert("L").convert("RGB")
    if rng.random() < cfg.blur_share:
        seen = seen.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_PX) * cfg.resolution / 64))
    return seen


def pixels_of(picture: Image.Image) -> torch.Tensor:
    """An RGB picture as (3, R, R) in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
