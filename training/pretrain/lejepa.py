"""LeJEPA: views of a picture are to be one point, and the points of all pictures a standard normal cloud.

Balestriero and LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics". With
embeddings z_{n,v} of view v of picture n,

    L = λ SIGReg + (1 - λ) mean_{n,v} ‖ z_{n,v} - mean_v z_{n,v} ‖² / D

    SIGReg(z) = mean over unit directions a of  N ∫ | φ̂_a(t) - exp(-t²/2) |² exp(-t²/2) dt
    φ̂_a(t) = mean_n exp(i t a·z_n)

The integrand is the test of Epps and Pulley 1983 for normality: by the theorem of Cramér and Wold the cloud is standard
normal if it is so along each direction. Directions are drawn anew in each step. As in the authors' minimal example the
integral goes from -3 to 3, by the trapezoid rule on the half that symmetry leaves, and every view counts as a centre.

Letters: N pictures, V views, D numbers of an embedding, A directions, T knots.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from training.pretrain.config import PretrainConfig
from training.pretrain.views import projection_of

KNOTS, T_MAX = 17, 3.0


class Objective(nn.Module):
    """A tower and the projection whose outputs are compared."""

    def __init__(self, tower: Any, cfg: PretrainConfig):
        super().__init__()
        self.tower: Any = tower
        self.projection = projection_of(tower, cfg)
        self.weight, self.directions = cfg.lejepa_weight, cfg.lejepa_directions

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        views = batch["views"]  # (N, V, 3, R, R)
        z = self.projection(self.tower(views.flatten(0, 1))).float().unflatten(0, views.shape[:2])  # (N, V, D)
        directions = F.normalize(torch.randn(z.shape[2], self.directions, device=z.device), dim=0)  # (D, A)
        normality = torch.stack([sigreg(z[:, v], directions) for v in range(z.shape[1])]).mean()
        invariance = (z - z.mean(1, keepdim=True)).square().mean()
        loss = self.weight * normality + (1 - self.weight) * invariance
        return loss, {"sigreg": normality.detach(), "invariance": invariance.detach()}


def sigreg(z: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """How far a cloud z (N, D) is from standard normal along unit directions (D, A): the mean of `epps_pulley`."""
    return epps_pulley(z @ directions).mean()


def epps_pulley(x: torch.Tensor) -> torch.Tensor:
    """The statistic of each column of x (N, A) against the standard normal law: (A,), 0 for none, at least 0."""
    t = torch.linspace(0, T_MAX, KNOTS, device=x.device)  # (T,)
    normal = (-t.square() / 2).exp()  # its characteristic function, and the weight of the integral
    angles = x[..., None] * t  # (N, A, T)
    gap = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()  # (A, T)
    return 2 * len(x) * torch.trapezoid(gap * normal, t)
