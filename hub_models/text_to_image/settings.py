"""What may be asked of a text-to-image model, and how it is written into a PNG and read back.

A picture's receipt is JSON under RECEIPT_KEY; beside it stands, under PARAMETERS_KEY, the text that other programs read.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from hub_models import texts

THEIR_NAMES = {"dpm++": "DPM++ 2M", "ddim": "DDIM", "unipc": "UniPC", "ddpm": "DDPM", "euler": "Euler"}
SAMPLERS = tuple(THEIR_NAMES)
MAX_SEED = 2**63 - 1
MAX_PICTURES = 64
MAX_PROMPT_CHARACTERS = 2000
RECEIPT_KEY = "vitrail"  # the PNG text chunk our receipts live in
PARAMETERS_KEY = "parameters"  # that of other programs
MAX_RECEIPT_BYTES = 64_000  # of either text; two prompts of the longest, in JSON's escapes, are 48,000
MAX_RECEIPT_DEPTH = 8  # of brackets in brackets


class ReceiptError(ValueError):
    """A receipt that is absent, broken, or of something that isn't here; one sentence for the page."""


@dataclass(frozen=True)
class Verdict:
    """What drawing a receipt again showed."""

    state: Literal["identical", "within 1/255", "different"]  # the pictures, pixel by pixel
    fields: tuple[str, ...]  # fields of the receipt that were altered, or do not fit this picture or these weights


def normalise_prompt(text: str) -> str:
    """The text as `texts.one_line` has it. Raises ValueError for what isn't text, and for an endless one."""
    if not isinstance(text, str):
        raise ValueError(f"a prompt is text, not {type(text).__name__}")
    return texts.one_line(text)


def check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {str(seed)[:60]} is not an integer from 0 to 2**63 - 1")
    return int(seed)


def check_steps_done(done: int, run: int) -> int:
    if isinstance(done, bool) or not isinstance(done, int | np.integer) or not 1 <= done <= run:
        raise ValueError(f"steps_done {str(done)[:60]} is not an integer from 1 to {run}")
    return int(done)


def is_number(value) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


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
    pairs["Version"] = f"vitrail, diffusers {receipt['versions']['diffusers']}"
    quoted = {key: json.dumps(str(v)) if re.search(r'[,:\n"]', str(v)) else v for key, v in pairs.items() if v != ""}
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in quoted.items())])


def read_parameters(text: str) -> dict:
    """The settings in a `parameters` text, under the names of a receipt; what it doesn't say is absent.

    A sampler that isn't one of SAMPLERS is left out. Raises ReceiptError if this is no such text, or an endless one.
    """
    _check_size(text, "parameters text")
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
    return receipt | {key: pairs[said] for said, key in {"Model": "model", "Model hash": "model_hash"}.items()
                      if said in pairs}  # fmt: skip


def read_receipt(text: Mapping[str, str]) -> dict:
    """The receipt in the text chunks of a PNG, {key: text}: ours if there is one, else what `parameters` says.

    Raises ReceiptError, in words for the page, where there is neither or it is broken.
    """
    if RECEIPT_KEY in text:
        _check_size(text[RECEIPT_KEY], "receipt")
        try:
            receipt = json.loads(text[RECEIPT_KEY])
        except ValueError as error:
            raise ReceiptError("the picture's receipt is broken: it is not JSON") from error
        except RecursionError as error:
            raise ReceiptError("the picture's receipt is broken: it is nested beyond reason") from error
        if not _is_shallow(receipt):
            raise ReceiptError("the picture's receipt is broken: it is nested beyond reason")
        if not isinstance(receipt, dict) or not isinstance(receipt.get("prompt"), str) or "seed" not in receipt:
            raise ReceiptError("the picture's receipt is not one of a drawn prompt: prompt or seed is missing")
        return receipt
    if PARAMETERS_KEY in text:
        return read_parameters(text[PARAMETERS_KEY])
    raise ReceiptError("the picture carries no receipt: it was not drawn here, or a program has removed its text")


def _check_size(text: str, what: str) -> None:
    try:
        texts.check(text, what, MAX_RECEIPT_BYTES)
    except texts.TooLong:
        raise ReceiptError(
            f"the picture's {what} is broken: it has {len(text):,} characters, and {MAX_RECEIPT_BYTES:,} bytes are the most"
        ) from None


def _is_shallow(value) -> bool:
    """Whether brackets in brackets end by MAX_RECEIPT_DEPTH; deeper ones are more than repr and json.dumps can take."""
    level = [value]
    for _ in range(MAX_RECEIPT_DEPTH):
        inside = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [item for part in inside for item in part]
    return not any(isinstance(part, dict | list) for part in level)


def altered_fields(receipt: Mapping) -> list[str]:
    """The fields of a receipt that no longer are what they were when it was written; none where it has no checks."""
    checks = receipt.get("checks")
    if not isinstance(checks, Mapping):
        return []
    names = [name for name in (*receipt, *checks) if name != "checks"]
    return [name for name in dict.fromkeys(names) if checks.get(name) != check(name, receipt.get(name))]


def check(name: str, value) -> str:
    return hashlib.sha256(json.dumps([name, value], sort_keys=True).encode()).hexdigest()[:8]


def pixels_sha256(picture: Image.Image) -> str:
    """The sha256 of a picture's size and RGB pixels, whatever file it is in."""
    picture = picture.convert("RGB")
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    return {"diffusers": diffusers.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
