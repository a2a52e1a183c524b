"""What every model that draws shares: seeds and noise, steps of sampling, checks of what is asked, guidance, receipts.

A receipt is a JSON object in a PNG's text under RECEIPT_KEY, of one schema whatever drew the picture:

    schema                              SCHEMA; those of the first have none, and none of what a later one has added
    model, weights_sha256               what drew
    prompt, negative_prompt, seed       what was asked of a model that reads text; a seed is text, as JSON readers round
    labels, seeds                       what was asked of a model that knows labels: lists, a place for each picture
    num_inference_steps, guidance_scale, sampler, size       size: [width, height] of each picture
    truncation                          of one that a GAN drew, its ψ
    guide, guide_sha256, guide_scale    the classifier that guided it, and its γ
    strength, image_sha256              of a picture that was redrawn from another one
    temperature, top_k                  of what is drawn symbol by symbol, or from a Gaussian (temperature alone)
    steps_done                          of a drawing that was stopped
    fork                                of one that went another way: after `at` steps these labels or this prompt,
                                        guidance_scale, guide_scale, sampler, null where they stayed
    picture_sha256, versions, device
    checks                              {field: short hash of it}, which tell what was altered by hand

Letters: B pictures, C × H × W the shape of a picture or latent.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import transformers
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from hub_models import texts

MAX_SEED = 2**63 - 1
SCHEMA = 2
RECEIPT_KEY = "vitrail"  # the PNG text chunk our receipts live in
MAX_RECEIPT_BYTES = 96_000  # of it; three prompts of the longest, in JSON's escapes, are 72,000
MAX_RECEIPT_DEPTH = 8  # of brackets in brackets


class ReceiptError(ValueError):
    """A receipt that is absent, broken, or of something that isn't here; one sentence for the page."""


@dataclass(frozen=True)
class Verdict:
    """What drawing a receipt again showed."""

    state: Literal["identical", "within 1/255", "different"]  # the pictures, pixel by pixel
    fields: tuple[str, ...]  # fields of the receipt that were altered, or do not fit this picture or these weights


@dataclass(frozen=True)
class Step:
    """What one step of sampling left behind. In the last one x_t is the picture, or what decodes to it."""

    index: int  # 0 … total - 1
    total: int
    timestep: int  # the noise level the model was asked at
    x_t: torch.Tensor  # (B, C, H, W) after this step, on its way to the next timestep
    x0: torch.Tensor  # (B, C, H, W) the model's guess of the clean picture or latents at this step
    preview: np.ndarray | None = None  # uint8 (B, H, W, 3): x0 of latents as colours, where there is a linear map
    noise: torch.Tensor | None = None  # (B, C, H, W): the ε that x0 implies
    alpha_bar: float | None = None  # ᾱ of the timestep
    inside: Any = None  # what a drawing from a prompt shows of itself, if asked: see text_to_image.inside

    @property
    def score(self) -> torch.Tensor:
        """∇ log q(x_t) where the step began, (B, C, H, W): see `samplers.score`."""
        assert self.noise is not None and self.alpha_bar is not None
        return -self.noise / (1 - self.alpha_bar) ** 0.5

    @property
    def latents(self) -> torch.Tensor:
        """x_t of a model that draws latents."""
        return self.x_t

    @property
    def best(self) -> torch.Tensor:
        """What a drawing that ends with this step shows, (B, C, H, W): x_t after the last one, x0 before."""
        return self.x_t if self.index + 1 == self.total else self.x0


# ---- what is asked ---------------------------------------------------------------------------------------------------


def normalise_prompt(text: str) -> str:
    """The text as `texts.one_line` has it. Raises ValueError for what isn't text, and for an endless one."""
    if not isinstance(text, str):
        raise ValueError(f"a prompt is text, not {type(text).__name__}")
    return texts.one_line(text)


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether this is an integer from low to high."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and low <= value <= high


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """The value as an int. Raises ValueError, which says the range, for what is no integer from low to high."""
    if not is_whole(value, low, high):
        raise ValueError(f"{name} {repr(value)[:60]} is not an integer from {low} to {high}")
    return int(value)


def check_seed(seed: Any) -> int:
    """The seed as an int. Raises ValueError for what is no integer from 0 to MAX_SEED."""
    if not is_whole(seed, 0, MAX_SEED):
        raise ValueError(f"seed {repr(seed)[:60]} is not an integer from 0 to 2**63 - 1")
    return int(seed)


def check_sampler(sampler: Any, samplers: Sequence[str]) -> str:
    """The sampler. Raises ValueError, which lists the samplers, for another one."""
    if sampler not in samplers:
        raise ValueError(f"sampler {repr(sampler)[:60]} is unknown: choose one of {', '.join(samplers)}")
    return sampler


# ---- sampling --------------------------------------------------------------------------------------------------------


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """One a picture, on the CPU, so that a picture depends on its own seed alone and is the same on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise(generators: list[torch.Generator], shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Standard normal noise (B, *shape), picture k's of generator k."""
    return randn_tensor((len(generators), *shape), generator=generators, device=device, dtype=torch.float32)


def guide(null: torch.Tensor, towards: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance: null + scale (towards - null). Ho & Salimans 2022, with scale = 1 + their w."""
    return null + scale * (towards - null)


def predict_x0(output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """The clean picture or latent that a model output implies; all of (B, C, H, W), alpha_bar broadcast to it.

    ε: Ho et al. 2020, eq. 15. v = sqrt(ᾱ) ε - sqrt(1-ᾱ) x0: Salimans & Ho 2022, appendix D.
    Raises ValueError for another prediction type.
    """
    if prediction_type == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    if prediction_type == "v_prediction":
        return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
    if prediction_type == "sample":
        return output
    raise ValueError(f"prediction_type {prediction_type!r} is not one of epsilon, v_prediction, sample")


def drawn(steps: Generator[Step], done: int, on_step: Callable[[Step], None] | None = None) -> Step:
    """The step after which `done` of them are taken; the drawing is closed there, and where on_step raises."""
    with contextlib.closing(steps):
        for step in steps:
            if on_step is not None:
                on_step(step)
            if step.index + 1 == done:
                return step
    raise ValueError(f"a drawing of fewer steps than {done}")


# ---- receipts --------------------------------------------------------------------------------------------------------


def sealed(fields: Mapping, device: torch.device) -> dict:
    """A receipt of these fields: with schema, versions, device and checks."""
    receipt = {"schema": SCHEMA, **fields, "versions": versions(), "device": device.type}
    return receipt | {"checks": {name: _check(name, value) for name, value in receipt.items()}}


def read_receipt(text: Mapping[str, str]) -> dict:
    """The receipt in the text chunks of a PNG, {key: text}; of this schema or an earlier one.

    Raises ReceiptError, in words for the page, where there is none, or it is broken or of a later schema.
    """
    if RECEIPT_KEY not in text:
        raise ReceiptError("the picture carries no receipt: it was not drawn here, or a program has removed its text")
    check_size(text[RECEIPT_KEY], "receipt")
    try:
        receipt = json.loads(text[RECEIPT_KEY])
    except ValueError as error:
        raise ReceiptError("the picture's receipt is broken: it is not JSON") from error
    except RecursionError as error:
        raise ReceiptError("the picture's receipt is broken: it is nested beyond reason") from error
    if not _is_shallow(receipt):
        raise ReceiptError("the picture's receipt is broken: it is nested beyond reason")
    if not isinstance(receipt, dict):
        raise ReceiptError("the picture's receipt is broken: it is no object")
    if not is_whole(schema := receipt.get("schema", 1), 1, SCHEMA):
        raise ReceiptError(f"the picture's receipt has the schema {repr(schema)[:20]}, known here are 1 to {SCHEMA}")
    return check_letters(receipt)


def check_letters(receipt: dict) -> dict:
    """The receipt. Raises ReceiptError where a text in it holds half a letter (a lone surrogate), which no JSON can."""
    try:
        json.dumps(receipt, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ReceiptError("the picture's receipt is broken: it holds half a letter (a lone surrogate)") from None
    return receipt


def check_size(text: str, what: str) -> None:
    """Raises ReceiptError for a text chunk of more than MAX_RECEIPT_BYTES."""
    try:
        texts.check(text, what, MAX_RECEIPT_BYTES)
    except texts.TooLong:
        size = f"{len(text):,} characters, and {MAX_RECEIPT_BYTES:,} bytes are the most"
        raise ReceiptError(f"the picture's {what} is broken: it has {size}") from None


def _is_shallow(value: Any) -> bool:
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
    return [name for name in dict.fromkeys(names) if checks.get(name) != _check(name, receipt.get(name))]


def _check(name: str, value: Any) -> str:
    return hashlib.sha256(json.dumps([name, value], sort_keys=True).encode()).hexdigest()[:8]


@contextlib.contextmanager
def settings_of_a_receipt() -> Generator[None]:
    """Within it, a setting that is missing or out of its range is a ReceiptError."""
    try:
        yield
    except KeyError as error:
        raise ReceiptError(f"the receipt has no {error.args[0]}: without it nothing can be drawn again") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise ReceiptError(f"the receipt cannot be drawn again: {error}") from None


def verify(
    receipt: Mapping,
    picture: Image.Image,
    draw: Callable[[], Image.Image],
    *,
    weights_sha256: str,
    device: torch.device,
    unfit: Sequence[str] = (),
) -> Verdict:
    """Draw a receipt's picture again and compare it with the one that carried it.

    draw: draws it; what it raises, ReceiptError among it, passes. weights_sha256, device: of the model that draws.
    unfit: fields that a caller has found not to fit.
    """
    fields = altered_fields(receipt)
    if receipt.get("weights_sha256") != weights_sha256:
        fields.append("weights_sha256")
    if receipt.get("picture_sha256") not in (None, pixels_sha256(picture)):
        fields.append("picture")
    if receipt.get("size", picture.size) not in (picture.size, list(picture.size)):
        fields.append("size")
    fields += unfit
    again, given = np.asarray(draw()).astype(int), np.asarray(picture.convert("RGB"))
    apart = np.abs(again - given).max() if again.shape == given.shape else 255
    state = "identical" if apart == 0 else "within 1/255" if apart == 1 else "different"
    if state == "different" and not fields:
        now = {"versions": versions(), "device": device.type}
        fields = [name for name, value in now.items() if receipt.get(name) not in (None, value)]
    return Verdict(state, tuple(dict.fromkeys(fields)))


def pixels_sha256(picture: Image.Image) -> str:
    """The sha256 of a picture's size and RGB pixels, whatever file it is in."""
    picture = picture.convert("RGB")
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of the libraries on which a picture depends."""
    return {"diffusers": diffusers.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
