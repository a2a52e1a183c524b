"""Triplets: a view is nearer to another one of its picture than to those of other pictures, by a margin.

Schroff et al. 2015, "FaceNet", eq. 2, with a picture in the place of a person. Of unit embeddings of an anchor a, the
other view p of its picture and a view n of another one,

    L = mean_a max(0, ‖a - p‖² - ‖a - n‖² + α)

where n is semi-hard (§3.2): the nearest that is farther than p; where none is, the farthest of all.

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
        self.margin = cfg.triplet_margin

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        a, b = two_views(self.tower, self.projection, batch["views"])
        each = triplets(F.normalize(a, dim=1), F.normalize(b, dim=1), self.margin)
        return each.mean(), {"inside_margin": (each > 0).float().mean().detach()}


def triplets(anchor: torch.Tensor, other: torch.Tensor, margin: float) -> torch.Tensor:
    """The loss of each anchor, (B,). anchor, other (B, D): unit embeddings of two views of each picture.

    Of a single picture, which has nothing to be far from, 0.
    """
    away = 2 - 2 * anchor @ other.T  # (B, B): squared distances
    positive = away.diagonal()
    if len(anchor) < 2:
        return positive * 0
    own = torch.eye(len(away), dtype=torch.bool, device=away.device)
    semi_hard = away.masked_fill(own | (away <= positive[:, None]), torch.inf).amin(1)
    farthest = away.masked_fill(own, -torch.inf).amax(1)
    return F.relu(positive - torch.where(semi_hard.isfinite(), semi_hard, farthest) + margin)
