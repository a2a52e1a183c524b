"""Detection: a box, a class and a score for every thing in a picture, by a DEIM on a Swin or a network of timm.

    python -m training.detection --output_dir runs/detection --mixed_precision bf16              # scenes of emoji
    python -m training.detection --preset masks --output_dir runs/masks --mixed_precision bf16   # a mask for each, too
    python -m training.detection --preset photo --dataset_name my_boxes --output_dir runs/my-detector
    python -m training.detection --preset finetune --pretrained_model_name_or_path runs/my-detector/export \
        --dataset_name other_boxes --output_dir runs/other     # or any object detector of the Hub

my_boxes is a folder of pictures with COCO's JSON files, or with `objects` in metadata.jsonl: training/data/boxes.py.
A training step of 16 scenes at 128 px takes 1 s of one core in fp32, 0.7 in bf16, and their painting some 0.15 more.

With masks it is a Mask R-CNN on a Swin, or a MaskFormer (--preset maskformer).

Huang et al. 2025 (DEIM), He et al. 2017 (Mask R-CNN), Cheng et al. 2021 (MaskFormer), Zhao et al. 2024 (RT-DETR), Peng
et al. 2024 (D-FINE), Carion et al. 2020 (DETR), Liu et al. 2021 (Swin), Lin et al. 2014 (COCO's average precision).

Letters: B batch, R side of the training picture in pixels, K classes, N things of a picture.
"""

from pathlib import Path

import torch

from hub_models import detection as contract
from hub_models import rcnn
from hub_models.publish.tables import as_text
from training.config import parse
from training.data.boxes import BoxSource, PaintedBoxes, open_boxes
from training.data.sources import compare
from training.detection.config import PRESETS, TITLES, DetectionConfig
from training.detection.evaluation import evaluate_checkpoint, figure_of, fit_to, measured
from training.detection.losses import detection_loss, in_fp32, mask_loss, rcnn_loss
from training.detection.model import backbone_of, create_model, describe_start, learns_masks, start_from
from training.detection.samples import BoxedPictures
from training.optim import Player, slower
from training.task import Card, Task, run, with_model
from training.worlds import some_of

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]

STEM = "detection"


def task_of(cfg: DetectionConfig) -> Task:
    """The experiment of a config."""
    masks = learns_masks(cfg)
    train, held_out = (open_data(cfg, split, masks) for split in ("train", "validation"))
    compare(train, held_out)
    torch.manual_seed(cfg.seed)
    served = (start_from if cfg.pretrained_model_name_or_path else create_model)(cfg, train.label_names)
    config = served.model.config
    most = getattr(getattr(config, "decoder_config", config), "num_queries", train.most_things)
    if train.most_things > most:
        print(f"a picture shows {train.most_things} things, and the model finds {most} at most")
    if not served.makes_masks:
        served.model.loss_function = in_fp32(served.model.loss_function)
    begun, kept = describe_start(cfg), Path(cfg.output_dir, "start.txt")
    if cfg.resume_from_checkpoint and kept.is_file():
        begun = kept.read_text()  # what --tower_name_or_path leads to may be another model by now
    backbone, groups = backbone_of(served.model), None
    if backbone is not None and cfg.tower_name_or_path:
        groups = slower(served.model, backbone, cfg, lr_scale=cfg.base_lr_scale)

    def scores(now: contract.Detector) -> dict[str, float]:
        return measured(now, held_out, cfg.validation_pictures).metrics

    def finished(now: contract.Detector) -> contract.Detector:
        fit_to(now, held_out)
        kept.write_text(begun)
        return now

    loss = {"maskformer": mask_loss, rcnn.KIND: rcnn_loss}.get(served.kind, detection_loss)
    return Task(
        stem=STEM, source=train, players=[Player(served.model, loss, groups)],
        samples=BoxedPictures(train, cfg, served), served=lambda model: with_model(served, model), evaluate=scores,
        draw=lambda now: figure_of(now, held_out), finished=finished, save=contract.save_folder,
        card=lambda now: card_of(now, cfg, train, begun), seen=lambda: some_of(train),
    )  # fmt: skip


def open_data(cfg: DetectionConfig, split: str, masks: bool) -> BoxSource | PaintedBoxes:
    """Pictures and boxes of a split, with masks or without; scenes to train on are as many as the config says."""
    options: dict = {}
    if split == "train":
        options = {"scenes": cfg.train_scenes, "scene_options": {"ink": cfg.object_ink, "colour": cfg.object_color}}
    return open_boxes(
        cfg.dataset_name, split=split, dataset_config_name=cfg.dataset_config_name, image_column=cfg.image_column,
        objects_column=cfg.objects_column, resolution_px=cfg.resolution, masks=masks, **options,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(served: contract.Detector, cfg: DetectionConfig, train: BoxSource | PaintedBoxes, begun: str) -> Card:
    """What the card says of a model of this config; begun: see `describe_start`."""
    side, facts, classes = served.resolution_px, train.facts, len(served.label_names)
    kind, masks = TITLES.get(served.kind, served.kind), served.makes_masks
    does = "gives every thing a mask" if masks else "puts boxes around things"
    task = "image-segmentation" if masks else "object-detection"
    doubles = "" if served.overlap is None else f"and without boxes that share {served.overlap:.0%} with a surer one "
    more = ["What lies in front of another thing takes its pixels: a mask is of what is seen."] if masks else []
    own, library = served.kind == rcnn.KIND, "transformers"
    if own:
        library = "torchvision, on a Swin of transformers"
        more.append("No library has the two in one class: its folder is read by hub_models/rcnn.py of Vitrail.")
    return Card(
        name=f"{served.kind}-{facts.ours or Path(cfg.dataset_name).name}",
        title=f"{kind}, {side} px: {'masks' if masks else 'boxes'} in {facts.title}",
        summary=f"{'A segmenter of single things' if masks else 'An object detector'} of {library}, a {kind} "
        f"({begun}), that {does} of {classes} classes: {', '.join(map(as_text, served.label_names[:40]))}. Training "
        f"data: {facts.about or facts.title}. Above a score of {served.threshold:g} "
        f"{doubles}its counts are right most often, in validation pictures.",
        library_name="pytorch" if own else "transformers",
        pipeline_tag=task,
        tags=[task, *(["instance-segmentation"] if masks else []), "vision"],
        parameters=served.parameters,
        usage=(OWN_USAGE if own else MASK_USAGE if masks else USAGE).format(served.threshold),
        limits=[
            f"It finds things of {classes} classes alone, and may call other things by these names.",
            f"It sees every picture at {side} × {side} px, whatever its shape: things that are small in it are missed.",
            *more,
        ],
    )


OWN_USAGE = """from PIL import Image

from hub_models import detection  # of Vitrail: a MaskRCNN of torchvision on a Swin of transformers

[found] = detection.load("org/name").detect([Image.open("picture.png")], threshold={:g})
for label, score, box, mask in zip(found.labels, found.scores, found.boxes, found.masks):
    print(found.label_names[label], score, box, mask.sum())  # the mask is true where the thing is"""
MASK_USAGE = """from transformers import pipeline

segment = pipeline("image-segmentation", model="org/name")
for thing in segment("picture.png", subtask="instance", threshold={:g}):
    print(thing["label"], thing["score"], thing["mask"])  # the mask is a picture, white where the thing is"""
USAGE = """from transformers import pipeline

detect = pipeline("object-detection", model="org/name")
for thing in detect("picture.png", threshold={:g}):
    print(thing["label"], thing["score"], thing["box"])"""
