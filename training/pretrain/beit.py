"""BEiT: of patches that aren't shown, the code is said that a VQ tokenizer has for them.

Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", eq. 1 and algorithm 1. With the codes z of a picture
x, from a frozen tokenizer, and x^M, in which one learned vector stands in the place of the patches M,

    L = - 1/|M| Σ_{i ∈ M} log p(z_i | x^M),    p = softmax(W h_i + b)

of the states h_i of the tower. M are blocks, so that a patch isn't told from its neighbours alone. The tokenizer sees
the picture at the size at which it has as many codes as there are patches.

Letters: B pictures, N patches on a grid (h, w), D width of the tower, K codes.
"""

import math
import random
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hub_models import tokens
from training.pretrain.config import PretrainConfig
from training.pretrain.model import require_vit

LEAST = 16 / 196  # the smallest block, as a share of the patches: 16 of the paper's 14 × 14
RATIO = (0.3, 1 / 0.3)  # height by width of a block


class Objective(nn.Module):
    """A ViT, and the layer that says codes of its states. Raises SystemExit for another tower, or no tokenizer."""

    def __init__(self, tower: Any, cfg: PretrainConfig):
        super().__init__()
        require_vit(tower, "beit", "hides patches")
        self.tower: Any = tower
        self.grid: tuple[int, int] = tuple(tower.patch_embed.grid_size)
        self.share = cfg.beit_masked
        codes = tokens.load_codes(cfg.beit_tokens_name_or_path, device="cpu")
        codes.vq.requires_grad_(False).eval()
        self._codes = [codes]  # in a list, and so no part of what is trained and saved
        self.hidden = nn.Parameter(torch.randn(1, 1, tower.embed_dim) * 0.02)
        self.said = nn.Linear(tower.embed_dim, codes.size)

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        x = batch["views"][:, 0]
        masked = torch.stack([blocks(row, self.grid, self.share) for row in batch["uniform"]]).to(x.device)  # (B, N)
        logits = self.said(self.states(x, masked)[masked]).float()  # (|M|, K)
        truth = self.codes(x)[masked]
        right = (logits.argmax(1) == truth).float().mean()
        return F.cross_entropy(logits, truth), {"codes_right": right.detach(), "masked": masked.float().mean()}

    @torch.no_grad()
    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """The codes of pictures (B, 3, R, R) in [-1, 1], one a patch: (B, N) int64, in fp32 whatever the rest is in."""
        codes = self._codes[0]
        size = [side * codes.reduction for side in self.grid]
        if x.shape[2:] != torch.Size(size):
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        with torch.autocast(x.device.type, enabled=False):
            return codes.encode(x.float())

    def states(self, x: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """The tower's states of all patches, (B, N, D), of which those masked (B, N) are hidden from it."""
        vit = self.tower
        shown = vit.patch_embed(x)  # (B, N, D)
        shown = torch.where(masked[..., None], self.hidden.to(shown.dtype), shown) + vit.pos_embed[:, 1:]
        token = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1)
        return vit.norm(vit.blocks(vit.norm_pre(torch.cat([token, shown], 1))))[:, 1:]


def blocks(uniform: torch.Tensor, grid: tuple[int, int], share: float) -> torch.Tensor:
    """Which patches are hidden, (N,) bool: blocks, until more than a share of all are. uniform: what seeds the draw."""
    rng, (height, width) = random.Random(repr(uniform[:2].tolist())), grid
    hidden = torch.zeros(grid, dtype=torch.bool)
    most = share * hidden.numel()
    while (count := int(hidden.sum())) <= most and count < hidden.numel():
        least = LEAST * hidden.numel()
        area = rng.uniform(least, max(least, most - count))
        ratio = math.exp(rng.uniform(*map(math.log, RATIO)))
        high = min(height, max(1, round((area * ratio) ** 0.5)))
        wide = min(width, max(1, round((area / ratio) ** 0.5)))
        top, left = rng.randint(0, height - high), rng.randint(0, width - wide)
        hidden[top : top + high, left : left + wide] = True
    return hidden.flatten()
