"""Which things are in a picture, and where: boxes with a class and a score, by any object detector of transformers.

A model folder is stock: config.json and model.safetensors, which `AutoModelForObjectDetection` opens, beside the
preprocessor_config.json of an image processor. `pipeline("object-detection", model=folder)` gives the same boxes, in
whole pixels. Or `AutoModelForInstanceSegmentation` opens it: then things have masks too, and boxes around these;
`pipeline("image-segmentation", model=folder, subtask="instance")` gives the same, but each pixel to one thing alone.
A Mask R-CNN is no model of transformers, and opens all the same: see hub_models/rcnn.py.
Own keys of preprocessor_config.json, optional: threshold, the score from which on a thing counts, and overlap, what two
boxes share where the surer alone is counted.

Letters: B pictures, N things, K classes, R side in pixels of a picture as the model sees it, H × W pixels of one given.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING,
    MODEL_FOR_OBJECT_DETECTION_MAPPING,
    AutoModelForInstanceSegmentation,
    AutoModelForObjectDetection,
)

from hub_models import pretrained, rcnn, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.pictures import on_ground
from hub_models.store import CheckpointError
from hub_models.worlds import World, world_of

rcnn.register()

PROCESSOR = "preprocessor_config.json"
THRESHOLD = 0.5  # where the folder says nothing: that of the stock pipeline
BATCH = 16  # pictures of one size that are seen at once
SIDE_PX = 640  # where the folder doesn't say at what size a picture is seen


@dataclass(frozen=True)
class Detections:
    """The things in a picture, the surest first; made by `Detector.detect`."""

    boxes: np.ndarray  # (N, 4) float32: left, top, right, bottom in pixels of the picture; may reach beyond its edges
    labels: np.ndarray  # (N,) int64, indices into label_names
    scores: np.ndarray  # (N,) float32 in [0, 1], falling
    label_names: list[str]
    masks: np.ndarray | None = None  # (N, H, W) bool, pixels of the picture, which things may share; None: boxes alone

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, rows: np.ndarray) -> "Detections":
        """Those of these rows, numbers in rising order or (N,) bool."""
        masks = None if self.masks is None else self.masks[rows]
        return Detections(self.boxes[rows], self.labels[rows], self.scores[rows], self.label_names, masks)

    def counts(self) -> dict[str, int]:
        """How many things there are of each class that is there, by name, the most first."""
        return dict(Counter(self.label_names[k] for k in self.labels).most_common())


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of boxes (N, 4) with others (M, 4): left, top, right, bottom."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])  # (N, M, 2)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(2)  # (N, M)
    area, other = ((b[:, 2:] - b[:, :2]).clip(0).prod(1) for b in (boxes, others))
    whole = area[:, None] + other[None] - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """The boxes (N, 4) float32 around masks (N, H, W) bool, each of a pixel at least: right and bottom exclusive."""
    columns, rows = masks.any(1), masks.any(2)  # (N, W), (N, H)
    low = [columns.argmax(1), rows.argmax(1)]
    high = [side.shape[1] - np.flip(side, 1).argmax(1) for side in (columns, rows)]
    return np.stack([*low, *high], 1).astype(np.float32)


def silenced_by(found: Detections, iou: float = 0.5, *, across_classes: bool = False) -> np.ndarray:
    """Which thing silences each one (N,) int64, by its number; -1 for those that are kept.

    Non-maximum suppression: from the surest on, each that is kept silences all less sure ones of its class, or of any
    class, with which it shares more than `iou` of what both cover together.
    """
    shared = overlaps(found.boxes, found.boxes)
    rivals = (shared > iou) & (across_classes | (found.labels[:, None] == found.labels[None]))
    by = np.full(len(found), -1, np.int64)
    for k in range(len(found)):
        if by[k] < 0:
            after = np.arange(len(found)) > k
            by[after & rivals[k] & (by < 0)] = k
    return by


def without_doubles(found: Detections, overlap: float | None) -> Detections:
    """What is left after `silenced_by` across classes; everything where overlap is None.

    A thing is silenced by surer ones alone, so it is all the same whether a threshold is applied before or after.
    """
    return found if overlap is None else found.only(silenced_by(found, overlap, across_classes=True) < 0)


class Detector:
    """A loaded detector. Made by `load`, or from parts that are being trained."""

    world: World | None = None  # of the pictures that it was trained on, where its folder has it

    def __init__(
        self,
        model: Any,
        processor: Any,
        label_names: Sequence[str],
        *,
        name: str,
        weights_sha256: str = "",
        threshold: float = THRESHOLD,
        overlap: float | None = None,
    ):
        """model: of transformers; what it is made of is typed as Tensor | Module. processor: its image processor.

        threshold: the score above which a thing counts. overlap: where two boxes share more than that of what both
        cover together, the surer alone counts, whatever their classes; None: both do.
        """
        self.model, self.processor, self.label_names = model, processor, list(label_names)
        self.name, self.weights_sha256, self.threshold, self.overlap = name, weights_sha256, threshold, overlap
        self.resolution_px: int = side_of(processor)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.makes_masks = type(model.config) not in MODEL_FOR_OBJECT_DETECTION_MAPPING

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def kind(self) -> str:
        """transformers' name for the architecture."""
        return self.model.config.model_type

    def preprocess(self, pictures: Sequence[Image.Image]) -> list[dict[str, torch.Tensor]]:
        """What the model is given of each picture, by the folder's image processor: pixel_values (1, 3, R, R), ….

        Each by itself, as the stock pipeline has it, and on white where it is transparent.
        """
        return [dict(self.processor(images=[on_ground(picture)], return_tensors="pt")) for picture in pictures]

    @torch.no_grad()
    def detect(self, pictures: Sequence[Image.Image], threshold: float | None = None) -> list[Detections]:
        """The things in each picture whose score is above the threshold; None takes the folder's own.

        At 0 all candidates come. Raises ValueError for a threshold that is no share.
        """
        threshold = self.threshold if threshold is None else threshold
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a number from 0 to 1, it is {threshold}")
        found = []
        for inputs, sizes in in_batches(self.preprocess(pictures), [(p.height, p.width) for p in pictures]):
            answers = self.model(**{key: value.to(self.device) for key, value in inputs.items()})
            if self.makes_masks:
                made = self.processor.post_process_instance_segmentation(answers, threshold, return_binary_maps=True)
                found += [self._masked(of_one, size, threshold) for of_one, size in zip(made, sizes, strict=True)]
            else:
                target_sizes = torch.tensor(sizes, device=self.device, dtype=torch.int32)
                made = self.processor.post_process_object_detection(answers, threshold, target_sizes)
                found += [self._surest_first(of_one) for of_one in made]
        return found

    def _surest_first(self, of_one: dict[str, torch.Tensor]) -> Detections:
        scores, order = of_one["scores"].float().cpu().sort(descending=True, stable=True)
        boxes, labels = of_one["boxes"].float().cpu()[order], of_one["labels"].long().cpu()[order]
        return Detections(boxes.numpy(), labels.numpy(), scores.numpy(), self.label_names)

    def _masked(self, of_one: dict[str, Any], size: tuple[int, int], threshold: float) -> Detections:
        """The things of a processor's answer {"segmentation": (N, h, w), "segments_info"}, masks at size (H, W)."""
        said = of_one["segments_info"]
        scores = torch.tensor([one["score"] for one in said], dtype=torch.float32)
        scores, order = scores.sort(descending=True, stable=True)
        labels = torch.tensor([one["label_id"] for one in said], dtype=torch.int64)[order]
        maps = of_one["segmentation"].to("cpu", torch.uint8) if said else torch.zeros(0, 1, 1, dtype=torch.uint8)
        masks = F.interpolate(maps[order][:, None], size, mode="nearest")[:, 0].bool()  # as the processor would
        kept = (scores > threshold) & masks.flatten(1).any(1)  # what is thin may fall between the pixels of a small one
        masks = masks[kept].numpy()
        return Detections(boxes_of(masks), labels[kept].numpy(), scores[kept].numpy(), self.label_names, masks)

    def count(self, pictures: Sequence[Image.Image], threshold: float | None = None) -> list[dict[str, int]]:
        """How many things of each class there are in each picture: those of `detect`, without their doubles."""
        return [without_doubles(found, self.overlap).counts() for found in self.detect(pictures, threshold)]


def in_batches(
    prepared: Sequence[dict[str, torch.Tensor]], sizes: Sequence[tuple[int, int]]
) -> Iterator[tuple[dict[str, torch.Tensor], list[tuple[int, int]]]]:
    """Neighbours of one shape together, up to BATCH: what the model is given of them, and their own sizes."""
    shapes = [[(key, tuple(value.shape)) for key, value in one.items()] for one in prepared]
    for _, run in itertools.groupby(range(len(prepared)), shapes.__getitem__):
        rows = list(run)
        for at in range(0, len(rows), BATCH):
            part = rows[at : at + BATCH]
            inputs = {key: torch.cat([prepared[row][key] for row in part]) for key in prepared[part[0]]}
            yield inputs, [sizes[row] for row in part]


def side_of(processor: Any) -> int:
    """The side in pixels at which an image processor shows pictures."""
    size = dict(getattr(processor, "size", None) or {})
    sides = [size[key] for key in ("height", "width", "shortest_edge") if isinstance(size.get(key), int)]
    return min(sides, default=SIDE_PX)


def load(name: str = "emoji", device: str | torch.device | None = None) -> Detector:
    """The detector of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"); fp32, eval.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("detection", name)
    with store.opening(folder):
        served = _open(folder, str(name))
        served.world = world_of(folder)
    served.model.to(device or default_device())
    return served


def _open(folder: Path, name: str) -> Detector:
    config: Any = pretrained.open_config(folder, "an object detector of transformers")
    makes_masks = type(config) not in MODEL_FOR_OBJECT_DETECTION_MAPPING
    if makes_masks and type(config) not in MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING:
        raise CheckpointError(
            f"{folder}/config.json says model_type {config.model_type!r}, which has no object detector in "
            "transformers: choose a DEIM, D-FINE, RT-DETR, DETR or YOLOS checkpoint, or a MaskFormer for masks"
        )
    if not (folder / PROCESSOR).is_file():
        raise CheckpointError(f"{folder} has no {PROCESSOR}: save the model's image processor there")
    processor = pretrained.open_image_processor(folder)
    made, kind, needed = "boxes", AutoModelForObjectDetection, "post_process_object_detection"
    if makes_masks:
        made, kind, needed = "masks", AutoModelForInstanceSegmentation, "post_process_instance_segmentation"
    if not hasattr(processor, needed):
        raise CheckpointError(
            f"{folder}/{PROCESSOR} is of {type(processor).__name__}, which makes no {made} of what a detector answers: "
            "save the model's own image processor there"
        )
    label_names = [str(config.id2label.get(k, f"class {k}")) for k in range(config.num_labels)]
    own = read_object(folder / PROCESSOR)
    threshold, overlap = _share(folder, own, "threshold", THRESHOLD), own.get("overlap")
    overlap = None if overlap is None else _share(folder, own, "overlap", 1.0)
    model = pretrained.open_model(folder, kind, config, "object detector")
    model = model.eval().requires_grad_(False)
    sha256 = store.weights_sha256(folder)
    return Detector(
        model, processor, label_names, name=name, weights_sha256=sha256, threshold=threshold, overlap=overlap
    )


def _share(folder: Path, own: dict, key: str, default: float) -> float:
    value = own.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise CheckpointError(f"{folder}/{PROCESSOR}: {key} must be a number from 0 to 1, it is {str(value)[:40]}")
    return float(value)


def save_folder(folder: str | Path, served: Detector) -> None:
    """Write what `load` reads: the stock files of the model and its image processor, our keys among the latter's."""
    folder, model = Path(folder), served.model
    model.config.id2label = dict(enumerate(served.label_names))
    model.config.label2id = {name: k for k, name in enumerate(served.label_names)}
    model.save_pretrained(folder)
    served.processor.save_pretrained(folder)
    path = folder / PROCESSOR
    own = {"threshold": served.threshold} | ({} if served.overlap is None else {"overlap": served.overlap})
    kept = json.loads(path.read_text(encoding="utf-8")) | own
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
