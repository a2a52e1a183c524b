"""What is measured of every model that draws pictures of a class, and the pictures that such a model is trained on.

Letters: R side of the picture in pixels.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from hub_models.pictures import frame, to_uint8
from training import figures, judges, metrics
from training.data.captions import core
from training.data.facts import facts_of
from training.data.sources import Source, open_source
from training.diffusion import nearest_train_distance
from training.task import Results, by_label, some

Draw = Callable[[Sequence[int | None], int], np.ndarray]  # (labels, seed) -> a picture of each, uint8 (N, R, R, 3)


class Model(Protocol):
    """What is asked of a model here; one without label_names is unconditional."""

    label_names: list[str]

    @property
    def resolution_px(self) -> int: ...


def clean_picture(picture: Image.Image, resolution_px: int) -> torch.Tensor:
    """A picture as the model sees it, (3, R, R) float32 in [-1, 1]: whole, in a white square."""
    pixels = np.array(frame(picture, resolution_px))  # (R, R, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def picture_tensor(source: Source, resolution_px: int, limit: int | None = None) -> torch.Tensor:
    """The first `limit` pictures of a source, (N, 3, R, R); all of them by default."""
    source.preload(resolution_px)
    count = len(source) if limit is None else min(limit, len(source))
    return torch.stack([clean_picture(source.picture(i), resolution_px) for i in range(count)])


def measured(
    name: str, model: Model, draw: Draw, dataset_name: str, columns: dict | None = None, judge: str | None = None
) -> tuple[Results, list[Source]]:
    """KID and distance to training pictures of what is drawn, and whether labels are obeyed; the held-out sources, too.

    kid_x1000: see `training.judges`, between pictures drawn with the label mix of validation and held-out pairs, and
    those pictures. label_accuracy, named_label_accuracy: see `obeyed`.
    nearest_train_distance: median root mean square distance in [0, 1] pixels to the nearest training picture, beside
    that of real held-out pictures; far below that would be copying.
    columns: of `open_source`. judge: a classifier of the same data, in the place of ours, which know emoji alone; what
    no judge knows is left out.
    """
    columns, conditional = columns or {}, bool(model.label_names)
    train = open_source(dataset_name, split="train", **columns)
    wanted = [split for split in facts_of(dataset_name).evaluation_sets if split != "unseen_style"]
    real_parts = [open_source(dataset_name, split=split, **columns) for split in wanted]
    if conditional and train.label_names != model.label_names:
        raise SystemExit(
            f"{name} draws {some(model.label_names)}, but {dataset_name} has {some(train.label_names or ['no labels'])}"
            ": name the data it was trained on with --dataset, and their column with --label_column"
        )
    jury = judges.of_own(judge, model.label_names) if judge else judges.load()
    real = np.concatenate([to_uint8(picture_tensor(part, model.resolution_px)) for part in real_parts])
    labels = [int(v) for part in real_parts for v in part.labels] if conditional else [None] * len(real)
    known = to_uint8(picture_tensor(train, model.resolution_px))

    order = np.random.default_rng(0).permutation(len(real))[:600]
    drawn = shown = draw([labels[row] for row in order], 1)
    results = Results("real pictures", hashes=[part.data_hash for part in real_parts])
    if jury.know(train.facts, model.label_names):
        jury.note_kid(results, drawn, real, known)
        results.more["judges"] = jury.said
        if conditional:
            shown = obeyed(results, model.label_names, draw, jury, train, real, labels)
    else:
        what = "Whether labels are obeyed and how far drawn pictures are from real ones (KID)" if conditional else "KID"
        results.left_out.append(f"{what} is left out: the judges know the classes of emoji alone; --judge names yours.")
    results.metrics |= {"nearest_train_distance": nearest_train_distance(drawn, known), "pictures": len(drawn)}
    results.baseline["nearest_train_distance"] = nearest_train_distance(real, known)
    results.figures["samples"] = figures.sheet(shown[: 12 * max(8, len(model.label_names))], 12, zoom=2)
    return results, real_parts


def obeyed(results: Results, names: list[str], draw: Draw, jury: judges.Judges, train: Source, real: np.ndarray,
           real_labels: Sequence) -> np.ndarray:  # fmt: skip
    """Note whether the judges see the labels that were asked for; a dozen pictures of each come back, (N, R, R, 3).

    label_accuracy: the share of drawn pictures that the classifier takes for the label asked for.
    named_label_accuracy: the share in which the captioner names a thing of that label first. The baseline is the same
    for real held-out pictures at this resolution.
    """
    rows = np.repeat(np.arange(len(names)), 25)
    pictures = draw(rows.tolist(), 2)
    for kept, images, labels in ((results.metrics, pictures, rows), (results.baseline, real, real_labels)):
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
