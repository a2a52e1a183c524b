"""What is asked of a code beside that the picture comes back of it: to be likely, few active numbers, a calm encoder.

Letters: B pictures, N of a data set, C × h × w or D numbers of a code, S side of the picture.
"""

from collections.abc import Sequence

import numpy as np
import torch

from hub_models import latents
from training.likelihood import bits_per_dim, gaussian_surprise


def sparsity_penalty(code: torch.Tensor, target: float) -> torch.Tensor:
    """Σ_j KL(target ‖ mean activity of number j over the batch), in nats, of a code (B, C, h, w).

    The activity of z is tanh |z|, in [0, 1): a number at rest is 0. Ng 2011, "Sparse autoencoder" (CS294A), §3, whose
    units have a sigmoid.
    """
    active = code.float().flatten(1).abs().tanh().mean(0).clamp(1e-6, 1 - 1e-6)  # (C·h·w,)
    return (target * (target / active).log() + (1 - target) * ((1 - target) / (1 - active)).log()).sum()


def contraction(code: torch.Tensor, pictures: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
    """An unbiased estimate of ‖∂code/∂picture‖²_F, (B,): the squared length of vᵀJ for standard normal v.

    code (B, C, h, w) was made of pictures (B, 3, S, S), which require a gradient; probe is v, in the code's shape.
    Rifai et al. 2011, eq. 2-3, by Hutchinson 1990: E ‖vᵀJ‖² = Σ_ij J_ij². Differentiable.
    """
    [slope] = torch.autograd.grad((code * probe).sum(), pictures, create_graph=True)
    return slope.square().flatten(1).sum(1)


def divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Σ KL(N(mean, exp logvar) ‖ N(0, I)) in nats, over all there is. Kingma & Welling 2014, appendix B."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()


def gaussian_bound(pictures, reconstruction, mean, logvar, std: float | None) -> tuple[torch.Tensor, dict]:
    """The negative evidence lower bound, in nats per picture value, of pixels N(reconstruction, std²); and its parts.

    The KL has its full weight. std None: see `likelihood.gaussian_surprise`.
    """
    surprise, mse = gaussian_surprise(pictures, reconstruction, std)
    kl = divergence(mean, logvar) / pictures.numel()
    loss = surprise + kl
    return loss, {"mse": mse.detach(), "kl": kl.detach(), "bits_per_dim": bits_per_dim(loss.detach())}


def space_of(
    means: torch.Tensor, stds: torch.Tensor, labels: np.ndarray, label_names: Sequence[str], names: Sequence[str],
    directions: Sequence[str],
) -> latents.LatentSpace:  # fmt: skip
    """Where the classes of codes lie, and the directions asked for, of means and deviations (N, D) of training codes.

    The Gaussians are of codes that are drawn, N(mean, std²), as the decoder has seen them. directions: "a:b" is the
    mean of pictures whose name has the words b less that of those with a. Raises SystemExit where there are none.
    """
    noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(0))
    parts = latents.gaussians((means + stds * noise).numpy(), labels, label_names)
    kept = {}
    for pair in directions:
        ends = []
        for words in (part.strip() for part in pair.split(":")):
            rows = [row for row, name in enumerate(names) if f" {words} " in f" {name} "]
            if not rows:
                raise SystemExit(f"--directions {pair!r}: no training picture is called {words!r}; name words of names")
            ends.append(means[rows].mean(0))
        kept[" → ".join(part.strip() for part in pair.split(":"))] = ends[1] - ends[0]
    return latents.LatentSpace(list(label_names), *parts, kept)
