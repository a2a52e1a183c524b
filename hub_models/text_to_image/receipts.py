"""The receipt of a picture by a prompt: written, and drawn again to verify it. `TextToImage` has both as methods."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from PIL import Image

from hub_models import drawing
from hub_models.drawing import ReceiptError, Step, Verdict, check_seed, check_whole, pixels_sha256
from hub_models.text_to_image.settings import Fork, steps_run

if TYPE_CHECKING:
    from hub_models.text_to_image.model import TextToImage


def receipt(
    model: "TextToImage",
    prompt: str,
    seed: int,
    *,
    negative_prompt: str = "",
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: str | None = None,
    image: Image.Image | None = None,
    strength: float = 0.6,
    fork: Fork | None = None,
    picture: Image.Image | None = None,
    steps_done: int | None = None,
) -> dict:
    """Everything that draws this one picture again, for JSON: see `drawing`. Arguments as of `generate`.

    picture: what came out. steps_done: the steps taken, Step.index + 1, of a drawing that was stopped; None, and
    all of them, is no field.
    """
    texts = model.settings(prompt, negative_prompt, num_inference_steps, guidance_scale, sampler)
    fields = {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "prompt": texts[0],
        "negative_prompt": texts[1],
        "seed": str(check_seed(seed)),
        "num_inference_steps": texts[2],
        "guidance_scale": texts[3],
        "sampler": texts[4],
        "size": [model.resolution_px, model.resolution_px],
    }
    if image is not None:
        fields |= {"strength": float(strength), "image_sha256": pixels_sha256(model.frame(image))}
    if fork is not None:
        fields["fork"] = dataclasses.asdict(fork)
        if fork.prompt is not None:
            fields["fork"]["prompt"] = drawing.normalise_prompt(fork.prompt)
    if steps_done is not None:
        run = steps_run(texts[2], None if image is None else strength)
        if check_whole("steps_done", steps_done, 1, run) < run:
            fields["steps_done"] = int(steps_done)
    if picture is not None:
        fields["picture_sha256"] = pixels_sha256(picture)
    return drawing.sealed(fields, model.device)


def verify(
    model: "TextToImage",
    receipt: Mapping,
    picture: Image.Image,
    *,
    image: Image.Image | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Verdict:
    """Draw a receipt's picture again, as far as it was drawn, and compare.

    image: what image-to-image started from, where it did. on_step: called after every step; what it raises ends
    the drawing. Raises ReceiptError where it cannot be drawn here: settings missing or out of range, or the start
    picture.
    """
    unfit = []
    if "strength" in receipt:
        if image is None:
            raise ReceiptError("this picture was drawn from another one: give that one, too, to draw it again")
        if receipt.get("image_sha256") != pixels_sha256(model.frame(image)):
            unfit.append("image_sha256")

    def draw() -> Image.Image:
        with drawing.settings_of_a_receipt():
            names = ("negative_prompt", "num_inference_steps", "guidance_scale", "sampler")
            arguments = {name: receipt[name] for name in names} | {"strength": receipt.get("strength", 0.6)}
            fork = Fork(**receipt["fork"]) if receipt.get("fork") is not None else None
            steps = model.generate(receipt["prompt"], [int(receipt["seed"])], image=image, fork=fork, **arguments)
            run = steps_run(arguments["num_inference_steps"], None if image is None else arguments["strength"])
            done = receipt.get("steps_done")
            done = run if done is None else check_whole("steps_done", done, 1, run)
        return model.decode(drawing.drawn(steps, done, on_step).best)[0]

    return drawing.verify(receipt, picture, draw, weights_sha256=model.weights_sha256, device=model.device, unfit=unfit)
