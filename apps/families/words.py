"""What the page shows, as HTML: a column for each family, an answer, a strip, a table. Letters: see `paint`."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from apps.families.family import Seen
from apps.families.paint import Row, Sheet, Strip
from apps.kit import pictures

STYLE = Path(__file__).with_name("families.css")
UNKNOWN = "not measured"
COLUMNS = (  # title, and what it says under it
    ("Likelihood", "of a picture, in bits per dimension"),
    ("Encoder", "what it makes of a picture"),
    ("Passes", "for a picture, and seconds"),
    ("Like real ones", "KID × 1000 with its interval; precision"),
    ("Covers modes", "recall"),
    ("Obeys labels", "label accuracy"),
    ("Size", "parameters, hours of training"),
)


def image(pixels: np.ndarray, alt: str) -> str:
    """A picture (R, R, 3) at its own size; the style of its place enlarges it."""
    url = pictures.data_url(pictures.png_bytes(Image.fromarray(pixels)))
    return f'<img src="{url}" alt="{html.escape(alt)}" width="{pixels.shape[1]}" height="{pixels.shape[0]}">'


def title(name: str, variant: str) -> str:
    return f"<h4>{html.escape(name)} <small>{html.escape(variant)}</small></h4>"


def seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


# ---- one label, one seed ---------------------------------------------------------------------------------------------


def sheet_html(sheet: Sheet, *, under_way: bool) -> str:
    """A column for each family, a row for each seed."""
    return f'<div class="families">{"".join(_column(row, sheet, under_way) for row in sheet.rows)}</div>'


def _column(row: Row, sheet: Sheet, under_way: bool) -> str:
    if row.pixels is None:
        said = html.escape(row.refusal or ("Waits for its turn." if under_way else "Not begun."))
        shown = "".join(f'<div class="empty">{said if k == 0 else ""}</div>' for k in range(len(sheet.seeds)))
    else:
        names = [f"{row.title}: {sheet.label}, seed {seed}" for seed in sheet.seeds]
        shown = "".join(image(pixels, name) for pixels, name in zip(row.pixels, names, strict=True))
    each = f" for {len(sheet.seeds)}" if len(sheet.seeds) > 1 else ""
    took = "" if row.pixels is None else f"{seconds(row.seconds)}{each}"
    if row.pixels is not None and row.done < row.total:
        took = f"{row.done} of {row.total} steps, {took}"
    return (
        f"<figure>{title(row.title, row.variant)}<div>{shown}</div>"
        f"<figcaption><b>{took}</b><span>{html.escape(row.said)}</span></figcaption></figure>"
    )


# ---- a visitor's picture ---------------------------------------------------------------------------------------------


def answers_html(answers: Mapping[str, tuple[str, str, Seen | None, str | None]]) -> str:
    """A card for each family: {name: (title, variant, what it has seen by now, why there is nothing)}."""
    return f'<div class="answers">{"".join(_answer(*answer) for answer in answers.values())}</div>'


def _answer(name: str, variant: str, seen: Seen | None, refusal: str | None) -> str:
    if seen is None:
        return f"<section>{title(name, variant)}<p>{html.escape(refusal or 'Waits for its turn.')}</p></section>"
    shown = "".join(
        f"<figure>{image(pixels, f'{name}: {what}')}<figcaption>{html.escape(what)}</figcaption></figure>"
        for what, pixels in seen.pictures
    )
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in seen.facts.items())
    return (
        f"<section>{title(name, variant)}<p>{html.escape(seen.said)}</p>"
        f'<div class="made">{shown}</div><dl>{facts}</dl></section>'
    )


# ---- between two -----------------------------------------------------------------------------------------------------


def strips_html(strips: Sequence[Strip]) -> str:
    """The walks, one under the other."""
    return f'<div class="walks">{"".join(map(_strip, strips))}</div>'


def _strip(strip: Strip) -> str:
    shown, named = "", " · ".join(filter(None, (strip.variant, strip.way)))
    if strip.pixels is not None:
        tiles = "".join(image(pixels, f"{strip.title}, {k + 1}") for k, pixels in enumerate(strip.pixels))
        shown = f'<div class="strip">{tiles}</div>'
    elif strip.refusal:
        shown = f'<p class="why">{html.escape(strip.refusal)}</p>'
    return f"<section>{title(strip.title, named)}<p>{html.escape(strip.said)}</p>{shown}</section>"


# ---- the table -------------------------------------------------------------------------------------------------------


def table_html(rows: Sequence[Mapping]) -> str:
    """A line for each family, each of its properties over the figures that were measured of it."""
    head = "".join(f'<th scope="col">{name}<small>{said}</small></th>' for name, said in COLUMNS)
    body = "".join(_line(row) for row in rows)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="Families compared"><table>'
        f'<thead><tr><th scope="col">Family</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _line(row: Mapping) -> str:
    low, high = row["kid_x1000_low"], row["kid_x1000_high"]
    between = f" ({low:.1f} to {high:.1f})" if low is not None and high is not None else ""
    has_likelihood = row["likelihood"] in ("exact", "a bound")
    bits = _figure(row["bits_per_dimension"], "{:.2f} bits") if has_likelihood else ""
    count, hours = row["parameters"], _figure(row["hours"], "{:.1f} h")
    parameters = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"
    cells = (
        (_tick(has_likelihood) + html.escape(row["likelihood"]), bits),
        (_tick(row["encoder"]) + html.escape(row["encoder"] or "none"), ""),
        (f"{row['passes']:,}", _figure(row["seconds_per_picture"], "{:.2g} s")),
        (_figure(row["kid_x1000"], "KID {:.1f}" + between), "precision " + _figure(row["precision"], "{:.0%}")),
        (_share(row["recall"]), ""),
        (_share(row["label_accuracy"]), ""),
        (parameters, hours),
    )
    name = html.escape(row["family"])
    shown = "".join(f"<td>{said}<small>{figure}</small></td>" for said, figure in cells)
    return f'<tr><th scope="row">{html.escape(row["title"])}<small>{name}</small></th>{shown}</tr>'


def _tick(yes) -> str:
    return f'<i class="{"yes" if yes else "no"}" aria-hidden="true">{"✓" if yes else "–"}</i> '


def _figure(value: float | None, form: str) -> str:
    return f"<span>{UNKNOWN}</span>" if value is None else form.format(value)


def _share(value: float | None) -> str:
    """A share as a bar under its number."""
    if value is None:
        return _figure(None, "")
    return f'{value:.0%}<meter value="{value:.3f}" min="0" max="1" aria-hidden="true"></meter>'
