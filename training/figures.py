"""Figures of what was measured, by matplotlib without a display, and sheets of pictures; all as PIL images."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def confusion(matrices: dict[str, list[list[int]]], names: list[str]) -> Image.Image:
    """Confusion matrices side by side, one per set: rows are the truth, shades the share of the row, numbers counts.

    matrices: {set: (K, K) counts}; names: the K classes.
    """
    figure = _figure(1.2 + 5.2 * len(matrices), 6.2)
    for column, (title, counts) in enumerate(matrices.items()):
        axes = figure.add_subplot(1, len(matrices), column + 1)
        counts = np.asarray(counts)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # (K, K)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, place), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, place] > 0.5 else "black"
                axes.text(place, row, count, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names if column == 0 else [], fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_title(f"{title}: {np.trace(counts) / max(1, counts.sum()):.1%} right", fontsize=10)
        if column == 0:
            axes.set_ylabel("truth")
    return _picture(figure)


def training_curves(history: dict[str, list[list[float]]], images_per_step: float) -> Image.Image:
    """One panel per quantity of a run's history {name: [[step, value], …]}, over the pictures seen."""
    figure = _figure(4.2 * len(history), 3)
    for column, (name, points) in enumerate(history.items()):
        axes = figure.add_subplot(1, len(history), column + 1)
        steps, values = np.asarray(points).T
        axes.plot(steps * images_per_step / 1000, values, linewidth=1.5)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("thousand pictures seen")
        axes.grid(alpha=0.3)
    return _picture(figure)


def sheet(pictures: np.ndarray, columns: int, zoom: int = 1) -> Image.Image:
    """Pictures uint8 (N, R, R, 3) in rows of `columns`, with a gap of two pixels; each pixel zoom × zoom."""
    count, side = len(pictures), pictures.shape[1]
    rows = -(-count // columns)
    canvas = np.full((rows * (side + 2) + 2, columns * (side + 2) + 2, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = 2 + i // columns * (side + 2), 2 + i % columns * (side + 2)
        canvas[y : y + side, x : x + side] = picture
    image = Image.fromarray(canvas)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def segmentations(
    pictures: list[Image.Image],
    truths: list[np.ndarray],
    found: list[np.ndarray],
    palette: np.ndarray,
    names: list[str],
) -> Image.Image:
    """A row of three per picture: itself, its truth and what was found, in columns; with the classes' colours below.

    truths, found: (H, W) class ids, in a truth 255 where there is no answer (drawn white); palette (K, 3) uint8.
    """
    tile, gap, columns = 128, 4, min(4, len(pictures))
    rows, line = -(-len(pictures) // columns), 18
    width = columns * (3 * tile + 4 * gap) + gap
    legend_columns = max(1, width // 190)
    height = rows * (tile + gap) + gap + line * -(-len(names) // legend_columns) + gap
    canvas = Image.new("RGB", (width, height), "white")
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(palette)] = palette
    for number, (picture, truth, ids) in enumerate(zip(pictures, truths, found, strict=True)):
        left, top = gap + number % columns * (3 * tile + 4 * gap), gap + number // columns * (tile + gap)
        scale = tile / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        shown = [picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)]
        shown += [Image.fromarray(colours[part]).resize(size, Image.Resampling.NEAREST) for part in (truth, ids)]
        for place, part in enumerate(shown):
            canvas.paste(part, (left + place * (tile + gap), top + (tile - size[1]) // 2))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for k, name in enumerate(names):
        x, y = gap + k % legend_columns * 190, rows * (tile + gap) + 2 * gap + k // legend_columns * line
        pen.rectangle((x, y, x + 12, y + 12), fill=tuple(int(c) for c in palette[k]))
        pen.text((x + 18, y - 1), name[:26], "black", font)
    return canvas


def boxed(
    pictures: list[Image.Image],
    truths: list[np.ndarray],
    found: list[np.ndarray],
    labels: list[np.ndarray],
    said: list[list[str]],
    masks: Sequence[np.ndarray | None] = (),
) -> Image.Image:
    """The pictures in rows of four, what is there in white, what was found in the colour of its class, with words.

    truths, found: boxes (N, 4) of each picture in its pixels; labels (N,) and words of those found, and their masks
    (N, H, W), which are painted over half of what they cover, the surest last.
    """
    tile, gap, columns = 192, 4, min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (tile + gap) + gap, rows * (tile + gap) + gap), "white")
    font = ImageFont.load_default(11)
    for number, picture in enumerate(pictures):
        scale = tile / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        shown = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        seen = masks[number] if masks else None
        for row in reversed(range(0 if seen is None else len(seen))):
            assert seen is not None
            cover = Image.fromarray(seen[row]).convert("L").resize(size, Image.Resampling.NEAREST)
            shown.paste(_hue(int(labels[number][row])), mask=cover.point(lambda level: level // 2))
        pen = ImageDraw.Draw(shown)
        for box in truths[number] * scale:
            pen.rectangle(tuple(box), outline="black", width=3)
            pen.rectangle((*(box[:2] + 1), *(box[2:] - 1).clip(box[:2] + 1)), outline="white")
        for box, label, words in zip(found[number] * scale, labels[number], said[number], strict=True):
            colour = _hue(int(label))
            left, top, right, bottom = map(float, box)
            pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=2)
            place = max(0.0, left) + 2, max(0.0, top) + 1
            pen.rectangle(pen.textbbox(place, words, font), fill=colour)
            pen.text(place, words, "black", font)
        left, top = gap + number % columns * (tile + gap), gap + number // columns * (tile + gap)
        canvas.paste(shown, (left, top))
    return canvas


def _hue(label: int) -> tuple[int, int, int]:
    """The colour of a class, far from those of the next."""
    hue = round(255 * (label * 0.61803398875 % 1))  # the golden ratio
    red, green, blue = Image.new("HSV", (1, 1), (hue, 220, 230)).convert("RGB").tobytes()
    return red, green, blue


def _figure(width_in: float, height_in: float):
    from matplotlib.figure import Figure  # takes a second, which few commands have to wait for

    return Figure(figsize=(width_in, height_in), dpi=90, layout="constrained")


def _picture(figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB").quantize(64)
