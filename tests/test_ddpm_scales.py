"""Five scales of guidance on the same seeds: the page's tab, its classifier, and its numbers by hand."""

import re

import numpy as np
import pytest
import tiny_models
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from tiny_gallery import tiny_ddpm

from apps import ddpm as app
from apps.ddpm import page as the_page
from apps.ddpm import scales
from apps.ddpm.desk import Desk
from apps.kit import values
from hub_models import classifier, ddpm
from hub_models.store import CheckpointError

ASKED = {"label": "food", "seed": 5, "scales": "1, 2.5", "count": 3, "steps": 4, "sampler": "DDIM"}
NAME = f"{scales.JUDGE}tiny"


@pytest.fixture(scope="module")
def model():
    return tiny_ddpm()


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tiny_models.classifier(tmp_path_factory.mktemp("judge") / "tiny", ("food", "flag", "face"))
    return classifier.load(str(folder), device="cpu")


class Dummy:
    """A classifier that is as sure as a picture is red, and whose features are the colour of its first pixel."""

    label_names = ("face", "food", "flag")
    name = "dummy"

    def logits(self, images):
        red = torch.tensor([image.getpixel((0, 0))[0] / 255 for image in images])
        return torch.stack([(1 - red) / 2, red, (1 - red) / 2], 1).log()

    def features(self, images):
        return torch.tensor([image.getpixel((0, 0)) for image in images]).float()


def test_confidence_and_diversity_by_hand():
    sheet = np.zeros((3, 4, 4, 3), np.uint8)
    sheet[0], sheet[1], sheet[2] = (255, 0, 0), (51, 0, 0), (0, 90, 0)
    found = scales.measured(Dummy(), "food", sheet)
    assert found["confidence"] == pytest.approx((1 + 0.2 + 0) / 3)
    assert found["diversity"] == pytest.approx((0 + 2**0.5 + 2**0.5) / 3, abs=1e-5), "red and red, red and green twice"
    assert scales.measured(Dummy(), "food", sheet[[0, 0]])["diversity"] == pytest.approx(0, abs=1e-5)


def test_a_judge_knows_the_models_classes_in_any_order_and_no_others(model, judge):
    assert set(judge.label_names) == set(model.label_names) and judge.label_names != list(model.label_names)
    assert scales.judge_of(model, {"tiny": judge}) is judge
    judge.label_names.append("moon")
    assert scales.judge_of(model, {"tiny": judge}) is None and scales.judge_of(model, {}) is None
    judge.label_names.pop()


def series_of(model, judges=None, **change) -> tuple[scales.Scales, scales.Series]:
    made = scales.Scales(Desk({"tiny": model}), judges or {})
    return made, made.series("tiny", *(ASKED | change).values())


def test_the_series_draws_the_same_seeds_at_each_scale(model, judge):
    made, series = series_of(model, {"tiny": judge})
    steps = list(series.steps())
    assert [(step.index, step.total) for step in steps] == [(k, 8) for k in range(8)]
    for sheet, scale in zip(series.sheets, (1, 2.5), strict=True):
        how = {"num_inference_steps": 4, "guidance_scale": scale, "sampler": "ddim"}
        (*_, alone) = model.generate(["food"] * 3, [5, 6, 7], **how)
        assert np.array_equal(sheet, ddpm.to_uint8(alone.x_t))
    row = made.numbers(series)[1]
    images = [Image.fromarray(pixels) for pixels in series.sheets[1]]
    asked = [dict(judge.predict([image], 3)[0])["food"] for image in images]
    assert row["confidence"] == pytest.approx(np.mean(asked), rel=1e-5)


@pytest.mark.parametrize("text", ["", "1", "1, 2, 3, 4, 5, 6", "0, 2", "1; 2", "nan, 2", "1, 11", 3, None, ["1", "2"]])
def test_scales_that_cannot_be_are_answered_with_those_that_can(text):
    with pytest.raises(values.InputError, match="2 to 5 numbers from 1 to 10"):
        scales.check_scales(text)


def test_scales_are_each_taken_once():
    assert scales.check_scales(" 1, 2,2.0,8 ") == [1, 2, 8]


def test_the_api_returns_pictures_and_numbers_or_none(serve, model, judge, tmp_path):
    client = Client(serve(app.build({"tiny": model, NAME: judge})), verbose=False, download_files=str(tmp_path))
    gallery, said = client.predict(**ASKED, api_name="/ddpm_scales")
    assert [each["caption"] for each in gallery] == ["guidance 1", "guidance 2.5"]
    assert said["classifier"] == judge.name and said["seeds"] == ["5", "6", "7"]
    assert [row["guidance"] for row in said["scales"]] == [1, 2.5]
    assert all(0 < row["confidence"] < 1 and 0 < row["diversity"] < 2 for row in said["scales"])
    assert '"guidance_scale": 2.5' in Image.open(gallery[1]["image"]).text[ddpm.RECEIPT_KEY]
    for change, words in (
        ({"label": "any"}, "Class must be one of: face, food, flag"),
        ({"count": 1}, "Pictures must be a whole number from 2 to 16"),
        ({"steps": 51}, "Steps must be a whole number from 1 to 50"),
        ({"scales": "1"}, "Scales must be 2 to 5 numbers"),
        ({"seed": "x"}, "Seed must be a whole number"),
        ({"sampler": "euler"}, "Sampler must be one of"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(**(ASKED | change), api_name="/ddpm_scales")

    client = Client(serve(app.build({"tiny": model})), verbose=False, download_files=str(tmp_path))
    _, said = client.predict(**ASKED, api_name="/ddpm_scales")
    assert said["classifier"] is None and {row["confidence"] for row in said["scales"]} == {None}


def test_a_model_without_guidance_says_so(model):
    plain = ddpm.DDPM(tiny_models.unet(classes=None), model.scheduler, name="plain")
    with pytest.raises(values.InputError, match="knows no guidance"):
        scales.Scales(Desk({"plain": plain}), {}).series("plain", *ASKED.values())


def draw(page) -> None:
    page.get_by_role("tab", name="Guidance").click()
    page.locator("#ddpm-scales-draw").click()
    page.wait_for_function("() => /Done: 100 steps/.test(document.querySelector('#ddpm-scales-status').innerText)")
    page.wait_for_selector("#ddpm-scales .said")


def test_five_scales_show_five_pictures_and_their_numbers_in_a_browser(serve, page, model, judge):
    page.goto(serve(app.build({"tiny": model, NAME: judge})))
    draw(page)
    first = page.eval_on_selector_all("#ddpm-scales .first", "all => all.map((image) => image.src)")
    assert len(set(first)) == 5 and page.locator("#ddpm-scales .others img").count() == 5 * 7
    assert page.eval_on_selector_all("#ddpm-scales figcaption b", "all => all.map(b => b.innerText)") == list("12358")
    shown = page.eval_on_selector_all("#ddpm-scales dd", "all => all.map(dd => dd.innerText)")
    assert len(shown) == 10 and all(re.fullmatch(r"\d+%", said) for said in shown[::2])
    assert all(re.fullmatch(r"[01]\.\d\d", said) for said in shown[1::2])
    assert "the mean over 8 pictures" in page.inner_text("#ddpm-scales .said")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_a_classifier_of_these_classes_the_page_says_so(serve, page, model):
    broken = CheckpointError("model.safetensors is <b>cut</b>")
    page.goto(serve(app.build({"tiny": model, f"{scales.JUDGE}x": broken})))
    draw(page)
    page.get_by_role("alert").get_by_text("model.safetensors is <b>cut</b>").wait_for()
    assert page.locator("#ddpm-scales .first").count() == 5 and page.locator("#ddpm-scales dd").count() == 0
    assert "no classifier of these classes is loaded" in page.inner_text("#ddpm-scales .said")


def test_the_page_takes_the_bundled_classifier_along_unless_another_one_is_named(tmp_path):
    found = the_page.load_models(["no-such"])
    assert list(found) == ["no-such", "classifier=swin", "guide=noised"]
    shipped = ddpm.load("emoji-32", device="cpu")
    assert scales.judge_of(shipped, {"swin": found["classifier=swin"]}) is not None
    named = [f"{scales.JUDGE}{tmp_path}", f"{the_page.GUIDE}swin"]
    assert list(the_page.load_models(named)) == ["emoji-32", *named]
