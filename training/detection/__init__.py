"""Detection: a box, a class and a score for every thing in a picture, by a DEIM on a Swin or a network of timm.

    python -m training.detection --output_dir runs/detection --mixed_precision bf16              # scenes of emoji
    python -m training.detection --preset photo --dataset_name my_boxes --output_dir runs/my-detector
    python -m training.detection --preset finetune --pretrained_model_name_or_path runs/my-detector/export \
        --dataset_name other_boxes --output_dir runs/other     # or any object detector of the Hub

my_boxes is a folder of pictures with COCO's JSON files, or with `objects` in metadata.jsonl: training/data/boxes.py.
A training step of 16 scenes at 128 px takes 1 s of one core in fp32, 0.7 in bf16, and their painting some 0.15 more.

Huang et al. 2025 (DEIM), Zhao et al. 2024 (RT-DETR), Peng et al. 2024 (D-FINE), Carion et al. 2020 (DETR), Liu et al.
2021 (Swin), Lin et al. 2014 (COCO's average precision).

Letters: B batch, R side of the training picture in pixels, K classes, N things of a picture.
"""

from pathlib import Path

import torch

from hub_models import detection as contract
from hub_models.publish.tables import as_text
from training.config import parse
from training.data.boxes import BoxSource, PaintedBoxes, open_boxes
from training.data.sources import compare
from training.detection.config import PRESETS, TITLES, DetectionConfig
from training.detection.evaluation import answers, evaluate_checkpoint, figure_of, fit_to, scores_of
from training.detection.losses import detection_loss, in_fp32
from training.detection.model import backbone_of, create_model, describe_start, start_from
from training.detection.samples import BoxedPictures
from training.optim import Player, slower
from training.task import Card, Task, run, with_model
from training.worlds import some_of

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]

STEM = "detection"


def task_of(cfg: DetectionConfig) -> Task:
    """The experiment of a config."""
    train, held_out = (open_data(cfg, split) for split in ("train", "validation"))
    compare(train, held_out)
    torch.manual_seed(cfg.seed)
    served = (start_from if cfg.pretrained_model_name_or_path else create_model)(cfg, train.label_names)
    most = getattr(served.model.config, "num_queries", train.most_things)
    if train.most_things > most:
        print(f"a picture shows {train.most_things} things, and the model finds {most} at most")
    served.model.loss_function = in_fp32(served.model.loss_function)
    begun, kept = describe_start(cfg), Path(cfg.output_dir, "start.txt")
    if cfg.resume_from_checkpoint and kept.is_file():
        begun = kept.read_text()  # what --tower_name_or_path leads to may be another model by now
    backbone, groups = backbone_of(served.model), None
    if backbone is not None and cfg.tower_name_or_path:
        groups = slower(served.model, backbone, cfg, lr_scale=cfg.base_lr_scale)

    def measured(now: contract.Detector) -> dict[str, float]:
        found, truths, _ = answers(now, held_out, cfg.validation_pictures)
        return scores_of(found, truths, now)[0]

    def finished(now: contract.Detector) -> contract.Detector:
        fit_to(now, held_out)
        kept.write_text(begun)
        return now

    return Task(
        stem=STEM, source=train, players=[Player(served.model, detection_loss, groups)],
        samples=BoxedPictures(train, cfg, served), served=lambda model: with_model(served, model), evaluate=measured,
        draw=lambda now: figure_of(now, held_out), finished=finished, save=contract.save_folder,
        card=lambda now: card_of(now, cfg, train, begun), seen=lambda: some_of(train),
    )  # fmt: skip


def open_data(cfg: DetectionConfig, split: str) -> BoxSource | PaintedBoxes:
    """Pictures and boxes of a split; scenes to train on are as many and as varied as the config says."""
    options: dict = {}
    if split == "train":
        options = {"scenes": cfg.train_scenes, "scene_options": {"ink": cfg.object_ink, "colour": cfg.object_color}}
    return open_boxes(
        cfg.dataset_name, split=split, dataset_config_name=cfg.dataset_config_name, image_column=cfg.image_column,
        objects_column=cfg.objects_column, resolution_px=cfg.resolution, **options,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(served: contract.Detector, cfg: DetectionConfig, train: BoxSource | PaintedBoxes, begun: str) -> Card:
    """What the card says of a model of this config; begun: see `describe_start`."""
    side, facts, classes = served.resolution_px, train.facts, len(served.label_names)
    kind = TITLES.get(served.kind, served.kind)
    return Card(
        name=f"{served.kind}-{facts.ours or Path(cfg.dataset_name).name}",
        title=f"{kind}, {side} px: boxes in {facts.title}",
        summary=f"An object detector of transformers, a {kind} ({begun}), that puts boxes around things of "
        f"{classes} classes: {', '.join(map(as_text, served.label_names[:40]))}. Training data: "
        f"{facts.about or facts.title}. Above a score of {served.threshold:g} its counts are right most often, in "
        "validation pictures.",
        library_name="transformers",
        pipeline_tag="object-detection",
        tags=["object-detection", "vision"],
        parameters=served.parameters,
        usage=USAGE.format(served.threshold),
        limits=[
            f"It finds things of {classes} classes alone, and may call other things by these names.",
            f"It sees every picture at {side} × {side} px, whatever its shape: things that are small in it are missed.",
        ],
    )


USAGE = """from transformers import pipeline

detect = pipeline("object-detection", model="org/name")
for thing in detect("picture.png", threshold={:g}):
    print(thing["label"], thing["score"], thing["box"])"""
