"""Masked autoencoding: three quarters of the patches are left out, and painted from the rest.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners": the encoder f sees the patches K that are kept, a
small decoder g those states and one learned token in each place of the others, M, and

    L = 1/|M| Σ_{i ∈ M} ‖ g(f(x_K))_i - (x_i - μ_i) / σ_i ‖² / 3p²                        (§3, "Reconstruction target")

with mean μ_i and deviation σ_i of the pixels of patch i. The class token sees patches, too, and takes no part in L.

Letters: B pictures, N patches of p × p pixels, of which k are kept, D width of the tower, W of the decoder.
"""

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import nn

from training.pretrain.config import PretrainConfig
from training.pretrain.model import require_vit

VARIANCE = 1e-6  # added to that of a patch: many are all white


class Objective(nn.Module):
    """A ViT and the decoder that paints what it doesn't see. Raises SystemExit for another kind of tower."""

    def __init__(self, tower: Any, cfg: PretrainConfig):
        super().__init__()
        require_vit(tower, "mae", "leaves patches out")
        self.tower: Any = tower
        width, blocks, heads = cfg.mae_decoder
        self.patch_px: int = tower.patch_embed.patch_size[0]
        places: int = tower.patch_embed.num_patches
        self.kept = max(1, round(places * (1 - cfg.mae_masked)))
        self.narrow = nn.Linear(tower.embed_dim, width)
        self.missing = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 1 + places, width) * 0.02)
        self.decoder = nn.Sequential(*(Block(width, heads) for _ in range(blocks)), nn.LayerNorm(width))
        self.paint = nn.Linear(width, 3 * self.patch_px**2)

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        x = batch["views"][:, 0]
        order = batch["uniform"].argsort(1)  # (B, N): the first k are kept
        painted = self.painted(self.encoded(x, order[:, : self.kept]), order)  # (B, N, 3p²)
        hidden = torch.ones_like(batch["uniform"]).scatter(1, order[:, : self.kept], 0.0)  # (B, N)
        loss = masked_error(painted.float(), patches_of(x, self.patch_px), hidden)
        return loss, {}

    def encoded(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """The tower's states of class token and kept patches: (B, 1 + k, D). kept: their places (B, k)."""
        vit = self.tower
        states = vit.patch_embed(x) + vit.pos_embed[:, 1:]  # (B, N, D)
        states = states.gather(1, kept[..., None].expand(-1, -1, states.shape[2]))  # (B, k, D)
        token = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1)
        return vit.norm(vit.blocks(vit.norm_pre(torch.cat([token, states], 1))))

    def painted(self, states: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """What the decoder paints in each place, (B, N, 3p²)."""
        known = self.narrow(states)  # (B, 1 + k, W)
        missing = self.missing.to(known.dtype).expand(len(known), order.shape[1] - self.kept, -1)
        shuffled = torch.cat([known[:, 1:], missing], 1)  # (B, N, W), patches in the order drawn
        back = order.argsort(1)[..., None].expand(-1, -1, known.shape[2])
        whole = torch.cat([known[:, :1], shuffled.gather(1, back)], 1) + self.places
        return self.paint(self.decoder(whole))[:, 1:]


def patches_of(x: torch.Tensor, patch_px: int) -> torch.Tensor:
    """The patches of pictures (B, 3, R, R), row by row: (B, N, 3p²), each with mean 0 and variance 1."""
    rows = nn.functional.unfold(x, patch_px, stride=patch_px).transpose(1, 2)  # (B, N, 3p²)
    variance, mean = torch.var_mean(rows, dim=2, keepdim=True)
    return (rows - mean) / (variance + VARIANCE).sqrt()


def masked_error(painted: torch.Tensor, truth: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the hidden patches alone, a scalar. hidden (B, N): 1 where the encoder saw nothing."""
    return ((painted - truth).square().mean(2) * hidden).sum() / hidden.sum()
