"""What the page computes, for people and for programs: a model's view of a picture, two views compared, and files.

Opacity and confidence are percentages. Letters: H × W pixels of a picture.
"""

import contextvars
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from apps.kit import answers, homes, launch, pictures, uploads, values, visitors
from apps.kit.page import Page
from apps.kit.picture_page import file_stem, shown_file
from apps.kit.pictures import shown_picture, shown_size
from apps.kit.session import Recent, StopFlags
from apps.segmentation import words
from apps.segmentation.paint import OPACITY, Seen, overlay, paint
from hub_models import segmentation
from hub_models.segmentation import Segmenter
from hub_models.store import CheckpointError

COMPARED_OPACITY = 80
TOP_K = 5
BACKGROUND = "background"  # left unpainted until its legend is pressed
PICTURE, TRUTH = "the picture", "the truth"  # what a model can be compared with, beside other models
RECENT_BYTES = 600_000_000
DEADLINE_SECONDS = 300


def load_models(names: Sequence[str]) -> dict[str, Segmenter | CheckpointError]:
    """Each named model, or the error in its place."""
    return launch.load_each(segmentation.load, names)


class Stopped(Exception):
    """The work has no one left who waits for it."""


class Look(NamedTuple):
    """What is asked of the page: a picture's file, a model, how it is painted, and a pixel (x, y), if any."""

    path: str | None
    name: str
    opacity: float = OPACITY
    below: float = 0
    hidden: Sequence[str] = ()
    x: int | None = None
    y: int | None = None

    @property
    def percents(self) -> tuple[float, float]:
        """Opacity and confidence, checked."""
        return values.percent(self.opacity, "Opacity"), values.percent(self.below, "Confidence")

    @property
    def at_pixel(self) -> bool:
        return self.x is not None and self.y is not None


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The share of pixels with the same id in both (H, W), where neither is 255."""
    counted = (one != 255) & (other != 255)
    return float((one == other)[counted].mean()) if counted.any() else 0.0


def watched(work: Callable[[Callable], Seen], stop: threading.Event) -> Iterator[tuple[int, int] | Seen]:
    """(tiles done, of how many) as `work(on_tile)` goes on in a thread of its own, and then its result.

    Raises Stopped once `stop` is set, and what work raises. Closing the iterator stops the work.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()

    def on_tile(done, total):
        if stop.is_set():
            raise Stopped
        events.put((done, total))

    def run():
        try:
            events.put(work(on_tile))
        except BaseException as error:
            events.put(error)

    here = contextvars.copy_context()  # in which `visitors.left` knows whose work it is
    thread = threading.Thread(target=here.run, args=(run,), daemon=True)
    thread.start()
    try:
        while not isinstance(event := events.get(), Seen):
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        if thread.is_alive():
            stop.set()
            thread.join()
    yield event


class Desk:
    """The models that are loaded, the examples whose truth is known, and the last results."""

    def __init__(self, models: Mapping[str, Segmenter], page: Page):
        self.models, self.page, self.flags = values.Models(models), page, StopFlags()
        self.recent = Recent(RECENT_BYTES, lambda seen: seen.nbytes)
        self.masks = {uploads.content(page.folder / row["file"]): row for row in page.examples if row.get("mask")}

    @property
    def others(self) -> list[str]:
        """What a model can be compared with, beside other models."""
        return [PICTURE, TRUTH] if self.masks else [PICTURE]

    def see(self, path: str | None, name, on_tile: Callable[[int, int], None] | None = None) -> Seen:
        """What the model makes of the picture in the file, from the recent ones where it is there.

        Paths of uploads name their content, so that equal ones are equal pictures.
        Raises PictureError as pictures.read_picture, InputError where it takes longer than DEADLINE_SECONDS.
        """
        model = self.models.chosen(name)
        key = (model.name, model.weights_sha256, path)
        if path and (seen := self.recent.get(key)):
            return seen
        picture, started, left = pictures.read_picture(path), time.perf_counter(), visitors.left()

        def after_tile(done: int, total: int) -> None:
            if left():
                raise Stopped
            if done < total and time.perf_counter() - started > DEADLINE_SECONDS:
                raise values.InputError(f"Out of time after {done} of {total} tiles: use a smaller picture.")
            if on_tile:
                on_tile(done, total)

        result = model.predict(picture, on_tile=after_tile)
        return self.recent.keep(key, Seen(picture, result, time.perf_counter() - started))

    def watched(self, look: Look, stop: threading.Event) -> Iterator[tuple[int, int] | Seen]:
        """`see` with its tiles, as the function `watched` gives them."""
        return watched(lambda on_tile: self.see(look.path, look.name, on_tile), stop)

    def pixel(self, seen: Seen, x, y) -> tuple[int, int]:
        """The pixel of a picture. Raises InputError outside of it."""
        width, height = seen.picture.size
        x = values.number(x, "x", 0, width - 1, integer=True)
        return x, values.number(y, "y", 0, height - 1, integer=True)

    def top(self, seen: Seen, look: Look) -> dict[str, float] | None:
        """The most probable classes of the pixel asked for, best first; None where none is."""
        return dict(seen.result.top(*self.pixel(seen, look.x, look.y), TOP_K)) if look.at_pixel else None

    def painted(self, seen: Seen, look: Look) -> str:
        """The path of the picture under its classes, as the page shows it."""
        pixel = self.pixel(seen, look.x, look.y) if look.at_pixel else None
        return shown_file(overlay(seen, *look.percents, look.hidden, pixel=pixel), f"{look.name}-overlay")

    # Files to keep

    def mask_file(self, *look) -> str:
        path, name, *_ = look
        data = pictures.png_bytes(self.see(path, name).result.indexed_png())
        return answers.cached_file(data, f"{file_stem(name)}-mask.png")

    def overlay_file(self, *look) -> str:
        look = Look(*look)
        percents = look.percents
        image = overlay(self.see(look.path, look.name), *percents, look.hidden, full=True)
        return answers.cached_file(pictures.png_bytes(image), f"{file_stem(look.name)}-overlay.png")

    def json_file(self, *look) -> str:
        look = Look(*look)
        _, below = look.percents
        said = words.report(self.models.chosen(look.name), self.see(look.path, look.name), below)
        data = json.dumps(said, indent=1, ensure_ascii=False).encode()
        return answers.cached_file(data, f"{file_stem(look.name)}.json")

    # Two views, and features

    def truth(self, path: str, label_names: Sequence[str]) -> np.ndarray | None:
        """The truth of the example that this file is a copy of: the ids (H, W) of these labels, 255 where not known.

        None where nothing is known: it is no such example, or of other classes.
        """
        row = self.masks.get(uploads.content(path))
        known = {name: k for k, name in enumerate(label_names)}
        if row is None or not set(row["label_names"]) <= set(known):
            return None
        to_ours = np.full(256, 255, np.uint8)
        to_ours[: len(row["label_names"])] = [known[name] for name in row["label_names"]]
        with Image.open(self.page.folder / row["mask"]) as mask:
            return to_ours[np.asarray(mask).astype(np.uint8)]

    def compared(self, path: str | None, left: str, right: str) -> tuple[tuple[str, str], str]:
        """The paths of both views of the picture at the size of the page, and a sentence on how far they agree."""
        picture = pictures.read_picture(path)
        first = next((self.models[name] for name in (left, right) if name in self.models), self.models.first)
        views, ids, labels = [], [], []
        for side, name in zip("lr", (left, right), strict=True):
            view, model, mine = shown_picture(picture), self.models.get(name, first), None
            if name != PICTURE:
                mine = self.truth(path, model.label_names) if name == TRUTH else self.see(path, name).result.ids
            if mine is not None:
                ids.append(mine)
                labels.append(list(model.label_names))
                shown = Image.fromarray(mine).resize(shown_size(picture.size), Image.Resampling.NEAREST)
                hidden = [k for k, label in enumerate(model.label_names) if label == BACKGROUND]
                view = paint(view, np.asarray(shown), None, model.palette, opacity=COMPARED_OPACITY, hidden=hidden)
            views.append(shown_file(Image.fromarray(view), f"{side}-view"))
        said = f"Left: {left}. Right: {right}."
        if TRUTH in (left, right) and len(ids) < 2:
            said += " The truth is known of some of the examples alone, and for models of the same classes."
        elif len(ids) == 2 and left != right:
            if labels[0] != labels[1]:
                said += " They were trained to tell different classes apart."
            elif TRUTH in (left, right):
                said += f" {agreement(*ids):.1%} of the pixels are right."
            else:
                said += f" They agree on {agreement(*ids):.1%} of the pixels."
        return tuple(views), said

    # For programs

    def segmentation_predict(self, picture, model, opacity, confidence):
        """Every pixel's class: the mask as an indexed PNG, the overlay, and each class's area and confidence.

        `world` says what kind of pictures the model has seen, and which of the loaded models the picture is for.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            opacity: of the overlay, 0 to 100 percent
            confidence: pixels less sure than so many percent are blanked in the overlay, 0 to 100
        """
        look = Look(picture, model, opacity, confidence, [BACKGROUND])
        chosen, painted = self.models.chosen(model), self.overlay_file(*look)
        said = words.report(chosen, self.see(picture, model), float(confidence))
        return self.mask_file(*look), painted, said | {"world": homes.fact(picture, model, self.models)}

    def segmentation_pixel(self, picture, model, x, y):
        """The most probable classes of one pixel, best first.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            x: from the left, 0 to width - 1
            y: from the top, 0 to height - 1
        """
        seen = self.see(picture, model)
        x, y = self.pixel(seen, x, y)
        top = [{"label": label, "probability": round(p, 6)} for label, p in seen.result.top(x, y, TOP_K)]
        return {"x": x, "y": y, "top": top}

    def segmentation_compare(self, picture, left, right):
        """The picture under two models' classes, at the same size, and how far the two agree.

        Parameters:
            picture: a picture file
            left: the name of a loaded model, "the picture", or, for examples, "the truth"
            right: the same
        """
        options = [*self.models, *self.others]
        return self.compared(picture, values.choice(left, "Left", options), values.choice(right, "Right", options))

    def segmentation_features(self, picture, model):
        """The model's features of the picture as colours, in a basis that is the same for every picture.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
        """
        model, picture = self.models.chosen(model), pictures.read_picture(picture)
        features = model.features(picture)
        rows, columns, width = features.values.shape
        if features.colours is None:
            return None, f"{model.name} comes without a basis to colour its {width} features by."
        image = Image.fromarray(features.colours).resize(shown_size(picture.size), Image.Resampling.NEAREST)
        return image, f"{model.name}: {columns} × {rows} cells of {width} features each, as three colours."
