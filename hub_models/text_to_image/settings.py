"""What may be asked of a text-to-image model, and how it is written into a PNG and read back.

Beside a picture's receipt (see `drawing`) stands, under PARAMETERS_KEY, the text that other programs read.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hub_models import drawing
from hub_models.drawing import RECEIPT_KEY, ReceiptError, check_seed, normalise_prompt

SAMPLERS = ("dpm++", "ddim", "unipc", "ddpm", "euler")
FEW_STEPS = ("lcm",)  # samplers of a model that was made to draw in a few
THEIR_NAMES = {"dpm++": "DPM++ 2M", "ddim": "DDIM", "unipc": "UniPC", "ddpm": "DDPM", "euler": "Euler", "lcm": "LCM"}
MAX_GUIDANCE = 30.0
MAX_PICTURES = 64
MAX_PROMPT_CHARACTERS = 2000
PARAMETERS_KEY = "parameters"  # the PNG text chunk of other programs


@dataclass(frozen=True)
class Fork:
    """Another way on, after `at` steps of a drawing are done; what is None stays as it was."""

    at: int
    prompt: str | None = None
    guidance_scale: float | None = None
    sampler: str | None = None


def steps_run(num_inference_steps: int, strength: float | None) -> int:
    """How many of the steps are taken: all, or those that image-to-image with this strength has left."""
    if strength is None:
        return num_inference_steps
    return max(1, min(int(num_inference_steps * strength), num_inference_steps))


def parameters_text(receipt: Mapping) -> str:
    """The `parameters` text that AUTOMATIC1111's programs write and read, of a receipt."""
    lines = [receipt.get("prompt", "")]
    if receipt.get("negative_prompt"):
        lines.append(f"Negative prompt: {receipt['negative_prompt']}")
    pairs = {
        "Steps": receipt["num_inference_steps"],
        "Sampler": THEIR_NAMES[receipt["sampler"]],
        "CFG scale": f"{receipt['guidance_scale']:g}",
        "Seed": receipt["seed"],
        "Size": "{}x{}".format(*receipt["size"]),
        "Model hash": receipt["weights_sha256"][:10],
        "Model": receipt["model"],
    }
    if "strength" in receipt:
        pairs["Denoising strength"] = f"{receipt['strength']:g}"
    if "fork" in receipt:
        changes = [f"{name} {value}" for name, value in receipt["fork"].items() if name != "at" and value is not None]
        pairs["Fork"] = f"after {receipt['fork']['at']} steps {', '.join(changes)}"
    pairs["Version"] = f"vitrail, diffusers {receipt['versions']['diffusers']}"
    quoted = {key: json.dumps(str(v)) if re.search(r'[,:\n"]', str(v)) else v for key, v in pairs.items() if v != ""}
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in quoted.items())])


def read_parameters(text: str) -> dict:
    """The settings in a `parameters` text, under the names of a receipt; what it doesn't say is absent.

    A sampler that isn't one of SAMPLERS is left out. Raises ReceiptError if this is no such text, or an endless one.
    """
    drawing.check_size(text, "parameters text")
    *lines, last = text.strip("\n").split("\n")
    # A key starts where none can have started before: looked for everywhere, long words would take quadratic time.
    pairs = dict(re.findall(r'(?:(?<=, )|(?<![\w /]))([\w /]+): ("(?:\\.|[^\\"])+"|[^,]*)(?:, |,|$)', last))
    if "Steps" not in pairs:
        raise ReceiptError("the picture's parameters text has no line of settings (Steps: …, Sampler: …, Seed: …)")
    start = next((i for i, line in enumerate(lines) if i and line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:")
    receipt = {"prompt": normalise_prompt("\n".join(lines[:start])), "negative_prompt": normalise_prompt(negative)}
    ours = {theirs.lower(): name for name, theirs in THEIR_NAMES.items()}
    try:
        pairs = {key: json.loads(value) if value.startswith('"') else value for key, value in pairs.items()}
        receipt["num_inference_steps"] = int(pairs["Steps"])
        if pairs.get("Sampler", "").lower() in ours:
            receipt["sampler"] = ours[pairs["Sampler"].lower()]
        if "CFG scale" in pairs:
            receipt["guidance_scale"] = float(pairs["CFG scale"])
        if "Seed" in pairs:
            receipt["seed"] = str(check_seed(int(pairs["Seed"])))
        if "Size" in pairs:
            receipt["size"] = [int(side) for side in pairs["Size"].split("x")]
        if "Denoising strength" in pairs:
            receipt["strength"] = float(pairs["Denoising strength"])
    except ValueError as error:
        raise ReceiptError(f"the picture's parameters text cannot be read: {str(error)[:200]}") from None
    names = {"Model": "model", "Model hash": "model_hash"}
    return drawing.check_letters(receipt | {key: pairs[said] for said, key in names.items() if said in pairs})


def read_receipt(text: Mapping[str, str]) -> dict:
    """The receipt in the text chunks of a PNG, {key: text}: ours if there is one, else what `parameters` says.

    Raises ReceiptError, in words for the page, where there is neither or it is broken.
    """
    if RECEIPT_KEY in text or PARAMETERS_KEY not in text:
        receipt = drawing.read_receipt(text)
        if not isinstance(receipt.get("prompt"), str) or "seed" not in receipt:
            raise ReceiptError("the picture's receipt is not one of a drawn prompt: prompt or seed is missing")
        return receipt
    return read_parameters(text[PARAMETERS_KEY])
