"""More of a texture, without any training: noise that is given the texture's histograms, band by band.

Heeger & Bergen 1995, "Pyramid-based texture analysis/synthesis". The bands are those of a steerable pyramid (Simoncelli
& Freeman 1995), built among frequencies as in Portilla & Simoncelli 2000, §2.1: one high-pass residual, K oriented
bands a level, one low-pass residual. It has no weights, and so no folder and no `load`.

Letters: H × W pixels, K orientations, S levels; at level s a band has ⌈H / 2^s⌉ × ⌈W / 2^s⌉ numbers. Pictures are PIL
at the edges and float in [0, 255] inside. The boundary is circular: what leaves on the right comes in on the left.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hub_models import drawing
from hub_models.pictures import on_ground

SIDE_PX = (32, 1024)  # of what is made
TEXTURE_PX = 512  # of the texture's longest side; a larger one is made smaller
RESIDUAL_PX = 4  # the low-pass residual's shortest side, at least


@dataclass(frozen=True)
class State:
    """Where the picture is after an iteration."""

    index: int  # 0 … total - 1
    total: int
    picture: Image.Image  # RGB, side_px × side_px


# --- the pyramid -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """A band's transfer function, on the frequencies that it has; it is 0 at all others."""

    rows: np.ndarray  # (h,): which rows of the spectrum (H, W) it is of
    columns: np.ndarray  # (w,)
    transfer: np.ndarray  # complex (h, w)


@dataclass(frozen=True)
class Pyramid:
    """A steerable pyramid of pictures of one shape: a tight frame, whose transpose is its inverse."""

    shape: tuple[int, int]
    filters: list[Filter]  # high-pass, K bands of level 0, K of level 1, …, low-pass

    def analyse(self, x: np.ndarray) -> list[np.ndarray]:
        """The bands of x (H, W), float64 (h, w) each: x filtered, at the pixels that its frequencies need."""
        spectrum = np.fft.fft2(x, norm="forward")
        return [
            np.fft.ifft2(spectrum[np.ix_(one.rows, one.columns)] * one.transfer, norm="forward").real
            for one in self.filters
        ]

    def collapse(self, bands: list[np.ndarray]) -> np.ndarray:
        """The picture (H, W) of bands: of those of `analyse` the picture that they came of."""
        spectrum = np.zeros(self.shape, np.complex128)
        for one, band in zip(self.filters, bands, strict=True):
            part = np.fft.fft2(band, norm="forward") * one.transfer.conj()
            spectrum[np.ix_(one.rows, one.columns)] += part
        return np.fft.ifft2(spectrum, norm="forward").real


def pyramid(shape: tuple[int, int], levels: int = 4, orientations: int = 4) -> Pyramid:
    """The pyramid for pictures of a shape (H, W), whose squared transfer functions sum to 1 at each frequency.

    Radially raised cosines in log₂ of the frequency, an octave wide; over angles cos^(K - 1), whose steering functions
    K such bands are (Portilla & Simoncelli 2000, eq. 1-4, with bands of both halves of the plane: they are real).
    Raises ValueError for what is out of range, and for a picture too small for so many levels.
    """
    levels = drawing.check_whole("levels", levels, 1, 8)
    count = drawing.check_whole("orientations", orientations, 1, 16)
    if min(shape) < least_side(levels):
        raise ValueError(
            f"{shape[1]} × {shape[0]} pixels are too few for {levels} levels: give {least_side(levels)} a side at least"
        )
    rows, columns = (2 * np.fft.fftfreq(size) for size in shape)  # in [-1, 1): 1 is half a cycle a pixel
    radius, angle = np.hypot(rows[:, None], columns), np.arctan2(rows[:, None], columns)  # (H, W) ×2
    # Σ_k cos^(2 (K - 1)) (θ - π k / K) = K (2 K - 2 over K - 1) / 4^(K - 1), whatever θ is
    height = 2 ** (count - 1) / math.sqrt(count * math.comb(2 * count - 2, count - 1))
    turns = [height * np.cos(angle - math.pi * k / count) ** (count - 1) for k in range(count)]
    low = low_pass(radius, 1.0)
    filters = [_cut(np.sqrt(1 - low**2), 1.0)]
    for level in range(levels):
        top = 0.5**level
        below = low_pass(radius, top / 2)
        ring = low * np.sqrt(1 - below**2)
        filters += [_cut(ring * turn * 1j ** (count - 1), top) for turn in turns]  # i makes odd ones real
        low = low * below
    return Pyramid(shape, [*filters, _cut(low, 0.5**levels)])


def least_side(levels: int) -> int:
    """The shortest side of a picture that a pyramid of so many levels can have, pixels."""
    return RESIDUAL_PX * 2**levels


def low_pass(radius: np.ndarray, stop: float) -> np.ndarray:
    """A low-pass filter's amplitude at each radius: 1 up to stop / 2, 0 from stop on, between a raised cosine."""
    octaves = np.log2(np.maximum(radius, 1e-12) / stop)
    return np.cos(math.pi / 2 * (octaves + 1).clip(0, 1))


def _cut(transfer: np.ndarray, stop: float) -> Filter:
    """The filter of a transfer function (H, W) that is 0 from the radius `stop` on; of 1, all frequencies are kept."""
    kept = []
    for size in transfer.shape:
        few = math.ceil(size * stop)
        kept.append(np.fft.ifftshift(np.arange(few) - few // 2) % size)  # 0, 1, …, -2, -1, of a spectrum of `few`
    return Filter(*kept, transfer[np.ix_(*kept)])


# --- histograms ------------------------------------------------------------------------------------------------------


def matched(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """x with the values of target, the smallest where x is smallest, and so on by rank; shapes may differ.

    Of as many values as x has it gets those of target, each once; of others their quantiles. Equal values of x are told
    apart by their place (exact histogram specification: Coltuc, Bolon & Chassery 2006).
    """
    made = np.empty(x.size)
    made[np.argsort(x, axis=None, kind="stable")] = quantiles(target, x.size)
    return made.reshape(x.shape)


def quantiles(target: np.ndarray, count: int) -> np.ndarray:
    """So many values (count,), ascending, distributed as those of target are: as many as it has are its own."""
    values = np.sort(target, axis=None, kind="stable")  # which is done at once with what is sorted
    if len(values) == count:
        return values
    places, known = ((np.arange(size) + 0.5) / size for size in (count, len(values)))
    return np.interp(places, known, values)


# --- a texture -------------------------------------------------------------------------------------------------------


def synthesise(
    picture: Image.Image, side_px: int, seed: int, *, levels: int = 4, orientations: int = 4, iterations: int = 5
) -> Generator[State]:
    """A square picture of the picture's texture, one `State` after each iteration. Close it to stop at once.

    picture: the texture; transparency becomes white, and one of more than TEXTURE_PX a side is made smaller. Of one
        colour, all states are that colour. side_px: within SIDE_PX. seed: 0 … 2**63 - 1, decides the noise that it
        begins with. levels: 1 … 8. orientations: 1 … 16. iterations: 1 … 50.
    Each channel is made by itself, in the texture's own colour axes, in which they aren't correlated (Heeger & Bergen
    1995, §4). Raises ValueError, here and not at the first step, for anything out of these ranges, and for a texture or
    side_px too small for so many levels.
    """
    side = drawing.check_whole("side_px", side_px, *SIDE_PX)
    total = drawing.check_whole("iterations", iterations, 1, 50)
    seed = drawing.check_seed(seed)
    texture = on_ground(picture)
    texture.thumbnail((TEXTURE_PX, TEXTURE_PX), Image.Resampling.LANCZOS)
    pixels = np.asarray(texture, np.float64)  # (H, W, 3)
    theirs, ours = (pyramid(shape, levels, orientations) for shape in (pixels.shape[:2], (side, side)))
    return _states(pixels, theirs, ours, total, seed)


def _states(pixels: np.ndarray, theirs: Pyramid, ours: Pyramid, total: int, seed: int) -> Generator[State]:
    """Heeger & Bergen 1995, figure 3: bands, then pixels, are matched in turn."""
    mean, axes = colour_axes(pixels)
    channels = ((pixels - mean) @ axes).transpose(2, 0, 1)  # (3, H, W)
    sizes = [len(one.rows) * len(one.columns) for one in ours.filters]
    wanted = [
        [quantiles(band, size) for band, size in zip(theirs.analyse(channel), sizes, strict=True)]
        for channel in channels
    ]
    pixels_wanted = [quantiles(channel, math.prod(ours.shape)) for channel in channels]
    draw = np.random.default_rng(seed)
    made = [matched(draw.standard_normal(ours.shape), values) for values in pixels_wanted]
    for index in range(total):
        for row, values in enumerate(pixels_wanted):
            bands = zip(ours.analyse(made[row]), wanted[row], strict=True)
            made[row] = matched(ours.collapse([matched(*pair) for pair in bands]), values)
        yield State(index, total, _painted(np.stack(made, -1) @ axes.T + mean))


def colour_axes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean colour (3,) of pixels (H, W, 3), and axes (3, 3), a column each, along which colours don't correlate."""
    colours = pixels.reshape(-1, 3)
    mean = colours.mean(0)
    _, axes = np.linalg.eigh((colours - mean).T @ (colours - mean) / len(colours))
    return mean, axes * np.where(axes.sum(0) < 0, -1, 1)  # of both directions of an axis the brighter one


def _painted(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
