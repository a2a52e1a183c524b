"""What objectives share that compare two views of a picture: the projection after the tower, and its outputs.

Letters: B pictures, V views of each, R side in pixels, D numbers of an embedding.
"""

from typing import Any

import torch
from torch import nn
from torchvision.ops import MLP

from training.pretrain.config import PretrainConfig


def projection_of(tower: Any, cfg: PretrainConfig) -> nn.Module:
    """Layers that make embeddings (B, D) of a tower's features, with norms of the batch (Chen et al. 2020, §4.2)."""
    return MLP(tower.num_features, list(cfg.projection), norm_layer=nn.BatchNorm1d)


def two_views(tower: Any, projection: nn.Module, views: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The embeddings (B, D) ×2, of any length, of the first two of views (B, V, 3, R, R); both go in as one batch."""
    pairs = views[:, :2].transpose(0, 1).flatten(0, 1)  # (2B, 3, R, R), first views first
    return projection(tower(pairs)).float().chunk(2)
