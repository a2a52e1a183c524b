"""The VQ-VAE: what is learned of pictures before a model learns their codes (van den Oord et al. 2017).

Letters: B batch, R side of the picture in pixels, (h, w) the grid of codes, K codes of D numbers each.
"""

import numpy as np
import torch
from diffusers import VQModel

from hub_models import tokens as contract
from hub_models.pictures import from_uint8, to_uint8
from training import metrics
from training.data.sources import Source
from training.task import Card


class Quantised(torch.nn.Module):
    """The VQ-VAE as one function, so that a wrapper around it (two processes, bf16) sees all that is trained."""

    def __init__(self, vq: VQModel):
        super().__init__()
        self.vq = vq

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Reconstruction (B, 3, R, R), latents and their nearest codes, both (B, h, w, D), and which these are.

        The decoder reads the codes; its gradient passes straight through them to the encoder (§3.2 of the paper).
        """
        latents, table = self.vq.encode(pictures).latents.permute(0, 2, 3, 1).float(), self.vq.quantize.embedding
        with torch.no_grad(), torch.autocast(pictures.device.type, enabled=False):  # or the nearest is another one
            which = torch.cdist(latents.flatten(0, 2), table.weight).argmin(1).view(latents.shape[:3])  # (B, h, w)
        nearest = table(which)  # (B, h, w, D)
        passed = latents + (nearest - latents).detach()
        picture = self.vq.decode(passed.permute(0, 3, 1, 2), force_not_quantize=True).sample
        return picture, latents, nearest, which


def vq_loss(model, pictures: torch.Tensor, table: torch.Tensor, commitment: float) -> tuple[torch.Tensor, dict]:
    """Absolute and squared error of what comes back, and what draws codes to latents and latents to codes (eq. 3).

    table (K, D): the codes. One that the batch has no use for is drawn to a latent of it, which is drawn at random, the
    further from its code the likelier (as k-means++ seeds: Arthur & Vassilvitskii 2007), so that none is dead for long.
    """
    back, latents, nearest, which = model(pictures)
    error = back.float() - pictures
    distance = (nearest - latents.detach()).square().mean(-1)  # (B, h, w)
    commit = (nearest.detach() - latents).square().mean()
    used = torch.bincount(which.flatten(), minlength=len(table)) > 0  # (K,)
    places = torch.multinomial(distance.detach().flatten() + 1e-9, len(table), replacement=True)
    anchors = latents.detach().flatten(0, 2)[places]  # (K, D)
    revive = ((table - anchors).square().mean(-1) * ~used).mean()
    loss = error.abs().mean() + 2 * error.square().mean() + distance.mean() + revive + commitment * commit
    return loss, {"l1": error.detach().abs().mean(), "commit": commit.detach(), "codes_used": used.float().mean()}


def create_vq(cfg) -> VQModel:
    """A stock VQModel of convolutions alone, of a `training.tokens.TokensConfig`."""
    levels = len(cfg.block_out_channels)
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=cfg.block_out_channels, layers_per_block=1, latent_channels=cfg.block_out_channels[-1],
        sample_size=cfg.resolution, num_vq_embeddings=cfg.vocabulary, norm_num_groups=cfg.norm_num_groups,
        vq_embed_dim=cfg.code_dim, scaling_factor=1.0, mid_block_add_attention=False,
    )  # fmt: skip


def measured(codes: contract.Codes, pictures: np.ndarray, batch_size: int = 64) -> dict[str, float]:
    """PSNR in dB of pictures uint8 (N, R, R, 3) that are coded and decoded, and what use is made of the codes.

    perplexity: 2 to the entropy of the codes, in bits: as many codes, all used alike, would tell as much; at most K.
    """
    parts = [codes.encode(from_uint8(pictures[at : at + batch_size])) for at in range(0, len(pictures), batch_size)]
    back = np.concatenate([to_uint8(codes.decode(part)) for part in parts])
    share = torch.bincount(torch.cat(parts).flatten().cpu(), minlength=codes.size).double()
    share = share / share.sum()
    return {
        "psnr": float(metrics.psnr(back, pictures).mean()),
        "codes_used": float((share > 0).double().mean()),
        "perplexity": float(torch.special.entr(share).sum().exp()),
    }


def card_of(codes: contract.Codes, train: Source) -> Card:
    """What the card says of a VQ-VAE of these pictures."""
    side, (height, width), facts = codes.resolution_px, codes.grid, train.facts
    return Card(
        name=f"{facts.ours or 'tokens'}-{side}-vq",
        title=f"VQ-VAE, {side} px to {height} × {width} of {codes.size} codes",
        summary=f"A VQModel that makes {height} × {width} of {codes.size} codes of a picture of {side} × {side} px, "
        f"and the picture of them again. Training data: {facts.title}.",
        library_name="diffusers",
        pipeline_tag=None,
        tags=["pytorch", "diffusers", "vq-vae"],
        parameters=codes.parameters,
        usage='from diffusers import VQModel\n\nvq = VQModel.from_pretrained("org/name")',
        limits=["Fine lines and small text are lost."],
    )
