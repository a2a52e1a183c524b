"""The autoencoder that is trained, what it is trained on and for, and how it is finished for the export.

Letters are those of training/autoencoder.
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from hub_models import autoencoder as contract
from training.autoencoder import codes
from training.autoencoder.config import AutoencoderConfig
from training.autoencoder.start import keep_variance
from training.data.sources import Source


class Crops:
    """Training samples {"picture": (3, S, S), "noise": (C, S/f, S/f)} of a source; see `training.order.Samples`.

    With --corruption_std also "seen", the picture as the encoder sees it; with --contraction "probe", as noise is.
    """

    def __init__(self, source: Source, cfg: AutoencoderConfig, latent_shape: tuple[int, int, int]):
        self.source, self.cfg, self.data_hash, self.latent_shape = source, cfg, source.data_hash, latent_shape
        source.preload(cfg.resolution)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        side, most = self.cfg.crop_px, self.cfg.shift_px
        whole = np.asarray(self.source.picture(index))  # (R, R, 4)
        if most:
            whole = np.pad(whole, ((most, most), (most, most), (0, 0)), mode="edge")
        top, left = torch.randint(len(whole) - side + 1, (2,), generator=draw).tolist()
        pixels = whole[top : top + side, left : left + side]  # (S, S, 4)
        if self.cfg.random_flip and torch.rand((), generator=draw) < 0.5:
            pixels = pixels[:, ::-1]
        ground = torch.full((3,), 255.0)
        if torch.rand((), generator=draw) < self.cfg.random_ground:
            ground = torch.randint(256, (3,), generator=draw).float()
        rgba = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float()  # (4, S, S)
        picture = torch.lerp(ground.view(3, 1, 1), rgba[:3], rgba[3:] / 255)
        sample = {"picture": picture / 127.5 - 1, "noise": torch.randn(self.latent_shape, generator=draw)}
        if self.cfg.corruption_std:
            corruption = torch.randn(picture.shape, generator=draw)
            sample["seen"] = sample["picture"] + self.cfg.corruption_std * corruption
        if self.cfg.contraction:
            sample["probe"] = torch.randn(self.latent_shape, generator=draw)
        return sample


class Reconstruction(torch.nn.Module):
    """The autoencoder as one function, so that a wrapper around it (two processes, bf16) sees all that is trained."""

    def __init__(self, vae: AutoencoderKL, *, deterministic: bool = False, k_sparse: int | None = None):
        super().__init__()
        self.vae, self.deterministic, self.k_sparse = vae, deterministic, k_sparse

    def forward(
        self, pictures: torch.Tensor, noise: torch.Tensor, probe: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Reconstruction (B, 3, S, S), and mean and log-variance (B, C, h, w) of the latents it was drawn from.

        With a probe (B, C, h, w) also `codes.contraction` of the encoder, (B,).
        """
        if probe is not None:
            pictures = pictures.detach().requires_grad_(True)
        posterior = self.vae.encode(pictures).latent_dist
        mean = posterior.mean if self.k_sparse is None else contract.k_largest(posterior.mean, self.k_sparse)
        z = mean if self.deterministic else mean + posterior.std * noise  # Kingma & Welling 2014, eq. 4
        made = self.vae.decode(z).sample, mean, posterior.logvar
        return made if probe is None else (*made, codes.contraction(mean, pictures, probe))


def negative_bound(pictures, reconstruction, mean, logvar, cfg: AutoencoderConfig) -> tuple[torch.Tensor, dict]:
    """The loss and its parts: L1 and L2 of pixels, L1 of differences, and the KL to N(0, I), each per picture value.

    With a Laplace likelihood of scale b and no other term this is b times the negative bound for kl_weight = b.
    """
    error = reconstruction.float() - pictures  # (B, 3, S, S)
    l1, mse = error.abs().mean(), error.square().mean()
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = codes.divergence(mean, logvar) / pictures.numel()  # nats per picture value
    loss = l1 + cfg.mse_weight * mse + cfg.gradient_weight * gradient + cfg.kl_weight * kl
    return loss, {"l1": l1.detach(), "mse": mse.detach(), "gradient": gradient.detach(), "kl": kl.detach()}


def whole_loss(pictures: torch.Tensor, made: Sequence[torch.Tensor], cfg: AutoencoderConfig) -> tuple[Any, dict]:
    """The loss of a config and its parts, of pictures and what `Reconstruction` made of them."""
    reconstruction, mean, logvar, *slopes = made
    if cfg.likelihood == "gaussian":
        loss, parts = codes.gaussian_bound(pictures, reconstruction, mean, logvar, cfg.observation_std)
    else:
        plain = dataclasses.replace(cfg, kl_weight=0.0) if cfg.deterministic else cfg
        loss, parts = negative_bound(pictures, reconstruction, mean, logvar, plain)
    if cfg.sparsity is not None:
        penalty = codes.sparsity_penalty(mean, cfg.sparsity)
        loss, parts["sparsity"] = loss + cfg.sparsity_weight * penalty, penalty.detach()
    for slope in slopes:
        loss, parts["contraction"] = loss + cfg.contraction * slope.mean(), slope.mean().detach()
    return loss, parts


def create_vae(cfg: AutoencoderConfig) -> AutoencoderKL:
    """A stock AutoencoderKL without attention, its encoder and decoder of the same widths.

    One whose crops become one vector each begins with `keep_variance`.
    """
    levels = len(cfg.block_out_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=cfg.block_out_channels, layers_per_block=cfg.layers_per_block,
        latent_channels=cfg.latent_channels, norm_num_groups=cfg.norm_num_groups, sample_size=cfg.resolution,
        scaling_factor=1.0, mid_block_add_attention=False, force_upcast=False,
    )  # fmt: skip
    if contract.reduction(vae) == cfg.crop_px:
        keep_variance(vae, cfg.crop_px)
    return vae


def start_from(cfg: AutoencoderConfig) -> AutoencoderKL:
    """The AutoencoderKL to train: a fresh one, or that of a checkpoint, which brings its own architecture."""
    if cfg.pretrained_model_name_or_path:
        vae = contract.load(cfg.pretrained_model_name_or_path, device="cpu").vae.requires_grad_(True).train()
    elif cfg.freeze_encoder:
        raise SystemExit("--freeze_encoder without --pretrained_model_name_or_path: a fresh encoder has to be trained")
    else:
        vae = create_vae(cfg)
    step = contract.reduction(vae)
    if cfg.crop_px % step or cfg.resolution % step:
        raise SystemExit(f"this autoencoder reduces by {step}: --crop_px and --resolution must be multiples of {step}")
    if cfg.freeze_encoder:
        for part in (vae.encoder, vae.quant_conv):
            if part is not None:
                part.requires_grad_(False)
    return vae


def white_pictures(source: Source, resolution_px: int, limit: int | None = None) -> np.ndarray:
    """Pictures of a source whole on white, evenly spread: uint8 (N, R, R, 3); all of them by default."""
    if source.array is None or source.array.shape[1] != resolution_px:
        source.preload(resolution_px)
    count = len(source) if limit is None else min(limit, len(source))
    white = (255, 255, 255)
    pictures = (source.picture(i * len(source) // count) for i in range(count))
    return np.stack([np.asarray(contract.frame(picture, resolution_px, white)) for picture in pictures])


def reconstruct(model: contract.Autoencoder, pictures: np.ndarray, batch_size: int = 8) -> np.ndarray:
    """What comes back of pictures (N, R, R, 3) uint8 by way of the mean of their latents; the same shape and type."""
    parts = []
    for x in batches(pictures, batch_size):
        parts.append(contract.to_uint8(model.decode(model.encode_tensor(x.to(model.device))[0])))
    return np.concatenate(parts)


def batches(pictures: np.ndarray, batch_size: int = 8) -> Iterator[torch.Tensor]:
    """(B, 3, R, R) in [-1, 1], batch by batch, of uint8 (N, R, R, 3)."""
    for at in range(0, len(pictures), batch_size):
        yield contract.from_uint8(pictures[at : at + batch_size])


def finished(vae: AutoencoderKL, pictures: np.ndarray, cfg: AutoencoderConfig) -> contract.Autoencoder:
    """What is exported: latents of mean 0 in each channel and, all together, deviation 1; and the map to colours.

    pictures (N, R, R, 3) uint8: what the latents are measured on. The deviation is that of drawn latents, not of means.
    Latents stay as they are where the encoder is frozen, a bound makes them N(0, I), or there is no noise on them: then
    the encoder says that its deviation is 0.
    """
    if cfg.deterministic:
        vae = without_noise(vae)
    plain = contract.Autoencoder(vae, resolution_px=cfg.resolution, k_sparse=cfg.k_sparse)
    with torch.no_grad():
        coded = [plain.encode_tensor(x.to(vae.device)) for x in batches(pictures)]
    means, stds = (torch.cat(part).cpu() for part in zip(*coded, strict=True))  # (N, C, h, w) ×2, as config scales them
    if not cfg.keeps_latents:
        shift, old = contract.scale_of(vae)
        means, stds = means / old + shift, stds / old  # as the encoder gives them
        if vae.quant_conv is None or vae.post_quant_conv is None:
            offset = means.mean()  # no place to fold it in: a shift, for the pipelines of such models read it
            scaling = ((means - offset).square() + stds.square()).mean().rsqrt().item()
            vae = copy.deepcopy(vae)
            vae.register_to_config(scaling_factor=scaling, shift_factor=offset.item())
        else:
            offset = means.mean((0, 2, 3))  # (C,)
            means = means - offset.view(1, -1, 1, 1)
            scaling = (means.square() + stds.square()).mean().rsqrt().item()
            vae, offset = contract.centred(vae, offset, scaling), 0.0
        means = (means - offset) * scaling
    weight, bias = contract.fit_latent_to_rgb(means, contract.from_uint8(pictures))
    return contract.Autoencoder(
        vae, resolution_px=cfg.resolution, latent_to_rgb=weight, latent_to_rgb_bias=bias, k_sparse=cfg.k_sparse
    )


@torch.no_grad()
def without_noise(vae: AutoencoderKL) -> AutoencoderKL:
    """A copy whose posterior has no width: what a stock class draws of it is the mean."""
    vae = copy.deepcopy(vae)
    last = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
    last.weight[vae.config.latent_channels :] = 0
    last.bias[vae.config.latent_channels :] = -30  # log-variance, the least that AutoencoderKL lets be
    return vae


@torch.no_grad()
def with_space(model: contract.Autoencoder, source: Source, cfg: AutoencoderConfig) -> contract.Autoencoder:
    """The model, knowing where the classes of a source lie, and how wide pixels lie around what it decodes."""
    pictures, errors, coded = white_pictures(source, cfg.resolution), [], []
    draw = torch.Generator().manual_seed(0)
    for x in batches(pictures, 64):
        mean, std = model.encode_tensor(x.to(model.device))
        coded.append((mean.flatten(1).cpu(), std.flatten(1).cpu()))
        drawn = mean + std * torch.randn(mean.shape, generator=draw).to(mean)
        errors.append((model.decode(drawn).cpu() - x).square().mean((1, 2, 3)))
    means, stds = (torch.cat(part) for part in zip(*coded, strict=True))
    if cfg.label_column:
        names = source.column("name") if cfg.directions else []
        model.space = codes.space_of(means, stds, source.labels, source.label_names, names, cfg.directions)
    if cfg.likelihood == "gaussian":
        model.observation_std = cfg.observation_std or float(torch.cat(errors).mean().sqrt())
    return model
