"""The choices of a pretraining, and presets of them: one for each objective."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from training.config import TrainConfig

SWIN, VIT = "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"  # of timm: their sizes are arguments
SIZES: dict[str, tuple[str, dict[str, Any]]] = {  # architecture and arguments, as the classifiers have them
    "swin": (SWIN, {"window_size": 4, "embed_dim": 48, "depths": (2, 2, 4), "num_heads": (2, 4, 8)}),
    "vit": (VIT, {"patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}),
}
POOLED = {"global_pool": "avg", "fc_norm": False}  # the mean of the patches in the place of the class token's state
Objective = Literal["mae", "lejepa", "dino", "simclr", "distil", "rotation", "triplet", "beit"]


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """One tower, learned from pictures without labels."""

    objective: Objective = "lejepa"  # what is learned: see the module of that name
    backbone: Literal["swin", "vit"] = "swin"  # when trained from scratch
    model_args: dict[str, bool | int | str | tuple[int, ...]] = dataclasses.field(default_factory=dict)  # over SIZES
    label_column: str | None = None  # column of a class, which nothing learns from: towers are measured by it
    # What is seen of a picture: ranges are uniform, numbers named *_share are probabilities
    views: int = 2  # of each picture, of which the first are large parts
    local_views: int = 0  # so many of them are small parts
    scale: tuple[float, float] = (0.3, 1.0)  # area of a large part, as a share of the picture
    local_scale: tuple[float, float] = (0.1, 0.3)  # of a small part
    margin: float = 0.25  # before that, ground is added on each side, up to this share of the side
    ground_share: float = 0.3  # transparent art lies on a random colour instead of white
    colour_share: float = 0.8  # brightness, contrast, saturation and hue change by up to color_jitter
    color_jitter: float = 0.4
    grayscale_share: float = 0.2
    blur_share: float = 0.3
    ink_share: float = 0.15  # edges are drawn over in black
    # Objectives: fields of one begin with its name
    projection: tuple[int, ...] = (512, 512, 64)  # widths of what comes after the tower in training alone
    mae_masked: float = 0.75  # share of the patches that the encoder doesn't see
    mae_decoder: tuple[int, int, int] = (96, 2, 3)  # width, blocks, heads
    beit_tokens_name_or_path: str = "emoji-32"  # the VQ tokenizer: of training.tokens, a folder or a Hub id
    beit_masked: float = 0.4  # share of the patches that are hidden, at the least
    lejepa_weight: float = 0.05  # λ, of SIGReg; 1 - λ of the invariance
    lejepa_directions: int = 256  # that SIGReg projects on, others in each step
    dino_prototypes: int = 1024  # outputs K
    dino_momentum: float = 0.99  # of the teacher's weights
    dino_temperature: float = 0.1  # of the student
    dino_teacher_temperature: float = 0.04
    dino_centre_momentum: float = 0.9
    simclr_temperature: float = 0.2
    triplet_margin: float = 0.2  # between squared distances on the unit sphere
    distil_name_or_path: str | None = None  # the teacher: a bundled model (stem/variant), a folder or a Hub id
    distil_temperature: float = 4.0  # of the logits
    distil_logits_weight: float = 1.0  # beside 1 for the features
    # Evaluation while training
    validation_pictures: int = 1000  # at most so many are shown for k-NN, and twice as many are known

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.views - self.local_views <= self.views:
            raise ValueError(f"--views {self.views} must be more than --local_views {self.local_views}, which is >= 0")
        for name in ("scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"--{name} is a range in (0, 1], got {low} {high}")
        shares = "ground_share colour_share grayscale_share blur_share ink_share lejepa_weight dino_momentum"
        for name in (*shares.split(), "dino_centre_momentum", "color_jitter", "margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("dino_temperature", "dino_teacher_temperature", "simclr_temperature", "distil_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} must be a positive number, got {getattr(self, name)}")
        for name in ("mae_masked", "beit_masked"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"--{name} must lie in (0, 1), got {getattr(self, name)}")
        does = {"mae": "leaves patches out", "beit": "hides patches"}.get(self.objective)
        if does and self.backbone != "vit" and not self.pretrained_model_name_or_path:
            raise ValueError(f"--objective {self.objective} {does}, which a Swin can't: set --backbone vit")
        if self.objective in ("lejepa", "dino", "simclr", "triplet") and self.views < 2:
            raise ValueError(f"--objective {self.objective} compares views of a picture: set --views 2 or more")
        if (self.objective == "distil") != bool(self.distil_name_or_path):
            raise ValueError("--objective distil, and no other, learns from a model, named with --distil_name_or_path")


EMOJI = PretrainConfig(
    output_dir="runs/pretrain", resolution=64, train_batch_size=128, learning_rate=1e-3, lr_warmup_steps=200,
    adam_weight_decay=0.05, ema_decay=0.998, max_train_steps=6000, checkpointing_steps=250, validation_steps=500,
    dataloader_num_workers=1,
)  # fmt: skip
PRESETS = {  # steps for about an hour of one core in fp32
    "lejepa": dataclasses.replace(EMOJI, views=4, train_batch_size=64, scale=(0.2, 1.0), max_train_steps=1900),
    "mae": dataclasses.replace(
        EMOJI, objective="mae", backbone="vit", model_args=POOLED, views=1, scale=(0.4, 1.0), colour_share=0.3,
        grayscale_share=0.0, blur_share=0.0, adam_beta2=0.95, max_train_steps=3800,
    ),
    "beit": dataclasses.replace(
        EMOJI, objective="beit", backbone="vit", model_args=POOLED, views=1, scale=(0.4, 1.0), colour_share=0.3,
        grayscale_share=0.0, blur_share=0.0, max_train_steps=1800,
    ),
    "dino": dataclasses.replace(
        EMOJI, objective="dino", views=4, local_views=2, train_batch_size=64, max_train_steps=1600
    ),
    "simclr": dataclasses.replace(EMOJI, objective="simclr", scale=(0.2, 1.0), max_train_steps=1800),
    "distil": dataclasses.replace(
        EMOJI, objective="distil", views=1, distil_name_or_path="clip/emoji", projection=(512,), blur_share=0.1,
        max_train_steps=2400,
    ),
    "rotation": dataclasses.replace(EMOJI, objective="rotation", views=1, projection=(256,), max_train_steps=3400),
    "triplet": dataclasses.replace(EMOJI, objective="triplet", scale=(0.2, 1.0), max_train_steps=1800),
    "tiny": dataclasses.replace(
        EMOJI, objective="dino", backbone="vit", dataset_name="emoji-sample", resolution=32, views=3, local_views=1,
        model_args={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}, projection=(32, 16),
        dino_prototypes=24, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1, dataloader_num_workers=0,
        checkpointing_steps=1, validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip
