"""Pictures drawn by class, beside real ones: as tensors, and how they are measured, for every script that draws so.

Letters: N pictures, R pixels a side.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hub_models.pictures import frame, to_uint8
from training import coverage, judges, metrics
from training.data.captions import core
from training.data.facts import facts_of
from training.data.sources import Source, open_source
from training.diffusion import nearest_train_distance
from training.task import Results, by_label, some

Draw = Callable[[Sequence, int], np.ndarray]  # (labels, seed) → uint8 (N, R, R, 3)
EACH, FEW = 25, 4  # pictures of each label whose labels are looked at; FEW where the data are a sample
TIMED = 5
# What is said also of all that was learned, of a model that draws likelier pictures than that by default
AS_LEARNED = ("kid_x1000", "kid_x1000_low", "kid_x1000_high", "precision", "recall", "label_accuracy")


def clean_picture(picture: Image.Image, resolution_px: int) -> torch.Tensor:
    """A picture as the model sees it, (3, R, R) float32 in [-1, 1]: whole, in a white square."""
    pixels = np.array(frame(picture, resolution_px))  # (R, R, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def picture_tensor(source: Source, resolution_px: int, limit: int | None = None) -> torch.Tensor:
    """The first `limit` pictures of a source, (N, 3, R, R); all of them by default."""
    source.preload(resolution_px)
    count = len(source) if limit is None else min(limit, len(source))
    return torch.stack([clean_picture(source.picture(i), resolution_px) for i in range(count)])


class LabelledPictures:
    """Training samples {"picture": (3, R, R), "noise": (N,), "label": ()}; see `training.order.Samples`.

    noise is standard normal, what a picture is drawn from.
    """

    def __init__(self, source: Source, resolution_px: int, noise_dim: int):
        self.source, self.data_hash = source, source.data_hash
        self.resolution_px, self.noise_dim = resolution_px, noise_dim
        source.preload(resolution_px)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        picture = clean_picture(self.source.picture(index), self.resolution_px)
        noise = torch.randn(self.noise_dim, generator=draw)
        return {"picture": picture, "noise": noise, "label": self.source.label(index)}


@dataclass(frozen=True)
class Exam:
    """What drawn pictures are measured against."""

    train: Source
    held_out: list[Source]  # the evaluation sets of known styles
    label_names: list[str]  # of the model; none of one that draws without
    labels: Sequence  # of the held-out pictures; None each of a model that draws without
    real: np.ndarray  # the held-out pictures, uint8 (N, R, R, 3)
    known: np.ndarray  # the training pictures, uint8 (M, R, R, 3)
    jury: judges.Judges

    @property
    def asked(self) -> list:
        """600 labels, or as many as there are, in the mix of the held-out pictures."""
        return [self.labels[row] for row in np.random.default_rng(0).permutation(len(self.real))[:600]]

    def results(self) -> Results:
        return Results("real pictures", hashes=[part.data_hash for part in self.held_out])


def exam_of(name: str, dataset_name: str, label_names: Sequence[str], resolution_px: int, columns: dict | None,
            judge: str | None) -> Exam:  # fmt: skip
    """The exam of model `name`, which draws these labels, on a data set.

    columns: of `open_source`. judge: a classifier of the same data, in the place of ours, which know emoji alone.
    Raises SystemExit where the data have other labels.
    """
    names, columns = list(label_names), columns or {}
    train = open_source(dataset_name, split="train", **columns)
    wanted = [split for split in facts_of(dataset_name).evaluation_sets if split != "unseen_style"]
    parts = [open_source(dataset_name, split=split, **columns) for split in wanted]
    if names and train.label_names != names:
        raise SystemExit(
            f"{name} draws {some(names)}, but {dataset_name} has {some(train.label_names or ['no labels'])}"
            ": name the data it was trained on with --dataset, and their column with --label_column"
        )
    jury = judges.of_own(judge, names) if judge else judges.load()
    real = np.concatenate([to_uint8(picture_tensor(part, resolution_px)) for part in parts])
    labels: list = [int(v) for part in parts for v in part.labels] if names else [None] * len(real)
    return Exam(train, parts, names, labels, real, to_uint8(picture_tensor(train, resolution_px)), jury)


def measure(results: Results, exam: Exam, drawn: np.ndarray, draw: Draw) -> np.ndarray:
    """Note what can be said of pictures drawn with the labels `exam.asked`; those to show come back, (N, R, R, 3).

    kid_x1000, precision, recall, label_accuracy, named_label_accuracy: by the judges, see `judges.note_kid`,
    `note_coverage` and `note_labels`; what no judge knows is left out. nearest_train_distance: median root mean square
    distance in [0, 1] pixels to the nearest training picture, beside that of real held-out pictures; far below that
    would be copying. seconds_per_picture: the median of TIMED that are drawn alone.
    """
    shown, names = drawn, exam.label_names
    if exam.jury.know(exam.train.facts, names):
        exam.jury.note_kid(results, drawn, exam.real, exam.known)
        note_coverage(results, exam, drawn)
        results.more["judges"] = exam.jury.said
        if names:
            shown = note_labels(results, exam, draw)
    else:
        what = "Whether labels are obeyed and how far drawn pictures are from real ones (KID)" if names else "KID"
        results.left_out.append(f"{what} is left out: the judges know the classes of emoji alone; --judge names yours.")
    results.metrics |= {"nearest_train_distance": nearest_train_distance(drawn, exam.known), "pictures": len(drawn)}
    results.baseline["nearest_train_distance"] = nearest_train_distance(exam.real, exam.known)
    results.metrics["seconds_per_picture"] = float(np.median([seconds_of(draw, exam, k) for k in range(TIMED)]))
    return shown


def seconds_of(draw: Draw, exam: Exam, seed: int) -> float:
    began = time.perf_counter()
    draw(exam.asked[:1], seed)
    return time.perf_counter() - began


def note_coverage(results: Results, exam: Exam, drawn: np.ndarray) -> None:
    """Note precision and recall in the classifier's features; the baseline is that of as many training pictures."""
    if min(len(drawn), len(exam.real)) < judges.FEWEST:
        results.left_out.append(
            f"Precision and recall are left out: they take {judges.FEWEST} pictures of either kind."
        )
        return
    some_known = exam.known[np.random.default_rng(0).permutation(len(exam.known))[: len(drawn)]]
    real = metrics.in_batches(exam.jury.classifier.features, exam.real)
    for kept, pictures in ((results.metrics, drawn), (results.baseline, some_known)):
        rows = metrics.in_batches(exam.jury.classifier.features, pictures)
        kept["precision"], kept["recall"] = coverage.precision_and_recall(rows, real)


def note_labels(results: Results, exam: Exam, draw: Draw) -> np.ndarray:
    """Note whether the judges see the labels that were asked for; a dozen pictures of each come back, (N, R, R, 3).

    label_accuracy: the share of drawn pictures that the classifier takes for the label asked for.
    named_label_accuracy: the share in which the captioner names a thing of that label first. The baseline is the same
    for real held-out pictures at this resolution.
    """
    names, jury, train = exam.label_names, exam.jury, exam.train
    rows = np.repeat(np.arange(len(names)), FEW if train.facts.sample else EACH)
    pictures = draw(rows.tolist(), 2)
    for kept, images, labels in ((results.metrics, pictures, rows), (results.baseline, exam.real, exam.labels)):
        asked, said = np.array([names[label] for label in labels]), np.array(jury.classes(images))
        kept["label_accuracy"] = float((said == asked).mean())
        if jury.captioner:
            of = {core(name): names[label] for name, label in zip(train.column("name"), train.labels, strict=True)}
            named = np.array(jury.classes_by_name(images, of))
            kept["named_label_accuracy"] = float((named == asked).mean())
        if kept is results.metrics:  # what is taken for a class that wasn't asked for counts for none
            ids = np.array([names.index(one) if one in names else -1 for one in said])
            seen = ids >= 0
            confusion = metrics.confusion_matrix(ids[seen], rows[seen], len(names))
            right = [float((ids[rows == row] == row).mean()) for row in range(len(names))]
    results.per_class["label_accuracy"] = by_label(names, right)
    results.curves["confusion"] = confusion.tolist()
    return np.concatenate([pictures[rows == row][:12] for row in range(len(names))])  # a row a class
