"""What is said of the things in a picture, as HTML, as JSON and as COCO has it: counts, tables, and what is missing."""

import html
from collections.abc import Mapping

import numpy as np

from apps.detection.paint import Seen
from apps.detection.wanted import Verdict, several
from apps.kit import parts
from hub_models.detection import Detections, Detector

KINDS = {
    "deimv2": "DEIMv2", "d_fine": "D-FINE", "rt_detr": "RT-DETR", "rt_detr_v2": "RT-DETRv2", "detr": "DETR",
    "yolos": "YOLOS", "maskformer": "MaskFormer", "rf_detr": "RF-DETR", "swin_mask_rcnn": "Mask R-CNN",
}  # fmt: skip
ROWS = 60  # of the table of things


def number_of(label: str, count: int) -> str:
    """So many of a class: "3 faces", "1 car"; a class of two words joined, "2 × sport and event"."""
    if " and " in label or not label.split():
        return f"{count} × {label}"
    return f"1 {label}" if count == 1 else f"{count} {' '.join(several(label.split())[0])}"


def listed(counts: Mapping[str, int]) -> str:
    return ", ".join(number_of(label, count) for label, count in counts.items())


def sentence(found: Detections) -> str:
    """How many there are of each class, the most first: "3 faces, 2 cars"."""
    return listed(found.counts()) or "nothing"


def counts_html(found: Detections | None) -> str:
    """The counts as a sentence and as a table: class, how many, the scores of the surest and the least sure."""
    if found is None:
        return parts.blank("How many there are of each class stands here.")
    rows = ""
    for label, count in found.counts().items():
        scores = found.scores[[found.label_names[k] == label for k in found.labels]]
        sure = f"{scores.max():.0%}" if count == 1 else f"{scores.max():.0%} to {scores.min():.0%}"
        rows += f'<tr><th scope="row">{html.escape(label)}</th><td>{count}</td><td>{sure}</td></tr>'
    said = f'<p class="sum" role="status">{html.escape(sentence(found).capitalize())}</p>'
    return said + table("Things of each class", ("Class", "How many", "Score"), rows)


def things_html(seen: Seen | None, found: Detections | None) -> str:
    """A row for each thing, the surest first: its class, its score, its box in pixels."""
    if seen is None or found is None:
        return table("Things", ("Thing", "Score", "Left, top, width × height"), "")
    rows = []
    for label, score, (left, top, right, bottom) in zip(found.labels, found.scores, found.boxes.round(), strict=True):
        dot = "rgb({},{},{})".format(*seen.colours[label])
        name = f'<i style="background:{dot}"></i>{html.escape(found.label_names[label])}'
        place = f"{left:.0f}, {top:.0f}, {right - left:.0f} × {bottom - top:.0f}"
        rows.append(f'<tr><th scope="row">{name}</th><td>{score:.0%}</td><td>{place}</td></tr>')
    more = len(rows) - ROWS
    rest = f'<tr><th scope="row">and {more} more</th><td></td><td></td></tr>' if more > 0 else ""
    return table("Things", ("Thing", "Score", "Left, top, width × height"), "".join(rows[:ROWS]) + rest)


def table(name: str, headings: tuple[str, ...], rows: str) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="table"><table aria-label="{name}">{body}</table></div>' if rows else ""


def card(model: Detector, seconds: float | None = None) -> str:
    """HTML: what the model is, its weights' hash, device, and the measured time of an answer."""
    kind = KINDS.get(model.kind, model.kind)
    own = f"{100 * model.threshold:g} %"
    return parts.model_facts(model, seconds, **{"Model": kind, "Classes": len(model.label_names), "Own threshold": own})


# ---- what was asked for ----------------------------------------------------------------------------------------------


def judged(verdict: Verdict) -> str:
    """A sentence on what is missing, too much, there unasked, and not understood."""
    said = []
    if verdict.missing:
        said.append(f"Missing: {listed(verdict.missing)}.")
    if verdict.too_many:
        said.append(f"Too many: {listed(verdict.too_many)}.")
    if verdict.not_asked_for:
        said.append(f"Not asked for: {listed(verdict.not_asked_for)}.")
    if not said:
        said.append("All there, and nothing else.")
    if verdict.unknown:
        said.append(f"No class of this model: {', '.join(verdict.unknown)}.")
    return " ".join(said)


def verdict_html(verdict: Verdict | None, problem: str = "") -> str:
    """The judgement, and a row for each class that was asked for or found."""
    if verdict is None:
        return f'<p class="sum" role="status">{html.escape(problem)}</p>' if problem else ""
    rows = ""
    wrong = verdict.missing | verdict.too_many
    for wish in verdict.wishes:
        words, found = ", ".join(wish.said), verdict.found.get(wish.label, 0)
        mark = "✗" if wish.label in wrong else "✓"
        rows += _row(wish.label, "" if words == wish.label else words, str(wish), found, mark)
    for label, found in verdict.not_asked_for.items():
        rows += _row(label, "", "not asked for", found, "✗")
    kind = "right" if verdict.as_wanted else "wrong"
    said = f'<p class="sum {kind}" role="status">{html.escape(judged(verdict))}</p>'
    return said + table("What was asked for and what was found", ("Class", "Asked for", "Found", "Right"), rows)


def _row(label: str, words: str, wanted: str, found: int, mark: str) -> str:
    name = html.escape(label) + (f"<small>{html.escape(words)}</small>" if words else "")
    spoken = "yes" if mark == "✓" else "no"
    cells = f'<td>{wanted}</td><td>{found}</td><td><span aria-label="{spoken}">{mark}</span></td>'
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def verdict_report(verdict: Verdict) -> dict:
    """The same for programs."""
    return {
        "as_wanted": verdict.as_wanted,
        "sentence": judged(verdict),
        "wanted": [
            {"label": wish.label, "at_least": wish.low, "at_most": wish.high, "words": list(wish.said)}
            for wish in verdict.wishes
        ],
        "found": dict(verdict.found),
        "missing": verdict.missing,
        "too_many": verdict.too_many,
        "not_asked_for": verdict.not_asked_for,
        "not_understood": verdict.unknown,
    }


# ---- for programs ----------------------------------------------------------------------------------------------------


def report(model: Detector, seen: Seen, found: Detections, asked: Mapping) -> dict:
    """What is in the picture, as the JSON to download."""
    return {
        **parts.answered(model, seen.picture, seen.seconds),
        "asked": dict(asked),
        "candidates": seen.total,
        "counts": found.counts(),
        "sentence": sentence(found),
        "things": [
            {
                "label": found.label_names[label],
                "score": round(float(score), 6),
                "box": [round(float(edge), 2) for edge in box],
            }
            | ({} if found.masks is None else {"area_px": int(found.masks[k].sum())})
            for k, (label, score, box) in enumerate(zip(found.labels, found.scores, found.boxes, strict=True))
        ],
    }


def coco(seen: Seen, found: Detections, file_name: str) -> dict:
    """The answer as COCO's JSON has it: boxes within the picture as left, top, width, height, categories from 1 on.

    Masks are run lengths down the columns, not compressed, which pycocotools reads. A box that lies beside the picture
    is left out.
    """
    width, height = seen.picture.size
    boxes = found.boxes.clip(0, (width, height, width, height)).astype(np.float64)
    annotations = []
    for k, (left, top, right, bottom) in enumerate(boxes):
        if right <= left or bottom <= top:
            continue
        row = {"id": len(annotations) + 1, "image_id": 1, "category_id": int(found.labels[k]) + 1, "iscrowd": 0}
        row["bbox"] = [round(float(side), 2) for side in (left, top, right - left, bottom - top)]
        row["area"] = round(float((right - left) * (bottom - top)), 2)
        row["score"] = round(float(found.scores[k]), 6)
        row["segmentation"] = []
        if found.masks is not None:
            row["area"] = int(found.masks[k].sum())
            row["segmentation"] = {"size": [height, width], "counts": run_lengths(found.masks[k])}
        annotations.append(row)
    return {
        "info": {"description": "Found by a detector, not drawn by hand"},
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(found.label_names)],
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """How many pixels of a mask (H, W) bool are out, in, out, … down its columns, the left one first."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    turns = np.flatnonzero(flat[1:] != flat[:-1])  # where the value differs from the pixel before
    return np.diff(np.concatenate([[0], turns, [mask.size]])).tolist()
