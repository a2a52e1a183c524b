"""The model itself: prompt and seeds in, steps of sampling and pictures out.

Letters: B pictures, R pixels a side, C × h × w the shape of a latent, L tokens, T training timesteps. Latents are
scaled as the pipeline's are (times `vae.config.scaling_factor`).
"""

import contextlib
import copy
import functools
import threading
from collections.abc import Generator, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageFilter
from transformers.utils import logging as transformers_logging

from hub_models import drawing
from hub_models.drawing import Step, check_seed, check_whole, is_number, normalise_prompt
from hub_models.pictures import frame, from_uint8
from hub_models.text_to_image import inside, receipts, sampling
from hub_models.text_to_image.settings import (
    FEW_STEPS,
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_PROMPT_CHARACTERS,
    SAMPLERS,
    Fork,
)

SCHEDULERS = {
    "dpm++": diffusers.DPMSolverMultistepScheduler,  # 2M: Lu et al. 2022
    "ddim": diffusers.DDIMScheduler,  # η = 0: Song et al. 2021
    "unipc": diffusers.UniPCMultistepScheduler,  # Zhao et al. 2023
    "ddpm": diffusers.DDPMScheduler,  # Ho et al. 2020
    "euler": diffusers.EulerDiscreteScheduler,  # Karras et al. 2022, algorithm 2 without churn
    "lcm": diffusers.LCMScheduler,  # Luo et al. 2023; multistep consistency sampling, Song et al. 2023, algorithm 1
}
EXTRA: dict[str, Any] = {
    "guidance_scale": 7.5,
    "max_guidance": MAX_GUIDANCE,
    "default_steps": 20,
    "default_sampler": "dpm++",
    "resolution_px": None,
    "ground": [255, 255, 255],
    "styles": [],
    "latent_to_rgb": None,
    "latent_to_rgb_bias": [0.0, 0.0, 0.0],
}


class TextToImage:
    """A loaded model. Made by `load`, or from a pipeline that is being trained."""

    def __init__(self, pipe: StableDiffusionPipeline, *, name: str = "", weights_sha256: str = "", **extra):
        extra = EXTRA | extra
        self.pipe, self.name, self.weights_sha256, self.extra = pipe, name, weights_sha256, extra
        pipe.set_progress_bar_config(disable=True)
        side = pipe.unet.config.sample_size
        self.resolution_px = extra["resolution_px"] or side * pipe.vae_scale_factor
        self.default_guidance, self.max_guidance = float(extra["guidance_scale"]), float(extra["max_guidance"])
        self.default_steps = min(int(extra["default_steps"]), self.max_steps)
        usual = extra["default_sampler"]
        self.default_sampler = usual if usual in self.samplers else self.samplers[0]
        self.styles = list(extra["styles"])
        self.ground = tuple(extra["ground"])
        self._reading = threading.Lock()  # the pipeline sets how its tokenizer cuts and pads, for all threads
        self._to_rgb = None
        if extra["latent_to_rgb"] is not None:
            self._to_rgb = torch.tensor(extra["latent_to_rgb"]).float(), torch.tensor(extra["latent_to_rgb_bias"])

    @property
    def device(self) -> torch.device:
        return self.pipe.device

    @property
    def parameters(self) -> int:
        parts = (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder)
        return sum(p.numel() for part in parts for p in part.parameters())

    @property
    def num_train_timesteps(self) -> int:
        return self.pipe.scheduler.config.num_train_timesteps

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that can draw with it: of a model of few steps, saved with an LCMScheduler, that one alone."""
        return FEW_STEPS if isinstance(self.pipe.scheduler, diffusers.LCMScheduler) else SAMPLERS

    @property
    def max_steps(self) -> int:
        """The most steps that its samplers take."""
        few = self.samplers == FEW_STEPS
        return self.pipe.scheduler.config.original_inference_steps if few else self.num_train_timesteps

    @property
    def reads_guidance(self) -> bool:
        """Whether guidance is something that the U-Net is told (Luo et al. 2023): half the work, and no
        negative prompt.
        """
        return self.pipe.unet.config.time_cond_proj_dim is not None

    def guidance_embedding(self, scales: torch.Tensor) -> torch.Tensor | None:
        """What a U-Net that reads guidance is told of scales (B,), (B, W), as the stock pipeline has it; else None."""
        if not self.reads_guidance:
            return None
        width = self.pipe.unet.config.time_cond_proj_dim
        return self.pipe.get_guidance_scale_embedding(scales.cpu() - 1, width).to(scales)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.resolution_px // self.pipe.vae_scale_factor
        return (self.pipe.unet.config.in_channels, side, side)

    @property
    def max_length(self) -> int:
        """Tokens that the text tower reads, its two marks at the ends included."""
        return self.pipe.tokenizer.model_max_length

    def was_cut(self, prompt: str) -> str | None:
        """The end of the prompt that the text tower doesn't read; None if it reads all of it."""
        text = normalise_prompt(prompt)
        _, spans, kept = self.tokens(text)
        return None if len(spans) <= kept else text[spans[kept][0] :]

    @functools.cached_property
    def _reader(self):
        """A tokenizer of its own: one that cuts and pads in one thread does so in all, and a drawing's has to."""
        return copy.deepcopy(self.pipe.tokenizer)

    def tokens(self, text: str) -> tuple[int, list[tuple[int, int]], int]:
        """Of a normalised text: how many marks the text tower reads before it, where each of its tokens begins and
        ends in it, and how many of these are read.
        """
        asked = {"return_offsets_mapping": True, "verbose": False}
        spans = self._reader(text, add_special_tokens=False, **asked)["offset_mapping"]
        marked = self._reader(text, return_special_tokens_mask=True, **asked)["special_tokens_mask"]
        return marked.index(0) if spans else 0, spans, self.max_length - self._reader.num_special_tokens_to_add()

    def scheduler(self, sampler: str):
        """A new scheduler with the noise schedule of the saved one, its steps spaced from pure noise down.

        "trailing" spacing: Lin et al. 2024, table 2. This is what a stock pipeline needs to draw the same picture.
        """
        config = dict(self.pipe.scheduler.config)
        config.pop("_use_default_values", None)  # with it, from_config resets what the saved scheduler had as default
        # Latents are not clipped; a scheduler that knows no clip_sample says nothing of it, and then others assume it.
        return SCHEDULERS[sampler].from_config(config, timestep_spacing="trailing", clip_sample=False)

    def generate(
        self,
        prompt: str | Sequence[str],
        seeds: Sequence[int],
        *,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        image: Image.Image | None = None,
        strength: float = 0.6,
        fork: Fork | None = None,
        look_inside: bool = False,
    ) -> Generator[Step]:
        """One `Step` for every step of sampling. Close it to stop at once. None takes the model's own default.

        prompt: one for all pictures or one for each; "" leaves all to the model. negative_prompt: what to steer away
            from. All are normalised and cut.
        seeds: one for each picture, 0 … 2**63 - 1. A picture depends on its own seed alone: in a batch and by itself it
            comes out the same within 1/255 (floating point sums differ).
        guidance_scale: 1 … max_guidance; 1 means none and costs half (Ho & Salimans 2022).
        image, strength: start from this picture, and redraw it by strength in (0, 1] of the steps (SDEdit, Meng 2022).
        fork: the drawing is the same up to and with step fork.at, and goes on as it says, over the same timesteps.
        look_inside: each step has `inside`, an `inside.Inside`; the pictures are the same to the bit.
        Raises ValueError, here and not at the first step, for anything out of these ranges.
        """
        if not 1 <= len(seeds) <= MAX_PICTURES:
            raise ValueError(f"{len(seeds)} seeds: give one for each picture, at most {MAX_PICTURES}")
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt] * len(seeds)
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts for {len(seeds)} seeds: give one for all, or one for each")
        choices = negative_prompt, num_inference_steps, guidance_scale, sampler
        prompts = [self.settings(text, *choices)[0] for text in prompts]
        _, negative, num_steps, scale, sampler = self.settings("", *choices)
        seeds = [check_seed(seed) for seed in seeds]
        if image is not None and not (is_number(strength) and 0 < strength <= 1):
            raise ValueError(f"strength {strength!r} is not a number above 0 and up to 1")
        way, other = sampling.Way(prompts, negative, scale, sampler, self.reads_guidance), None
        if fork is not None:
            share = None if image is None else strength
            other = fork.at, sampling.way_on(self, way, fork, num_steps, share)
        start = None if image is None else self.to_tensor(image)
        return sampling.steps(self, way, other, num_steps, seeds, start, strength, look_inside)

    def settings(self, prompt, negative_prompt, steps, scale, sampler) -> tuple[str, str, int, float, str]:
        """The settings with the defaults filled in. Raises ValueError for one that is out of its range."""
        texts = normalise_prompt(prompt), normalise_prompt(negative_prompt)
        for text in texts:
            if len(text) > MAX_PROMPT_CHARACTERS:
                raise ValueError(f"a prompt of {len(text)} characters is too long: at most {MAX_PROMPT_CHARACTERS}")
        steps = self.default_steps if steps is None else steps
        scale = self.default_guidance if scale is None else scale
        sampler = self.default_sampler if sampler is None else sampler
        steps = check_whole("num_inference_steps", steps, 1, self.max_steps)
        if not (is_number(scale) and 1 <= scale <= self.max_guidance):
            raise ValueError(f"guidance_scale {scale!r} is not a number from 1 to {self.max_guidance:g}")
        return *texts, steps, float(scale), drawing.check_sampler(sampler, self.samplers)

    @torch.no_grad()
    def text_states(self, texts: Sequence[str]) -> torch.Tensor:
        """What the U-Net is told of each text, (B, L, D): computed as the stock pipeline does, padded and cut to L."""
        with _quiet(), self._reading:
            return self.pipe.encode_prompt(list(texts), self.device, 1, False)[0]

    def encode(self, pixels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """Latents (B, C, h, w) of one picture (1, 3, R, R), drawn from its posterior by each generator."""
        posterior = self.pipe.vae.encode(pixels).latent_dist
        drawn = torch.cat([posterior.sample(generator=generator) for generator in generators])
        return self.pipe.vae.config.scaling_factor * drawn

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """One RGB picture for each row of latents (B, C, h, w).

        Where the folder has a safety checker, what it objects to comes out blurred beyond recognition, never black.
        """
        decoded = self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample  # (B, 3, R, R)
        pictures = self.pipe.image_processor.postprocess(decoded, output_type="pil")
        if self.pipe.safety_checker is not None:
            _, flagged = self.pipe.run_safety_checker(decoded.clone(), self.device, torch.float32)
            blur = ImageFilter.GaussianBlur(self.resolution_px / 8)
            pictures = [p.filter(blur) if bad else p for p, bad in zip(pictures, flagged, strict=True)]
        return pictures

    def preview(self, latents: torch.Tensor) -> np.ndarray | None:
        """uint8 (B, h, w, 3): latents (B, C, h, w) by the fitted linear map to colour; None where there is none."""
        if self._to_rgb is None:
            return None
        weight, bias = (part.to(latents) for part in self._to_rgb)  # (C, 3), (3,)
        colour = torch.einsum("bchw,cd->bhwd", latents, weight) + bias  # in [-1, 1]
        return ((colour / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu().numpy()

    def to_tensor(self, image: Image.Image) -> torch.Tensor:
        """(1, 3, R, R) in [-1, 1]: alpha composited on the ground, padded to a square with it, resized."""
        return from_uint8(np.asarray(self.frame(image))[None])

    def frame(self, image: Image.Image) -> Image.Image:
        """The whole picture in a square of the ground's colour, RGB, R × R: what image-to-image starts from."""
        return frame(image, self.resolution_px, self.ground)

    receipt, verify, words = receipts.receipt, receipts.verify, inside.words


@contextlib.contextmanager
def _quiet():
    """Without the libraries' own warnings of cut prompts: `was_cut` says it where people see it."""
    logs = diffusers.utils.logging, transformers_logging
    levels = [log.get_verbosity() for log in logs]
    for log in logs:
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
