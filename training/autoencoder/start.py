"""How a fresh autoencoder begins, so that a picture gets through to its one vector, and back."""

import math

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

BRANCH = 0.5  # of the deviation with which a residual branch ends: its sum with what it is added to stays near 1
LAST = 0.1  # of that of what comes out: pixels near grey
LOG_VARIANCE = -2.0  # of latents at first: a signal under little noise


@torch.no_grad()
def keep_variance(vae: AutoencoderKL, side_px: int) -> None:
    """Draw the weights anew, so that each convolution keeps the variance of pictures of this size; biases are 0.

    He et al. 2015, eq. 10, counting the taps that lie inside the picture alone: of nine only four do at 2 × 2, and one
    at 1 × 1, so that with PyTorch's own weights a signal shrinks from level to level and drowns in the biases.
    """
    for layer, (side, to) in sides_of(vae, side_px).items():
        nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_channels * taps_inside(layer, side, to)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):
            block.conv2.weight.mul_(BRANCH)
    vae.decoder.conv_out.weight.mul_(LAST)
    last, latents = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv, vae.config.latent_channels
    last.weight[latents:] *= LAST
    last.bias[latents:] = LOG_VARIANCE


def sides_of(vae: AutoencoderKL, side_px: int) -> dict[nn.Conv2d, tuple[int, int]]:
    """{convolution: (pixels a side of what goes in, of what comes out)} of pictures of side_px."""
    found: dict[nn.Conv2d, tuple[int, int]] = {}

    def note(layer, given, made):
        found[layer] = given[0].shape[-1], made.shape[-1]

    hooks = [layer.register_forward_hook(note) for layer in vae.modules() if isinstance(layer, nn.Conv2d)]
    vae.decode(vae.encode(torch.zeros(1, vae.config.in_channels, side_px, side_px)).latent_dist.mean)
    for hook in hooks:
        hook.remove()
    return found


def taps_inside(layer: nn.Conv2d, side: int, to: int) -> float:
    """How many of its taps a convolution has inside a picture of side × side, by the mean of its to × to places."""
    kernel, stride, pad = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    if stride > 1 and not pad:
        side -= 1  # diffusers' Downsample2D has put zeros beside it already
    inside = sum(0 <= place * stride - pad + tap < side for place in range(to) for tap in range(kernel))
    return (inside / to) ** 2
