"""What a segmenter is worth, in training or saved, and what is fitted to it afterwards, from answered pixels.

Letters: K classes, H × W pixels, D features.
"""

import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image

from hub_models import components
from hub_models import segmentation as contract
from training import figures, metrics
from training.data.facts import facts_of
from training.data.masks import IGNORE, SCENES, check, open_masks
from training.segmentation.samples import cut
from training.task import Results, by_label, some

PICTURES_TO_FIT = 200  # of validation: temperature, principal components and risk-coverage are taken from so many
PIXELS_EACH = 500  # of each of them
SCENES_MEASURED = 1000  # of each set, by `evaluate_checkpoint`
FEW_SCENES = 20  # of each set, where the data are a sample


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, scenes: int = SCENES_MEASURED
) -> Results:
    """Scores of a saved segmenter, each from one confusion matrix over all pixels of an evaluation set.

    name: bundled variant, folder or Hub id. Of painted scenes `scenes` pictures of each set are measured; "emoji" and
    "emoji-sample" mean scenes painted from them. The baseline answers the most frequent class everywhere.
    """
    served, painted_from = contract.load(name), {art: painted for painted, art in SCENES.items()}
    dataset_name = painted_from.get(dataset_name, dataset_name)
    facts, results = facts_of(dataset_name), Results("most frequent class")
    limit = (min(scenes, FEW_SCENES) if facts.sample else scenes) if facts.ours else None
    for split in facts.evaluation_sets:
        source = open_masks(
            dataset_name, split=split, limit=limit, resolution_px=served.resolution_px, **(columns or {})
        )
        names = [source.id2label[k] for k in range(len(source.id2label))]
        if names != served.label_names:
            raise SystemExit(
                f"{name} answers with {some(served.label_names)}, but {dataset_name} has {some(names)}: "
                "name the data it was trained on with --dataset"
            )
        if not facts.ours:
            check(source, every_class=False)
        confs, tables = zip(*tallies(served, source), strict=True)
        conf, table = sum(confs), sum(tables)
        measured = scores_of(conf, table, names) | (by_source(source.sources, confs) if source.sources else {})
        guess = np.zeros_like(conf)
        guess[:, conf.sum(1).argmax()] = conf.sum(1)
        guessed = {"miou": metrics.mean_iou(guess), "pixel_accuracy": float(np.trace(guess) / guess.sum())}
        results.note(split, measured | {"pictures": len(source)}, guessed)
        results.per_class[split] = by_label(names, metrics.iou(conf))
        results.curves |= {f"{split}/risk_coverage": metrics.risk_coverage(table), f"{split}/confusion": conf.tolist()}
        results.hashes.append(source.data_hash)
        if facts.show_pictures:
            results.figures[split] = figure_of(served, source)
    return results


def predictions(served: contract.Segmenter, source, count: int | None = None) -> Iterator[tuple]:
    """(picture, mask, its segmentation) of the source's pictures, at most `count`, evenly spread."""
    count = min(count or len(source), len(source))
    for number in range(count):
        picture, mask = source.pair(number * len(source) // count)
        yield picture, mask, served.predict(picture)


def tallies(served: contract.Segmenter, source, count: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each picture the confusion matrix (K, K) of its answered pixels, at its own size, and confidence table."""
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
    answered = {name: conf for name, conf in sorted(sets.items()) if conf.sum()}
    return {f"{name}/pixel_accuracy": float(np.trace(conf) / conf.sum()) for name, conf in answered.items()}


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
    most = FEW_SCENES if source.facts.sample else PICTURES_TO_FIT
    count, rng, training = min(most, len(source)), random.Random(0), served.model.training
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
    if any(map(len, labels)):  # else no part of a picture that was looked at has an answer
        served.temperature = round(metrics.fit_temperature(np.concatenate(logits), np.concatenate(labels)), 4)
    served.pca = _basis(np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]))
    served.risk_coverage = metrics.risk_coverage(tally(served, source, count)[1])
    served.model.train(training)


def _basis(rows: np.ndarray) -> dict[str, list] | None:
    """Three principal components of rows (N, D), and the range from the 2nd to the 98th percentile on each."""
    if rows.shape[1] < 3:
        return None
    return {name: np.round(part, 5).tolist() for name, part in components.fitted(rows).items()}
