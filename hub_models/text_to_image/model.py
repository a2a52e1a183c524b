"""The model itself: prompt and seeds in, steps of sampling and pictures out.

Letters: B pictures, R pixels a side, C × h × w the shape of a latent, L tokens, T training timesteps. Latents are
scaled as the pipeline's are (times `vae.config.scaling_factor`).
"""

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageFilter
from transformers.utils import logging as transformers_logging

from hub_models import drawing
from hub_models.drawing import Step, check_seed, check_whole, guide, is_number, normalise_prompt, predict_x0
from hub_models.pictures import frame, from_uint8
from hub_models.text_to_image import receipts
from hub_models.text_to_image.settings import MAX_PICTURES, MAX_PROMPT_CHARACTERS, SAMPLERS, steps_run

SCHEDULERS = {
    "dpm++": diffusers.DPMSolverMultistepScheduler,  # 2M: Lu et al. 2022
    "ddim": diffusers.DDIMScheduler,  # η = 0: Song et al. 2021
    "unipc": diffusers.UniPCMultistepScheduler,  # Zhao et al. 2023
    "ddpm": diffusers.DDPMScheduler,  # Ho et al. 2020
    "euler": diffusers.EulerDiscreteScheduler,  # Karras et al. 2022, algorithm 2 without churn
}
EXTRA: dict[str, Any] = {
    "guidance_scale": 7.5,
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
        self.default_guidance = float(extra["guidance_scale"])
        self.default_steps = int(extra["default_steps"])
        self.default_sampler = extra["default_sampler"]
        self.styles = list(extra["styles"])
        self.ground = tuple(extra["ground"])
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
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.resolution_px // self.pipe.vae_scale_factor
        return (self.pipe.unet.config.in_channels, side, side)

    @property
    def max_length(self) -> int:
        """Tokens that the text tower reads, its two marks at the ends included."""
        return self.pipe.tokenizer.model_max_length

    def was_cut(self, prompt: str) -> str | None:
        """The end of the prompt that the text tower doesn't read; None if it reads all of it."""
        text, tokenizer = normalise_prompt(prompt), self.pipe.tokenizer
        kept = self.max_length - tokenizer.num_special_tokens_to_add()
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(read["input_ids"]) <= kept:
            return None
        return text[read["offset_mapping"][kept][0] :]

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
    ) -> Generator[Step]:
        """One `Step` for every step of sampling. Close it to stop at once. None takes the model's own default.

        prompt: one for all pictures or one for each; "" leaves all to the model. negative_prompt: what to steer away
            from. All are normalised and cut.
        seeds: one for each picture, 0 … 2**63 - 1. A picture depends on its own seed alone: in a batch and by itself it
            comes out the same within 1/255 (floating point sums differ).
        guidance_scale: 1 … 30; 1 means none and costs half (Ho & Salimans 2022).
        image, strength: start from this picture, and redraw it by strength in (0, 1] of the steps (SDEdit, Meng 2022).
        Raises ValueError, here and not at the first step, for anything out of these ranges.
        """
        if not 1 <= len(seeds) <= MAX_PICTURES:
            raise ValueError(f"{len(seeds)} seeds: give one for each picture, at most {MAX_PICTURES}")
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt] * len(seeds)
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts for {len(seeds)} seeds: give one for all, or one for each")
        choices = negative_prompt, num_inference_steps, guidance_scale, sampler
        prompts = [self.settings(text, *choices)[0] for text in prompts]
        _, *settings = self.settings("", *choices)
        seeds = [check_seed(seed) for seed in seeds]
        if image is not None and not (is_number(strength) and 0 < strength <= 1):
            raise ValueError(f"strength {strength!r} is not a number above 0 and up to 1")
        return self._steps(prompts, *settings, seeds, None if image is None else self.to_tensor(image), strength)

    def settings(self, prompt, negative_prompt, steps, scale, sampler) -> tuple[str, str, int, float, str]:
        """The settings with the defaults filled in. Raises ValueError for one that is out of its range."""
        texts = normalise_prompt(prompt), normalise_prompt(negative_prompt)
        for text in texts:
            if len(text) > MAX_PROMPT_CHARACTERS:
                raise ValueError(f"a prompt of {len(text)} characters is too long: at most {MAX_PROMPT_CHARACTERS}")
        steps = self.default_steps if steps is None else steps
        scale = self.default_guidance if scale is None else scale
        sampler = self.default_sampler if sampler is None else sampler
        steps = check_whole("num_inference_steps", steps, 1, self.num_train_timesteps)
        if not (is_number(scale) and 1 <= scale <= 30):
            raise ValueError(f"guidance_scale {scale!r} is not a number from 1 to 30")
        return *texts, steps, float(scale), drawing.check_sampler(sampler, SAMPLERS)

    @torch.no_grad()
    def _steps(self, prompts, negative, num_steps, scale, sampler, seeds, image, strength) -> Generator[Step]:
        generators = drawing.generators_of(seeds)
        guided = scale > 1 and set(prompts) != {negative}
        distinct = list(dict.fromkeys(prompts))
        states = self.text_states(distinct)[[distinct.index(text) for text in prompts]]  # (B, L, D)
        if guided:
            states = torch.cat([self.text_states([negative]).expand_as(states), states])  # (2 B, L, D)
        scheduler = self.scheduler(sampler)
        scheduler.set_timesteps(num_steps, device=self.device)
        timesteps = scheduler.timesteps
        if image is None:
            noise = drawing.noise(generators, self.latent_shape, self.device)
            x = noise * scheduler.init_noise_sigma  # (B, C, h, w)
        else:  # StableDiffusionImg2ImgPipeline's order of draws: the posterior first, then the noise
            clean = self._encode(image.to(self.device), generators)  # (B, C, h, w)
            noise = drawing.noise(generators, self.latent_shape, self.device)
            begin = num_steps - steps_run(num_steps, strength)
            timesteps = timesteps[begin:]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(begin)
            x = scheduler.add_noise(clean, noise, timesteps[:1].repeat(len(seeds)))
        by_chance = {"generator": generators} if sampler == "ddpm" else {}
        alphas_cumprod = scheduler.alphas_cumprod.to(self.device)  # (T,)
        for index, t in enumerate(timesteps):
            x_t = scheduler.scale_model_input(x, t)
            output = self.pipe.unet(torch.cat([x_t, x_t]) if guided else x_t, t, encoder_hidden_states=states).sample
            if guided:
                output = guide(*output.chunk(2), scale)
            x0 = predict_x0(output, x_t, alphas_cumprod[round(t.item())], scheduler.config.prediction_type)
            x = scheduler.step(output, t, x, **by_chance, return_dict=False)[0]
            yield Step(index, len(timesteps), round(t.item()), x, x0, self.preview(x0))

    @torch.no_grad()
    def text_states(self, texts: Sequence[str]) -> torch.Tensor:
        """What the U-Net is told of each text, (B, L, D): computed as the stock pipeline does, padded and cut to L."""
        with _quiet():
            return self.pipe.encode_prompt(list(texts), self.device, 1, False)[0]

    def _encode(self, pixels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
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

    receipt, verify = receipts.receipt, receipts.verify


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
