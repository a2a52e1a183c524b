"""Programs get a sentence for every argument that can't be used: wrong types, numbers out of range, too few of them."""

import json

import pytest
import tiny_gallery
import tiny_models
from PIL import Image, PngImagePlugin

from apps import ddpm, text_to_image
from hub_models import drawing
from hub_models import text_to_image as contract

PROMPTED = ["a red apple", "", 1, 7, 2, 1, "DDIM", None, None, "tiny"]
LABELLED = [["face"], 1, 3, 2, 1.0, "DDIM", "tiny", 0]


@pytest.fixture(scope="module")
def pages(serve_once, tmp_path_factory) -> dict[str, str]:
    folder = tiny_models.stable_diffusion(tmp_path_factory.mktemp("sd") / "tiny", text="bert")
    model = contract.load(str(folder), device="cpu")
    made = {
        "text_to_image": text_to_image.build({"tiny": model}),
        "ddpm": ddpm.build({"tiny": tiny_gallery.tiny_ddpm()}),
    }
    return {stem: serve_once(demo) for stem, demo in made.items()}


def said(address: str, endpoint: str, *data) -> str:
    with tiny_gallery.visitor() as who:
        event, value = tiny_gallery.answer(who, address, endpoint, *data)
    assert event == "error", value
    return json.dumps(value, ensure_ascii=False)


WRONG = ["much", [1], {"a": 1}, None, True, 1e9, -1]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_whatever_comes_in_the_place_of_a_number_is_answered_with_its_range(pages, wrong):
    for at, words in ((2, "Pictures must be a whole number from 1 to 8"), (4, "Steps must"), (5, "Guidance must")):
        data = [*PROMPTED[:at], wrong, *PROMPTED[at + 1 :]]
        assert words in said(pages["text_to_image"], "text_to_image_draw", *data)
    for at, words in (
        (1, "Pictures must be a whole number"),
        (3, "Steps must"),
        (4, "Guidance must"),
        (7, "Classifier guidance must"),
    ):
        data = [*LABELLED[:at], wrong, *LABELLED[at + 1 :]]
        assert words in said(pages["ddpm"], "ddpm_draw", *data)


def test_choices_and_texts_of_another_type_are_answered_with_what_can_be_asked(pages):
    for at, wrong, words in (
        (0, 7, "Prompt must be text"), (1, ["x"], "Negative prompt must be text"), (3, "seven", "Seed must"),
        (6, 3, "Sampler must be one of"), (9, {"x": 1}, "Model must be one of"),
        (7, "a.png", "no such picture"), (7, "data:image/png;base64,AA", "no such picture"), (7, 5, "no such picture"),
    ):  # fmt: skip
        data = [*PROMPTED[:at], wrong, *PROMPTED[at + 1 :]]
        assert words in said(pages["text_to_image"], "text_to_image_draw", *data), (at, wrong)
    for at, wrong, words in ((0, [3], "Class must be one of"), (0, {"x": 1}, "Classes must"), (2, 1.5, "Seed must")):
        assert words in said(pages["ddpm"], "ddpm_draw", *[*LABELLED[:at], wrong, *LABELLED[at + 1 :]])


def test_too_few_and_too_many_are_counted(pages):
    for data in (PROMPTED[:3], [], [*PROMPTED, 1]):
        assert "takes 10 values" in said(pages["text_to_image"], "text_to_image_draw", *data)


def test_strength_is_taken_from_where_it_is_documented(tmp_path):
    model = contract.load(str(tiny_models.stable_diffusion(tmp_path / "sd", text="bert")), device="cpu")
    demo = text_to_image.build({"tiny": model})
    [strength] = [block for block in demo.blocks.values() if getattr(block, "label", "") == "Strength"]
    assert strength.preprocess(0.01) == 0.01 and strength.preprocess("much") == "much", "the desk judges it"


@pytest.mark.parametrize("where", ["receipt", "parameters"])
def test_half_a_letter_in_a_receipt_is_answered_with_a_sentence(where):
    if where == "receipt":
        text = {drawing.RECEIPT_KEY: json.dumps({"schema": 1, "prompt": "x", "seed": "1", "model": "\ud800"})}
    else:
        text = {"parameters": 'x\nSteps: 3, Sampler: DDIM, Seed: 1, Model: "\\ud800"'}
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    assert Image.new("RGB", (1, 1)) and info.chunks
    with pytest.raises(drawing.ReceiptError, match="half a letter"):
        contract.read_receipt(text)
