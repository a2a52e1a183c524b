"""DINO: a student says of each view of a picture what its teacher, its own average, says of the large ones.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", eq. 2 and 3, algorithm 1. Of K outputs
g_s of the student, g_t of the teacher,

    P_s = softmax(g_s / τ_s),    P_t = softmax((g_t - c) / τ_t)
    L = mean over large views x and other views x' of  - Σ_k P_t(x)_k log P_s(x')_k
    θ_t ← m θ_t + (1 - m) θ_s,    c ← m_c c + (1 - m_c) mean_B g_t

Centring by c and the sharper τ_t together keep the outputs from becoming one. The projection has norms of the batch, an
option of the paper: without, the outputs of a fresh tower are so alike that nothing is left of them once c is taken
away. Small views are resized to the side of large ones, so that a Swin may be the tower; the paper has them smaller.

Letters: B pictures, V views, of which G are large, D width of the tower, K outputs.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.ops import MLP

from training.pretrain.config import PretrainConfig


class Head(nn.Module):
    """Unit vectors of a projection, compared with K unit prototypes: (B, K)."""

    def __init__(self, width: int, projection: list[int], prototypes: int):
        super().__init__()
        self.projection = MLP(width, projection, nn.BatchNorm1d, nn.GELU, inplace=None)
        self.prototypes = nn.Parameter(torch.randn(prototypes, projection[-1]) * 0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(self.projection(features).float(), dim=1), F.normalize(self.prototypes, dim=1))


class Objective(nn.Module):
    """The student's tower and head, and among the buffers the teacher's weights and the centre.

    The teacher follows where a forward pass begins: by what the student has become in the step before.
    """

    def __init__(self, tower: Any, cfg: PretrainConfig):
        super().__init__()
        self.cfg = cfg
        self.tower: Any = tower
        self.head = Head(tower.num_features, list(cfg.projection), cfg.dino_prototypes)
        for part in ("tower", "head"):
            for name, weights in getattr(self, part).named_parameters():
                self.register_buffer(_place(part, name), weights.detach().clone())
        self.register_buffer("centre", torch.zeros(cfg.dino_prototypes))  # (K,)

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        views, cfg = batch["views"].transpose(0, 1), self.cfg  # (V, B, 3, R, R)
        large = cfg.views - cfg.local_views
        self.follow()
        told = self.taught(views[:large].flatten(0, 1)).unflatten(0, (large, -1))  # (G, B, K)
        said = self.head(self.tower(views.flatten(0, 1))).unflatten(0, (cfg.views, -1))  # (V, B, K)
        centre = cast(torch.Tensor, self.centre)
        target = ((told - centre) / cfg.dino_teacher_temperature).softmax(-1)
        loss = cross_entropy(target, (said / cfg.dino_temperature).log_softmax(-1))
        with torch.no_grad():
            centre.lerp_(told.mean((0, 1)), 1 - cfg.dino_centre_momentum)
        spread = target.mean((0, 1))
        entropy = -(spread * spread.clamp_min(1e-12).log()).sum()  # of what all are told: 0 where that is one thing
        return loss, {"teacher_entropy": entropy}

    @torch.no_grad()
    def follow(self) -> None:
        """Bring the teacher's weights nearer to the student's."""
        for part in ("tower", "head"):
            for name, weights in getattr(self, part).named_parameters():
                self.get_buffer(_place(part, name)).lerp_(weights, 1 - self.cfg.dino_momentum)

    @torch.no_grad()
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        """The teacher's outputs (B, K) of pictures (B, 3, R, R)."""
        for part in ("tower", "head"):
            module = getattr(self, part)
            weights = {name: self.get_buffer(_place(part, name)) for name, _ in module.named_parameters()}
            x = functional_call(module, weights, (x,))
        return x


def _place(part: str, name: str) -> str:
    """What a weight of the teacher is called among the buffers."""
    return f"teacher_{part}_{name.replace('.', '_')}"


def cross_entropy(target: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """The mean of -Σ_k target log p over all pairs of a large view and another view of the same picture, a scalar.

    target (G, B, K) of the first G views, log_p (V, B, K).
    """
    pairs = -torch.einsum("gbk,vbk->gv", target, log_p) / target.shape[1]  # (G, V)
    other = ~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[other].mean()
