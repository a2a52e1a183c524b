"""Numbers and tables of a results.json as people read them, in Markdown."""

import html
import math
import re

# Numbers in [0, 1] that read better in %.
SHARES = re.compile(
    r"top\d+|accuracy|.*_accuracy|recall@\d+|miou|.*_iou|.*_right(_kept_out)?"
    r"|nearer_than_\w+|named_first|named_top5|classed|style_by_chance|precision|recall|told_apart"
)
UNKNOWN = "not recorded"


def format_number(name: str, value: float | None) -> str:
    """A metric as people read it: shares in %, counts with thousands, else four significant digits; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if SHARES.fullmatch(name.rsplit("/", 1)[-1]) and 0 <= value <= 1:
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def metric_table(results: dict) -> list[str]:
    """The lines of a Markdown table of a results.json: each metric, and the baseline where it has the same name."""
    metrics, baseline = results.get("metrics", {}), results.get("baseline") or {}
    beside = [name for name in metrics if name in baseline]
    title = results.get("baseline_name", "baseline")
    lines = (
        [f"| metric | measured | {title} |", "|---|---:|---:|"] if beside else ["| metric | measured |", "|---|---:|"]
    )
    for name, value in metrics.items():
        cells = [f"`{name}`", format_number(name, value)]
        if beside:
            cells.append(format_number(name, baseline[name]) if name in baseline else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def class_table(results: dict) -> list[str]:
    """The lines of a Markdown table of the per-class numbers of a results.json, a column per set; none without them."""
    sets = {name: row for name, row in (results.get("per_class") or {}).items() if isinstance(row, dict)}
    if not sets:
        return []
    labels = list(dict.fromkeys(label for row in sets.values() for label in row))
    lines = [f"| class | {' | '.join(sets)} |", "|---|" + "---:|" * len(sets)]
    for label in labels:
        cells = [format_number("accuracy", row.get(label)) for row in sets.values()]
        lines.append(f"| {as_text(label)} | {' | '.join(cells)} |")
    return lines


def as_text(name: str) -> str:
    """Somebody's name as Markdown shows it, in a table too: its marks stand for themselves."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(name.split()), quote=False))
