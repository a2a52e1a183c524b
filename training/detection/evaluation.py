"""What a detector is worth, in training or saved, and what is fitted to it afterwards."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hub_models import detection as contract
from training import figures
from training.data.boxes import BoxSource, PaintedBoxes, open_boxes
from training.data.facts import facts_of
from training.data.masks import SCENES
from training.data.things import Things
from training.detection.scores import AveragePrecision, best_counting, counts_right
from training.task import Results, some

PICTURES_TO_FIT = 200  # of validation, that the threshold is taken from
SCENES_MEASURED = 1000  # of each set, by `evaluate_checkpoint`
FEW_SCENES = 20  # of each set, where the data are a sample
SHOWN = 12  # pictures of a sheet
AT_ONCE, MASKED_AT_ONCE = 64, 16  # pictures that are held decoded, and with masks of all candidates


@dataclass(frozen=True)
class Measured:
    """What was measured of a detector in the pictures of a source."""

    metrics: dict[str, float]  # map, map50, counted, counted_in_all, count_error: see `scores`; of masks mask_map, …50
    per_class: dict[str, dict[str, float]]  # {"map" or "mask_map": {class: its own}}
    baseline: dict[str, float]  # of boxes
    pictures: int


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, scenes: int = SCENES_MEASURED
) -> Results:
    """Scores of a saved detector on each evaluation set: see `Measured`, and the average precision of each class.

    name: bundled variant, folder or Hub id. Of painted scenes `scenes` pictures of each set are measured; "emoji" and
    "emoji-sample" mean scenes painted from them. The baseline finds one thing in each picture, as large as that, of
    the set's most frequent class.
    """
    served, painted_from = contract.load(name), {art: painted for painted, art in SCENES.items()}
    dataset_name = painted_from.get(dataset_name, dataset_name)
    facts, results = facts_of(dataset_name), Results("one thing as large as the picture")
    limit = (min(scenes, FEW_SCENES) if facts.sample else scenes) if facts.ours else None
    for split in facts.evaluation_sets:
        source = open_boxes(
            dataset_name, split=split, limit=limit, resolution_px=served.resolution_px, masks=served.makes_masks,
            **(columns or {}),
        )  # fmt: skip
        if source.label_names != served.label_names:
            raise SystemExit(
                f"{name} answers with {some(served.label_names)}, but {dataset_name} has {some(source.label_names)}: "
                "name the data it was trained on with --dataset"
            )
        found = measured(served, source)
        results.note(split, found.metrics | {"pictures": found.pictures}, found.baseline)
        for key, per_class in found.per_class.items():
            results.per_class[f"{split}/{key}"] = {label: per_class.get(label) for label in served.label_names}
        results.hashes.append(source.data_hash)
        if facts.show_pictures:
            results.figures[split] = figure_of(served, source)
    return results


def answers(
    served: contract.Detector, source: BoxSource | PaintedBoxes, count: int | None = None
) -> Iterator[tuple[contract.Detections, Things, tuple[int, int]]]:
    """All candidates in each of the source's pictures, at most `count`, evenly spread; what is there; and its size."""
    count = min(count or len(source), len(source))
    at_once = MASKED_AT_ONCE if served.makes_masks else AT_ONCE
    for at in range(0, count, at_once):
        rows = range(at, min(at + at_once, count))
        pictures, things = zip(*(source.pair(number * len(source) // count) for number in rows), strict=True)
        yield from zip(served.detect(pictures, 0), things, [picture.size for picture in pictures], strict=True)


def measured(served: contract.Detector, source: BoxSource | PaintedBoxes, count: int | None = None) -> Measured:
    """How good a detector is in the source's pictures, at most `count`. Masks aren't kept: they are large."""
    precision, guessed = (
        AveragePrecision(served.label_names, served.makes_masks),
        AveragePrecision(served.label_names),
    )
    found, truths, sizes = [], [], []
    for one, truth, size in answers(served, source, count):
        precision.add(one, truth)
        found.append(dataclasses.replace(one, masks=None))
        truths.append(Things(truth.boxes, truth.labels))
        sizes.append(size)
    usual = int(np.bincount(np.concatenate([truth.labels for truth in truths])).argmax())
    guesses = [
        contract.Detections(
            np.array([[0, 0, *size]], np.float32), np.array([usual]), np.ones(1, np.float32), served.label_names
        )
        for size in sizes
    ]
    for guess, truth in zip(guesses, truths, strict=True):
        guessed.add(guess, truth)
    metrics, per_class = precision.result()
    counted = counts_right(found, truths, served.threshold, served.overlap)
    baseline = counts_right(guesses, truths, served.threshold)
    return Measured(metrics | counted, per_class, guessed.result()[0] | baseline, len(truths))


def fit_to(served: contract.Detector, source: BoxSource | PaintedBoxes) -> None:
    """Set threshold and overlap of a trained detector to where counts in validation pictures are right most often."""
    training = served.model.training
    served.model.eval()
    seen = answers(served, source, FEW_SCENES if source.facts.sample else PICTURES_TO_FIT)
    pairs = [(dataclasses.replace(found, masks=None), truth) for found, truth, _ in seen]
    served.threshold, served.overlap = best_counting(*zip(*pairs, strict=True))
    served.model.train(training)


def figure_of(served: contract.Detector, source: BoxSource | PaintedBoxes, count: int = SHOWN) -> Image.Image:
    """Some of the source's pictures with what is there and what was found."""
    count = min(count, len(source))
    pairs = [source.pair(number * len(source) // count) for number in range(count)]
    found = served.detect([picture for picture, _ in pairs])
    said = [
        [f"{served.label_names[k]} {score:.0%}" for k, score in zip(f.labels, f.scores, strict=True)] for f in found
    ]
    return figures.boxed(
        [picture for picture, _ in pairs], [things.boxes for _, things in pairs], [f.boxes for f in found],
        [f.labels for f in found], said, [f.masks for f in found],
    )  # fmt: skip
