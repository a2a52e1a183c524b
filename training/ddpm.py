"""Denoising diffusion on pixels: a U-Net that draws emoji by class.

    python -m training.ddpm --output_dir runs/ddpm                        # 32 px, 12 classes
    python -m training.ddpm --preset emoji-64 --output_dir runs/ddpm-64
    python -m training.ddpm --preset unconditional --dataset_name my_pictures --output_dir runs/my-own
    python -m training.ddpm --preset finetune --dataset_name my_pictures --output_dir runs/my-ddpm  # from ours

Cost and scores of the shipped weights stand in their card (hub_models/weights/ddpm/emoji-32/README.md).

Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (cosine schedule), Salimans & Ho 2022 (v prediction),
Hang et al. 2023 (min-SNR weighting), Ho & Salimans 2022 (classifier-free guidance).

Letters: B batch, R side of the picture in pixels, T training timesteps.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

from hub_models import ddpm as contract
from training import drawn, figures
from training.config import TrainConfig, parse, require_resolution
from training.data.sources import Source
from training.diffusion import diffusion_loss, held_out_loss
from training.drawn import clean_picture, picture_tensor
from training.optim import Player
from training.order import draw_seed
from training.task import Card, Results, Task, opened_pair, run

STEM = "ddpm"


@dataclass(frozen=True)
class DDPMConfig(TrainConfig):
    """One diffusion experiment."""

    # U-Net
    block_out_channels: tuple[int, ...] = (48, 96, 160)  # channels per resolution, finest first
    layers_per_block: int = 1  # residual blocks per resolution
    attention_levels: tuple[bool, ...] = (False, False, True)  # self-attention per resolution
    attention_head_dim: int = 32
    norm_num_groups: int = 16
    dropout: float = 0.0
    # Condition
    class_conditional: bool = True  # learn the labels of label_column, with one more row for "no label"
    label_column: str | None = None  # column that holds the class; None = "label"
    label_dropout: float = 0.1  # share of samples that see "no label", for classifier-free guidance
    guidance_scale: float = 3.0  # the default that the export carries
    # Diffusion
    num_train_timesteps: int = 1000
    beta_schedule: Literal["linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"  # the latter is the cosine schedule
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    loss_weighting: Literal["simple", "min_snr"] = "min_snr"
    snr_gamma: float = 5.0  # of min-SNR
    random_flip: bool = False  # off by default: arrows, hands and letters have a direction


EMOJI_32 = DDPMConfig(
    output_dir="runs/ddpm", resolution=32, train_batch_size=32, learning_rate=4e-4, lr_warmup_steps=300,
    ema_decay=0.999, max_train_steps=16_000, checkpointing_steps=250, validation_steps=1000,
)  # fmt: skip
PRESETS = {
    "emoji-32": EMOJI_32,
    "emoji-64": dataclasses.replace(
        EMOJI_32, resolution=64, block_out_channels=(32, 64, 128, 192), attention_levels=(False, False, False, True),
        max_train_steps=60_000,
    ),
    "unconditional": dataclasses.replace(EMOJI_32, class_conditional=False, guidance_scale=1.0),
    "finetune": dataclasses.replace(
        EMOJI_32, pretrained_model_name_or_path="emoji-32", dataset_name="path/to/class/folders", learning_rate=1e-4,
        max_train_steps=1000, lr_warmup_steps=50, ema_decay=0.99, validation_steps=250,
    ),
    "tiny": dataclasses.replace(
        EMOJI_32, dataset_name="emoji-sample", resolution=16, block_out_channels=(16, 32),
        attention_levels=(False, True), attention_head_dim=8, norm_num_groups=8, max_train_steps=2, train_batch_size=8,
        lr_warmup_steps=1, checkpointing_steps=1, validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip


class NoisyPictures:
    """Training samples {"clean", "noise": (3, R, R), "timestep", "label": ()}; see `training.order.Samples`."""

    def __init__(self, source: Source, cfg: DDPMConfig, null_label: int | None):
        self.source, self.data_hash, self.cfg, self.null_label = source, source.data_hash, cfg, null_label
        source.preload(cfg.resolution)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        clean = clean_picture(self.source.picture(index), self.cfg.resolution)
        sample = {
            "noise": torch.randn(clean.shape, generator=draw),
            "timestep": torch.randint(self.cfg.num_train_timesteps, (), generator=draw),
        }
        if self.null_label is not None:
            dropped = torch.rand((), generator=draw) < self.cfg.label_dropout
            sample["label"] = self.null_label if dropped else int(self.source.labels[index])
        if self.cfg.random_flip and torch.rand((), generator=draw) < 0.5:
            clean = clean.flip(-1)
        return sample | {"clean": clean}


def create_unet(cfg: DDPMConfig, num_labels: int) -> UNet2DModel:
    """A stock UNet2DModel; with labels its class embedding has one more row, the last, for "no label"."""
    down = ["AttnDownBlock2D" if attention else "DownBlock2D" for attention in cfg.attention_levels]
    up = ["AttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(cfg.attention_levels)]
    return UNet2DModel(
        sample_size=cfg.resolution, in_channels=3, out_channels=3, layers_per_block=cfg.layers_per_block,
        block_out_channels=cfg.block_out_channels, down_block_types=tuple(down), up_block_types=tuple(up),
        attention_head_dim=cfg.attention_head_dim, norm_num_groups=cfg.norm_num_groups, dropout=cfg.dropout,
        num_class_embeds=num_labels + 1 if num_labels else None,
    )  # fmt: skip


def create_scheduler(cfg: DDPMConfig) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=cfg.num_train_timesteps,
        beta_schedule=cfg.beta_schedule,
        prediction_type=cfg.prediction_type,
        clip_sample=True,
        timestep_spacing="trailing",
    )


def strata(source: Source, resolution_px: int, labelled: bool, pictures: int = 96) -> tuple[torch.Tensor, dict]:
    """Fixed pictures (N, 3, R, R) and what else the U-Net reads of them, for `training.diffusion.held_out_loss`."""
    clean = picture_tensor(source, resolution_px, limit=pictures)
    return clean, {"class_labels": torch.from_numpy(source.labels[: len(clean)])} if labelled else {}


def draw(model: contract.DDPM, labels: Sequence[int | None], seed: int, *, batch_size=64, steps=25) -> np.ndarray:
    """One picture per label, uint8 (N, R, R, 3), by DPM-Solver++ at default guidance; picture i has seed f(seed, i)."""
    made, steps = [], min(steps, model.num_train_timesteps)
    for at in range(0, len(labels), batch_size):
        part = labels[at : at + batch_size]
        seeds = [draw_seed("draw", seed, at + i) for i in range(len(part))]
        for last in model.generate(part, seeds, num_inference_steps=steps, sampler="dpm++"):  # noqa: B007
            pass
        made.append(contract.to_uint8(last.x_t))
    return np.concatenate(made)


def task_of(cfg: DDPMConfig) -> Task:
    """The experiment of a config."""
    label_column = (cfg.label_column or "label") if cfg.class_conditional else None
    train, held_out = opened_pair(cfg, label_column=label_column)
    label_names = list(train.label_names) if cfg.class_conditional else []
    null_label = len(label_names) if label_names else None
    torch.manual_seed(cfg.seed)
    if cfg.pretrained_model_name_or_path:
        unet, scheduler = start_from(cfg, label_names)
    else:
        unet, scheduler = create_unet(cfg, len(label_names)), create_scheduler(cfg)
    samples = NoisyPictures(train, cfg, null_label)
    fixed, read = strata(held_out, cfg.resolution, bool(label_names))
    parts: dict = {"label_names": label_names, "null_label": null_label, "guidance_scale": cfg.guidance_scale}

    def loss(model, batch):
        gamma = cfg.snr_gamma if cfg.loss_weighting == "min_snr" else None
        condition = {"class_labels": batch["label"]} if "label" in batch else {}
        error = diffusion_loss(
            model, scheduler, batch["clean"], batch["noise"], batch["timestep"], snr_gamma=gamma, **condition
        )
        return error.mean(), {}

    def sheet(served):
        labels = [row for row in range(len(label_names)) for _ in range(4)] or [None] * 16
        return figures.sheet(draw(served, labels, seed=0, steps=12), columns=8, zoom=2)

    return Task(
        stem=STEM, source=train, players=[Player(unet, loss)], samples=samples,
        served=lambda model: contract.DDPM(model, scheduler, **parts),
        evaluate=lambda served: {"loss": held_out_loss(served.unet, scheduler, fixed, **read)}, draw=sheet,
        save=lambda folder, served: contract.save_folder(
            folder, served.unet, scheduler, resolution_px=cfg.resolution, **parts
        ),
        card=lambda served: card_of(served, cfg, train),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def start_from(cfg: DDPMConfig, label_names: list[str]) -> tuple[UNet2DModel, DDPMScheduler]:
    """The U-Net and scheduler of a checkpoint, its class embedding made anew where labels differ (and it says so)."""
    model = contract.load(cfg.base, device="cpu")
    require_resolution(cfg, model.resolution_px, "draws")
    unet = model.unet.requires_grad_(True).train()
    if model.label_names != label_names:
        base, rows = cfg.pretrained_model_name_or_path, len(label_names) + 1 if label_names else None
        print(f"labels differ from {base}: a new class embedding for {len(label_names)} labels")
        unet.class_embedding = torch.nn.Embedding(rows, unet.time_embedding.linear_2.out_features) if rows else None
        unet.register_to_config(num_class_embeds=rows)
    return unet, model.scheduler


def card_of(served: contract.DDPM, cfg: DDPMConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, facts = cfg.resolution, train.facts
    what = f"class-conditional ({len(train.label_names)} classes)" if cfg.class_conditional else "unconditional"
    if cfg.class_conditional:
        usage = (
            "from diffusers import DDPMScheduler, UNet2DModel\n\n"
            'unet = UNet2DModel.from_pretrained("org/name", subfolder="unet")\n'
            'scheduler = DDPMScheduler.from_pretrained("org/name", subfolder="scheduler")\n'
            f"output = unet(x_t, t, class_labels=label).sample  # label {len(train.label_names)} = no label"
        )
    else:
        usage = 'from diffusers import DDPMPipeline\n\npicture = DDPMPipeline.from_pretrained("org/name")().images[0]'
    return Card(
        name=f"{facts.ours}-{side}" if facts.ours else STEM,
        title=f"DDPM, {side} px, {what}",
        summary=f"A U-Net diffusion model on pixels that draws {side} × {side} pictures, {what}. "
        f"Training data: {facts.title}.",
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["pytorch", "diffusers", "unconditional-image-generation", "diffusion-models-class"],
        parameters=served.parameters,
        usage=usage,
        limits=[f"It draws {side} × {side} pixels, many of them only roughly like the class asked for."],
    )


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, judge: str | None = None, batch_size: int = 64
) -> Results:
    """What `drawn.measured` measures of a saved model, and its held-out loss (see `training.diffusion`)."""
    model = contract.load(name)
    results, parts = drawn.measured(
        name, model, functools.partial(draw, model, batch_size=batch_size), dataset_name, columns, judge
    )
    fixed, read = strata(parts[0], model.resolution_px, bool(model.label_names))
    results.metrics["held_out_loss"] = held_out_loss(model.unet, model.scheduler, fixed, **read)
    return results


if __name__ == "__main__":
    main()
