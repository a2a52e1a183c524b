"""Autoencoder for latent diffusion: 128 px pictures to 8 × 8 latents of 24 channels and back.

    python -m training.autoencoder --output_dir runs/autoencoder --mixed_precision bf16
    python -m training.autoencoder --preset finetune --pretrained_model_name_or_path stabilityai/sd-vae-ft-mse \
        --dataset_name my_pictures --resolution 256 --crop_px 128 --output_dir runs/my-vae  # or any pipeline's vae/

    python -m training.autoencoder --preset vae-32 --mixed_precision bf16   # 32 px to one vector, from which it draws
    python -m training.autoencoder --preset plain-32 --corruption_std 0.4   # the same without a bound: denoising, …

Cost and scores of the shipped weights stand in their card (hub_models/weights/text_to_image/emoji/vae/README.md).

A stock `AutoencoderKL`: convolutions only (no attention), so that what is learned on crops holds for whole pictures.
Kingma & Welling 2014 (the bound), Rombach et al. 2022 (latents for diffusion, a small weight on the KL term).
With one vector a picture: Rybkin et al. 2021 (the bound with its KL in full weight); Vincent et al. 2008 (denoising),
Makhzani & Frey 2014 and Ng 2011 (sparse), Rifai et al. 2011 (contractive).

Letters: B batch, R side of the picture in pixels, S side of the crop, C channels of a latent, f pixels per side of its
cells.
"""

import numpy as np
import torch

from hub_models import autoencoder as contract
from training import figures, metrics
from training.autoencoder.config import PRESETS, AutoencoderConfig
from training.autoencoder.evaluation import STEM, card_of, evaluate_checkpoint
from training.autoencoder.model import (
    Crops,
    Reconstruction,
    finished,
    reconstruct,
    start_from,
    white_pictures,
    whole_loss,
    with_space,
)
from training.config import parse
from training.optim import Player
from training.task import Task, opened_pair, run

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]

MEASURED_PICTURES = 1024  # training pictures whose latents the export measures, evenly spread


def task_of(cfg: AutoencoderConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, **({"label_column": cfg.label_column} if cfg.label_column else {}))
    torch.manual_seed(cfg.seed)
    vae = start_from(cfg)
    player = Reconstruction(vae, deterministic=cfg.deterministic, k_sparse=cfg.k_sparse)
    cells = cfg.crop_px // contract.reduction(vae)
    samples = Crops(train, cfg, (vae.config.latent_channels, cells, cells))
    shown = white_pictures(held_out, cfg.resolution, limit=64)

    def loss(model, batch):
        seen = batch.get("seen", batch["picture"])
        return whole_loss(batch["picture"], model(seen, batch["noise"], batch.get("probe")), cfg)

    def draw(served):
        some = shown[:: max(1, len(shown) // 12)][:12]
        return figures.sheet(np.concatenate([some, reconstruct(served, some)]), columns=len(some))

    def measured(served):
        made = finished(served.vae, white_pictures(train, cfg.resolution, limit=MEASURED_PICTURES), cfg)
        return with_space(made, train, cfg) if cfg.label_column or cfg.likelihood == "gaussian" else made

    return Task(
        stem=STEM, source=train, players=[Player(player, loss)], samples=samples,
        served=lambda model: contract.Autoencoder(model.vae, resolution_px=cfg.resolution, k_sparse=cfg.k_sparse),
        evaluate=lambda served: {"psnr": float(metrics.psnr(reconstruct(served, shown), shown).mean())},
        draw=draw, finished=measured, save=contract.save_folder, card=lambda served: card_of(served, cfg, train),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)
