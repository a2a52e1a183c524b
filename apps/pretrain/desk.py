"""What the page computes, for people and for programs: patches compared over pictures, heads, and neighbours.

Letters: P pictures, h × w places of a picture, D numbers a place, A heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from apps.kit import pictures, values
from apps.kit.session import Recent, StopFlags
from apps.pretrain import paint
from apps.pretrain.column import Column, columns
from apps.pretrain.known import known
from hub_models import components, explain
from hub_models.attention import Looked
from hub_models.pretrain import Tower

MAX_PICTURES = 4
FINE_ENOUGH = 8  # places a side
FINE, LAST = f"last of {FINE_ENOUGH} × {FINE_ENOUGH} places", "last of all"
LAYERS = (FINE, LAST)
MAX_NEAR = 12
RECENT_BYTES = 100_000_000


@dataclass(frozen=True)
class Place:
    """The patch that others are compared with: of which picture, and where, as shares of its height and width."""

    picture: int  # from 0
    row: float
    column: float

    def cell(self, grid: Sequence[int]) -> tuple[int, int]:
        return min(int(self.row * grid[0]), grid[0] - 1), min(int(self.column * grid[1]), grid[1] - 1)


@dataclass(frozen=True)
class Patches:
    """What a tower's patches have in common, over several pictures."""

    layer: int  # from 1
    layers: int
    colours: np.ndarray  # (P, h, w, 3) uint8: three principal components, of all pictures together
    cosines: np.ndarray  # (P, h, w) float32: of each patch and the chosen one
    cell: tuple[int, int]  # of the chosen one
    explained: float  # the share of the variance that the three components have

    @property
    def nearest(self) -> list[tuple[int, int]]:
        """Row and column of the patch of each picture that is most like the chosen one."""
        cells = (np.unravel_index(each.argmax(), each.shape) for each in self.cosines)
        return [(int(row), int(column)) for row, column in cells]


class Desk:
    """The towers that are loaded, untrained ones beside them, and what was computed of pictures."""

    def __init__(self, towers: Mapping[str, Tower]):
        self.columns = values.Models(columns(towers))
        self.looking = StopFlags()
        self.recent = Recent(RECENT_BYTES, lambda maps: sum(each.nbytes for each in maps))
        self._known: dict[str, np.ndarray] = {}

    # What is asked

    def chosen(self, names) -> list[Column]:
        """The towers of these names, in the page's order; all for None. Raises InputError."""
        return [self.columns[name] for name in self.columns.several(names, "Tower", "Towers")]

    def place(self, picture, row, column, count: int) -> Place:
        """The patch that raw parameters stand for, among so many pictures. Raises InputError."""
        number = values.number(picture, "Picture", 1, max(count, 1), integer=True)
        return Place(int(number) - 1, values.percent(row, "Row") / 100, values.percent(column, "Column") / 100)

    # What is found

    def patches(self, column: Column, shown: Sequence[tuple[str, Image.Image]], place: Place, layer: str) -> Patches:
        """A layer's patches of pictures, each with a key for its content, compared with the chosen one.

        Raises InputError where the tower doesn't give what its layers say.
        """
        every = [self._maps(column, key, image) for key, image in shown]  # P lists of maps (h, w, D)
        sides = [min(each.shape[:2]) for each in every[0]]
        fine = max((k for k, side in enumerate(sides) if side >= FINE_ENOUGH), default=len(sides) - 1)
        at = fine if values.choice(layer, "Layer", LAYERS) == FINE else len(sides) - 1
        maps = np.stack([each[at] for each in every])  # (P, h, w, D)
        rows = maps.reshape(-1, maps.shape[-1])
        pca = components.fitted(rows)
        cell = place.cell(maps.shape[1:3])
        away = rows - rows.mean(0)
        explained = float(((away @ pca["basis"]) ** 2).sum() / max(float((away**2).sum()), 1e-12))
        cosines = explain.likeness(maps[place.picture][cell], maps)
        return Patches(at + 1, len(sides), np.stack([components.colours(each, pca) for each in maps]), cosines, cell,
                       explained)  # fmt: skip

    def _maps(self, column: Column, key: str, image: Image.Image) -> list[np.ndarray]:
        """What the tower's layers say of a picture, (h, w, D) each, from the recent ones if there."""
        kept = column.name, column.tower.weights_sha256, key
        try:
            return self.recent.get(kept) or self.recent.keep(kept, [m[0] for m in column.tower.token_maps([image])])
        except ValueError as error:
            raise values.InputError(f"{column.name} has no patches to compare: {error}.") from None

    def looked(self, column: Column, image: Image.Image, place: Place, depth: float) -> Looked:
        """Where the chosen patch looks, in the block at this share of the tower's depth. Raises InputError."""
        number = max(1, round(depth * column.tower.depth))
        try:
            return column.tower.looked(image, number, place.row, place.column)
        except ValueError as error:
            raise values.InputError(f"{column.name} has no heads to show: {error}.") from None

    def features(self, column: Column) -> np.ndarray:
        """The tower's features of all known pictures, (N, D), computed once."""
        if column.name not in self._known:
            rows = known().pictures
            made = [column.tower.features(rows[k : k + 64]).numpy() for k in range(0, len(rows), 64)]
            self._known[column.name] = np.concatenate(made)
        return self._known[column.name]

    def neighbours(self, column: Column, image: Image.Image, count: int) -> list[tuple[int, float]]:
        """The known pictures that are nearest to a picture: numbers and cosines, nearest first."""
        [of] = column.tower.features([image]).numpy()
        return known().near(of, self.features(column), count)

    # For programs

    def pretrain_patches(self, first, second, third, fourth, number, row, column, layer, towers):
        """Compare the patches of up to four pictures. Returns for each tower a sheet of its pictures, in three
            principal components of all patches together as colours and by their likeness to the chosen one; and the
            numbers.

        Parameters:
            first: a picture file
            second: another one, or null
            third: another one, or null
            fourth: another one, or null
            number: the picture of the chosen patch, from 1, of those that there are
            row: of the patch, in percent of the picture's height
            column: of the patch, in percent of the picture's width
            layer: "last of 8 × 8 places", the last that has so many or more if one has, or "last of all"
            towers: names of loaded towers; all for null
        """
        paths = [path for path in (first, second, third, fourth) if path] or [None]
        shown = [(str(path), pictures.read_picture(path)) for path in paths]
        place, sheets, said = self.place(number, row, column, len(shown)), [], {}
        for tower in self.chosen(towers):
            found = self.patches(tower, shown, place, layer)
            amounts = stretched(found.cosines)
            kept = [found.cell if k == place.picture else None for k in range(len(shown))]
            three = [paint.laid(image, paint.opaque(cells), cell)
                     for (_, image), cells, cell in zip(shown, found.colours, kept, strict=True)]  # fmt: skip
            alike = [paint.laid(image, paint.glass(amount), cell)
                     for (_, image), amount, cell in zip(shown, amounts, kept, strict=True)]  # fmt: skip
            sheets.append((paint.sheet([three, alike]), tower.name))
            said[tower.name] = {
                "layer": found.layer, "layers": found.layers, "cell": found.cell, "explained": found.explained,
                "cosines": found.cosines.round(4).tolist(), "nearest": found.nearest,
            }  # fmt: skip
        return sheets, said

    def pretrain_attention(self, picture, row, column, depth, towers):
        """Where a patch looks, head by head. Returns for each tower a sheet of its heads, and the numbers: of each head
            the share of attention that each place gets, and that of tokens that are no place; or why it has no heads.

        Parameters:
            picture: a picture file
            row: of the patch, in percent of the picture's height
            column: of the patch, in percent of the picture's width
            depth: of the block, in percent: 100 is the last one
            towers: names of loaded towers; all for null
        """
        image, place = pictures.read_picture(picture), self.place(1, row, column, 1)
        share, sheets, said = values.percent(depth, "Depth") / 100, [], {}
        for tower in self.chosen(towers):
            try:
                seen = self.looked(tower, image, place, share)
            except values.InputError as error:
                said[tower.name] = {"refused": error.message}
                continue
            heads = [paint.laid(image, paint.glass(head / head.max(), seen.reachable), seen.cell)
                     for head in seen.heads]  # fmt: skip
            sheets.append((paint.sheet([heads]), tower.name))
            said[tower.name] = {
                "block": seen.number, "blocks": seen.of, "cell": seen.cell, "heads": seen.heads.round(5).tolist(),
                "elsewhere": seen.elsewhere.round(5).tolist(), "reachable": int(seen.reachable.sum()),
            }  # fmt: skip
        return sheets, said

    def pretrain_neighbours(self, picture, count, towers):
        """The known pictures that each tower takes for nearest to a picture, by the cosine of their features.

        For each tower also: for what share of the known pictures the nearest other one is of the same class
        (same_class) and is the same thing (same_thing), computed here; and what its own folder says was measured.

        Parameters:
            picture: a picture file
            count: how many neighbours, 1 to 12
            towers: names of loaded towers; all for null
        """
        image, count = pictures.read_picture(picture), values.number(count, "Neighbours", 1, MAX_NEAR, integer=True)
        said, those = {}, known()
        for tower in self.chosen(towers):
            near = self.neighbours(tower, image, int(count))
            classes, names = those.agreement(self.features(tower))
            said[tower.name] = {
                "learned_from": tower.title, "same_class": classes, "same_thing": names,
                "measured": dict(tower.figures),
                "nearest": [{"name": those.names[k], "class": those.labels[k], "cosine": round(cosine, 4)}
                            for k, cosine in near],
            }  # fmt: skip
        return said


def stretched(cosines: np.ndarray) -> np.ndarray:
    """Cosines from their lowest to 1 as amounts from 0 to 1."""
    low = float(cosines.min())
    return (cosines - low) / max(1 - low, 1e-6)
