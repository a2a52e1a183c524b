"""What pictures cost under a density of their pixels: the part of a bound that no family has for itself.

Letters: N pictures, R pixels a side.
"""

import math

import numpy as np
import torch

from hub_models.pictures import from_uint8


def gaussian_surprise(pictures, reconstruction, std: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """-log N(pictures; reconstruction, std²) in nats per picture value, and the mean squared error; both scalars.

    std None: the one that is best for this batch, the root of its mean squared error (Rybkin, Daniilidis & Levine 2021,
    "Simple and effective VAE training with calibrated decoders", eq. 6).
    """
    mse = (reconstruction.float() - pictures).square().mean()
    variance = mse.clamp(min=1e-6) if std is None else mse.new_tensor(std**2)
    return 0.5 * (mse / variance + variance.log() + math.log(2 * math.pi)), mse


def bits_per_dim(nats):
    """Bits per value of a picture of bytes, of nats per value of a density on [-1, 1], constant within a byte."""
    return nats / math.log(2) + math.log2(127.5)


def bits_of_pixels_apart(pictures: np.ndarray) -> float:
    """Bits per dimension of a Gaussian for each pixel and channel apart, fitted on uint8 (N, R, R, 3) themselves."""
    spread = from_uint8(pictures).flatten(1).std(0).clamp(min=1 / 255)  # no surer than a byte
    return float(bits_per_dim((0.5 * math.log(2 * math.pi * math.e) + spread.log()).mean()))
