"""Which pictures a model has seen: a reference of its training pictures, that comes with the weights.

A world is a mixture of normal densities, each with a diagonal covariance, over 72 numbers of a picture: how its
gradients and Laplacians are spread at three scales, its colourfulness and brightness, how few colours it has, how even
its edge is. The numbers are the same for every model, so the densities of two models can be compared: a picture belongs
to the model under whose world it is densest. training/worlds.py makes worlds; how often that is right: docs/LOG.md.

It stands in the folder of the weights: under "world" in preprocessor_config.json, or in config.json where there is no
such file (timm).

Letters: D numbers of a picture, K parts of a mixture, R side in pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hub_models.documents import CheckpointError, read_object
from hub_models.pictures import on_ground

KEY = "world"
FILES = ("preprocessor_config.json", "config.json")  # the first that is there holds it
SIDES_PX = (96, 48, 24)
STEPS = (-1, 0.5, 1, 2, 4, 8, 16, 32, 64, 10_000)  # of differences of luma, in 255ths
COLOURFUL = (-1, 8, 24, 48, 80, 128, 180, 256)  # of the largest less the smallest of red, green and blue
BRIGHT = (-1, 32, 80, 128, 176, 224, 247, 256)  # of the largest of them
D = len(SIDES_PX) * 2 * (len(STEPS) - 1) + len(COLOURFUL) - 1 + len(BRIGHT) - 1 + 4  # 72
MAX_PARTS = 64


@dataclass(frozen=True)
class World:
    """The training pictures of a model as a density over their numbers."""

    kind: str  # what they are, in the plural: "photographs"
    weights: np.ndarray  # (K,) sum 1
    means: np.ndarray  # (K, D)
    deviations: np.ndarray  # (K, D) more than 0
    threshold: float  # log density that 99 of 100 held-out pictures of this world exceed

    def log_density(self, numbers: np.ndarray) -> float:
        """Of a picture's `numbers` (D,); higher is more at home."""
        z = (numbers - self.means) / self.deviations  # (K, D)
        parts = np.log(self.weights) - 0.5 * (z**2).sum(1) - np.log(self.deviations).sum(1)
        return float(np.logaddexp.reduce(parts) - 0.5 * len(numbers) * math.log(2 * math.pi))

    def to_json(self) -> dict:
        """As it stands in a config, a row of numbers as a line of text. `from_json` reads it."""
        return {
            "kind": self.kind,
            "threshold": round(self.threshold, 3),
            "weights": [max(round(float(w), 5), 1e-5) for w in self.weights],
            "means": [_line(row) for row in self.means],
            "deviations": [_line(row) for row in self.deviations],
        }


@dataclass(frozen=True)
class Home:
    """Where a picture belongs among several models; made by `home`."""

    best: str | None  # the model whose world it is in; None where no model has one
    outside: bool  # whether it is unlike the training pictures of all of them


def home(image: Image.Image, worlds: Mapping[str, World | None]) -> Home:
    """The model that a picture is for. worlds: name → its world; of two alike the first is named."""
    known = {name: world for name, world in worlds.items() if world is not None}
    if not known:
        return Home(None, False)
    numbers = numbers_of(image)
    density = {name: world.log_density(numbers) for name, world in known.items()}
    best = max(density, key=density.__getitem__)
    return Home(best, all(density[name] < world.threshold for name, world in known.items()))


def numbers_of(image: Image.Image) -> np.ndarray:
    """The D numbers of a picture of any size and mode, float32 (D,): roots of shares, but for the last two."""
    image, found = on_ground(image), []
    for side in SIDES_PX:
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)  # (R, R, 3)
        luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
        inner = luma[1:-1, 1:-1]
        gradient = np.hypot(luma[:-1, 1:] - luma[:-1, :-1], luma[1:, :-1] - luma[:-1, :-1])
        laplacian = np.abs(4 * inner - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:])
        found += [_roots(gradient, STEPS), _roots(laplacian, STEPS)]
        if side == SIDES_PX[0]:
            found.append(_colours(pixels))
    return np.concatenate(found).astype(np.float32)


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Colourfulness, brightness, the share of the commonest and of the four commonest of 4,096 colours, the entropy of
    the colours, and how much the edge of the picture varies."""
    high, low = pixels.max(-1), pixels.min(-1)
    codes = (pixels // 16).astype(int) @ np.array([256, 16, 1])
    share = np.sort(np.bincount(codes.ravel()))[::-1] / codes.size
    some = share[share > 0]
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    last = [share[0] ** 0.5, share[:4].sum() ** 0.5, -(some * np.log(some)).sum() / 8, np.log1p(edge.std(0).mean()) / 5]
    return np.concatenate([_roots(high - low, COLOURFUL), _roots(high, BRIGHT), last])


def _roots(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    return np.sqrt(np.histogram(values, edges)[0] / values.size)


def _line(row: np.ndarray) -> str:
    return " ".join(f"{value:.4g}" for value in row)


def _rows(lines: Any) -> np.ndarray:
    return np.array([[float(word) for word in line.split()] for line in lines], np.float64)


def world_of(folder: Path) -> World | None:
    """The world that the weights in a folder come with; None where they have none.

    Raises CheckpointError where it is there and out of form.
    """
    path = place_of(folder)
    if path is None or (stated := read_object(path).get(KEY)) is None:
        return None
    return from_json(stated, path)


def place_of(folder: Path) -> Path | None:
    """The file of a folder of weights that holds a world, or could; None where there is no config."""
    return next((path for name in FILES if (path := Path(folder) / name).is_file()), None)


def from_json(stated: object, path: Path) -> World:
    """The world that a config states. path: of the config, for messages. Raises CheckpointError."""
    broken = CheckpointError(
        f"{path}: {KEY} is out of form; make it again with python -m training.worlds, or remove it"
    )
    if not isinstance(stated, dict):
        raise broken
    try:
        kind, threshold = stated["kind"], float(stated["threshold"])
        weights = np.array(stated["weights"], np.float64)
        means, deviations = _rows(stated["means"]), _rows(stated["deviations"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise broken from error
    in_form = (
        isinstance(kind, str)
        and 0 < len(kind) <= 80
        and kind.isprintable()
        and 1 <= weights.size <= MAX_PARTS
        and means.shape == deviations.shape == (weights.size, D)
        and np.isfinite([threshold, *weights.flat, *means.flat, *deviations.flat]).all()
    )
    if not in_form or not ((weights > 0).all() and (deviations > 0).all()):
        raise broken
    return World(kind, weights / weights.sum(), means, deviations, threshold)
