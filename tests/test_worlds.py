"""Worlds: a density over a picture's numbers that comes with the weights, and which model a picture is for."""

import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hub_models import worlds
from hub_models.documents import CheckpointError
from hub_models.worlds import D, World, from_json, home, numbers_of, world_of
from training import worlds as making


def drawing(seed: int) -> Image.Image:
    """A disc of one colour on white, with alpha."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGBA", (80, 80))
    left, top = rng.integers(0, 30, 2).tolist()
    ImageDraw.Draw(picture).ellipse((left, top, left + 45, top + 40), fill=(*rng.integers(0, 255, 3).tolist(), 255))
    return picture


def noise(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    return small.resize((200, 160), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def two() -> dict[str, World]:
    return {
        "drawings": making.reference((drawing(n) for n in range(120)), "drawings"),
        "noise": making.reference((noise(n) for n in range(120)), "pictures of noise"),
    }


def test_log_density_is_that_of_scipy():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    means, deviations, weights = rng.normal(size=(3, D)), rng.uniform(0.5, 2, (3, D)), np.array([0.2, 0.3, 0.5])
    world, x = World("any", weights, means, deviations, 0.0), rng.normal(size=D)
    parts = [
        w * multivariate_normal(m, np.diag(s**2)).pdf(x) for w, m, s in zip(weights, means, deviations, strict=True)
    ]
    assert world.log_density(x) == pytest.approx(math.log(sum(parts)), rel=1e-9)


def test_numbers_are_shares_and_do_not_depend_on_what_lies_under_clear_pixels():
    picture = drawing(1)
    numbers = numbers_of(picture)
    assert numbers.shape == (D,) and np.isfinite(numbers).all()
    sums = [float((part**2).sum()) for part in np.split(numbers[:18], 2)]
    assert sums == pytest.approx([1, 1], abs=1e-5)
    hidden = np.array(picture)
    hidden[hidden[..., 3] == 0, :3] = 77
    assert np.array_equal(numbers_of(Image.fromarray(hidden)), numbers)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_any_mode_and_size(mode):
    for size in ((1, 1), (3, 500), (96, 96)):
        assert np.isfinite(numbers_of(Image.new(mode, size))).all()


def test_pictures_that_were_not_seen_come_home(two):
    for n in range(1000, 1030):
        assert home(drawing(n), two).best == "drawings"
        assert home(noise(n), two).best == "noise"
    assert sum(home(drawing(n), two).outside for n in range(1000, 1030)) < 10
    assert home(noise(1000), {"drawings": two["drawings"]}) == worlds.Home("drawings", True)
    assert home(noise(1000), {"a model without": None}) == worlds.Home(None, False)
    assert home(drawing(1), {"first": two["drawings"], "none": None, "second": two["drawings"]}).best == "first"


def test_a_world_survives_its_config_and_the_manifest_follows(two, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 8}))
    (tmp_path / "config.json").write_text("{}")
    assert world_of(tmp_path) is None
    making.put(tmp_path, two["noise"])
    back = world_of(tmp_path)
    assert back.kind == "pictures of noise"
    for n in range(5):
        numbers = numbers_of(noise(n))
        # rounded to four digits: far less than what worlds differ by
        assert back.log_density(numbers) == pytest.approx(two["noise"].log_density(numbers), abs=1)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == 8
    (tmp_path / "preprocessor_config.json").unlink()
    making.put(tmp_path, two["noise"])  # as timm has it
    assert world_of(tmp_path).kind == "pictures of noise"
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no folder of weights"):
        making.put(tmp_path, two["noise"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", ""),
        ("kind", "a\nb"),
        ("kind", 3),
        ("threshold", "far"),
        ("threshold", None),
        ("weights", []),
        ("weights", [0.0] * 3),
        ("weights", "many"),
        ("means", ["0.0"]),
        ("means", [[0.0] * D]),
        ("means", ["nan " * D]),
        ("deviations", ["0 " * D] * 3),
        ("deviations", {"a": 1}),
    ],
)
def test_a_world_out_of_form_is_refused_by_name(two, tmp_path, key, value):
    stated = two["drawings"].to_json() | {key: value}
    with pytest.raises(CheckpointError, match=r"config\.json: world is out of form"):
        from_json(stated, tmp_path / "config.json")


def test_one_picture_is_a_small_world():
    world = making.reference([drawing(0)], "drawings")
    assert home(drawing(0), {"one": world}) == worlds.Home("one", False)
    assert home(noise(0), {"one": world}).outside
