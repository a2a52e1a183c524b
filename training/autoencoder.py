"""Autoencoder for latent diffusion: 128 px pictures to 8 × 8 latents of 24 channels and back.

    python -m training.autoencoder --output_dir runs/autoencoder --mixed_precision bf16
    python -m training.autoencoder --preset finetune --pretrained_model_name_or_path stabilityai/sd-vae-ft-mse \
        --dataset_name my_pictures --resolution 256 --crop_px 128 --output_dir runs/my-vae  # or any pipeline's vae/

Cost and scores of the shipped weights stand in their card (hub_models/weights/text_to_image/emoji/vae/README.md).

A stock `AutoencoderKL`: convolutions only (no attention), so that what is learned on crops holds for whole pictures.
Kingma & Welling 2014 (the bound), Rombach et al. 2022 (latents for diffusion, a small weight on the KL term).

Letters: B batch, R side of the picture in pixels, S side of the crop, C channels of a latent, f pixels per side of its
cells.
"""

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL

from hub_models import autoencoder as contract
from training import figures, metrics
from training.config import TrainConfig, parse
from training.data.facts import facts_of
from training.data.sources import Source, open_source
from training.optim import Player
from training.task import Card, Results, Task, opened_pair, run

STEM = "autoencoder"
MEASURED_PICTURES = 1024  # training pictures whose latents the export measures, evenly spread


@dataclass(frozen=True)
class AutoencoderConfig(TrainConfig):
    """One autoencoder experiment."""

    pretrained_model_name_or_path: str | None = (
        None  # bundled variant, folder or Hub id of an AutoencoderKL or pipeline
    )
    freeze_encoder: bool = False  # train the decoder alone: latents stay as they are, for a U-Net that knows them
    # Architecture
    latent_channels: int = 24
    block_out_channels: tuple[int, ...] = (32, 48, 64, 96, 112)  # finest first; n of them reduce by 2**(n - 1)
    layers_per_block: int = 1  # residual blocks per resolution (the decoder has one more)
    norm_num_groups: int = 16
    # Data
    crop_px: int = 64  # side of the square crop that one sample is; `resolution` = the whole picture
    random_ground: float = 0.1  # probability that transparent art lies on a random colour instead of white
    # Loss, per value of the picture in [-1, 1]
    mse_weight: float = 2.0  # of the squared error, beside the absolute one
    gradient_weight: float = 0.5  # of the absolute error of differences between neighbouring pixels
    kl_weight: float = 0.02  # of the KL term; the bound itself where this is the mean absolute error that is left

    def __post_init__(self):
        super().__post_init__()
        if self.crop_px > self.resolution:
            raise ValueError(f"--crop_px {self.crop_px} must not exceed --resolution {self.resolution}")
        if uneven := [c for c in self.block_out_channels if c % self.norm_num_groups]:
            raise ValueError(
                f"--block_out_channels {uneven} must be multiples of --norm_num_groups {self.norm_num_groups}"
            )
        if self.latent_channels < 1 or not 0 <= self.random_ground <= 1:
            raise ValueError("--latent_channels must be at least 1, and --random_ground lie in [0, 1]")
        for name in ("mse_weight", "gradient_weight", "kl_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} must be a number of at least 0, got {getattr(self, name)}")


EMOJI = AutoencoderConfig(
    output_dir="runs/autoencoder", resolution=128, train_batch_size=32, optimizer="muon", learning_rate=5e-3,
    lr_warmup_steps=100, ema_decay=0.998, max_train_steps=5000, checkpointing_steps=250, validation_steps=1000,
)  # fmt: skip
PRESETS = {
    "emoji": EMOJI,
    "finetune": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="emoji", dataset_name="path/to/pictures", train_batch_size=16,
        optimizer="adamw", learning_rate=1e-4, lr_warmup_steps=50, max_train_steps=1000, ema_decay=0.99,
        validation_steps=250,
    ),
    "tiny": dataclasses.replace(
        EMOJI, dataset_name="emoji-sample", resolution=32, crop_px=16, latent_channels=4, block_out_channels=(8, 8, 16),
        norm_num_groups=4, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1, checkpointing_steps=1,
        validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip


class Crops:
    """Training samples {"picture": (3, S, S), "noise": (C, S/f, S/f)} of a source; see `training.order.Samples`."""

    def __init__(self, source: Source, cfg: AutoencoderConfig, latent_shape: tuple[int, int, int]):
        self.source, self.cfg, self.data_hash, self.latent_shape = source, cfg, source.data_hash, latent_shape
        source.preload(cfg.resolution)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        side = self.cfg.crop_px
        top, left = torch.randint(self.cfg.resolution - side + 1, (2,), generator=draw).tolist()
        pixels = np.asarray(self.source.picture(index))[top : top + side, left : left + side]  # (S, S, 4)
        ground = torch.full((3,), 255.0)
        if torch.rand((), generator=draw) < self.cfg.random_ground:
            ground = torch.randint(256, (3,), generator=draw).float()
        rgba = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float()  # (4, S, S)
        picture = torch.lerp(ground.view(3, 1, 1), rgba[:3], rgba[3:] / 255)
        return {"picture": picture / 127.5 - 1, "noise": torch.randn(self.latent_shape, generator=draw)}


class Reconstruction(torch.nn.Module):
    """The autoencoder as one function, so that a wrapper around it (two processes, bf16) sees all that is trained."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, pictures: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Reconstruction (B, 3, S, S), and mean and log-variance (B, C, h, w) of the latents it was drawn from."""
        posterior = self.vae.encode(pictures).latent_dist
        z = posterior.mean + posterior.std * noise  # Kingma & Welling 2014, eq. 4
        return self.vae.decode(z).sample, posterior.mean, posterior.logvar


def negative_bound(pictures, reconstruction, mean, logvar, cfg: AutoencoderConfig) -> tuple[torch.Tensor, dict]:
    """The loss and its parts: L1 and L2 of pixels, L1 of differences, and the KL to N(0, I), each per picture value.

    With a Laplace likelihood of scale b and no other term this is b times the negative bound for kl_weight = b.
    """
    error = reconstruction.float() - pictures  # (B, 3, S, S)
    l1, mse = error.abs().mean(), error.square().mean()
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    mean, logvar = mean.float(), logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / pictures.numel()  # nats per picture value
    loss = l1 + cfg.mse_weight * mse + cfg.gradient_weight * gradient + cfg.kl_weight * kl
    return loss, {"l1": l1.detach(), "mse": mse.detach(), "gradient": gradient.detach(), "kl": kl.detach()}


def create_vae(cfg: AutoencoderConfig) -> AutoencoderKL:
    """A stock AutoencoderKL without attention, its encoder and decoder of the same widths."""
    levels = len(cfg.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=cfg.block_out_channels, layers_per_block=cfg.layers_per_block,
        latent_channels=cfg.latent_channels, norm_num_groups=cfg.norm_num_groups, sample_size=cfg.resolution,
        scaling_factor=1.0, mid_block_add_attention=False, force_upcast=False,
    )  # fmt: skip


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
    A frozen encoder's latents and scale stay as they are.
    """
    plain = contract.Autoencoder(vae, resolution_px=cfg.resolution)
    with torch.no_grad():
        coded = [plain.encode_tensor(x.to(vae.device)) for x in batches(pictures)]
    means, stds = (torch.cat(part).cpu() for part in zip(*coded, strict=True))  # (N, C, h, w) ×2, as config scales them
    if not cfg.freeze_encoder:
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
    return contract.Autoencoder(vae, resolution_px=cfg.resolution, latent_to_rgb=weight, latent_to_rgb_bias=bias)


def task_of(cfg: AutoencoderConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg)
    torch.manual_seed(cfg.seed)
    vae = start_from(cfg)
    cells = cfg.crop_px // contract.reduction(vae)
    samples = Crops(train, cfg, (vae.config.latent_channels, cells, cells))
    shown = white_pictures(held_out, cfg.resolution, limit=64)

    def loss(model, batch):
        return negative_bound(batch["picture"], *model(batch["picture"], batch["noise"]), cfg)

    def draw(served):
        some = shown[:: max(1, len(shown) // 12)][:12]
        return figures.sheet(np.concatenate([some, reconstruct(served, some)]), columns=len(some))

    def measured(served):
        return finished(served.vae, white_pictures(train, cfg.resolution, limit=MEASURED_PICTURES), cfg)

    return Task(
        stem=STEM, source=train, players=[Player(Reconstruction(vae), loss)], samples=samples,
        served=lambda model: contract.Autoencoder(model.vae, resolution_px=cfg.resolution),
        evaluate=lambda served: {"psnr": float(metrics.psnr(reconstruct(served, shown), shown).mean())},
        draw=draw, finished=measured, save=contract.save_folder, card=lambda served: card_of(served, cfg, train),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(model: contract.Autoencoder, cfg: AutoencoderConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, (channels, height, width), facts = cfg.resolution, model.latent_shape, train.facts
    shift, scaling = contract.scale_of(model.vae)
    return Card(
        name=facts.ours or STEM,
        title=f"Autoencoder, {side} px to {height} × {width} latents of {channels} channels",
        summary=f"An AutoencoderKL that makes {height} × {width} × {channels} numbers of a picture of {side} × {side} "
        "pixels, and the picture of them again: the space in which latent diffusion works. Latents are "
        f"(z - {shift:.4g}) · {scaling:.4g}. Training data: {facts.title}.",
        library_name="diffusers",
        pipeline_tag=None,
        tags=["autoencoder", "diffusers", "pytorch"],
        parameters=model.parameters,
        usage='from diffusers import AutoencoderKL\n\nvae = AutoencoderKL.from_pretrained("org/name")\n'
        "latents = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor  # pictures (B, 3, H, W) "
        "in [-1, 1]\npictures = vae.decode(latents / vae.config.scaling_factor).sample",
        limits=[
            f"Fine lines and small text are lost: a picture has {channels * height * width:,} numbers left of "
            f"{3 * side * side:,}."
        ],
    )


def evaluate_checkpoint(name: str, dataset_name: str, *, columns: dict | None = None, batch_size: int = 8) -> Results:
    """Mean per-picture PSNR (dB) and SSIM of a saved autoencoder per evaluation set, of whole pictures on white.

    name: bundled variant, folder or Hub id. The baseline is linear: a principal component analysis of the patches under
    each latent cell, fitted on the training pictures, with as many components as the latents have channels.
    """
    model, facts, columns = contract.load(name), facts_of(dataset_name), columns or {}
    side, patch_px = model.resolution_px, model.reduction
    known = white_pictures(open_source(dataset_name, split="train", **columns), side)
    mean, basis = metrics.fit_patch_pca(known, patch_px, model.latent_shape[0])
    results = Results("linear PCA, same latent shape")
    for split in facts.evaluation_sets:
        source = open_source(dataset_name, split=split, **columns)
        pictures = white_pictures(source, side)
        ours = reconstruct(model, pictures, batch_size)
        linear = metrics.patch_pca_reconstruction(pictures, patch_px, mean, basis)
        (scores, decibels), (guessed, _) = scores_of(ours, pictures), scores_of(linear, pictures)
        results.note(split, scores | {"pictures": len(pictures)}, guessed)
        results.hashes.append(source.data_hash)
        if split == "validation" and source.label_names:
            results.per_class["PSNR (dB)"] = {
                label: float(decibels[source.labels == row].mean())
                for row, label in enumerate(source.label_names)
                if (source.labels == row).any()
            }
        if facts.show_pictures and not results.figures:
            some = np.linspace(0, len(pictures) - 1, min(10, len(pictures))).astype(int)
            rows = np.concatenate([pictures[some], ours[some], linear[some]])
            results.figures["reconstructions"] = figures.sheet(rows, columns=len(some))
    return results


def scores_of(made: np.ndarray, pictures: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Mean PSNR and SSIM of reconstructions uint8 (N, R, R, 3), and the PSNR of each."""
    decibels = np.minimum(metrics.psnr(made, pictures), 100.0)  # equal to the byte would be infinite
    return {"psnr": float(decibels.mean()), "ssim": float(metrics.ssim(made, pictures).mean())}, decibels


if __name__ == "__main__":
    main()
