"""What detections are worth beside what is there: average precision by COCO's rules, and counts.

Letters: N, M things of a picture.
"""

from collections.abc import Sequence

import numpy as np
import torch

from hub_models.detection import Detections, without_doubles
from training.data.things import Things

MOST = 100  # answers of a picture that count, the surest, as COCO has it
THRESHOLDS = tuple(k / 20 for k in range(1, 20))
OVERLAPS = (None, 0.3, 0.4, 0.5, 0.6, 0.7)


class AveragePrecision:
    """Average precision of what is found in pictures, at any score, picture by picture.

    The mean over classes of the area under precision over recall (Lin et al. 2014): map50 with things that overlap
    their box by half (intersection over union), map the mean from 0.5 to 0.95; mask_map50 and mask_map of masks in the
    place of boxes. pycocotools computes them.
    """

    def __init__(self, label_names: Sequence[str], masks: bool = False):
        """masks: whether those are measured, too."""
        from torchmetrics.detection import MeanAveragePrecision  # seconds, for which only a measurement waits

        self.label_names, self.answers, self.there = label_names, 0, set[int]()
        kinds = {"": "boxes", "mask_": "masks"} if masks else {"": "boxes"}
        self.kinds = {
            prefix: (
                key,
                MeanAveragePrecision(
                    iou_type="segm" if prefix else "bbox", class_metrics=True, max_detection_thresholds=[1, 10, MOST]
                ),
            )
            for prefix, key in kinds.items()
        }

    def add(self, found: Detections, truth: Things) -> None:
        """What was found in a picture, and what is there."""
        self.there.update(truth.labels.tolist())
        self.answers += len(found)
        found = found.only(np.arange(min(MOST, len(found))))
        for key, metric in self.kinds.values():
            answered = {name: _tensor(getattr(found, name)) for name in (key, "scores", "labels")}
            metric.update([answered], [{name: _tensor(getattr(truth, name)) for name in (key, "labels")}])

    def result(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """{"map", "map50", …} of all pictures, and {"map": {class that is there: its own}, …}.

        Raises ValueError where there was no thing at all.
        """
        if not self.there:
            raise ValueError("no picture has a thing: nothing can be said of what was found")
        numbers, per_class = {}, {}
        for prefix, (_, metric) in self.kinds.items():
            if not self.answers:  # nothing to compute from
                numbers |= {f"{prefix}map": 0.0, f"{prefix}map50": 0.0}
                per_class[f"{prefix}map"] = {self.label_names[k]: 0.0 for k in sorted(self.there)}
                continue
            scores = metric.compute()
            numbers |= {f"{prefix}map": float(scores["map"]), f"{prefix}map50": float(scores["map_50"])}
            classes, values = (scores[key].reshape(-1).tolist() for key in ("classes", "map_per_class"))
            per_class[f"{prefix}map"] = {
                self.label_names[k]: value for k, value in zip(classes, values, strict=True) if value >= 0
            }  # -1: not there
        return numbers, per_class


def average_precision(
    found: Sequence[Detections], truths: Sequence[Things], label_names: Sequence[str], masks: bool = False
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """`AveragePrecision` of pictures that are all at hand. Raises what that raises."""
    precision = AveragePrecision(label_names, masks)
    for one, truth in zip(found, truths, strict=True):
        precision.add(one, truth)
    return precision.result()


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def counts_right(
    found: Sequence[Detections], truths: Sequence[Things], threshold: float, overlap: float | None = None
) -> dict[str, float]:
    """How often as many things were found as there are, and how far off that is.

    What counts is what is above the threshold and no double: see `hub_models.detection.without_doubles`.

    counted: share of the pictures in which the number of each class is right. counted_in_all: … in which the number of
    things is. count_error: by how many things of a class a picture is off, summed over classes; the mean.
    """
    found = [without_doubles(one.only(one.scores > threshold), overlap) for one in found]
    off = [_off(one.labels, truth.labels) for one, truth in zip(found, truths, strict=True)]
    return {
        "counted": float(np.mean([not each.any() for each in off])),
        "counted_in_all": float(np.mean([each.sum() == 0 for each in off])),
        "count_error": float(np.mean([np.abs(each).sum() for each in off])),
    }


def _off(found: np.ndarray, there: np.ndarray) -> np.ndarray:
    """How many things more of each class were found than there are."""
    classes = 1 + max([-1, *found.tolist(), *there.tolist()])
    return np.bincount(found, minlength=classes) - np.bincount(there, minlength=classes)


def best_counting(found: Sequence[Detections], truths: Sequence[Things]) -> tuple[float, float | None]:
    """The threshold and the overlap with which counts are right most often.

    Of several the pair with the least error, then the first overlap of OVERLAPS, then the lowest threshold.
    """
    best, worth = (THRESHOLDS[0], OVERLAPS[0]), (-1.0, 0.0)
    for overlap in OVERLAPS:
        left = [without_doubles(one, overlap) for one in found]
        for threshold in THRESHOLDS:
            scores = counts_right(left, truths, threshold)
            now = scores["counted"], -scores["count_error"]
            if now > worth:
                best, worth = (threshold, overlap), now
    return best
