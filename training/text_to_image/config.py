"""The choices of a text-to-image experiment, and presets of them."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from training.config import TrainConfig

FIRST_GROUPS = ("smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects")


@dataclass(frozen=True)
class TextToImageConfig(TrainConfig):
    """One text-to-image experiment."""

    # Where it starts
    vae_name_or_path: str = "emoji"  # autoencoder: bundled variant, folder or Hub id
    clip_name_or_path: str = "emoji"  # dual encoder whose text tower conditions: bundled variant, folder or Hub id
    pretrained_model_name_or_path: str | None = None  # or: tune the U-Net of a StableDiffusionPipeline
    few_steps: bool = False  # make a student of it that draws in 1 to 4 steps what it draws in 10
    lora_rank: int = 0  # train a LoRA of this rank on it, instead of all its weights; 0 = all weights
    # Data
    caption_column: str | None = None  # column of the captions; None = "text" or "name", or the emoji's own forms
    groups: tuple[str, ...] = ()  # emoji of these CLDR groups only; none = all
    styles: tuple[str, ...] = ()  # emoji of these styles only; none = all
    random_flip: bool = False  # off by default: arrows, hands and letters have a direction
    recoloured_share: float = 0.0  # share of samples that are recoloured emoji with the colour's word
    recolourings: int = 1  # other colours of each picture of one colour, where one of the shares is above 0
    pair_share: float = 0.0  # share of samples that are two things and where they are
    pairs: int = 2500  # how many pictures of two things there are, where pair_share is above 0
    lora_format: Literal["diffusers", "kohya", "comfyui"] = (
        "diffusers"  # how its tensors are called; the others are one
    )
    no_cache: bool = False  # make latents and text states anew in every step
    # U-Net
    block_out_channels: tuple[int, ...] = (128, 176)  # channels per resolution, finest first
    layers_per_block: int = 1  # residual blocks per resolution (one more on the way up)
    cross_attention_levels: tuple[bool, ...] = (False, True)  # where the U-Net reads the text; its middle always does
    attention_heads: int = 4
    norm_num_groups: int = 16
    # Condition
    caption_dropout: float = 0.1  # share of samples that see the states of "", for classifier-free guidance
    start_dropout: float = (
        0.0  # share of samples whose first token has the state that it has in ""; words are left to read
    )
    guidance_scale: float | None = None  # the default that the export carries; None = 3, or that of the checkpoint
    # Diffusion
    num_train_timesteps: int = 1000
    beta_schedule: Literal["scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"  # the latter: cosine
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    zero_terminal_snr: bool = False  # rescale the betas so that the last timestep is nothing but noise
    loss_weighting: Literal["simple", "min_snr"] = "min_snr"
    snr_gamma: float = 5.0  # of min-SNR
    # What is looked at
    validation_prompts: tuple[str, ...] = ()  # drawn at every validation; none = captions of training pictures

    def __post_init__(self):
        super().__post_init__()
        if self.lora_rank < 0 or (self.lora_rank and not self.pretrained_model_name_or_path):
            raise ValueError("--lora_rank needs --pretrained_model_name_or_path: a LoRA changes a model that is there")
        if self.few_steps and (self.lora_rank or not self.pretrained_model_name_or_path):
            raise ValueError("--few_steps needs --pretrained_model_name_or_path, the teacher, and takes no --lora_rank")
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"--caption_dropout must lie in [0, 1), got {self.caption_dropout}")
        if not 0 <= self.start_dropout < 1:
            raise ValueError(f"--start_dropout must lie in [0, 1), got {self.start_dropout}")
        if min(self.recoloured_share, self.pair_share) < 0 or self.recoloured_share + self.pair_share > 1:
            raise ValueError("--recoloured_share and --pair_share must be at least 0, and at most 1 together")
        if self.recolourings < 1 or self.pairs < 1:
            raise ValueError("--recolourings and --pairs must be at least 1; to have none, set their shares to 0")
        if len(self.cross_attention_levels) != len(self.block_out_channels):
            raise ValueError("--cross_attention_levels needs one value for each of --block_out_channels")
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ValueError("--zero_terminal_snr needs --prediction_type v_prediction: ε says nothing of pure noise")


EMOJI = TextToImageConfig(
    output_dir="runs/text_to_image", resolution=128, groups=FIRST_GROUPS, train_batch_size=64, optimizer="muon",
    learning_rate=5e-3, lr_warmup_steps=300, ema_decay=0.999, max_train_steps=9_000, checkpointing_steps=250,
    validation_steps=1000,
    validation_prompts=(
        "grinning face", "a crying face, noto style", "a cat face", "an owl", "a red apple",
        "hamburger, 3d fluent style", "a birthday cake", "a sunflower", "an automobile", "rocket, flat fluent style",
        "a house", "a mountain", "a guitar", "a key, twemoji style", "a soccer ball", "a blue cat",
    ),
)  # fmt: skip
PRESETS = {
    "emoji": EMOJI,
    "emoji-all": dataclasses.replace(EMOJI, groups=()),
    "few-steps": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="emoji", few_steps=True, optimizer="adamw", learning_rate=2e-4,
        adam_weight_decay=0.0, lr_warmup_steps=50, ema_decay=0.998, max_train_steps=4_000, caption_dropout=0.05,
        validation_steps=500,
    ),
    "finetune": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="emoji", dataset_name="path/to/pictures", groups=(), train_batch_size=8,
        optimizer="adamw", learning_rate=1e-4, lr_warmup_steps=50, max_train_steps=1000, ema_decay=0.99,
        validation_steps=250, validation_prompts=(),
    ),
    "tiny": dataclasses.replace(
        EMOJI, dataset_name="emoji-sample", groups=(), resolution=32, block_out_channels=(16, 32), attention_heads=2,
        norm_num_groups=8, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1, checkpointing_steps=1,
        validation_steps=2, logging_steps=1, validation_prompts=("a red apple", "a face, noto style"),
    ),
}  # fmt: skip
