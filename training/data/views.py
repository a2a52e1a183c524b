"""Each photograph seen in several ways by the frozen first stages of a backbone, made once and kept in build/cache.

    views = Views(source, tower, served.pixel_values, count=4)
    views.maps(index, view)                            # (C, h, w) float16, see training.hybrid

What is made once a view costs 30 pictures a second of one core; a small head then trains on thousands of them a minute.
View 0 is the picture as it is served, view 1 its mirror image, the others parts of it in another aspect, mirrored or
not, with other colours: all a function of the picture's number and the view's.

Letters: N pictures, C channels, h × w places, R side in pixels.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training import hybrid
from training.data.art import recoloured
from training.data.cache import cached
from training.data.captions import Captions
from training.data.sources import Source

FORMAT = 1  # of what a view is; another number, and all are made anew
LEAST_SIDE = 0.65  # of the part that is seen, as a share of each side
JITTER = 0.2  # brightness, contrast and saturation change by up to this share
BATCH = 32


def view_of(picture: Image.Image, index: int, view: int) -> Image.Image:
    """One way to see picture number `index`, RGB."""
    picture = picture.convert("RGB")
    if view == 0:
        return picture
    if view == 1:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rng = random.Random(f"{index}:{view}")
    shares = rng.uniform(LEAST_SIDE, 1), rng.uniform(LEAST_SIDE, 1)
    return part_of(picture, shares, picture.size, rng, JITTER)


def part_of(
    picture: Image.Image, shares: tuple[float, float], size: tuple[int, int], rng: random.Random, jitter: float
) -> Image.Image:
    """A part of an RGB picture somewhere in it, of these shares of its width and height, resized to `size`.

    Mirrored in half of the draws, and in other colours: by up to `jitter`, see `recoloured`.
    """
    wide, high = (share * side for share, side in zip(shares, picture.size, strict=True))
    left, top = rng.uniform(0, picture.width - wide), rng.uniform(0, picture.height - high)
    picture = picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return recoloured(picture, jitter, rng) if jitter else picture


class Views:
    """The maps of `count` views of each picture of a source.

    data_hash: of pictures, captions, the backbone's weights and the views. Making what isn't in the cache takes its
    time, a view after the other; whoever is stopped goes on with the view it was at.
    """

    def __init__(
        self, source: Source, tower: hybrid.Tower, pixel_values: Callable[[Sequence], torch.Tensor], count: int
    ):
        backbone = hybrid.backbone_of(tower)
        weights = early_sha256(backbone)
        key = {"data": source.data_hash, "backbone": weights, "side": tower.config.image_size, "format": FORMAT}

        def made(view: int) -> Path:
            return cached(
                "views", key | {"view": view}, lambda folder: write(folder, source, view, backbone, pixel_values)
            )

        self.folders = [made(view) for view in range(count)]
        self._arrays = [np.load(folder / "maps.npy", mmap_mode="r") for folder in self.folders]  # (N, C, h, w) each
        self.data_hash = f"{source.data_hash}-{weights[:12]}-{count}x{FORMAT}"

    def __len__(self) -> int:
        return len(self._arrays)

    def maps(self, index: int, view: int) -> torch.Tensor:
        """One view of a picture, float16 (C, h, w)."""
        return torch.from_numpy(self._arrays[view][index].copy())


def early_sha256(backbone: torch.nn.Module) -> str:
    """Of the weights that decide the maps, as they are shipped: who begins from an export finds maps made before."""
    digest = hashlib.sha256()
    for name, tensor in hybrid.early_state(backbone).items():
        digest.update(name.encode() + tensor.half().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def write(folder: Path, source: Source, view: int, backbone: torch.nn.Module, pixel_values) -> None:
    """One view of all pictures, as maps.npy."""
    training = backbone.training
    backbone.eval()
    array = None
    for at in range(0, len(source), BATCH):
        rows = range(at, min(at + BATCH, len(source)))
        pixels = pixel_values([view_of(source.picture(i), i, view) for i in rows])
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if array is None:
            early = torch.jit.freeze(torch.jit.trace(hybrid.EarlyStages(backbone).eval(), pixels))  # 1.8 times as fast
        maps = early(pixels).half().numpy()
        if array is None:
            shape = (len(source), *maps.shape[1:])
            array = np.lib.format.open_memmap(folder / "maps.npy", "w+", np.float16, shape)
            print(f"looking at {len(source)} pictures, view {view}: {array.nbytes / 2**20:.0f} MiB", flush=True)
        array[rows.start : rows.stop] = maps
    if array is not None:
        array.flush()
    backbone.train(training)


class ViewedPictures:
    """Training samples {"pixels": (C, h, w) one view's maps, "caption": `each` texts, "row": its number}.

    See `training.order.Samples`. Of a picture with fewer captions some are said twice.
    """

    def __init__(self, views: Views, captions: Captions, each: int):
        self.views, self.captions, self.each, self.data_hash = views, captions, each, views.data_hash

    def __len__(self) -> int:
        return len(self.captions)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        view = int(torch.randint(len(self.views), (), generator=draw))
        known = self.captions.all(index)
        order = torch.randperm(len(known), generator=draw).tolist()
        texts = [known[order[k % len(order)]] for k in range(self.each)]
        return {"pixels": self.views.maps(index, view).float(), "caption": texts, "row": index}


def viewed(source: Source, captions: Captions, tower, pixel_values: Callable, cfg) -> ViewedPictures:
    """The samples of cfg.cached_views. Raises SystemExit where the tower is on no backbone of timm."""
    if not hybrid.is_hybrid(tower):
        raise SystemExit(
            f"--cached_views need a tower on a backbone of timm, not a {tower.config.model_type}: "
            "set --tower_name_or_path, or --cached_views 0"
        )
    return ViewedPictures(Views(source, tower, pixel_values, cfg.cached_views), captions, cfg.captions_each)


def texts_of(captions: Sequence) -> list[str]:
    """The texts of a batch, those of a picture together, be it one of each picture (B,) or `each` × (B,)."""
    if captions and isinstance(captions[0], str):
        return list(captions)
    return [text for texts in zip(*captions, strict=True) for text in texts]
