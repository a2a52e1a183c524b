"""The same thing in several styles: which pictures of a data set are counterparts of which.

Styles are a source's labels; what a picture shows, its concept, stands in a column of text.
"""

from collections.abc import Iterator

import numpy as np

from training.data.files import DataError
from training.data.sources import Source


class Counterparts:
    """Which pictures of a source show what; `concepts`: of each row, None where nothing is said.

    Raises DataError where there is no such column.
    """

    def __init__(self, source: Source, concept_column: str):
        self.source = source
        try:
            said = source.column(concept_column)
        except DataError as error:
            raise DataError(
                f"{error} Set --concept_column to the one that says what a picture shows, or learn from styles alone: "
                "--preset cycle-32."
            ) from None
        self.concepts = [str(value).strip() or None if value is not None else None for value in said]
        self._rows: dict[str, list[int]] = {}
        for row, concept in enumerate(self.concepts):
            if concept is not None:
                self._rows.setdefault(concept, []).append(row)

    def of(self, concept: str | None, *, style: int | None = None, but: int | None = None) -> list[int]:
        """The rows that show a concept; of those the ones in a style, and in any but another."""
        labels = self.source.labels
        return [row for row in self._rows.get(concept or "", []) if style in (None, labels[row]) and labels[row] != but]

    def twins(self) -> dict[int, list[int]]:
        """{row: the rows of its concept in other styles}, of the rows that have some. Raises DataError for none."""
        labels = self.source.labels
        found = {row: self.of(concept, but=labels[row]) for row, concept in enumerate(self.concepts)}
        found = {row: others for row, others in found.items() if others}
        if not found:
            raise DataError(
                f"{self.source.name} shows nothing in two styles: give what is the same the same text in "
                "--concept_column and another style in --label_column, or learn from styles alone: --preset cycle-32."
            )
        return found


def held_out_pairs(train: Counterparts, held_out: Counterparts) -> Iterator[tuple[Source, int, int]]:
    """(source, its row, row of held_out): a picture, and its concept in another style, which was held out.

    The picture is of either source: of a pair whose concept is known in other styles it was trained on, the truth
    never. Of each truth those of its own source come first.
    """
    for truth, concept in enumerate(held_out.concepts):
        style = int(held_out.source.labels[truth])
        for part in (held_out, train):
            yield from ((part.source, row, truth) for row in part.of(concept, but=style))


def nearest(queries: np.ndarray, references: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """For each query the row of its nearest reference of those allowed, (N,) int64; -1 where none is.

    queries (N, D), references (M, D), allowed (N, M) bool.
    """
    rows = np.full(len(queries), -1, np.int64)
    squares = np.square(references).sum(1)  # (M,)
    for at in range(0, len(queries), 256):
        part = slice(at, at + 256)
        away = np.where(allowed[part], squares - 2 * queries[part] @ references.T, np.inf)  # (256, M)
        rows[part] = np.where(allowed[part].any(1), away.argmin(1), -1)
    return rows
