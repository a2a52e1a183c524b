"""SimCLR: two views of a picture are nearer to each other than to any other view of the batch.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1 (NT-Xent). Of the 2B
unit embeddings z, with j the other view of i's picture,

    ℓ_i = - log  exp(z_i·z_j / τ) / Σ_{k ≠ i} exp(z_i·z_k / τ),        L = mean_i ℓ_i

Negatives are those of the process's own batch.

Letters: B pictures, D numbers of an embedding.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from training.pretrain.config import PretrainConfig
from training.pretrain.views import projection_of, two_views


class Objective(nn.Module):
    """A tower and the projection whose outputs are compared; of the views the first two."""

    def __init__(self, tower: Any, cfg: PretrainConfig):
        super().__init__()
        self.tower: Any = tower
        self.projection = projection_of(tower, cfg)
        self.temperature = cfg.simclr_temperature

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        a, b = two_views(self.tower, self.projection, batch["views"])
        loss, found = nt_xent(a, b, self.temperature)
        return loss, {"found": found.detach()}


def nt_xent(a: torch.Tensor, b: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the share of views whose nearest other view is that of their picture; both scalars.

    a, b (B, D): embeddings of first and second views, of any length.
    """
    z = F.normalize(torch.cat([a, b]), dim=1)  # (2B, D)
    likeness = z @ z.T / temperature
    likeness.fill_diagonal_(-torch.inf)
    other = torch.arange(len(z), device=z.device).roll(len(a))  # (2B,): B …, then 0 …
    return F.cross_entropy(likeness, other), (likeness.argmax(1) == other).float().mean()
