"""Rotation: by how many quarters of a turn a picture was turned.

Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations", eq. 2: with g(x, y) the
picture turned by 90° · y,

    L = - mean log p_y(g(x, y)),        y uniform in {0, 1, 2, 3}

One turn a picture and step is drawn; the paper shows all four at once.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import MLP

from training.pretrain.config import PretrainConfig


class Objective(nn.Module):
    """A tower and a head of four answers; of the views the first."""

    def __init__(self, tower: Any, cfg: PretrainConfig):
        super().__init__()
        self.tower: Any = tower
        self.head = MLP(tower.num_features, [*cfg.projection, 4])

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        turns = (4 * batch["uniform"][:, 0]).long()  # (B,)
        logits = self.head(self.tower(turned(batch["views"][:, 0], turns))).float()  # (B, 4)
        return F.cross_entropy(logits, turns), {"told": (logits.argmax(1) == turns).float().mean().detach()}


def turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, R, R), each turned anticlockwise by that many quarters, (B,)."""
    every = torch.stack([x.rot90(quarters, (2, 3)) for quarters in range(4)])  # (4, B, 3, R, R)
    return every[turns, torch.arange(len(x), device=x.device)]
