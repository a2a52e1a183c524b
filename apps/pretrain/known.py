"""The known pictures, among which neighbours are looked for: a sheet of emoji that no script trains on.

Letters: N known pictures, D features, K neighbours.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from apps.kit.page import EXAMPLES, index_of

FOLDER = EXAMPLES / "pretrain" / "known"
SIDE_PX = 64


@dataclass(frozen=True)
class Known:
    """Pictures with their names and classes."""

    pictures: Sequence[Image.Image]
    names: Sequence[str]
    labels: Sequence[str]
    credit: str

    def near(self, of: np.ndarray, known: np.ndarray, count: int) -> list[tuple[int, float]]:
        """The `count` known pictures whose features (N, D) are nearest those of a picture (D,), with their cosines."""
        cosines = _unit(known) @ _unit(of[None])[0]  # (N,)
        order = np.argsort(-cosines, kind="stable")[:count]
        return [(int(i), float(cosines[i])) for i in order]

    def agreement(self, known: np.ndarray) -> tuple[float, float]:
        """For what share of the known pictures the nearest of the others is of its class, and has its name."""
        rows = _unit(known)
        cosines = rows @ rows.T  # (N, N)
        np.fill_diagonal(cosines, -np.inf)
        nearest = cosines.argmax(1)
        classes, names = (
            float(np.mean([said[i] == said[j] for i, j in enumerate(nearest)])) for said in (self.labels, self.names)
        )
        return classes, names


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@functools.cache
def known() -> Known:
    """The pictures of the sheet, read once."""
    rows = index_of(FOLDER)
    with Image.open(FOLDER / "known.jpg") as image:
        sheet = image.convert("RGB")
    columns = sheet.width // SIDE_PX
    corners = [(k % columns * SIDE_PX, k // columns * SIDE_PX) for k in range(len(rows))]
    pictures = [sheet.crop((x, y, x + SIDE_PX, y + SIDE_PX)) for x, y in corners]
    credit = f"{len(rows)} emoji of Noto, Twemoji, Fluent and FxEmojis; no model has seen them."
    return Known(pictures, [row["name"] for row in rows], [row["label"] for row in rows], credit)
