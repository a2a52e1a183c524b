"""The choices of a segmentation experiment, and presets of them."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from training.config import TrainConfig

SIZES: dict[str, dict] = {  # what a backbone is built of, unless model_args says otherwise
    "swin": {"embed_dim": 48, "depths": (2, 2, 6), "num_heads": (2, 4, 8), "window_size": 4, "patch_size": 4,
             "drop_path_rate": 0.1, "channels": 64, "pool_scales": (1, 2, 4)},
    "dpt": {"hidden_size": 192, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 768,
            "patch_size": 8, "backbone_out_indices": (0, 1, 3, 4), "neck_hidden_sizes": (32, 48, 64, 96),
            "channels": 48},
    "unet": {"encoder_name": "tu-regnetx_002", "decoder_channels": (128, 96, 64, 32, 16)},
}  # fmt: skip
TITLES = {"swin": "Swin and UPerNet", "upernet": "UPerNet", "dpt": "ViT and DPT", "unet": "U-Net"}


@dataclass(frozen=True)
class SegmentationConfig(TrainConfig):
    """One segmentation experiment."""

    dataset_name: str = "scenes"  # "scenes", "scenes-sample", a folder of pictures and masks, or a Hub dataset id
    backbone: Literal["swin", "dpt", "unet"] = "swin"  # when trained from scratch
    model_args: dict[str, int | float | str | tuple[int, ...]] = dataclasses.field(default_factory=dict)  # over SIZES
    tower_name_or_path: str | None = None  # what its body begins as: a classifier of timm, or a model with a Swin in it
    label_column: str = "label"  # column that holds the masks
    reduce_labels: bool = False  # 0 in the masks means no answer, and k is class k - 1 of id2label.json
    train_scenes: int = 200_000  # how many different scenes are painted, where data are scenes
    max_side_px: int | None = None  # pictures are seen with no longer side, here and when served; None = 2 × resolution
    stock_size: tuple[int, int] | None = None  # height and width at which pipelines show pictures; None = resolution
    # Loss
    dice_weight: float = 0.5  # of the Dice loss, beside 1 for the cross-entropy
    balance: float = 0.0  # class weights of the cross-entropy: 0 = every pixel counts the same, 1 = every class does
    base_lr_scale: float = 1.0  # learning rate, as a factor, of what isn't new: tower, else all but the class layer
    # Augmentation, on picture and mask together
    scale: tuple[float, float] = (0.8, 1.5)  # range of the zoom before a square is cut
    color_jitter: float = 0.3  # brightness, contrast and saturation change by up to this share, hue by a third of it
    grayscale: float = 0.05  # probability of a grey picture
    random_flip: bool = False  # off by default: arrows, hands and letters have a direction
    object_ink: float = 0.0  # share of the objects of a scene whose edges are inked
    object_color: float = 0.0  # how far the colours of single objects of a scene change, in [0, 1]
    # Evaluation while training
    validation_pictures: int = 200  # how many are measured

    def __post_init__(self):
        super().__post_init__()
        if self.tower_name_or_path and self.pretrained_model_name_or_path:
            raise ValueError(
                "--tower_name_or_path and --pretrained_model_name_or_path exclude each other: a new segmenter begins "
                "as a tower, or training goes on from a segmenter"
            )


SCENES = SegmentationConfig(
    output_dir="runs/segmentation", resolution=128, train_batch_size=32, learning_rate=1e-3, lr_warmup_steps=400,
    adam_weight_decay=0.05, max_train_steps=10_000, ema_decay=0.999, checkpointing_steps=250, validation_steps=1000,
    object_ink=0.15, object_color=0.2, scale=(0.85, 1.25), color_jitter=0.2,
)  # fmt: skip
PRESETS = {
    "swin": SCENES,
    "dpt": dataclasses.replace(SCENES, backbone="dpt"),
    "unet": dataclasses.replace(SCENES, backbone="unet"),
    "street": dataclasses.replace(
        SCENES, dataset_name="build/data/camvid", tower_name_or_path="photo", resolution=224, max_side_px=480,
        stock_size=(384, 512),
        train_batch_size=16, base_lr_scale=0.3, scale=(0.7, 2.0), random_flip=True, balance=0.3, max_train_steps=2000,
        lr_warmup_steps=100, ema_decay=0.998, validation_pictures=101, object_ink=0.0, object_color=0.0,
        color_jitter=0.3,
    ),
    "photo": dataclasses.replace(
        SCENES, dataset_name="build/data/photo-scenes", tower_name_or_path="photo", resolution=192, max_side_px=256,
        train_batch_size=16, base_lr_scale=0.3, scale=(0.7, 1.8), random_flip=True, balance=0.3, max_train_steps=2000,
        lr_warmup_steps=100, ema_decay=0.998, validation_pictures=371, object_ink=0.0, object_color=0.0,
        color_jitter=0.3,
    ),
    "finetune": dataclasses.replace(
        SCENES, pretrained_model_name_or_path="swin-scenes", dataset_name="path/to/pictures/and/masks",
        train_batch_size=8, learning_rate=5e-4, base_lr_scale=0.3, max_train_steps=1000, lr_warmup_steps=50,
        ema_decay=0.99, validation_steps=250, scale=(0.7, 2.0), object_ink=0.0, object_color=0.0, color_jitter=0.3,
    ),
    "tiny": dataclasses.replace(
        SCENES, dataset_name="scenes-sample", resolution=32, max_train_steps=2, train_batch_size=4, lr_warmup_steps=1,
        checkpointing_steps=1, validation_steps=2, logging_steps=1, train_scenes=50, validation_pictures=2,
        model_args={"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4), "drop_path_rate": 0.0, "channels": 16},
    ),
}  # fmt: skip
