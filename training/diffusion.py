"""The objective that every diffusion model here is trained and measured by.

Letters: B samples, C × H × W a picture or a latent, T training timesteps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.training_utils import compute_snr

from training import metrics
from training.order import draw_seed

STRATA = 8  # evenly spaced times at which a held-out loss is measured


def diffusion_loss(unet, scheduler, clean, noise, t, *, snr_gamma: float | None = None, **condition) -> torch.Tensor:
    """Squared error (B,) of each sample: of ε (Ho 2020, eq. 14), of v (Salimans & Ho 2022) or of the sample itself.

    clean, noise: (B, C, H, W); t: (B,) int; condition: what else the U-Net reads. snr_gamma: weigh by min-SNR-γ (Hang
    2023, eq. 8), which is min(SNR, γ) on the error of x0; ε's error is SNR times, v's SNR + 1 times that of x0.
    """
    noisy = scheduler.add_noise(clean, noise, t)
    kind = scheduler.config.prediction_type
    target = {"epsilon": noise, "sample": clean}.get(kind)
    if target is None:
        target = scheduler.get_velocity(clean, noise, t)
    output = unet(noisy, t, **condition).sample  # (B, C, H, W)
    error = (output.float() - target).square().mean((1, 2, 3))  # (B,)
    if snr_gamma is None:
        return error
    snr = compute_snr(scheduler, t).to(error)  # (B,)
    return error * snr.clamp(max=snr_gamma) / {"epsilon": snr, "sample": 1}.get(kind, snr + 1)


def fixed_noise(count: int, shape: Sequence[int]) -> torch.Tensor:
    """Noise (count, *shape) for held-out samples: the same in every evaluation of every run."""
    draws = [torch.Generator().manual_seed(draw_seed("strata", i)) for i in range(count)]
    return torch.stack([torch.randn(tuple(shape), generator=draw) for draw in draws])


@torch.no_grad()
def held_out_loss(unet, scheduler, clean: torch.Tensor, **condition) -> float:
    """Mean squared error, unweighted, over all of clean (N, C, H, W) at each of `STRATA` evenly spaced times.

    Noise and times are fixed, so that numbers of different steps and runs compare; condition: tensors (N, …).
    """
    device = next(unet.parameters()).device
    noise = fixed_noise(len(clean), clean.shape[1:]).to(device)
    clean, condition = clean.to(device), {key: value.to(device) for key, value in condition.items()}
    total = 0.0
    for stratum in range(STRATA):
        time = int((stratum + 0.5) / STRATA * scheduler.config.num_train_timesteps)
        t = torch.full((len(clean),), time, device=device)
        total += diffusion_loss(unet, scheduler, clean, noise, t, **condition).mean().item()
    return total / STRATA


def nearest_train_distance(pictures: np.ndarray, known: np.ndarray) -> float:
    """Median RMS distance, of pixels in [0, 1], of pictures uint8 (N, R, R, 3) to the nearest known one."""
    return float(np.median(metrics.nearest_distances(metrics.rms_rows(pictures), metrics.rms_rows(known))[1]))
