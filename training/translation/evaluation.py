"""Translated pictures beside true ones: what is measured of saved weights, and the sheet that shows it.

Letters: N pairs, M training pictures, R side of the picture in pixels, K styles, D features.
"""

import time

import numpy as np
import torch
from PIL import Image

from hub_models import translation as contract
from hub_models.pictures import to_uint8
from training import figures, judges, metrics
from training.data.counterparts import Counterparts, held_out_pairs, nearest
from training.data.facts import facts_of
from training.data.files import DataError
from training.data.sources import Source, open_source
from training.drawn import clean_picture, picture_tensor
from training.task import Results, by_label, some

TIMED = 5
SHOWN = 12  # pictures of a sheet


def style_column(dataset_name: str, asked: str | None) -> str:
    """The column that holds the style: the one asked for, else "style" of our emoji and "label" of other data."""
    return asked or ("style" if facts_of(dataset_name).ours else "label")


def rms_distance(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Root mean square distance of each row of x and y (N, 3, R, R) in [-1, 1], of pixels in [0, 1]: (N,)."""
    return ((x - y) / 2).square().mean((1, 2, 3)).sqrt().cpu().numpy()


class Exam:
    """What a model is asked for: training pictures, those held out, and which of them are pairs."""

    def __init__(self, model: contract.Translator, dataset_name: str, columns: dict):
        columns = dict(columns)
        concept = columns.pop("concept_column", "name")
        columns["label_column"] = style_column(dataset_name, columns.get("label_column"))
        self.train = open_source(dataset_name, split="train", **columns)
        wanted = [split for split in facts_of(dataset_name).evaluation_sets if split != "unseen_style"]
        self.parts = {split: open_source(dataset_name, split=split, **columns) for split in wanted}
        if self.train.label_names != model.style_names:
            raise SystemExit(
                f"{model.name} knows {some(model.style_names)}, but {dataset_name} has {some(self.train.label_names)}: "
                "name the data it was trained on with --dataset, and the column of styles with --label_column"
            )
        self.known: Counterparts | None = None
        self.own: dict[str, Counterparts] = {}
        try:
            self.known = Counterparts(self.train, concept)
            self.own = {split: Counterparts(part, concept) for split, part in self.parts.items()}
        except DataError:  # learned from styles alone
            pass
        side = model.resolution_px
        self.pixels = {id(part): picture_tensor(part, side) for part in (self.train, *self.parts.values())}
        self.features = metrics.hog_colour_features(to_uint8(self.pixels[id(self.train)]))  # (M, D)


def evaluate_checkpoint(name: str, dataset_name: str, *, columns: dict | None = None) -> Results:
    """How near a saved model's pictures come to true ones in the style asked for, on pairs whose truth was held out.

    Of each set: see `note_pairs`. Of the first: see `note_way_back`. seconds_per_picture: the median of TIMED that are
    translated alone. The baseline is the input as it is; what is called neighbour/… another one: the counterpart of the
    training picture that looks most like the input.
    columns: of `open_source`, and concept_column.
    """
    model = contract.load(name)
    exam = Exam(model, dataset_name, columns or {})
    results = Results("copying the input", hashes=[part.data_hash for part in exam.parts.values()])
    jury = judges.load() if exam.train.facts.ours else None
    if jury:
        results.more["judges"] = {"classifier": jury.said["classifier"]}
    for split, part in exam.parts.items():
        pairs = [*held_out_pairs(exam.known, exam.own[split])] if exam.known else []
        if pairs:
            note_pairs(results, split, model, exam, pairs, jury)
        else:
            results.left_out.append(
                f"{split} shows nothing in two styles, so nothing is said of it; --concept_column pairs."
            )
        note_way_back(results, split, model, exam, part)
        results.figures[split.replace("_", "-")] = sheet_of(model, part, exam.own.get(split))
    x = exam.pixels[id(exam.train)]
    results.metrics["seconds_per_picture"] = float(np.median([seconds_of(model, x[k % len(x)]) for k in range(TIMED)]))
    return results


def note_pairs(results: Results, split: str, model: contract.Translator, exam: Exam,
               pairs: list[tuple[Source, int, int]], jury: judges.Judges | None) -> None:  # fmt: skip
    """Note what can be said of pairs (source of the input, its row, the row of the truth).

    rms_distance: mean root mean square distance in [0, 1] pixels to the true picture. feature_distance: the mean
    distance to it in the judging classifier's features. nearer_than_input: the share of pairs in which the result is
    nearer in pixels to the truth than the input is. style_right: the share whose nearest training picture of another
    concept, in features without learning, has the style asked for; truth/style_right: the same of the true pictures.
    neighbour/…: of the counterparts of the nearest training pictures, on the pairs that have one.
    """
    known, own = exam.known, exam.own[split]
    assert known is not None
    x = torch.stack([exam.pixels[id(part)][row] for part, row, _ in pairs])  # (N, 3, R, R)
    rows = [truth for _, _, truth in pairs]
    truths, asked = exam.pixels[id(own.source)][rows], own.source.labels[rows]
    came = np.array([part.label(row) for part, row, _ in pairs])
    concepts = [own.concepts[row] for row in rows]
    made = model.translate_tensor(x, asked.tolist()).cpu()
    away, before = rms_distance(made, truths), rms_distance(x, truths)

    other = np.array([[c != theirs for theirs in known.concepts] for c in concepts])  # (N, M)
    styles = known.source.labels
    seen = {kind: metrics.hog_colour_features(to_uint8(part)) for kind, part in (("in", x), ("made", made))}
    seen["true"] = metrics.hog_colour_features(to_uint8(truths))
    looks = {kind: styles[nearest(part, exam.features, other)] == asked for kind, part in seen.items()}
    found = {"rms_distance": float(away.mean()), "nearer_than_input": float((away < before).mean())}
    beside = {"rms_distance": float(before.mean())}
    if jury:
        judged = [metrics.in_batches(jury.classifier.features, to_uint8(part)) for part in (truths, made, x)]
        far = [float(np.linalg.norm(part - judged[0], axis=1).mean()) for part in judged[1:]]
        found["feature_distance"], beside["feature_distance"] = far
    found |= {"style_right": float(looks["made"].mean()), "truth/style_right": float(looks["true"].mean())}
    beside["style_right"] = float(looks["in"].mean())

    has = np.array(
        [[bool(known.of(c, style=style)) for c in known.concepts] for style in range(len(model.style_names))]
    )
    twins = nearest(seen["in"], exam.features, other & (styles == came[:, None]) & has[asked])
    there = np.flatnonzero(twins >= 0)
    if len(there):
        twins = [known.of(known.concepts[twins[at]], style=int(asked[at]))[0] for at in there]
        theirs = rms_distance(exam.pixels[id(known.source)][twins], truths[there])
        found["neighbour/rms_distance"] = float(theirs.mean())
        found["neighbour/nearer_than_input"] = float((theirs < before[there]).mean())
    results.note(split, found | {"pairs": len(pairs)}, beside)
    by = {"nearer_than_input": away < before, "style_right": looks["made"]}
    for key, values in by.items():
        results.per_class[f"{split}/{key}"] = by_style(model.style_names, values, asked)
    results.curves[f"{split}/rms_distance"] = {
        "measured": by_style(model.style_names, away, asked), "input": by_style(model.style_names, before, asked),
    }  # fmt: skip


def by_style(style_names: list[str], values: np.ndarray, asked: np.ndarray) -> dict[str, float | None]:
    """The mean of values (N,) of each style asked for (N,); None for one that wasn't."""
    parts = [values[asked == style] for style in range(len(style_names))]
    return by_label(style_names, [float(part.mean()) if len(part) else float("nan") for part in parts])


def note_way_back(results: Results, split: str, model: contract.Translator, exam: Exam, part: Source) -> None:
    """Note what becomes of held-out pictures without any truth: root mean square distances in [0, 1] pixels.

    identity_distance: of a picture asked for in its own style to itself. cycle_distance: of one translated to the next
    style and back.
    """
    x, own = exam.pixels[id(part)], part.labels.tolist()
    there = model.translate_tensor(x, [(style + 1) % len(model.style_names) for style in own])
    same, back = (model.translate_tensor(each, own).cpu() for each in (x, there))
    found = {"identity_distance": rms_distance(same, x), "cycle_distance": rms_distance(back, x)}
    results.note(split, {key: float(value.mean()) for key, value in found.items()})


def seconds_of(model: contract.Translator, x: torch.Tensor) -> float:
    began = time.perf_counter()
    model.translate_tensor(x[None], [0])
    return time.perf_counter() - began


def clean(source: Source, rows: list[int], side_px: int) -> torch.Tensor:
    """Rows of a source as the model sees them, (N, 3, R, R)."""
    return torch.stack([clean_picture(source.picture(row), side_px) for row in rows])


def sheet_of(model: contract.Translator, held_out: Source, own: Counterparts | None) -> Image.Image:
    """Pictures held out, each with what it becomes in every style; below it the true ones, where there are any."""
    styles, side = range(len(model.style_names)), model.resolution_px
    able = [row for row in range(len(held_out)) if own is None or len(own.of(own.concepts[row])) > 1]
    able = able or list(range(len(held_out)))
    blank = np.full((1, side, side, 3), 255, np.uint8)
    shown = []
    for number in range(min(SHOWN, len(able))):
        row = able[number * len(able) // min(SHOWN, len(able))]
        x = clean(held_out, [row], side)
        shown += [to_uint8(x), to_uint8(model.translate_tensor(x.expand(len(styles), -1, -1, -1), styles))]
        if own is not None:
            true = [own.of(own.concepts[row], style=style)[:1] for style in styles]
            shown += [blank, *(to_uint8(clean(held_out, found, side)) if found else blank for found in true)]
    return figures.sheet(np.concatenate(shown), columns=1 + len(styles), zoom=2)
