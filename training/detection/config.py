"""The choices of a detection experiment, and presets of them."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from training.config import TrainConfig

SIZES: dict = {  # what a new detector is built of, unless model_args says otherwise
    "width": 96, "ffn": 192, "heads": 4, "queries": 30, "layers": 3, "depth": 0.34, "expansion": 0.5,
    "mask_width": 64,  # of the pyramid that a MaskFormer's masks are told from: a multiple of 32
    "head": 256, "proposals": 60,  # of a Mask R-CNN: width of what tells class and box, and boxes that are looked at
    "denoising": 0,  # queries more, in training, that are true boxes with noise (Zhang et al. 2023, DINO, section 3.3)
    # Of a new Swin; a tower brings its own
    "embed_dim": 48, "depths": (2, 2, 6), "num_heads": (2, 4, 8), "window_size": 4, "patch_size": 4,
    "drop_path_rate": 0.1,
}  # fmt: skip
TITLES = {"deimv2": "DEIM", "d_fine": "D-FINE", "rt_detr": "RT-DETR", "detr": "DETR", "yolos": "YOLOS",
          "maskformer": "MaskFormer", "swin_mask_rcnn": "Mask R-CNN"}  # fmt: skip


@dataclass(frozen=True)
class DetectionConfig(TrainConfig):
    """One detection experiment."""

    dataset_name: str = "scenes"  # "scenes", "scenes-sample", a folder with COCO's JSON or `objects`, or a Hub id
    objects_column: str = "objects"  # column that holds boxes and categories
    # Of a new model: a DEIM tells boxes; a Mask R-CNN or a MaskFormer, both on a Swin, masks with the boxes around them
    architecture: Literal["deim", "rcnn", "maskformer"] = "deim"
    tower_name_or_path: str | None = None  # what the backbone begins as: a classifier of timm, or a model with a Swin
    model_args: dict[str, int | float | tuple[int, ...]] = dataclasses.field(default_factory=dict)  # over SIZES
    train_scenes: int = 200_000  # how many different scenes are painted, where data are scenes
    base_lr_scale: float = 1.0  # learning rate, as a factor, of a backbone that began as a tower
    # Loss of a MaskFormer's masks, beside 1 for the class and for each: Dice, and the focal loss of pixels
    dice_weight: float = 1.0
    mask_weight: float = 20.0
    # Augmentation, on picture and boxes together
    scale: tuple[float, float] = (0.8, 1.4)  # range of the zoom: below 1 there is more around the picture
    least_seen: float = 0.4  # a thing is still one if this share of its box is within the part that is shown
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
                "--tower_name_or_path and --pretrained_model_name_or_path exclude each other: a new detector begins on "
                "a tower, or training goes on from a detector"
            )
        low, high = self.scale
        if not 0.1 <= low <= high <= 10:
            raise ValueError(f"--scale must be two rising numbers from 0.1 to 10, got {low} {high}")
        if not 0 < self.least_seen <= 1:
            raise ValueError(f"--least_seen must lie in (0, 1], got {self.least_seen}")


SCENES = DetectionConfig(
    output_dir="runs/detection", resolution=128, train_batch_size=16, learning_rate=1e-3, lr_warmup_steps=200,
    adam_weight_decay=1e-4, max_train_steps=6000, ema_decay=0.998, checkpointing_steps=250, validation_steps=1000,
    max_grad_norm=0.5, tower_name_or_path="swin-scenes", base_lr_scale=0.3, object_ink=0.15, object_color=0.2,
    scale=(0.85, 1.25), color_jitter=0.2,
)  # fmt: skip
PHOTO = dataclasses.replace(
    SCENES, dataset_name="path/to/pictures/and/boxes", tower_name_or_path="photo", resolution=256, random_flip=True,
    train_batch_size=8, max_train_steps=1500, lr_warmup_steps=100, ema_decay=0.99, validation_steps=250,
    scale=(0.7, 1.8), object_ink=0.0, object_color=0.0, color_jitter=0.3,
)  # fmt: skip
PRESETS = {
    "emoji": SCENES,
    "masks": dataclasses.replace(
        SCENES, architecture="rcnn", learning_rate=5e-4, lr_warmup_steps=100, max_grad_norm=1.0, max_train_steps=1500,
        checkpointing_steps=100, validation_steps=500,
    ),
    "maskformer": dataclasses.replace(SCENES, architecture="maskformer", learning_rate=2e-4, dice_weight=3.0),
    "photo": PHOTO,
    "finetune": dataclasses.replace(
        PHOTO, tower_name_or_path=None, pretrained_model_name_or_path="emoji", resolution=128, learning_rate=3e-4,
        max_train_steps=1000, lr_warmup_steps=50,
    ),
    "tiny": dataclasses.replace(
        SCENES, dataset_name="scenes-sample", tower_name_or_path=None, resolution=32, max_train_steps=2,
        train_batch_size=2, lr_warmup_steps=1, checkpointing_steps=1, validation_steps=2, logging_steps=1,
        train_scenes=50, validation_pictures=2,
        model_args={"width": 16, "ffn": 16, "heads": 2, "queries": 6, "layers": 2, "embed_dim": 16, "depths": (1, 1, 1),
                    "num_heads": (2, 2, 2), "denoising": 4},
    ),
}  # fmt: skip
