"""Semantic segmentation: a class for each pixel, by a Swin (UperNet), a ViT (DPT) or a U-Net, from scratch or fine-tuned.

    python -m training.segmentation --preset swin --output_dir runs/swin-scenes --mixed_precision bf16   # or dpt, unet
    python -m training.segmentation --preset photo --output_dir runs/photo --mixed_precision bf16        # photographs
    python -m training.segmentation --preset street --output_dir runs/street --mixed_precision bf16      # CamVid
    python -m training.segmentation --preset finetune --dataset_name my_pictures --output_dir runs/mine \
        --pretrained_model_name_or_path swin-scenes     # your pictures and masks; or any segmenter of the Hub

A training step at 128 px by processor time, one core with bf16 units whose neighbour was busy: 25 pictures a second for the
Swin, 21 for the ViT, 30 for the U-Net; to paint and cut a scene takes 7 ms more.
Scores of the shipped weights stand in their cards (hub_models/weights/segmentation/).

Xiao et al. 2018 (UPerNet), Liu et al. 2021 (Swin), Ranftl et al. 2021 (DPT), Ronneberger et al. 2015 (U-Net),
Milletari et al. 2016 (Dice loss), Guo et al. 2017 (temperature).

Letters: B batch, R side of the training picture in pixels, K classes, H × W pixels, D features. Masks hold class ids, and
255 where there is no answer.
"""

import dataclasses
import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from transformers import (
    AutoModel,
    DPTConfig,
    DPTForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    SwinModel,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hub_models import classifier, pretrained, store
from hub_models import segmentation as contract
from training import figures, metrics, publish
from training.config import TrainConfig, parse
from training.data.art import recoloured
from training.data.facts import Facts, facts_of
from training.data.masks import IGNORE, MaskSource, PaintedSource, check, open_masks
from training.loop import fit
from training.optim import Player, parameter_groups

STEM = "segmentation"
SIZES = {  # what a backbone is built of, unless model_args says otherwise
    "swin": {"embed_dim": 48, "depths": (2, 2, 6), "num_heads": (2, 4, 8), "window_size": 4, "patch_size": 4,
             "drop_path_rate": 0.1, "channels": 64, "pool_scales": (1, 2, 4)},
    "dpt": {"hidden_size": 192, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 768,
            "patch_size": 8, "backbone_out_indices": (0, 1, 3, 4), "neck_hidden_sizes": (32, 48, 64, 96), "channels": 48},
    "unet": {"encoder_name": "tu-regnetx_002", "decoder_channels": (128, 96, 64, 32, 16)},
}  # fmt: skip
PICTURES_TO_FIT = 200  # of validation: temperature, principal components and risk-coverage are taken from so many
PIXELS_EACH = 500  # of each of them
SCENES_MEASURED = 1000  # of each set, by `evaluate_checkpoint`


@dataclass(frozen=True)
class SegmentationConfig(TrainConfig):
    """One segmentation experiment."""

    dataset_name: str = "scenes"  # "scenes", "scenes-sample", a folder of pictures and masks, or a Hub dataset id
    backbone: Literal["swin", "dpt", "unet"] = "swin"  # when trained from scratch
    model_args: dict[str, int | float | str | tuple[int, ...]] = dataclasses.field(default_factory=dict)  # over SIZES
    pretrained_model_name_or_path: str | None = None  # bundled variant, folder or Hub id to start from
    tower_name_or_path: str | None = (
        None  # else: what UPerNet's backbone begins as: the Swin of a model, or one of timm
    )
    label_column: str = "label"  # column that holds the masks
    reduce_labels: bool = False  # 0 in the masks means no answer, and k is class k - 1 of id2label.json
    train_scenes: int = 200_000  # how many different scenes are painted, where data are scenes
    max_side_px: int | None = None  # pictures are seen with no longer side, here and when served; None = 2 × resolution
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
                "--tower_name_or_path and --pretrained_model_name_or_path exclude each other: a new segmenter begins as a "
                "tower, or training goes on from a segmenter"
            )
        if self.tower_name_or_path and self.backbone != "swin":
            raise ValueError(
                f"--tower_name_or_path is for UPerNet, not for a {TITLES[self.backbone]}: leave it out, or add --backbone swin"
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
        SCENES, dataset_name="build/data/camvid", tower_name_or_path="photo", resolution=192, max_side_px=384,
        train_batch_size=16, base_lr_scale=0.3, scale=(0.7, 2.0), random_flip=True, balance=0.3, max_train_steps=2000,
        lr_warmup_steps=100, ema_decay=0.998, validation_pictures=101, object_ink=0.0, object_color=0.0, color_jitter=0.3,
    ),
    "photo": dataclasses.replace(
        SCENES, dataset_name="build/data/photo-scenes", tower_name_or_path="photo", resolution=192, max_side_px=256,
        train_batch_size=16, base_lr_scale=0.3, scale=(0.7, 1.8), random_flip=True, balance=0.3, max_train_steps=2000,
        lr_warmup_steps=100, ema_decay=0.998, validation_pictures=371, object_ink=0.0, object_color=0.0, color_jitter=0.3,
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


class MaskedPictures:
    """Augmented training samples {"pixels": (3, R, R) normalised, "mask": (R, R) int64}; see `training.order.Samples`."""

    def __init__(self, source: MaskSource | PaintedSource, cfg: SegmentationConfig, served: contract.Segmenter):
        self.source, self.cfg, self.served, self.data_hash = source, cfg, served, source.data_hash
        source.preload()

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        cfg, rng = self.cfg, random.Random(int(torch.randint(2**62, (), generator=draw)))
        picture, mask = self.source.pair(index)
        zoom = math.exp(rng.uniform(*map(math.log, cfg.scale)))
        picture, mask = cut(picture, mask, round(zoom * self.served.seen_side(picture)), cfg.resolution, rng)
        if cfg.random_flip and rng.random() < 0.5:
            picture, mask = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), np.ascontiguousarray(mask[:, ::-1])
        if cfg.color_jitter:
            picture = recoloured(picture, cfg.color_jitter, rng)
        if rng.random() < cfg.grayscale:
            picture = picture.convert("L").convert("RGB")
        return {"pixels": self.served.pixel_values([np.asarray(picture)])[0], "mask": torch.from_numpy(mask)}


def cut(picture: Image.Image, mask: np.ndarray, long_px: int, side_px: int, rng: random.Random):
    """A square of side_px, RGB, and its mask int64, from anywhere of the picture resized to a longer side of long_px.

    What is beyond the picture is filled with its edges, as when the model is served, and has no answer.
    """
    picture = contract.at_side(picture, max(1, long_px))
    mask = Image.fromarray(mask.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    pixels, (left, top, right, bottom) = contract.padded(picture, side_px)
    whole = np.full(pixels.shape[:2], IGNORE, np.int64)
    whole[top:bottom, left:right] = mask
    y, x = (rng.randint(0, length - side_px) for length in whole.shape)
    window = np.s_[y : y + side_px, x : x + side_px]
    return Image.fromarray(pixels[window]), whole[window]


# --- The loss --------------------------------------------------------------------------------------------------------


def training_loss(
    logits: torch.Tensor, mask: torch.Tensor, *, dice_weight: float, class_weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict]:
    """Cross-entropy + dice_weight · Dice of logits (B, K, R, R) for masks (B, R, R), and each of them.

    Where the mask is 255 nothing counts; a batch without any answer has a loss of 0.
    """
    log_probability = logits.float().log_softmax(1)
    each = F.nll_loss(log_probability, mask, class_weight, ignore_index=IGNORE, reduction="none")  # (B, R, R)
    entropy = each.sum() / (mask != IGNORE).sum().clamp(min=1)
    dice = dice_loss(log_probability.exp(), mask)
    return entropy + dice_weight * dice, {"cross_entropy": entropy.detach(), "dice": dice.detach()}


def dice_loss(probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - Dice coefficient of the probabilities of a batch with its truth, mean over the classes that the truth has.

    Milletari et al. 2016, §3, with plain sums in the denominator. probability (B, K, R, R), mask (B, R, R) with 255 = no
    answer. The truth isn't spelled out as K planes: that takes five times as long on a CPU.
    """
    classes, answered = probability.shape[1], mask != IGNORE
    truth = mask.masked_fill(~answered, 0)
    right = probability.gather(1, truth[:, None])[:, 0] * answered  # (B, R, R): of the true class
    shared = right.new_zeros(classes).scatter_add(0, truth.flatten(), right.flatten())  # (K,)
    size = torch.bincount(truth[answered], minlength=classes)
    total = (probability if answered.all() else probability * answered[:, None]).sum((0, 2, 3)) + size
    coefficient, present = 2 * shared / total.clamp(min=1e-6), size > 0
    return ((1 - coefficient) * present).sum() / present.sum().clamp(min=1)


def class_weights(counts: dict[int, int], num_classes: int, balance: float) -> torch.Tensor | None:
    """(K,) weights ∝ count^-balance whose mean over pixels is 1; None for balance 0. counts: {class id: pixels}."""
    if not balance:
        return None
    count = np.array([counts.get(k, 0) for k in range(num_classes)], np.float64)
    weight = np.where(count > 0, np.maximum(count, 1) ** -balance, 0)
    return torch.tensor(weight * count.sum() / (weight * count).sum(), dtype=torch.float32)


# --- The model -------------------------------------------------------------------------------------------------------


def create_model(cfg: SegmentationConfig, label_names: list[str]) -> contract.Segmenter:
    """A fresh segmenter of the backbone a config names, with its image processor."""
    args, classes, side = SIZES[cfg.backbone] | cfg.model_args, len(label_names), cfg.resolution
    if cfg.backbone == "unet":
        model = smp.Unet(encoder_weights=None, classes=classes, encoder_depth=len(args["decoder_channels"]), **args)
    elif cfg.backbone == "dpt":
        model = _dpt(args, classes, side)
    elif cfg.tower_name_or_path and is_timm(tower_folder(cfg)):
        model = _timm(args, classes, tower_folder(cfg))
    else:
        model = _swin(args, classes, side, tower_folder(cfg) if cfg.tower_name_or_path else None)
    half = [0.5, 0.5, 0.5]
    processor = SegformerImageProcessor(size={"height": side, "width": side}, image_mean=half, image_std=half)
    own = {"resolution_px": side, "max_side_px": cfg.max_side_px or 2 * side}
    return contract.Segmenter(model, processor, label_names, name="in training", own=own)


# Grey is 0 to these models, and with the library's biases of 0 a grey patch is a token of zeros, at which a layer norm has
# a gradient of hundreds for 1; so the biases of the patches are drawn.
def _swin(args: dict, classes: int, side_px: int, tower: Path | None) -> UperNetForSemanticSegmentation:
    """tower: folder of a model whose Swin gives the backbone its shape and first weights; None = a fresh one of `args`."""
    args, begun = dict(args), swin_of(tower) if tower else None
    head = {"hidden_size": args.pop("channels"), "pool_scales": list(args.pop("pool_scales"))}
    if begun is not None:
        args = begun.config.to_dict() | {"drop_path_rate": args["drop_path_rate"]}
    stages = [f"stage{number + 1}" for number in range(len(args["depths"]))]
    backbone = SwinConfig.from_dict(args | {"image_size": side_px, "out_features": stages, "out_indices": None})
    model = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, use_auxiliary_head=False, num_labels=classes, **head)
    )
    if begun is not None:
        try:
            model.backbone.swin.load_state_dict(begun.state_dict())
        except RuntimeError as error:
            raise SystemExit(f"--tower_name_or_path {tower}: {str(error).splitlines()[-1].strip()}; its positions are for "
                             f"{begun.config.image_size} px: set --resolution to that") from None  # fmt: skip
        return model
    patches = next(layer for layer in model.backbone.modules() if isinstance(layer, torch.nn.Conv2d))
    torch.nn.init.normal_(patches.bias, std=0.1)
    return model


def _timm(args: dict, classes: int, folder: Path) -> UperNetForSemanticSegmentation:
    """A UPerNet on a trained backbone of timm: its maps at 1/4, 1/8, 1/16 and 1/32 of the picture."""
    tower = classifier.load(folder, device="cpu").model
    kind = tower.pretrained_cfg["architecture"]
    strides = [entry["reduction"] for entry in tower.feature_info]
    if any(stride not in strides for stride in (4, 8, 16, 32)):
        raise SystemExit(
            f"--tower_name_or_path {folder}: {kind} has maps at strides {strides}; 4, 8, 16 and 32 are needed"
        )
    config = TimmBackboneConfig(backbone=kind, out_indices=[strides.index(stride) for stride in (4, 8, 16, 32)])
    head = {"hidden_size": args["channels"], "pool_scales": list(args["pool_scales"])}
    model = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=config, use_auxiliary_head=False, num_labels=classes, **head)
    )
    missing = model.backbone._backbone.load_state_dict(tower.state_dict(), strict=False).missing_keys
    if missing:
        raise SystemExit(f"--tower_name_or_path {folder}: its weights lack {missing[0]} of {kind}")
    return model


def is_timm(folder: Path) -> bool:
    """Whether a folder is of timm: transformers' configs name no architecture of their own."""
    return "architecture" in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def tower_folder(cfg: SegmentationConfig) -> Path:
    """Where --tower_name_or_path lies. Raises store.CheckpointError."""
    stem = "classifier" if cfg.tower_name_or_path in store.bundled("classifier") else "clip"
    return store.resolve(stem, cfg.tower_name_or_path)


def swin_of(folder: Path) -> SwinModel:
    """The first Swin in a model of transformers, in a folder.

    Raises SystemExit where there is none, store.CheckpointError where the folder can't be opened.
    """
    config = pretrained.open_config(folder, "a model of transformers with a Swin in it")
    kind = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    for part in pretrained.open_model(folder, kind, config, "its Swin").modules():
        if isinstance(part, SwinModel):
            return part
    raise SystemExit(f"--tower_name_or_path: there is no Swin in the {config.model_type} of {folder}")


def _dpt(args: dict, classes: int, side_px: int) -> DPTForSemanticSegmentation:
    """Maps at 1/4, 1/8, 1/16 and 1/32 of the picture, as in Ranftl 2021, §3.1, from patches of any size."""
    args = dict(args)
    factors = [args["patch_size"] / stride for stride in (4, 8, 16, 32)]
    factors = [int(factor) if factor >= 1 else factor for factor in factors]
    model = DPTForSemanticSegmentation(
        DPTConfig(image_size=side_px, reassemble_factors=factors, fusion_hidden_size=args.pop("channels"),
                  use_auxiliary_head=False, num_labels=classes, **args)
    )  # fmt: skip
    embeddings = model.dpt.embeddings
    torch.nn.init.normal_(embeddings.patch_embeddings.projection.bias, std=0.1)
    for positions in (embeddings.position_embeddings, embeddings.cls_token):  # zeros, by the library
        torch.nn.init.trunc_normal_(positions, std=0.02)
    return model


def start_from(cfg: SegmentationConfig, label_names: list[str]) -> contract.Segmenter:
    """The segmenter of a checkpoint, ready to train on these classes; its class layer is made anew where they differ.

    Raises SystemExit where it can't take the resolution.
    """
    served = contract.load(cfg.pretrained_model_name_or_path, device="cpu")
    model = served.model.requires_grad_(True)
    if getattr(model, "auxiliary_head", None) is not None:  # its loss isn't used here
        model.auxiliary_head, model.config.use_auxiliary_head = None, False
    if served.label_names != label_names:
        print(
            f"{cfg.pretrained_model_name_or_path} tells {len(served.label_names)} classes apart "
            f"({_some(served.label_names)}), {cfg.dataset_name} has {len(label_names)} ({_some(label_names)}): "
            "its class layer is made anew, all other weights are kept"
        )
        replace_class_layer(model, label_names)
    processor, side = served.processor, cfg.resolution
    if side != served.resolution_px:
        if served.kind == "dpt":
            raise SystemExit(
                f"{cfg.pretrained_model_name_or_path} sees {served.resolution_px} px: set --resolution to that"
            )
        settings = {
            key: value for key, value in processor.to_dict().items() if key not in ("crop_size", "do_center_crop")
        }
        processor = type(processor).from_dict(settings | {"size": {"height": side, "width": side}})
    own = {"resolution_px": side, "max_side_px": cfg.max_side_px or 2 * side}
    if served.label_names == label_names:
        own["palette"] = served.palette.tolist()
    return contract.Segmenter(model, processor, label_names, name="in training", own=own)


def replace_class_layer(model: torch.nn.Module, label_names: list[str]) -> None:
    """Put a fresh layer of len(label_names) outputs in the place of the last one of a segmenter, and say so in its config."""
    layer = contract.class_layer(model)
    name = next(name for name, module in model.named_modules() if module is layer)
    has_bias = layer.bias is not None
    if isinstance(layer, torch.nn.Linear):
        fresh = torch.nn.Linear(layer.in_features, len(label_names), has_bias)
    else:
        fresh = torch.nn.Conv2d(layer.in_channels, len(label_names), layer.kernel_size, layer.stride, layer.padding,
                                layer.dilation, bias=has_bias)  # fmt: skip
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, fresh)
    if isinstance(model.config, dict):
        model.config["classes"] = len(label_names)
    else:
        model.config.id2label = dict(enumerate(label_names))
        model.config.label2id = {label: k for k, label in enumerate(label_names)}


def slower_base(model: torch.nn.Module, cfg: SegmentationConfig) -> list[dict]:
    """The optimiser's groups; what isn't new learns slower by base_lr_scale: see there."""
    if cfg.tower_name_or_path:
        base = {id(p) for p in getattr(model.backbone, "swin", model.backbone).parameters()}  # norms after it are new
    else:
        base = {id(p) for p in model.parameters()} - {id(p) for p in contract.class_layer(model).parameters()}
    groups = []
    for group in parameter_groups(model, cfg):
        for part, scale in ((True, cfg.base_lr_scale), (False, 1.0)):
            chosen = [p for p in group["params"] if (id(p) in base) == part]
            if chosen:
                groups.append(group | {"params": chosen, "lr_scale": scale})
    return groups


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


# --- What is measured ------------------------------------------------------------------------------------------------


def predictions(served: contract.Segmenter, source, count: int | None = None) -> Iterator[tuple]:
    """(picture, mask, its segmentation) of the source's pictures, at most `count`, evenly spread."""
    count = min(count or len(source), len(source))
    for number in range(count):
        picture, mask = source.pair(number * len(source) // count)
        yield picture, mask, served.predict(picture)


def tallies(served: contract.Segmenter, source, count: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each picture the confusion matrix (K, K) of its answered pixels, at its own size, and their confidence table."""
    for _, mask, found in predictions(served, source, count):
        answered = mask != IGNORE
        truth, ids = mask[answered], found.ids[answered].astype(np.int64)
        yield (
            metrics.confusion_matrix(ids, truth, len(served.label_names)),
            metrics.confidence_table(found.confidence[answered], ids == truth),
        )


def tally(served: contract.Segmenter, source, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrix (K, K) and `metrics.confidence_table` of all answered pixels of a source."""
    confs, tables = zip(*tallies(served, source, count), strict=True)
    return sum(confs), sum(tables)


def by_source(sources: list[str], confs: Iterable[np.ndarray]) -> dict[str, float]:
    """{"SET/pixel_accuracy"} of each set that pictures are from, from the confusion matrix of each picture."""
    sets = {}
    for name, conf in zip(sources, confs, strict=True):
        sets[name] = sets.get(name, 0) + conf
    return {f"{name}/pixel_accuracy": float(np.trace(conf) / conf.sum()) for name, conf in sorted(sets.items())}


def scores_of(conf: np.ndarray, table: np.ndarray, label_names: list[str]) -> dict[str, float]:
    """miou, foreground_iou (where class 0 is the background), pixel_accuracy and ece of what `tally` counted."""
    scores = {"miou": metrics.mean_iou(conf)}
    if label_names[0] == "background":
        scores["foreground_iou"] = metrics.foreground_iou(conf)
    accuracy = float(np.trace(conf) / conf.sum())
    return scores | {"pixel_accuracy": accuracy, "ece": metrics.expected_calibration_error(table)}


def figure_of(served: contract.Segmenter, source, count: int = 8) -> Image.Image:
    """Picture, truth and prediction of some of the source's pictures."""
    shown = list(predictions(served, source, count))
    return figures.segmentations([p for p, _, _ in shown], [m for _, m, _ in shown], [s.ids for _, _, s in shown],
                                 served.palette, served.label_names)  # fmt: skip


@torch.no_grad()
def fit_to(served: contract.Segmenter, source) -> None:
    """Fit temperature, principal components and risk-coverage curve of a trained segmenter to validation pictures."""
    count, rng, training = min(PICTURES_TO_FIT, len(source)), random.Random(0), served.model.training
    served.model.eval()
    logits, labels, rows = [], [], []
    for number in range(count):
        picture, mask = source.pair(number * len(source) // count)
        tile, truth = cut(picture, mask, served.seen_side(picture), served.resolution_px, rng)
        pixels = served.pixel_values([np.asarray(tile)]).to(served.device)
        places = np.flatnonzero(truth.ravel() != IGNORE)
        places = np.random.default_rng(number).permutation(places)[:PIXELS_EACH]
        scores = contract.full_logits(served.model, pixels).float().cpu()[0].flatten(1).T  # (R², K)
        logits.append(scores[places].numpy())
        labels.append(truth.ravel()[places])
        rows.append(served.features(picture).values)
    served.temperature = round(metrics.fit_temperature(np.concatenate(logits), np.concatenate(labels)), 4)
    served.pca = _basis(np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]))
    served.risk_coverage = metrics.risk_coverage(tally(served, source, count)[1])
    served.model.train(training)


def _basis(rows: np.ndarray) -> dict[str, list] | None:
    """Three principal components of rows (N, D), and the range from the 2nd to the 98th percentile on each."""
    if rows.shape[1] < 3:
        return None
    mean, basis = metrics.principal_components(rows, 3)
    low, high = np.percentile((rows - mean) @ basis, (2, 98), axis=0)
    parts = {"mean": mean, "basis": basis, "low": low, "high": high}
    return {name: np.round(part, 5).tolist() for name, part in parts.items()}


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    columns = {"dataset_config_name": cfg.dataset_config_name, "image_column": cfg.image_column,
               "label_column": cfg.label_column, "reduce_labels": cfg.reduce_labels,
               "resolution_px": cfg.resolution}  # fmt: skip
    scenes = cfg.dataset_name.startswith("scenes")
    painted = {"limit": cfg.train_scenes, "scene_options": {"ink": cfg.object_ink, "colour": cfg.object_color}}
    train = open_masks(cfg.dataset_name, split="train", **columns, **(painted if scenes else {}))
    held_out = open_masks(cfg.dataset_name, split="validation", **columns)
    small = cfg.dataset_name == "scenes-sample"  # its few pictures don't show every class
    counts = check(train, every_class=not small)
    check(held_out, every_class=False)
    label_names = [train.id2label[k] for k in range(len(train.id2label))]
    torch.manual_seed(cfg.seed)
    served = (start_from if cfg.pretrained_model_name_or_path else create_model)(cfg, label_names)
    begun, kept = describe_start(cfg), Path(cfg.output_dir, "start.txt")
    if cfg.resume_from_checkpoint and kept.is_file():
        begun = kept.read_text()  # what --tower_name_or_path leads to may be another model by now
    samples = MaskedPictures(train, cfg, served)
    weight = class_weights(counts, len(label_names), cfg.balance)

    def loss_fn(model, batch):
        logits = contract.full_logits(model, batch["pixels"])
        with torch.autocast(logits.device.type, enabled=False):
            return training_loss(logits, batch["mask"], dice_weight=cfg.dice_weight,
                                 class_weight=None if weight is None else weight.to(logits.device))  # fmt: skip

    def evaluate(_model):  # `served` holds it
        served.temperature = 1.0  # what an export before step 1 has fitted says nothing of this model
        return scores_of(*tally(served, held_out, cfg.validation_pictures), label_names)

    def export(model, folder, run):
        fit_to(served, held_out)
        kept.write_text(begun)
        facts = run | describe(cfg, train, served, begun, argv)
        return publish.write_export(folder, lambda target: contract.save_folder(target, served), facts)

    player = Player(served.model, loss_fn, slower_base(served.model, cfg))
    fit([player], samples, cfg, run_dir=cfg.output_dir, evaluate=evaluate, export=export,
        draw_samples=lambda _model: figure_of(served, held_out))  # fmt: skip
    if cfg.push_to_hub:
        publish.push_export(Path(cfg.output_dir, "export"), cfg.hub_model_id, private=cfg.hub_private)


TITLES = {"swin": "Swin and UPerNet", "upernet": "UPerNet", "dpt": "ViT and DPT", "unet": "U-Net"}


def describe_start(cfg: SegmentationConfig) -> str:
    """What a model was before step 1, for its card."""
    if cfg.pretrained_model_name_or_path:
        return "fine-tuned"
    if cfg.tower_name_or_path:
        folder = tower_folder(cfg)
        name = "/".join(folder.parts[-2:])
        part = "" if is_timm(folder) else "the Swin of "
        return (f"its backbone began as {part}{name}, weights {store.weights_sha256(folder)[:12]}; "
                "the rest is trained from scratch")  # fmt: skip
    return "trained from scratch"


def describe(cfg: SegmentationConfig, train, served: contract.Segmenter, begun: str, argv: list[str] | None) -> dict:
    """What the card says of this model beside what the loop knows; begun: see `describe_start`."""
    base, side, scenes = cfg.pretrained_model_name_or_path, served.resolution_px, cfg.dataset_name.startswith("scenes")
    facts = Facts("emoji scenes") if scenes else facts_of(cfg.dataset_name)
    data = "scenes painted from emoji art in five styles" if scenes else facts.title
    kind, in_smp = TITLES.get(served.kind, served.kind), isinstance(served.model.config, dict)
    limits = [
        f"It tells {len(served.label_names)} classes apart and gives every pixel one of them, also where there is none of them.",
        f"It sees squares of {side} px; larger pictures are shrunk to {served.max_side_px} px a side and seen in tiles.",
    ]
    limits += ["It has seen painted scenes only; photographs are outside of what was measured."] if scenes else []
    limits += facts.limits
    return {
        "stem": STEM,
        "name": f"{served.kind}-{'scenes' if scenes else Path(cfg.dataset_name).name}",
        "title": f"{kind}, {side} px: {facts.title}",
        "summary": f"A {kind} ({begun}) that gives each pixel one of "
                   f"{len(served.label_names)} classes: {', '.join(served.label_names[:40])}. Training data: {data}. "
                   f"Its confidence is calibrated by a temperature of {served.temperature:.3g}, fitted to validation pictures.",
        "library_name": "segmentation-models-pytorch" if in_smp else "transformers",
        "pipeline_tag": "image-segmentation",
        "tags": ["image-segmentation", "vision", "semantic-segmentation"],
        **(facts.licensed() or {"license": publish.license_of(train.licenses)}),
        "datasets": [] if scenes else [cfg.dataset_name],
        "base_model": base,
        "command": publish.command_line(STEM, argv),
        "parameters": served.parameters,
        "attributions": list(publish.ATTRIBUTIONS.values()) if scenes else list(facts.credits),
        "usage": _usage(in_smp),
        "limits": limits,
    }  # fmt: skip


def _usage(in_smp: bool) -> str:
    if in_smp:
        return ('import segmentation_models_pytorch as smp\nfrom transformers import AutoImageProcessor\n\n'
                'model = smp.from_pretrained("org/name").eval()\n'
                'processor = AutoImageProcessor.from_pretrained("org/name")  # names and colours of the classes are there, too\n'
                'ids = model(processor(picture, return_tensors="pt")["pixel_values"]).argmax(1)')  # fmt: skip
    return ("from transformers import pipeline\n\n"
            'segment = pipeline("image-segmentation", model="org/name", image_processor="org/name")\n'
            'for part in segment("picture.png"):  # squeezed into a square; hub_models/segmentation.py tiles instead\n'
            '    print(part["label"], part["mask"].size)')  # fmt: skip


def evaluate_checkpoint(name: str, dataset_name: str, *, scenes: int = SCENES_MEASURED) -> tuple[dict, dict]:
    """Metrics of a saved segmenter, each from one confusion matrix over all pixels of a set, and figures by name.

    name: bundled variant, folder or Hub id. Of "scenes" the sets are new scenes of known things, validation concepts and
    the unseen style, `scenes` pictures each; on other data, validation. "emoji" and "emoji-sample" mean scenes painted from them.
    The baseline answers the most frequent class everywhere. Returns the fields of results.json, and figures.
    """
    served = contract.load(name)
    dataset_name = {"emoji": "scenes", "emoji-sample": "scenes-sample"}.get(dataset_name, dataset_name)
    wanted = ["validation"]
    if dataset_name == "scenes":
        wanted = ["new_scenes", "validation", "unseen_style"]
    elif dataset_name == "scenes-sample":
        wanted, scenes = ["new_scenes", "validation"], min(scenes, 20)
    scores, baseline, per_class, curves, pictures, hashes = {}, {}, {}, {}, {}, []
    for split in wanted:
        limit = scenes if dataset_name.startswith("scenes") else None
        source = open_masks(dataset_name, split=split, limit=limit, resolution_px=served.resolution_px)
        names = [source.id2label[k] for k in range(len(source.id2label))]
        if names != served.label_names:
            raise SystemExit(f"{name} answers with {_some(served.label_names)}, but {dataset_name} has {_some(names)}: "
                             "name the data it was trained on with --dataset")  # fmt: skip
        confs, tables = zip(*tallies(served, source), strict=True)
        conf, table = sum(confs), sum(tables)
        scores |= {f"{split}/{key}": value for key, value in scores_of(conf, table, names).items()}
        if source.sources:
            scores |= {f"{split}/{key}": value for key, value in by_source(source.sources, confs).items()}
        scores[f"{split}/pictures"] = len(source)
        guess = np.zeros_like(conf)
        guess[:, conf.sum(1).argmax()] = conf.sum(1)
        baseline |= {
            f"{split}/miou": metrics.mean_iou(guess),
            f"{split}/pixel_accuracy": float(np.trace(guess) / guess.sum()),
        }
        per_class[split] = {label: None if np.isnan(value) else float(value)
                            for label, value in zip(names, metrics.iou(conf), strict=True)}  # fmt: skip
        curves |= {f"{split}/risk_coverage": metrics.risk_coverage(table), f"{split}/confusion": conf.tolist()}
        if facts_of(dataset_name).show_pictures:
            pictures[split] = figure_of(served, source)
        hashes.append(source.data_hash)
    results = {
        "metrics": scores,
        "baseline": baseline,
        "baseline_name": "most frequent class",
        "per_class": per_class,
        "curves": curves,
        "data_hash": "-".join(value[:12] for value in hashes),
    }
    return results, pictures


if __name__ == "__main__":
    main()
