"""Semantic segmentation: a class for each pixel, by a Swin (UperNet), a ViT (DPT) or a U-Net.

    python -m training.segmentation --preset swin --output_dir runs/swin-scenes --mixed_precision bf16   # or dpt, unet
    python -m training.segmentation --preset photo --output_dir runs/photo --mixed_precision bf16        # photographs
    python -m training.segmentation --preset street --output_dir runs/street --mixed_precision bf16      # CamVid
    python -m training.segmentation --preset finetune --dataset_name my_pictures --output_dir runs/my-segmenter \
        --pretrained_model_name_or_path swin-scenes     # your pictures and masks; or any segmenter of the Hub

A training step at 128 px by processor time, one core with bf16 units whose neighbour was busy: 25 pictures a second for
the Swin, 21 for the ViT, 30 for the U-Net; to paint and cut a scene takes 7 ms more.
Scores of the shipped weights stand in their cards (hub_models/weights/segmentation/).

Xiao et al. 2018 (UPerNet), Liu et al. 2021 (Swin), Ranftl et al. 2021 (DPT), Ronneberger et al. 2015 (U-Net),
Milletari et al. 2016 (Dice loss), Guo et al. 2017 (temperature).

Letters: B batch, R side of the training picture in pixels, K classes, H × W pixels, D features. Masks hold class ids,
and 255 where there is no answer.
"""

from pathlib import Path

import torch

from hub_models import segmentation as contract
from hub_models.publish.tables import as_text
from training.config import parse
from training.data.masks import MaskSource, PaintedSource, check, open_masks
from training.data.sources import compare
from training.optim import Player
from training.segmentation.config import PRESETS, TITLES, SegmentationConfig
from training.segmentation.evaluation import evaluate_checkpoint, figure_of, fit_to, scores_of, tally
from training.segmentation.losses import class_weights, training_loss
from training.segmentation.model import create_model, describe_start, slower_base, start_from
from training.segmentation.samples import MaskedPictures
from training.task import Card, Task, run, with_model
from training.worlds import some_of

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]

STEM = "segmentation"


def task_of(cfg: SegmentationConfig) -> Task:
    """The experiment of a config."""
    train, held_out = (open_data(cfg, split) for split in ("train", "validation"))
    counts = check(train, every_class=not train.facts.sample)
    check(held_out, every_class=False)
    compare(train, held_out)
    label_names = [train.id2label[k] for k in range(len(train.id2label))]
    torch.manual_seed(cfg.seed)
    served = (start_from if cfg.pretrained_model_name_or_path else create_model)(cfg, label_names)
    if cfg.train_batch_size == 1 and served.kind in ("swin", "upernet"):
        raise SystemExit(
            "--train_batch_size must be at least 2 for a UPerNet: it normalises over pictures, and one alone has no "
            "spread"
        )
    begun, kept = describe_start(cfg), Path(cfg.output_dir, "start.txt")
    if cfg.resume_from_checkpoint and kept.is_file():
        begun = kept.read_text()  # what --tower_name_or_path leads to may be another model by now
    samples = MaskedPictures(train, cfg, served)
    weight = class_weights(counts, len(label_names), cfg.balance)

    def loss(model, batch):
        logits = contract.full_logits(model, batch["pixels"])
        with torch.autocast(logits.device.type, enabled=False):
            weighed = None if weight is None else weight.to(logits.device)
            return training_loss(logits, batch["mask"], dice_weight=cfg.dice_weight, class_weight=weighed)

    def finished(now):
        fit_to(now, held_out)
        kept.write_text(begun)
        return now

    return Task(
        stem=STEM, source=train, players=[Player(served.model, loss, slower_base(served.model, cfg))], samples=samples,
        served=lambda model: with_model(served, model),
        evaluate=lambda now: scores_of(*tally(now, held_out, cfg.validation_pictures), label_names),
        draw=lambda now: figure_of(now, held_out), finished=finished, save=contract.save_folder,
        card=lambda now: card_of(now, cfg, train, begun), seen=lambda: some_of(train),
    )  # fmt: skip


def open_data(cfg: SegmentationConfig, split: str) -> MaskSource | PaintedSource:
    """Pictures and masks of a split; scenes to train on are as many and as varied as the config says."""
    options: dict = {}
    if split == "train":
        options = {"scenes": cfg.train_scenes, "scene_options": {"ink": cfg.object_ink, "colour": cfg.object_color}}
    return open_masks(
        cfg.dataset_name, split=split, dataset_config_name=cfg.dataset_config_name, image_column=cfg.image_column,
        label_column=cfg.label_column, reduce_labels=cfg.reduce_labels, resolution_px=cfg.resolution, **options,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(served: contract.Segmenter, cfg: SegmentationConfig, train: MaskSource | PaintedSource, begun: str) -> Card:
    """What the card says of a model of this config; begun: see `describe_start`."""
    side, facts, classes = served.resolution_px, train.facts, len(served.label_names)
    kind, in_smp = TITLES.get(served.kind, served.kind), isinstance(served.model.config, dict)
    squeezed = "{1} × {0}".format(*cfg.stock_size) if cfg.stock_size else "a square"
    return Card(
        name=f"{served.kind}-{facts.ours or Path(cfg.dataset_name).name}",
        title=f"{kind}, {side} px: {facts.title}",
        summary=f"A {kind} ({begun}) that gives each pixel one of {classes} classes: "
        f"{', '.join(map(as_text, served.label_names[:40]))}. Training data: {facts.about or facts.title}. "
        f"Its confidence is calibrated by a temperature of {served.temperature:.3g}, fitted to validation pictures.",
        library_name="segmentation-models-pytorch" if in_smp else "transformers",
        pipeline_tag="image-segmentation",
        tags=["image-segmentation", "vision", "semantic-segmentation"],
        parameters=served.parameters,
        usage=USAGE_OF_SMP if in_smp else USAGE.format(squeezed),
        limits=[
            f"It tells {classes} classes apart and gives every pixel one of them, also where there is none of them.",
            f"It sees squares of {side} px; larger pictures are shrunk to {served.max_side_px} px a side and seen in "
            "tiles.",
        ],
    )


USAGE = """from transformers import pipeline

segment = pipeline("image-segmentation", model="org/name", image_processor="org/name")
for part in segment("picture.png"):  # squeezed into {}; hub_models/segmentation.py tiles instead
    print(part["label"], part["mask"].size)"""
USAGE_OF_SMP = """import segmentation_models_pytorch as smp
from transformers import AutoImageProcessor

model = smp.from_pretrained("org/name").eval()
processor = AutoImageProcessor.from_pretrained("org/name")  # names and colours of the classes are there, too
ids = model(processor(picture, return_tensors="pt")["pixel_values"]).argmax(1)"""
