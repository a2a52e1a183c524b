"""What is said of a divided picture, as HTML: table, report, legend, and how often such a model is wrong."""

import html
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from apps.kit import parts
from apps.segmentation.paint import Seen
from hub_models.segmentation import Segmenter

KINDS = {"swin": "UperNet on a Swin", "dpt": "DPT on a ViT", "unet": "U-Net", "segformer": "SegFormer"}
LEGEND_ENTRIES = 24


def table(seen: Seen) -> list[list]:
    """A row for each class in the picture, largest first: its name, area in percent, mean confidence in percent."""
    return [[each.label, round(100 * each.area, 2), round(100 * each.confidence, 1)] for each in seen.shares]


def table_html(seen: Seen | None) -> str:
    """The table with headings that are buttons to sort by."""
    headings = (("Class", "none"), ("Area %", "descending"), ("Confidence %", "none"))
    head = "".join(
        f'<th scope="col" aria-sort="{order}"><button type="button" data-column="{k}">{name}</button></th>'
        for k, (name, order) in enumerate(headings)
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th><td>{area:.2f}</td><td>{confidence:.1f}</td></tr>'
        for label, area, confidence in (table(seen) if seen else ())
    )
    rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    name = "Classes in the picture: share of the area, mean confidence"
    return f'<div class="table"><table aria-label="{name}">{rows}</table></div>'


def report(model: Segmenter, seen: Seen, below: float) -> dict:
    """What is in the picture, as the JSON to download."""
    palette = seen.result.palette.tolist()
    return {
        **parts.answered(model, seen.picture, seen.seconds),
        "temperature": model.temperature,
        "confidence_asked": below,
        "known_percent": round(100 * seen.known(below), 2),
        "classes": [
            {
                "id": each.index,
                "label": each.label,
                "colour": "#{:02x}{:02x}{:02x}".format(*palette[each.index]),
                "area_percent": round(100 * each.area, 4),
                "confidence_percent": round(100 * each.confidence, 2),
            }
            for each in seen.shares
        ],
    }


def card(model: Segmenter, seconds: float | None = None) -> str:
    """HTML: what the model is, its weights' hash, device, and the measured time of a prediction."""
    return parts.model_facts(model, seconds, Model=KINDS.get(model.kind, model.kind), Classes=len(model.label_names))


def legend_html(seen: Seen | None, hidden: Collection[str]) -> str:
    """A button for each class in the picture, largest first; those that are not painted are pressed out."""
    if seen is None:
        return '<div class="legend"></div>'
    buttons = []
    for each in seen.shares[:LEGEND_ENTRIES]:
        label, colour = html.escape(each.label), "rgb({},{},{})".format(*seen.result.palette[each.index].tolist())
        on = each.label not in hidden
        pressed, does = str(on).lower(), "Hide" if on else "Show"
        buttons.append(
            f'<button type="button" data-label="{label}" aria-pressed="{pressed}" title="{does} {label}">'
            f'<i style="background:{colour}"></i>{label}</button>'
        )
    more = len(seen.shares) - LEGEND_ENTRIES
    rest = f"<span>and {more} more in the table</span>" if more > 0 else ""
    return f'<div class="legend" role="group" aria-label="Classes shown">{"".join(buttons)}{rest}</div>'


def risk_at(curve: Mapping[str, Sequence[float]], coverage: float) -> float:
    """The measured share of wrong pixels among the surest `coverage` of them, between the points of the curve."""
    order = np.argsort(curve["coverage"])
    return float(np.interp(coverage, np.asarray(curve["coverage"])[order], np.asarray(curve["risk"])[order]))


def curve_html(model: Segmenter, seen: Seen | None, below: float) -> str:
    """The measured risk-coverage curve, and where this picture stands once pixels under `below` percent are out."""
    known = None if seen is None else seen.known(below)
    said = "" if known is None else f"At {below:g} % and above: {known:.0%} of this picture. "
    curve = model.risk_coverage
    if not curve:
        return f'<div class="curve"><p>{said}These weights come without a measured risk-coverage curve.</p></div>'
    left, top, width, height = 34, 8, 220, 104
    order = np.argsort(curve["coverage"])
    coverage, risk = (np.asarray(curve[key], np.float64)[order] for key in ("coverage", "risk"))
    highest = max(float(risk.max()) * 1.08, 1e-3)

    def at(share, wrong):
        return f"{left + width * share:.1f},{top + height * (1 - wrong / highest):.1f}"

    line = " ".join(at(*point) for point in zip(coverage, risk, strict=True))
    area = f"{at(coverage[0], 0)} {line} {at(coverage[-1], 0)}"
    mark = ""
    if known:
        x, y = at(known, risk_at(curve, known)).split(",")
        mark = f'<line class="mark" x1="{x}" x2="{x}" y1="{top}" y2="{top + height}"/>'
        mark += f'<circle class="mark" cx="{x}" cy="{y}" r="4.5"/>'
        said += f"When measured, {risk_at(curve, known):.1%} of the surest {known:.0%} of pixels were wrong."
    elif known is not None:
        said += "Nothing is left."
    else:
        said = "The fewer pixels it must answer for, the fewer of them are wrong."
    axes = "".join(
        f'<text x="{left + width * share}" y="{top + height + 15}" text-anchor="{anchor}">{share:.0%}</text>'
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    digits = 0 if highest > 0.06 else 1
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        axes += f'<text x="{left - 5}" y="{y + 4}" text-anchor="end">{share * highest:.{digits}%}</text>'
        axes += f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y}" y2="{y}"/>'
    name = "Risk-coverage curve: wrong pixels over share of pixels answered"
    return (
        f'<div class="curve"><strong>Wrong pixels by share answered</strong>'
        f'<svg viewBox="0 0 262 132" role="img" aria-label="{name}">'
        f'{axes}<polygon points="{area}"/><polyline points="{line}"/>{mark}</svg><p>{html.escape(said)}</p></div>'
    )
