"""The steps of a drawing, taken by the schedulers of diffusers; a drawing may go another way after some of them.

All schedulers here share their levels of noise and, but for Euler's, the scale of x_t: from one to another only the
memory of multistep methods is lost, which begin anew. One that stays goes on with its memory, so that a fork that
changes nothing changes no bit.

Letters: B pictures, C × h × w the shape of a latent, L tokens, D the size of a text state.
"""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hub_models import drawing
from hub_models.drawing import Step, check_whole, guide, predict_x0
from hub_models.text_to_image import inside
from hub_models.text_to_image.settings import Fork, steps_run

if TYPE_CHECKING:
    from hub_models.text_to_image.model import TextToImage


@dataclass(frozen=True)
class Way:
    """How steps are taken: towards which prompts, away from what, how strongly, by which sampler."""

    prompts: list[str]
    negative: str
    scale: float
    sampler: str
    told_scale: bool = False  # the U-Net reads the scale by itself

    @property
    def guided(self) -> bool:
        """Whether the U-Net is asked twice; where it isn't, it is asked with the prompt."""
        return self.scale > 1 and set(self.prompts) != {self.negative} and not self.told_scale


def started(model: "TextToImage", sampler: str, num_steps: int):
    """A scheduler with its timesteps set."""
    scheduler = model.scheduler(sampler)
    scheduler.set_timesteps(num_steps, device=model.device)
    return scheduler


def way_on(model: "TextToImage", way: Way, fork: Fork, num_steps: int, strength: float | None) -> Way:
    """Where a fork of this way leads. Raises ValueError for what is out of its range, or has other levels of noise."""
    check_whole("fork.at", fork.at, 0, steps_run(num_steps, strength) - 1)
    prompts, scale = way.prompts, way.scale if fork.guidance_scale is None else fork.guidance_scale
    asked = "" if fork.prompt is None else fork.prompt, way.negative, num_steps, scale, fork.sampler or way.sampler
    prompt, negative, _, scale, sampler = model.settings(*asked)
    if sampler != way.sampler:
        before, after = (started(model, name, num_steps).timesteps.float() for name in (way.sampler, sampler))
        if not torch.equal(before, after):
            raise ValueError(f"{sampler} takes other timesteps than {way.sampler} with this model: keep the sampler")
    prompts = prompts if fork.prompt is None else [prompt] * len(prompts)
    return Way(prompts, negative, scale, sampler, way.told_scale)


def told(model: "TextToImage", way: Way) -> torch.Tensor:
    """What the U-Net is told, (B, L, D); where it is guided (2 B, L, D), first what to steer away from."""
    distinct = list(dict.fromkeys(way.prompts))
    states = model.text_states(distinct)[[distinct.index(text) for text in way.prompts]]
    return torch.cat([model.text_states([way.negative]).expand_as(states), states]) if way.guided else states


@torch.no_grad()
def steps(
    model: "TextToImage",
    way: Way,
    fork: tuple[int, Way] | None,
    num_steps: int,
    seeds: Sequence[int],
    image: torch.Tensor | None,
    strength: float,
    look_inside: bool,
) -> Generator[Step]:
    """The steps of this way and, from the fork's on, of the other one; with `Step.inside` where that is wanted."""
    generators, size = drawing.generators_of(seeds), model.latent_shape
    states, scheduler = told(model, way), started(model, way.sampler, num_steps)
    begin = 0
    if image is None:
        noise = drawing.noise(generators, size, model.device)
        x = noise * scheduler.init_noise_sigma  # (B, C, h, w)
    else:  # StableDiffusionImg2ImgPipeline's order of draws: the posterior first, then the noise
        clean = model.encode(image.to(model.device), generators)  # (B, C, h, w)
        noise = drawing.noise(generators, size, model.device)
        begin = num_steps - steps_run(num_steps, strength)
        _begin_at(scheduler, begin)
        x = scheduler.add_noise(clean, noise, scheduler.timesteps[begin : begin + 1].repeat(len(seeds)))
    layers = inside.cross_attention(model.pipe.unet) if look_inside else []
    alphas_cumprod = scheduler.alphas_cumprod.to(model.device)  # (T,)
    total = len(scheduler.timesteps) - begin
    for index in range(total):
        t = scheduler.timesteps[begin + index]
        if fork is not None and index == fork[0]:
            before, way = way, fork[1]
            states = told(model, way)
            if way.sampler != before.sampler:
                x = scheduler.scale_model_input(x, t)
                scheduler = started(model, way.sampler, num_steps)
                _begin_at(scheduler, begin + index)
                x, t = x * _scale(scheduler, way.sampler, begin + index), scheduler.timesteps[begin + index]
        x_t = scheduler.scale_model_input(x, t)
        with inside.listening(layers, len(seeds)) if layers else contextlib.nullcontext([]) as heard:
            output = model.pipe.unet(
                torch.cat([x_t, x_t]) if way.guided else x_t, t, encoder_hidden_states=states,
                timestep_cond=model.guidance_embedding(torch.tensor([way.scale], device=model.device)),
            ).sample  # fmt: skip
        alpha_bar, kind = alphas_cumprod[round(t.item())], scheduler.config.prediction_type
        seen = None
        if look_inside:
            parts = output.chunk(2) if way.guided else ()
            guesses = torch.stack([predict_x0(part, x_t, alpha_bar, kind) for part in parts]) if parts else None
            seen = inside.Inside(x_t, guesses, inside.joined(heard))
        if way.guided:
            output = guide(*output.chunk(2), way.scale)
        x0 = predict_x0(output, x_t, alpha_bar, kind)
        by_chance = {"generator": generators} if way.sampler in ("ddpm", "lcm") else {}
        x = scheduler.step(output, t, x, **by_chance, return_dict=False)[0]
        yield Step(index, total, round(t.item()), x, x0, model.preview(x0), inside=seen)


def _begin_at(scheduler, index: int) -> None:
    """Have it take its steps from this one on; those that keep no count look at the timestep alone."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(index)


def _scale(scheduler, sampler: str, index: int) -> torch.Tensor | float:
    """What x_t of variance 1 is multiplied by for this scheduler: Euler's goes by σ, as Karras et al. 2022 have it."""
    return (scheduler.sigmas[index] ** 2 + 1) ** 0.5 if sampler == "euler" else 1.0
