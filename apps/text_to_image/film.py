"""The film of one drawing: what the model saw and guessed at each step, and where it looked for each word.

Letters: F frames, V views (VIEWS, or the first two of them where the model was asked once), C × h × w the shape of a
latent, R pixels a side, W words, L tokens, g × g the grid of the maps.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from apps.kit import films
from hub_models.text_to_image import RECEIPT_KEY, Step, TextToImage, Word

if TYPE_CHECKING:
    from apps.text_to_image.desk import Order

VIEWS = ("x_t", "x0", "with", "without")  # the last two: x0 guessed with the prompt, and without it
SHARP_PX = 96 * 128**2  # of a film that are decoded at once, evenly spaced: all views of 24 frames of 128 px
FEWEST = 8  # frames decoded so, or else none: then the film is shown by its rough views, and frame by frame decoded
MAX_GAIN = 64


@dataclass
class Film:
    """What a recorded drawing left; one of 10 steps at 128 px takes 3 MB."""

    latents: np.ndarray  # (F, V, C, h, w) float32: before each kept step, and last the drawing in every view
    rough: np.ndarray  # (F, V, h, w, 3) uint8, by a linear map
    maps: np.ndarray | None  # (F - 1, W, g, g) float32: attention on each word; None where nothing attends to words
    mean: np.ndarray | None  # (W, g, g), over all steps, kept or not
    words: list[str]
    steps: list[int]  # (F,) steps done before each frame
    timesteps: list[int]  # (F,) its t, and -1 for the picture
    total: int
    receipt: dict
    picture: Image.Image  # what came out, with its receipt
    start: Image.Image | None  # what it was drawn from
    shown: list[int]  # the frames of its GIF
    sharp: dict[int, np.ndarray] = field(default_factory=dict)  # frame: (V, R, R, 3) uint8, decoded

    @property
    def last(self) -> int:
        """The number of the frame with the picture."""
        return len(self.steps) - 1

    @property
    def first_word(self) -> int:
        """The number of the word that is looked at first: of the prompt's own the one with most attention."""
        own = range(len(self.words))[1:-1]  # without the marks around them
        return max(own, key=lambda k: self.mean[k].mean(), default=0) if self.mean is not None else 0

    @property
    def guided(self) -> bool:
        return self.latents.shape[1] == len(VIEWS)

    def views(self, frame: int) -> np.ndarray:
        """uint8 (V, R, R, 3) of a frame, decoded if it has been, or else (V, h, w, 3)."""
        return self.sharp.get(frame, self.rough[frame])

    def frame_beside(self, other: "Film", frame: int) -> int:
        """The frame of this film that goes with one of another, from which it forked: its last one with the last."""
        return self.last if frame == other.last else min(frame, self.last)

    def develop(self, model: TextToImage, frames: Iterable[int]) -> None:
        """Decode these frames, unless they are."""
        for frame in frames:
            if frame not in self.sharp:
                latents = torch.from_numpy(self.latents[frame]).to(model.device)
                self.sharp[frame] = np.stack([np.asarray(picture) for picture in model.decode(latents)])

    def attention(self) -> list[dict]:
        """For programs: each word with its share of the attention at each frame, and its mean map; [] without maps."""
        if self.maps is None or self.mean is None:
            return []
        shares = self.maps.mean((2, 3)).T  # (W, F - 1)
        return [
            {"word": word, "share": share.round(4).tolist(), "mean": mean.round(4).tolist()}
            for word, share, mean in zip(self.words, shares, self.mean, strict=True)
        ]

    def gif(self, fork: "Film | None" = None) -> bytes:
        """x_t on the left, predicted x0 on the right, and below it those of a film that went another way."""
        frames, receipts = [], [self.receipt] + ([fork.receipt] if fork else [])
        for frame in self.shown:
            rows = [(self, frame)] + ([(fork, fork.frame_beside(self, frame))] if fork else [])
            tiles = [[Image.fromarray(view) for view in film.views(at)[:2]] for film, at in rows]
            frames.append([[tile.resize((160, 160), Image.Resampling.LANCZOS) for tile in row] for row in tiles])
        return films.gif(frames, receipts)


class Recorder:
    """An order of one picture whose drawing is filmed; `film` is for when it is done."""

    def __init__(self, order: "Order"):
        self.order, self.model = order, order.model
        self.words: list[Word] = []
        self.frames = []  # (views of latents, maps or None, steps done before, t)
        self.heard = []  # maps of every step

    def steps(self) -> Iterator[Step]:
        fork, kept, prompt = self.order.settings.get("fork"), None, self.order.prompt
        if fork is not None and fork.prompt is not None:
            prompt = fork.prompt
        self.words = self.model.words(prompt)
        with contextlib.closing(self.order.steps(look_inside=True)) as steps:
            for step in steps:
                kept = kept or films.kept(step.total)
                maps = self._maps(step)
                self.heard.append(maps)
                if step.index in kept:
                    seen = step.inside
                    both = () if seen.guesses is None else seen.guesses.flip(0)
                    views = torch.stack([part[0] for part in (seen.x_t, step.x0, *both)]).cpu().numpy()
                    self.frames.append((views, maps, step.index, step.timestep))
                self.last = step
                yield step

    def _maps(self, step: Step) -> np.ndarray | None:
        """(W, g, g): on each word the sum over its tokens."""
        attention = step.inside.attention
        if attention is None or not self.words:
            return None
        return torch.stack([attention[0, word.tokens].sum(0) for word in self.words]).cpu().numpy()

    def film(self) -> Film:
        """All of it, as much of it decoded as isn't too much to be waited for."""
        views, maps, steps, timesteps = zip(*self.frames, strict=True)
        most = max(map(len, views))  # a fork may begin or end to be guided: where it isn't, its guess is the only one
        views = [np.concatenate([part, *[part[1:2]] * (most - len(part))]) for part in views]
        end = self.last.best.cpu().numpy()  # (1, C, h, w)
        latents = np.stack([*views, np.repeat(end, most, 0)])
        [picture] = self.order.pngs(self.last)
        heard, last = all(each is not None for each in self.heard), len(steps)
        room = SHARP_PX // (most * self.model.resolution_px**2)
        developed = films.spread(last, room) if room >= FEWEST else []
        film = Film(
            latents, self._rough(latents, picture), np.stack(maps) if heard else None,
            np.mean(self.heard, 0) if heard else None, [word.text for word in self.words],
            [*steps, self.last.index + 1], [*timesteps, -1], self.last.total,
            json.loads(picture.info[RECEIPT_KEY]), picture, self.order.settings.get("image"),
            developed or films.spread(last, films.GIF_FRAMES),
        )  # fmt: skip
        film.develop(self.model, developed)
        return film

    def _rough(self, latents: np.ndarray, picture: Image.Image) -> np.ndarray:
        """(F, V, h, w, 3) of latents (F, V, C, h, w): by the model's own map, or one fitted to this picture."""
        flat = torch.from_numpy(latents).flatten(0, 1)
        colours = self.model.preview(flat)
        if colours is None:
            colours = fitted(flat.numpy(), latents[-1, 0], picture)
        return colours.reshape(*latents.shape[:2], *colours.shape[1:])


def fitted(latents: np.ndarray, drawn: np.ndarray, picture: Image.Image) -> np.ndarray:
    """uint8 (N, h, w, 3) of latents (N, C, h, w), by the linear map that makes the picture of `drawn` (C, h, w).

    Least squares over its h · w places, the smallest map of those that fit.
    """
    small = picture.convert("RGB").resize(drawn.shape[:0:-1], Image.Resampling.BOX)
    rows = np.concatenate([drawn.reshape(len(drawn), -1), np.ones((1, drawn[0].size), np.float32)]).T
    weight, *_ = np.linalg.lstsq(rows, np.asarray(small, np.float32).reshape(-1, 3), rcond=1e-3)
    colours = np.moveaxis(latents, 1, -1) @ weight[:-1] + weight[-1]
    return colours.round().clip(0, 255).astype(np.uint8)


def difference(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, int]:
    """How a picture (R, R, 3) differs from another one, on grey: the sum of 128 and the difference, times a gain.

    The gain is the largest power of two, up to MAX_GAIN, at which no more than a hundredth is cut off.
    """
    apart = one.astype(int) - other.astype(int)
    most, gain = np.percentile(np.abs(apart), 99), 1
    while gain < MAX_GAIN and 2 * gain * most <= 127:
        gain *= 2
    return (128 + gain * apart).clip(0, 255).astype(np.uint8), gain
