"""hub_models/textures.py against what a steerable pyramid and matched histograms have to be, worked by hand."""

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub_models import textures

EXAMPLES = Path(__file__).parent.parent / "apps" / "examples" / "families" / "textures"
LEVELS, TURNS = 3, 4


def stripes(side_px: int, across: int, down: int = 0) -> np.ndarray:
    """A grating (side_px, side_px) of so many waves from left to right, and from top to bottom."""
    y, x = np.mgrid[:side_px, :side_px] / side_px
    return np.cos(2 * math.pi * (across * x + down * y))


def picture_of(rows: np.ndarray) -> Image.Image:
    return Image.fromarray(rows.round().clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def texture() -> Image.Image:
    """A cat's fur, 80 × 64."""
    return Image.open(EXAMPLES / "fur.jpg").crop((0, 0, 80, 64))


@pytest.fixture(scope="module")
def states(texture) -> list[textures.State]:
    return list(textures.synthesise(texture, 64, 1, levels=LEVELS))


# --- the pyramid -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (48, 66), (50, 38), (65, 47)])
@pytest.mark.parametrize("orientations", [1, 3, 4])
def test_the_pyramid_is_a_tight_frame(shape, orientations):
    pyramid = textures.pyramid(shape, LEVELS, orientations)
    squares = np.zeros(shape)
    for one in pyramid.filters:
        squares[np.ix_(one.rows, one.columns)] += np.abs(one.transfer) ** 2
    np.testing.assert_allclose(squares, 1, atol=1e-12)
    x = np.random.default_rng(0).standard_normal(shape)
    bands = pyramid.analyse(x)
    np.testing.assert_allclose(pyramid.collapse(bands), x, atol=1e-12)
    assert sum(np.square(band).mean() for band in bands) == pytest.approx(np.square(x).mean(), rel=1e-12)
    sizes = [tuple(math.ceil(side / 2**level) for side in shape) for level in range(LEVELS + 1)]
    assert [band.shape for band in bands] == [
        shape, *[size for size in sizes[:-1] for _ in range(orientations)], sizes[-1]
    ]  # fmt: skip
    other = [np.random.default_rng(k).standard_normal(band.shape) for k, band in enumerate(bands)]
    inner = sum((a * b).mean() for a, b in zip(bands, other, strict=True))
    assert (x * pyramid.collapse(other)).mean() == pytest.approx(inner)  # the transpose, of any bands


@pytest.mark.parametrize(("level", "waves"), [(0, 16), (1, 8), (2, 4)])
@pytest.mark.parametrize(("turn", "down"), [(0, 0), (1, 1), (2, None), (3, -1)])
def test_a_grating_lies_in_the_band_of_its_level_and_direction(level, waves, turn, down):
    """K = 4: the filter at angle 0 has cos³, squared 1, 1/8, 0, 1/8 parts of 1.25 at the four directions."""
    across, down = (0, waves) if down is None else (waves, waves * down)
    if across and down:
        across, down = round(across / 2**0.5), round(down / 2**0.5)
    pyramid = textures.pyramid((64, 64), LEVELS, TURNS)
    bands = pyramid.analyse(stripes(64, across, down))
    energy = np.array([np.square(band).mean() for band in bands])
    of_turn = energy[1:-1].reshape(LEVELS, TURNS)
    assert of_turn.sum(1).argmax() == level and of_turn[level].sum() > 0.8 * energy.sum()
    expected = np.roll([1, 1 / 8, 0, 1 / 8], turn) / 1.25
    np.testing.assert_allclose(of_turn.sum(0) / of_turn.sum(), expected, atol=1e-6)


def test_what_is_flat_and_what_is_a_chessboard_lie_in_the_residuals():
    pyramid = textures.pyramid((64, 48), LEVELS, TURNS)
    flat = pyramid.analyse(np.full((64, 48), 3.0))
    np.testing.assert_allclose(flat[-1], 3)
    assert max(np.abs(band).max() for band in flat[:-1]) < 1e-12
    board = pyramid.analyse((-1.0) ** np.add.outer(range(64), range(48)))
    np.testing.assert_allclose(np.square(board[0]).mean(), 1)


# --- histograms ------------------------------------------------------------------------------------------------------


def test_matched_values_are_the_targets_and_ranks_stay():
    draw = np.random.default_rng(0)
    x, target = draw.standard_normal((6, 8)), draw.exponential(size=48)
    made = textures.matched(x, target)
    assert sorted(made.ravel()) == sorted(target)
    assert (made.ravel()[x.ravel().argsort()] == np.sort(target)).all()
    assert textures.matched(np.zeros(4), np.array([3, 1, 2, 0])).tolist() == [0, 1, 2, 3]  # equal ones by their place


def test_of_other_sizes_the_histogram_is_the_same():
    target = np.random.default_rng(1).exponential(size=(50, 40))
    for count in (500, 10_000):
        made = textures.matched(np.random.default_rng(2).standard_normal(count), target)
        below = [np.searchsorted(np.sort(part, axis=None), target, "right") / part.size for part in (made, target)]
        assert np.abs(below[0] - below[1]).max() <= 1 / min(count, target.size)
        assert target.min() <= made.min() and made.max() <= target.max()
    assert textures.quantiles(np.array([4.0, 0.0]), 4).tolist() == [0, 1, 3, 4]


# --- a texture -------------------------------------------------------------------------------------------------------


def statistics(picture: Image.Image) -> np.ndarray:
    """Root mean square and kurtosis of each band of the brightness, as Heeger & Bergen's histograms tell textures."""
    grey = np.asarray(picture.convert("L"), float)
    bands = textures.pyramid(grey.shape, LEVELS, TURNS).analyse(grey - grey.mean())[:-1]
    spread = [np.square(band).mean() for band in bands]
    peaked = [(band**4).mean() / square**2 for band, square in zip(bands, spread, strict=True)]
    return np.log(np.array(spread + peaked))


def test_what_is_made_is_like_the_texture_in_every_band_and_noise_of_its_colours_is_not(texture, states):
    wanted = statistics(texture)
    pixels = np.asarray(texture).reshape(-1, 3)
    noise = Image.fromarray(np.random.default_rng(3).choice(pixels, (64, 64)))
    made = [noise, states[0].picture, states[-1].picture]
    far, first, last = (np.abs(statistics(picture) - wanted).mean() for picture in made)
    assert last < far / 8 and last < first < far


def test_colours_are_those_of_the_texture(texture, states):
    made, given = (np.asarray(picture, float).reshape(-1, 3) for picture in (states[-1].picture, texture))
    np.testing.assert_allclose(made.mean(0), given.mean(0), atol=2)
    mean, axes = textures.colour_axes(np.asarray(texture, float))
    np.testing.assert_allclose(np.cov(((given - mean) @ axes).T), np.diag(np.diag(np.cov(((given - mean) @ axes).T))),
                               atol=1e-8)  # fmt: skip
    shares = np.linspace(0.02, 0.98, 49)
    mine, theirs = (np.quantile((part - mean) @ axes[:, -1], shares) for part in (made, given))
    np.testing.assert_allclose(mine, theirs, atol=3)  # of the axis that has most of it: what is clipped is little


def test_states_and_seeds(texture, states):
    assert [(state.index, state.total) for state in states] == [(k, 5) for k in range(5)]
    assert {(state.picture.size, state.picture.mode) for state in states} == {((64, 64), "RGB")}
    again = list(textures.synthesise(texture, 64, 1, levels=LEVELS, iterations=2))
    assert [one.picture.tobytes() for one in again] == [one.picture.tobytes() for one in states[:2]]
    other = next(textures.synthesise(texture, 64, 2, levels=LEVELS))
    assert other.picture.tobytes() != states[0].picture.tobytes()


def test_one_colour_stays_that_colour():
    for state in textures.synthesise(Image.new("RGB", (64, 64), (200, 30, 90)), 96, 0, iterations=2):
        assert state.picture.getcolors() == [(96 * 96, (200, 30, 90))]
    clear = next(textures.synthesise(Image.new("RGBA", (64, 64), (200, 30, 90, 0)), 64, 0))
    assert clear.picture.getcolors() == [(64 * 64, (255, 255, 255))]


@pytest.mark.parametrize("mode", ["L", "P", "LA", "CMYK", "1"])
def test_pictures_of_all_modes(mode):
    picture = picture_of(100 + 50 * stripes(32, 4)).convert(mode)
    assert next(textures.synthesise(picture, 32, 0, levels=2)).picture.size == (32, 32)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"side_px": 16}, "side_px 16 is not an integer from 32 to 1024"),
        ({"side_px": 1025}, "from 32 to 1024"),
        ({"side_px": 64.0}, "side_px 64.0 is not an integer"),
        ({"side_px": 32}, "32 × 32 pixels are too few for 4 levels: give 64 a side at least"),
        ({"picture": Image.new("RGB", (80, 60))}, "80 × 60 pixels are too few for 4 levels"),
        ({"picture": Image.new("RGB", (1024, 64))}, "512 × 32 pixels are too few"),  # it was made smaller
        ({"seed": -1}, "seed -1"),
        ({"levels": 0}, "levels 0 is not an integer from 1 to 8"),
        ({"orientations": 17}, "orientations 17"),
        ({"iterations": True}, "iterations True"),
    ],
)
def test_what_is_refused_in_a_sentence_before_anything_is_made(more, words):
    asked = {"picture": Image.new("RGB", (64, 64)), "side_px": 64, "seed": 0} | more
    with pytest.raises(ValueError, match=words):
        textures.synthesise(**asked)


def test_it_stops_where_it_is_closed(texture):
    with contextlib.closing(textures.synthesise(texture, 64, 0, levels=LEVELS)) as drawing:
        next(drawing)
    assert list(drawing) == []
