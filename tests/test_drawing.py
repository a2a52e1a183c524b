"""hub_models/drawing.py: one receipt for all that draw; PNGs drawn when it had no schema restore and verify.

data/receipts holds PNGs that the pages drew then, of models whose weights `exact` gives: three by a prompt, one by
a label.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image

from hub_models import ddpm, drawing, text_to_image

OLD = Path(__file__).parent / "data" / "receipts"
PROMPT, NEGATIVE, SEED = "a red apple, in the house", 'blue, "cat": dog', 2**62
SETTINGS = {
    "drawn": {"num_inference_steps": 5, "sampler": "ddim"},
    "redrawn": {"num_inference_steps": 5, "sampler": "dpm++", "strength": 0.5},
    "stopped": {"num_inference_steps": 8, "sampler": "unipc", "steps_done": 3},
}


def exact(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The module with weights that are the same to the bit on every machine."""
    rng = np.random.default_rng(seed)
    for _, value in sorted(module.state_dict().items()):
        if value.is_floating_point():
            value.copy_(torch.from_numpy(rng.integers(-64, 65, tuple(value.shape)) / 128).to(value))
    return module.eval()


@pytest.fixture(scope="module")
def by_prompt(tmp_path_factory) -> text_to_image.TextToImage:
    options = {"text": "bert", "prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    folder = tiny_models.stable_diffusion(tmp_path_factory.mktemp("model"), **options)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for seed, part in enumerate((pipe.text_encoder, pipe.unet, pipe.vae)):
        exact(part, seed)
    return text_to_image.TextToImage(pipe, name="tiny", weights_sha256="1" * 64, guidance_scale=2.5, default_steps=4)


@pytest.fixture(scope="module")
def by_label() -> ddpm.DDPM:
    scheduler = DDPMScheduler(100, prediction_type="v_prediction", timestep_spacing="trailing")
    names = ["circle", "square", "star"]
    return ddpm.DDPM(
        exact(tiny_models.unet(classes=4), 3),
        scheduler,
        label_names=names,
        null_label=3,
        name="tiny",
        weights_sha256="2" * 64,
    )


def png(name: str) -> tuple[dict[str, str], Image.Image]:
    with Image.open(OLD / f"{name}.png") as image:
        image.load()
        return dict(image.text), image.convert("RGB")


def start() -> Image.Image:
    """What `redrawn` was drawn from."""
    return Image.fromarray(np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8))


def draw_by_label(model: ddpm.DDPM, receipt: dict) -> Image.Image:
    settings = {name: receipt[name] for name in ("num_inference_steps", "guidance_scale", "sampler")}
    steps = model.generate(receipt["labels"], [int(seed) for seed in receipt["seeds"]], **settings)
    return model.to_pil(drawing.drawn(steps, receipt["num_inference_steps"]).best)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_picture_drawn_before_restores_and_verifies(by_prompt, name):
    text, picture = png(name)
    receipt = text_to_image.read_receipt(text)
    assert "schema" not in receipt and receipt["model"] == "tiny" and drawing.altered_fields(receipt) == []
    asked = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": str(SEED), "guidance_scale": 2.25, "size": [32, 32]}
    assert receipt.items() >= (asked | SETTINGS[name]).items()
    assert text_to_image.parameters_text(receipt) == text["parameters"]
    image = start() if name == "redrawn" else None
    verdict = by_prompt.verify(receipt, picture, image=image)
    assert verdict.state in ("identical", "within 1/255") and verdict.fields == ()
    verdict = by_prompt.verify(receipt | {"seed": "5"}, picture, image=image)
    assert verdict == drawing.Verdict("different", ("seed",))
    other = text_to_image.TextToImage(by_prompt.pipe, name="tiny", weights_sha256="3" * 64)
    assert other.verify(receipt, picture, image=image).fields == ("weights_sha256",)


def test_a_picture_of_a_label_drawn_before_is_drawn_again(by_label):
    text, picture = png("pixels")
    receipt = drawing.read_receipt(text)
    assert (receipt["labels"], receipt["seeds"]) == (["circle"], [str(SEED)]) and "schema" not in receipt
    of_this = {"weights_sha256": by_label.weights_sha256, "device": by_label.device}
    verdict = drawing.verify(receipt, picture, lambda: draw_by_label(by_label, receipt), **of_this)
    assert verdict.state in ("identical", "within 1/255") and verdict.fields == ()
    with pytest.raises(drawing.ReceiptError, match="not one of a drawn prompt"):
        text_to_image.read_receipt(text)


def test_both_write_one_schema(by_prompt, by_label):
    settings = {"num_inference_steps": 5, "guidance_scale": 2.0, "sampler": "ddim"}
    theirs = by_prompt.receipt(PROMPT, SEED, negative_prompt=NEGATIVE, **settings)
    ours = by_label.receipt(["circle", None], [SEED, 0], steps_done=2, **settings)
    asked = {"prompt", "negative_prompt", "seed"}, {"labels", "seeds", "steps_done"}
    assert set(theirs) - asked[0] == set(ours) - asked[1]
    assert (ours["labels"], ours["seeds"], ours["size"]) == (["circle", "any"], [str(SEED), "0"], [16, 16])
    for receipt in (theirs, ours):
        read = drawing.read_receipt({drawing.RECEIPT_KEY: json.dumps(receipt)})
        assert read == receipt and receipt["schema"] == drawing.SCHEMA == 2 and drawing.altered_fields(read) == []
        for name in receipt.keys() - {"checks"}:
            assert drawing.altered_fields(receipt | {name: "altered"}) == [name]
            assert drawing.altered_fields({key: value for key, value in receipt.items() if key != name}) == [name]


def test_a_drawing_by_label_verifies(by_label):
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0, "sampler": "dpm++"}
    receipt = by_label.receipt(["star"], [SEED], **settings)
    picture, of_this = draw_by_label(by_label, receipt), {"weights_sha256": "2" * 64, "device": by_label.device}
    altered = receipt | {"labels": ["circle"]}
    same = drawing.verify(receipt, picture, lambda: draw_by_label(by_label, receipt), **of_this)
    other = drawing.verify(altered, picture, lambda: draw_by_label(by_label, altered), **of_this)
    assert same == drawing.Verdict("identical", ()) and other == drawing.Verdict("different", ("labels",))


@pytest.mark.parametrize("schema", [3, 0, -1, 1.0, True, "2", None, [2]])
def test_a_schema_of_a_later_program_is_said(schema):
    text = {drawing.RECEIPT_KEY: json.dumps({"schema": schema, "prompt": "a", "seed": "1"})}
    for read in (drawing.read_receipt, text_to_image.read_receipt):
        with pytest.raises(drawing.ReceiptError, match="schema .*known here are 1 to 2"):
            read(text)
