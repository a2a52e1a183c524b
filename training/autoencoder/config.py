"""What an autoencoder is trained with: one config, and its presets."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from training.config import TrainConfig


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
    shift_px: int = 0  # the picture is moved so far at random in either direction, its edges go on
    random_flip: bool = False  # off by default: arrows, hands and letters have a direction
    # Loss, per value of the picture in [-1, 1]
    mse_weight: float = 2.0  # of the squared error, beside the absolute one
    gradient_weight: float = 0.5  # of the absolute error of differences between neighbouring pixels
    kl_weight: float = 0.02  # of the KL term; the bound itself where this is the mean absolute error that is left
    likelihood: Literal["mixed", "gaussian"] = "mixed"  # the terms above; or the bound of a Gaussian, KL in full weight
    observation_std: float | None = None  # of that Gaussian; None = as large as the errors of the batch are
    # One vector a picture
    label_column: str | None = None  # column that holds the class: latents of each get a Gaussian; None = no classes
    directions: tuple[str, ...] = ()  # "frowning face:smiling face": kept from the mean of such names to that of others
    deterministic: bool = False  # latents are the encoder's means: no noise, no KL
    corruption_std: float = 0.0  # of the noise on the pictures that the encoder sees (denoising)
    sparsity: float | None = None  # target activity of each number of a latent, in (0, 1); None = any
    sparsity_weight: float = 0.01  # of the KL between activities and that target
    k_sparse: int | None = None  # how many numbers of a latent are kept; None = all
    contraction: float = 0.0  # weight of the squared norm of the encoder's Jacobian

    @property
    def keeps_latents(self) -> bool:
        """Whether latents are exported as the encoder gives them, neither centred nor scaled."""
        return self.freeze_encoder or self.likelihood == "gaussian" or self.deterministic

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
        if not 0 <= self.shift_px < self.resolution:
            raise ValueError(f"--shift_px must lie in [0, --resolution), got {self.shift_px}")
        if self.likelihood == "gaussian" and self.deterministic:
            raise ValueError("--deterministic has no bound to optimise: give it --likelihood mixed")
        if self.observation_std is not None and not 0 < self.observation_std < float("inf"):
            raise ValueError(f"--observation_std must be a number above 0, got {self.observation_std}")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise ValueError(f"--sparsity is a share of activity, in (0, 1), got {self.sparsity}")
        if self.k_sparse is not None and self.k_sparse < 1:
            raise ValueError(f"--k_sparse must be at least 1, got {self.k_sparse}")
        if odd := [pair for pair in self.directions if [bool(part.strip()) for part in pair.split(":")] != [True] * 2]:
            raise ValueError(f'--directions {odd[0]!r} is not "words of names:words of other names"')
        for name in ("mse_weight", "gradient_weight", "kl_weight", "corruption_std", "sparsity_weight", "contraction"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} must be a number of at least 0, got {getattr(self, name)}")


EMOJI = AutoencoderConfig(
    output_dir="runs/autoencoder", resolution=128, train_batch_size=32, optimizer="muon", learning_rate=5e-3,
    lr_warmup_steps=100, ema_decay=0.998, max_train_steps=5000, checkpointing_steps=250, validation_steps=1000,
)  # fmt: skip
VAE_32 = AutoencoderConfig(
    output_dir="runs/vae", resolution=32, crop_px=32, random_ground=0.0, latent_channels=64,
    block_out_channels=(32, 48, 64, 64, 64, 64), norm_num_groups=8, train_batch_size=64, optimizer="muon",
    learning_rate=5e-3, lr_warmup_steps=50, ema_decay=0.999, max_train_steps=6000, checkpointing_steps=500,
    validation_steps=1000, likelihood="gaussian", label_column="label", directions=("frowning face:smiling face",),
)  # fmt: skip
PRESETS = {
    "emoji": EMOJI,
    "vae-32": VAE_32,
    "plain-32": dataclasses.replace(VAE_32, output_dir="runs/plain", likelihood="mixed", deterministic=True),
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
