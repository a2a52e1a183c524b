"""What a picture is a sequence of: colours of a palette, or codes of a VQ-VAE.

Letters: see the package; D numbers of a code.
"""

from collections.abc import Sequence

import torch
from diffusers import VQModel


class Palette:
    """K colours: a symbol is a pixel. Chen et al. 2020 (iGPT), §3.1, with a palette of fewer colours than theirs."""

    def __init__(self, colours: Sequence[Sequence[int]], resolution_px: int):
        self.colours = [list(colour) for colour in colours]  # K of three bytes
        self.resolution_px = resolution_px
        self.table = torch.tensor(self.colours, dtype=torch.float32) / 127.5 - 1  # (K, 3) in [-1, 1]

    @property
    def size(self) -> int:
        return len(self.colours)

    @property
    def grid(self) -> tuple[int, int]:
        return self.resolution_px, self.resolution_px

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest colour of each pixel of x (B, 3, R, R) in [-1, 1]: (B, N) int64."""
        pixels = x.float().permute(0, 2, 3, 1).reshape(len(x), -1, 3)  # (B, N, 3)
        return torch.cdist(pixels, self.table.to(x.device).expand(len(x), -1, -1)).argmin(-1)

    def decode(self, symbols: torch.Tensor) -> torch.Tensor:
        """The pictures (B, 3, R, R) in [-1, 1] of symbols (B, N)."""
        return self.table.to(symbols.device)[symbols].view(-1, *self.grid, 3).permute(0, 3, 1, 2)


class Codes:
    """The K codes of a stock VQModel: a symbol is a patch. van den Oord et al. 2017 (VQ-VAE), eq. 1 and 2.

    Made by `load_codes`, or around a VQModel that is being trained.
    """

    def __init__(self, vq: VQModel, resolution_px: int, *, name: str = "", weights_sha256: str = ""):
        self.vq, self.resolution_px, self.name, self.weights_sha256 = vq, resolution_px, name, weights_sha256

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.vq.parameters())

    @property
    def size(self) -> int:
        return self.vq.config.num_vq_embeddings

    @property
    def reduction(self) -> int:
        """Pixels per side of a patch."""
        return 2 ** (len(self.vq.config.block_out_channels) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        return self.resolution_px // self.reduction, self.resolution_px // self.reduction

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The code nearest to each latent of x (B, 3, R, R) in [-1, 1]: (B, N) int64. The model goes where x is."""
        latents = self.vq.to(x.device).encode(x).latents  # (B, D, h, w)
        return self.vq.quantize(latents.float())[2][2].view(len(x), -1)

    @torch.no_grad()
    def decode(self, symbols: torch.Tensor) -> torch.Tensor:
        """The pictures (B, 3, R, R) in [-1, 1] of symbols (B, N)."""
        latents = self.vq.quantize.embedding(symbols.to(self.vq.device))  # (B, N, D)
        latents = latents.view(len(symbols), *self.grid, -1).permute(0, 3, 1, 2)  # (B, D, h, w)
        return self.vq.decode(latents, force_not_quantize=True).sample.clamp(-1, 1)
