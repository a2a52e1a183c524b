"""Sampling as pure functions of tensors: a step from one level of noise to the next, given a guess of the picture.

    x_t = √ᾱ x_0 + √(1 - ᾱ) ε,   ε standard normal                  Ho et al. 2020, eq. 4

Letters: x, x0, eps, z are of one shape, (B, C, H, W) or any other. x is x_t, x0 the guess of x_0, z fresh standard
normal noise. a and b are ᾱ, scalars, of the level that a step leaves and of the one that it reaches; b = 1 is the
picture.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler

SAMPLERS = ("ddpm", "ddim", "dpm++", "langevin")
AT_EACH_LEVEL = 4  # steps of annealed Langevin dynamics
LANGEVIN_SIZE = 0.6  # of its steps, see `langevin`


class Level(NamedTuple):
    """Where a step begins, and where it leads."""

    timestep: int
    a: torch.Tensor  # ()
    b: torch.Tensor  # ()


def add_noise(x_0: torch.Tensor, eps: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """x_t ~ q(x_t | x_0) for this noise. Ho et al. 2020, eq. 4."""
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps


def noise_in(x: torch.Tensor, x0: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """The ε that makes x of x0."""
    return (x - a.sqrt() * x0) / (1 - a).sqrt()


def score(eps: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """∇ log q(x_t), as the predicted noise has it: -ε / √(1 - ᾱ). Song et al. 2021 (score SDE), appendix G."""
    return -eps / (1 - a).sqrt()


def towards(x0: torch.Tensor, slope: torch.Tensor, a: torch.Tensor, scale: float) -> torch.Tensor:
    """The x0 of ε - γ √(1 - ᾱ) ∇ log p(y | x_t): guidance by a classifier. Dhariwal & Nichol 2021, algorithm 2.

    slope: ∇ log p(y | x_t). scale: γ. To first order in β it moves the mean of `ancestral` as their algorithm 1 does.
    """
    return x0 + scale * (1 - a) / a.sqrt() * slope


def ancestral(
    x: torch.Tensor, x0: torch.Tensor, a: torch.Tensor, b: torch.Tensor, z: torch.Tensor | None, large: bool = False
) -> torch.Tensor:
    """A draw of q(x_b | x_a, x_0 = x0). Ho et al. 2020, algorithm 2 with the mean of eq. 7.

    z: None for the last step, which draws nothing. large: with β instead of the posterior's variance. In the order
    of operations of diffusers' DDPMScheduler, whose bits it gives.
    """
    alpha = a / b
    beta = 1 - alpha
    mean = (b**0.5 * beta) / (1 - a) * x0 + alpha**0.5 * (1 - b) / (1 - a) * x
    if z is None:
        return mean
    variance = beta if large else torch.clamp((1 - b) / (1 - a) * beta, min=1e-20)
    return mean + variance**0.5 * z


def ddim(x: torch.Tensor, x0: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The same noise, less of it. Song et al. 2021 (DDIM), eq. 12 with η = 0, ε from x0 where that was clipped."""
    return add_noise(x0, noise_in(x, x0, a), b)


def dpm_solver(
    x: torch.Tensor,
    x0: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    before: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M): Lu et al. 2022, algorithm 2. before: x0 and a of the step before; None takes the first order.

    λ = log(√ᾱ / √(1 - ᾱ)), h the way in it. The step to the picture is of the first order, and gives x0.
    """
    if b == 1:
        return x0
    h = _half_log_snr(b) - _half_log_snr(a)
    if before is not None:
        last, a_before = before
        r = (_half_log_snr(a) - _half_log_snr(a_before)) / h
        x0 = x0 + (x0 - last) / (2 * r)
    return ((1 - b) / (1 - a)).sqrt() * x - b.sqrt() * torch.expm1(-h) * x0


def _half_log_snr(a: torch.Tensor) -> torch.Tensor:
    return 0.5 * (a.log() - (1 - a).log())


def langevin(
    x: torch.Tensor, slope: torch.Tensor, a: torch.Tensor, z: torch.Tensor, size: float = LANGEVIN_SIZE
) -> torch.Tensor:
    """A step up the score and a step at random, at one level of noise. Song & Ermon 2019, algorithm 1.

    x + α/2 ∇ log q(x) + √α z. slope: the score at x. size: α as a share of the noise's variance 1 - ᾱ, the same at
    every level, as line 4 has it.
    """
    alpha = size * (1 - a)
    return x + alpha / 2 * slope + alpha.sqrt() * z


def advance(
    sampler: str,
    level: Level,
    x: torch.Tensor,
    x0: torch.Tensor,
    before: tuple[torch.Tensor, torch.Tensor] | None,
    fresh: Callable[[], torch.Tensor],
    large: bool = False,
) -> torch.Tensor:
    """x at the next level, by one of SAMPLERS.

    before: x0 and ᾱ of the step before, or None. fresh: draws z, of the shape of x. large: see `ancestral`.
    """
    a, b = level.a.to(x.device), level.b.to(x.device)
    if sampler == "ddim":
        return ddim(x, x0, a, b)
    if sampler == "dpm++":
        return dpm_solver(x, x0, a, b, before)
    if sampler == "langevin":  # the last step takes the rest of the noise off at once
        return langevin(x, score(noise_in(x, x0, a), a), a, fresh()) if b < 1 else x0
    return ancestral(x, x0, a, b, fresh() if level.timestep > 0 else None, large)


def trailing_timesteps(num_train_timesteps: int, num_inference_steps: int) -> list[int]:
    """Timesteps from T-1 down, evenly spaced; the first is always pure noise. Lin et al. 2024, table 2."""
    return [
        round(num_train_timesteps * (num_inference_steps - i) / num_inference_steps) - 1
        for i in range(num_inference_steps)
    ]


def levels(scheduler: DDPMScheduler, sampler: str, num_inference_steps: int) -> list[Level]:
    """The levels of a drawing of so many steps.

    Of "ddpm" the timesteps are those that the saved scheduler takes, as DDPMPipeline does; of the others trailing
    ones. "langevin" stays at each level for AT_EACH_LEVEL steps.
    """
    if sampler == "ddpm":
        config = dict(scheduler.config)
        config.pop("_use_default_values", None)  # with it, from_config resets whatever was passed by position
        solver = DDPMScheduler.from_config(config)
        solver.set_timesteps(num_inference_steps)
        times = [int(t) for t in solver.timesteps]
    elif sampler == "langevin":
        few = trailing_timesteps(scheduler.config.num_train_timesteps, -(-num_inference_steps // AT_EACH_LEVEL))
        times = [t for t in few for _ in range(AT_EACH_LEVEL)][-num_inference_steps:]
    else:
        times = trailing_timesteps(scheduler.config.num_train_timesteps, num_inference_steps)
    return at(scheduler, times)


def at(scheduler: DDPMScheduler, timesteps: Sequence[int]) -> list[Level]:
    """The levels of these timesteps, each leading to the next one, and the last to the picture."""
    bars = [scheduler.alphas_cumprod[t] for t in timesteps]
    return [Level(*one) for one in zip(timesteps, bars, [*bars[1:], torch.tensor(1.0)], strict=True)]
