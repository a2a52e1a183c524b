"""What the page shows, as HTML: a card for each tower, with its maps or its neighbours. Letters: see `desk`."""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from apps.kit import pictures
from apps.pretrain import paint
from apps.pretrain.column import Column
from apps.pretrain.desk import Patches, Place, stretched
from apps.pretrain.known import known
from hub_models.attention import Looked

STYLE, CLICK = (Path(__file__).with_name(name) for name in ("cards.css", "cards.js"))


def cards(shown: Sequence[Image.Image], inside: Sequence[str]) -> str:
    """The cards of all towers; the pictures under their tiles are in here once."""
    urls = (pictures.data_url(paint.shown(image), "jpeg") for image in shown)
    under = ";".join(f"--p{k}:url({url})" for k, url in enumerate(urls))
    return f'<div class="cards" style="{under}">{"".join(inside)}</div>'


def _card(column: Column, body: str, said: str) -> str:
    named = f"{column.kind} · {column.name}"
    return (
        f"<section><h4>{html.escape(column.title)} <small>{html.escape(named)}</small></h4>"
        f"<p>{html.escape(column.said)}</p>{body}<p>{html.escape(said)}</p></section>"
    )


def _tile(picture: int, cells: np.ndarray, alt: str, chosen: tuple[int, int] | None) -> str:
    """A map over a picture, a press on which chooses a patch; the chosen one framed."""
    (h, w), url = cells.shape[:2], pictures.data_url(pictures.png_bytes(Image.fromarray(cells)))
    box = ""
    if chosen is not None:
        row, column = chosen
        place = f"left:{100 * column / w:.2f}%;top:{100 * row / h:.2f}%;width:{100 / w:.2f}%;height:{100 / h:.2f}%"
        box = f'<i style="{place}"></i>'
    under = f"background-image:var(--p{picture})"
    shown = f'<img src="{url}" alt="{html.escape(alt)}">{box}'
    return f'<div class="tile" data-picture="{picture}" style="{under}">{shown}</div>'


def patches(column: Column, found: Patches, place: Place) -> str:
    """The components of all pictures, over the likeness of each patch to the chosen one."""
    amounts = stretched(found.cosines)
    kept = [found.cell if k == place.picture else None for k in range(len(amounts))]
    three = "".join(_tile(k, paint.opaque(cells), f"{column.title}: components of picture {k + 1}", kept[k])
                    for k, cells in enumerate(found.colours))  # fmt: skip
    alike = "".join(_tile(k, paint.glass(amount), f"{column.title}: likeness in picture {k + 1}", kept[k])
                    for k, amount in enumerate(amounts))  # fmt: skip
    _, h, w, _ = found.colours.shape
    said = (
        f"Layer {found.layer} of {found.layers}, {h} × {w} places. The three components have {found.explained:.0%} of "
        f"the variance; cosines from {found.cosines.min():.2f} to 1."
    )
    return _card(column, f'<div class="tiles">{three}{alike}</div>', said)


def attention(column: Column, seen: Looked, place: Place) -> str:
    """The heads of a block, each from its own least to its own most; dark is where the patch can't look."""
    tiles = "".join(
        _tile(place.picture, paint.glass(head / max(float(head.max()), 1e-12), seen.reachable),
              f"{column.title}: head {k}", seen.cell)
        for k, head in enumerate(seen.heads, 1)
    )  # fmt: skip
    block, (h, w) = seen.block, seen.block.groups.shape
    if seen.reachable.all():
        where = f"its {h} × {w} places all look at each other"
    else:
        shifted = ", shifted" if any(block.shift) else ""
        where = f"of {h} × {w} places, one looks at the {seen.reachable.sum()} in its window{shifted}"
    more = f", {seen.elsewhere.mean():.0%} of it at the class token" if seen.elsewhere.max() > 1e-3 else ""
    return _card(column, f'<div class="tiles">{tiles}</div>', f"Block {seen.number} of {seen.of}: {where}{more}.")


def refused(column: Column, why: str) -> str:
    """A tower that can't."""
    return _card(column, "", why)


def neighbours(column: Column, near: Sequence[tuple[int, float]], agreement: tuple[float, float]) -> str:
    """The nearest known pictures, and what was measured: here, and by the tower's own folder."""
    those = known()
    tiles = "".join(
        f'<figure><img src="{pictures.data_url(paint.shown(those.pictures[k], 96), "jpeg")}" alt="">'
        f"<figcaption>{html.escape(those.names[k])}<b>{cosine:.2f}</b></figcaption></figure>"
        for k, cosine in near
    )
    here = {"Here: nearest has its class": agreement[0], "Here: nearest is the same thing": agreement[1]}
    facts = "".join(f"<dt>{html.escape(said)}</dt><dd>{value:.0%}</dd>"
                    for said, value in (here | dict(column.figures)).items())  # fmt: skip
    return _card(column, f'<div class="near">{tiles}</div><dl>{facts}</dl>', "")
