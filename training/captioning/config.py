"""The choices of a captioning experiment, and presets of them."""

import dataclasses
import math
from dataclasses import dataclass

from training.config import TrainConfig
from training.data.captions import MOST_SAID


@dataclass(frozen=True)
class CaptioningConfig(TrainConfig):
    """One captioning experiment."""

    pretrained_model_name_or_path: str | None = None  # bundled variant, folder or Hub id of a captioner to start from
    caption_column: str | None = None  # column that holds the captions; None = "text" or "name"
    # The model, when it is a new one
    clip_name_or_path: str = "emoji"  # whose image tower and vocabulary it gets: bundled variant, folder or Hub id
    tower_name_or_path: str | None = None  # instead, a Swin, ViT or backbone of timm: see training/beginnings
    tower_args: dict[str, int] = dataclasses.field(default_factory=dict)  # of that tower's DPTConfig: its ViT layers
    vocabulary_size: int = 4000  # pieces, where there is no dual encoder to take them from
    decoder_args: dict[str, int] = dataclasses.field(default_factory=dict)  # of its BertConfig
    max_length: int = 64  # tokens of a caption
    dropout: float = 0.1  # in the decoder
    position_scale: float | None = None  # deviation the tower's positions begin with; None = 0.3 if they are new
    # Data: captions of scenes say what is where. Only for emoji
    scenes: float = 0.5  # share of the samples that are painted scenes, the rest are single pictures
    train_scenes: int = 200_000  # how many different ones
    scene_objects: int = MOST_SAID  # at most so many things in one
    object_ink: float = 0.15  # share of the objects, and of the single pictures, whose edges are inked
    object_color: float = 0.2  # how far colours of single objects change, in [0, 1]
    # Training
    cached_views: int = 0  # views of a picture that a timm backbone's first stages see, once; 0 = every time anew
    captions_each: int = 1  # captions of a picture that are learnt at once, where there are views
    drawn_captions: int = 0  # captions drawn of each picture, to learn from their CIDEr-D instead; 0 = cross-entropy
    draw_temperature: float = 0.5  # at which they are drawn
    unfreeze_step: int | None = 1000  # from then on what of the tower isn't new learns, too; None = never
    tower_lr_scale: float = 0.2  # its learning rate, as a factor
    label_smoothing: float = 0.1
    relation_weight: float = 1.0  # of the words of a caption that say where: left, right, above, below, front, behind
    pointing_weight: float = 0.0  # of `pointing_loss`: the words for a thing should attend to where it is
    place_weight: float = 0.0  # of `place_loss`: a linear layer should tell each patch's row and column from its state
    # Augmentation
    zoom: tuple[float, float] = (0.5, 1.05)  # range of a single picture's side, as a share of what the model sees
    rotation_deg: float = 10.0  # up to so much either way
    ground_share: float = 0.4  # single pictures on a colour instead of white
    color_jitter: float = 0.15  # brightness, contrast and saturation change by up to this share, hue by a third of it
    # Evaluation while training
    validation_pictures: int = 200  # how many of each set are measured

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.scenes <= 1:
            raise ValueError(f"--scenes is a share in [0, 1], got {self.scenes}")
        if not 1 <= self.scene_objects <= MOST_SAID:
            raise ValueError(
                f"--scene_objects must lie in [1, {MOST_SAID}]: captions name no more, got {self.scene_objects}"
            )
        if self.max_length < 4:
            raise ValueError(f"--max_length must be at least 4, got {self.max_length}")
        for name in ("relation_weight", "pointing_weight", "place_weight"):
            if not 0 <= (weight := getattr(self, name)) < math.inf:
                raise ValueError(f"--{name} must be 0 or more, got {weight}")
        if self.drawn_captions and (self.drawn_captions < 2 or not self.cached_views):
            raise ValueError(
                "--drawn_captions must be 2 or more, each is compared with the others; and it needs --cached_views"
            )
        if not 0.05 <= self.draw_temperature <= 2:
            raise ValueError(f"--draw_temperature must lie in [0.05, 2], got {self.draw_temperature}")
        if self.position_scale is not None and not 0 < self.position_scale < math.inf:
            raise ValueError(f"--position_scale must be more than 0, got {self.position_scale}")


EMOJI = CaptioningConfig(
    output_dir="runs/captioning", resolution=128, train_batch_size=64, learning_rate=1e-3, lr_warmup_steps=300,
    adam_beta2=0.98, adam_weight_decay=0.05, ema_decay=0.999, max_train_steps=20_000, checkpointing_steps=250,
    validation_steps=1000, relation_weight=3.0, place_weight=1.0, pointing_weight=0.5,
    decoder_args={"hidden_size": 224, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 640},
)  # fmt: skip
PHOTO = dataclasses.replace(
    EMOJI, dataset_name="build/data/flickr8k", tower_name_or_path="photo", resolution=224, train_batch_size=32,
    optimizer="muon", learning_rate=3e-3, lr_warmup_steps=50, adam_weight_decay=0.05, ema_decay=0.99,
    max_train_steps=700, validation_steps=100, scenes=0.0, object_ink=0.0, relation_weight=1.0, place_weight=0.0,
    pointing_weight=0.0, unfreeze_step=None, cached_views=3, captions_each=5, max_length=40, dropout=0.0,
    zoom=(1.0, 1.1), rotation_deg=0.0, ground_share=0.0,
    tower_args={"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 768},
    decoder_args={"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024},
)  # fmt: skip
PRESETS = {
    "emoji": EMOJI,
    "finetune": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="emoji", dataset_name="path/to/captioned/pictures", train_batch_size=16,
        learning_rate=1e-4, max_train_steps=1000, lr_warmup_steps=50, ema_decay=0.99, validation_steps=250, scenes=0.0,
        object_ink=0.0, relation_weight=1.0, place_weight=0.0, pointing_weight=0.0, unfreeze_step=200, zoom=(0.9, 1.1),
        rotation_deg=3.0, ground_share=0.0, color_jitter=0.1,
    ),
    "photo": PHOTO,
    "photo-cider": dataclasses.replace(
        PHOTO, pretrained_model_name_or_path="path/to/run/export", drawn_captions=5, max_length=22,
        learning_rate=1.5e-4, lr_warmup_steps=10, adam_weight_decay=0.0, ema_decay=0.97, max_train_steps=250,
        validation_steps=50,
    ),
    "tiny": dataclasses.replace(
        EMOJI, dataset_name="emoji-sample", resolution=32, max_train_steps=2, train_batch_size=4, lr_warmup_steps=1,
        checkpointing_steps=1, validation_steps=2, logging_steps=1, train_scenes=50, validation_pictures=2,
        max_length=24, unfreeze_step=1,
        decoder_args={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
    ),
}  # fmt: skip
