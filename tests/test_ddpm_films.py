"""Two films of the page `ddpm` in step: one slider, one noise, two ways."""

import base64
import io
import json

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image, ImageSequence
from tiny_gallery import tiny_ddpm

from apps import ddpm as app
from apps.ddpm import plot, two_films
from apps.ddpm.desk import Desk
from hub_models import ddpm

ASKED = {"label": "face", "seed": 3, "steps": 6, "guidance": 2, "sampler": "DDIM"}
OTHER = {"same_noise": True, "other_label": "food", "other_seed": 4, "other_guidance": 2, "other_sampler": "DDIM"}


@pytest.fixture(scope="module")
def model():
    return tiny_ddpm()


def order(**change) -> list:
    asked = {"model": "tiny", **ASKED, **OTHER} | change
    return [asked[key] for key in ("model", "label", "seed", "steps", "guidance", "sampler", *OTHER)]


def drawn(model, **change):
    pair = two_films.TwoFilms(Desk({"tiny": model})).pair(*order(**change))
    steps = list(pair.steps())
    return steps, *pair.films()


def test_two_films_are_each_what_its_order_draws_alone(model):
    steps, film, other = drawn(model, other_guidance=5, other_sampler="DPM-Solver++")
    assert [step.index for step in steps] == list(range(6)) and film.steps == other.steps == list(range(7))
    for made, label, guidance, sampler in ((film, "face", 2, "ddim"), (other, "food", 5, "dpm++")):
        how = {"num_inference_steps": 6, "guidance_scale": guidance, "sampler": sampler}
        alone = list(model.generate([label], [3], **how))
        assert np.array_equal(made.noisy[-1], ddpm.to_uint8(alone[-1].x_t))
        assert np.array_equal(made.guess[2], ddpm.to_uint8(alone[2].x0)) and made.timesteps[2] == alone[2].timestep
        assert {key: made.receipt[key] for key in how} == how and made.receipt["labels"] == [label]
    apart = plot.apart(film.noisy, other.noisy)
    assert apart[0] == 0 and (apart[1:] > 0).all(), "out of the same noise"
    assert apart[3] == pytest.approx(np.abs(film.noisy[3].astype(float) - other.noisy[3]).mean() / 255, rel=1e-4)


def test_a_seed_of_its_own_gives_the_second_another_noise(model):
    _, film, other = drawn(model, same_noise=False)
    assert plot.apart(film.noisy, other.noisy)[0] > 0.1 and other.receipt["seeds"] == ["4"]


def test_equal_orders_do_not_part(model):
    _, film, other = drawn(model, other_label="face")
    assert plot.apart(film.noisy, other.noisy).max() == plot.apart(film.guess, other.guess).max() == 0


def test_a_stopped_pair_has_as_many_frames_of_both(model):
    pair = two_films.TwoFilms(Desk({"tiny": model})).pair(*order())
    for step in pair.steps():
        if step.index == 2:
            break
    film, other = pair.films()
    assert film.steps == other.steps == [0, 1, 2, 3] and film.receipt["steps_done"] == 3


def test_the_api_returns_a_gif_that_carries_the_receipts_of_both(serve, model, tmp_path):
    client = Client(serve(app.build({"tiny": model})), verbose=False, download_files=str(tmp_path))
    gif, receipts = client.predict(**ASKED, **OTHER, api_name="/ddpm_two_films")
    with Image.open(gif) as image:
        assert json.loads(image.info["comment"])[ddpm.RECEIPT_KEY] == receipts
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)]
    assert [each["labels"] for each in receipts] == [["face"], ["food"]] and len(frames) == 7
    same = [np.abs(frame[:160, :160] - frame[168:, :160]).mean() < 1 for frame in frames]  # of x_t
    assert same == [True] + [False] * 6
    for change, words in (
        ({"other_label": "moon"}, "Class must be one of: any, face"),
        ({"same_noise": False, "other_seed": 1.5}, "Seed must be a whole number"),
        ({"same_noise": "yes"}, "Same noise must be true or false"),
        ({"other_guidance": 11}, "Guidance must be a number from 1 to 10"),
        ({"other_sampler": "euler"}, "Sampler must be one of"),
        ({"steps": 251}, "Steps must be a whole number from 1 to 250"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(**(ASKED | OTHER | change), api_name="/ddpm_two_films")


def pixels_of(page) -> np.ndarray:
    """The pictures of both films in the page, int (N, H, W, 3)."""
    urls = page.eval_on_selector_all("#ddpm-two img", "all => all.map((image) => image.src)")
    files = [io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls]
    return np.stack([np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files])


def to_frame(page, number: int, total: int) -> None:
    page.locator("#ddpm-two-frame input[type=range]").fill(str(number))
    page.wait_for_function(
        "said => document.querySelector('#ddpm-two').innerText.split(said).length === 3",
        arg=f"after {number} of {total} steps",
    )


def test_one_slider_moves_both_films_in_a_browser(serve, page, model, tmp_path):
    page.goto(serve(app.build({"tiny": model})))
    page.get_by_role("tab", name="Two films").click()
    page.locator("#ddpm-two-draw").click()
    page.wait_for_function("() => document.querySelector('#ddpm-two-status').innerText.includes('Done: 20 steps')")
    page.wait_for_selector("#ddpm-two section")
    assert "face, seed 0" in page.inner_text("#ddpm-two") and "food, seed 0" in page.inner_text("#ddpm-two")
    seen = {}
    for number in (0, 4, 12):
        to_frame(page, number, 20)
        seen[number] = pixels_of(page)  # x_t, x0, noise of the first, then of the second
        assert len(seen[number]) == 6
        x_t, guess = (np.abs(seen[number][k] - seen[number][k + 3]).mean() for k in (0, 1))
        assert (x_t == 0) == (number == 0) and guess > 0, (number, x_t, guess)
    for k in (0, 1, 3, 4):
        assert all(np.abs(seen[a][k] - seen[b][k]).mean() > 0 for a, b in ((0, 4), (4, 12))), "both move"
    assert page.locator("#ddpm-two .apart polyline").count() == 2
    assert not page.locator("#ddpm-two-own-seed input").is_visible()
    page.get_by_label("Same noise for both").uncheck()
    page.locator("#ddpm-two-own-seed input").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download GIF of both").last.click()
    download.value.save_as(tmp_path / "both.gif")
    with Image.open(tmp_path / "both.gif") as gif:
        assert gif.n_frames == 21 and "seeds" in gif.info["comment"].decode()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
