"""What a detector is worth, in training or saved, and what is fitted to it afterwards."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from hub_models import detection as contract
from training import figures
from training.data.boxes import BoxSource, PaintedBoxes, open_boxes
from training.data.facts import facts_of
from training.data.masks import SCENES
from training.data.things import Things
from training.detection.scores import average_precision, best_threshold, counts_right
from training.task import Results, some

PICTURES_TO_FIT = 200  # of validation, that the threshold is taken from
SCENES_MEASURED = 1000  # of each set, by `evaluate_checkpoint`
FEW_SCENES = 20  # of each set, where the data are a sample
SHOWN = 12  # pictures of a sheet
AT_ONCE = 64  # pictures that are held decoded


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, scenes: int = SCENES_MEASURED
) -> Results:
    """Scores of a saved detector on each evaluation set: see `scores_of`, and the average precision of each class.

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
            dataset_name, split=split, limit=limit, resolution_px=served.resolution_px, **(columns or {})
        )
        if source.label_names != served.label_names:
            raise SystemExit(
                f"{name} answers with {some(served.label_names)}, but {dataset_name} has {some(source.label_names)}: "
                "name the data it was trained on with --dataset"
            )
        found, truths, guesses = answers(served, source)
        metrics, per_class = scores_of(found, truths, served)
        baseline, _ = scores_of(guesses, truths, served)
        results.note(split, metrics | {"pictures": len(truths)}, baseline)
        results.per_class[f"{split}/map"] = {label: per_class.get(label) for label in served.label_names}
        results.hashes.append(source.data_hash)
        if facts.show_pictures:
            results.figures[split] = figure_of(served, source)
    return results


def answers(
    served: contract.Detector, source: BoxSource | PaintedBoxes, count: int | None = None
) -> tuple[list[contract.Detections], list[Things], list[contract.Detections]]:
    """All candidates in the source's pictures, at most `count`, evenly spread; what is there; and the baseline's."""
    count = min(count or len(source), len(source))
    found, truths, sizes = [], [], []
    for at in range(0, count, AT_ONCE):
        rows = range(at, min(at + AT_ONCE, count))
        pictures, things = zip(*(source.pair(number * len(source) // count) for number in rows), strict=True)
        found += served.detect(pictures, 0)
        truths += things
        sizes += [picture.size for picture in pictures]
    usual = int(np.bincount(np.concatenate([truth.labels for truth in truths])).argmax())
    guesses = [
        contract.Detections(
            np.array([[0, 0, *size]], np.float32), np.array([usual]), np.ones(1, np.float32), served.label_names
        )
        for size in sizes
    ]
    return found, truths, guesses


def scores_of(
    found: Sequence[contract.Detections], truths: Sequence[Things], served: contract.Detector
) -> tuple[dict[str, float], dict[str, float]]:
    """map, map50, counted, counted_in_all, count_error: see `scores`; and the first by class."""
    precision, per_class = average_precision(found, truths, served.label_names)
    return precision | counts_right(found, truths, served.threshold), per_class


def fit_to(served: contract.Detector, source: BoxSource | PaintedBoxes) -> None:
    """Set the threshold of a trained detector to where counts in validation pictures are right most often."""
    training = served.model.training
    served.model.eval()
    found, truths, _ = answers(served, source, FEW_SCENES if source.facts.sample else PICTURES_TO_FIT)
    served.threshold = best_threshold(found, truths)
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
        [f.labels for f in found], said,
    )  # fmt: skip
