"""What is where in a picture and how sure a Swin, a ViT and a U-Net are of every pixel: the page `segmentation`.

    python -m apps.segmentation [--model swin-scenes --model org/segformer] [--port 7860]

Any checkpoint of `AutoModelForSemanticSegmentation` or of segmentation_models_pytorch can be served. Opacity and
confidence are percentages. Letters: H × W pixels of a picture, K classes.
"""

import contextvars
import functools
import hashlib
import html
import io
import json
import queue
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from apps import ui
from apps.kit import pictures, uploads, visitors
from hub_models import segmentation
from hub_models.segmentation import Segmentation, Segmenter
from hub_models.store import CheckpointError

STEM = "segmentation"
MODELS = ["swin-scenes", "photo", "street", "dpt-scenes", "unet-scenes"]
KINDS = {"swin": "UperNet on a Swin", "dpt": "DPT on a ViT", "unet": "U-Net", "segformer": "SegFormer"}
EXAMPLES = Path(__file__).parent / "examples" / STEM

SHOWN_PX = 768  # longer side of what the page shows; files to download have the picture's own size
OPACITY = 65
COMPARED_OPACITY = 80
TOP_K = 5
BACKGROUND = "background"  # left unpainted until its legend is pressed
PICTURE, TRUTH = "the picture", "the truth"  # what a model can be compared with, beside other models
BAND = 256  # rows painted at once
BLANK = np.array([(231, 229, 228), (196, 192, 188)], np.float32)  # stripes over pixels that nobody is sure of
RECENT_BYTES = 600_000_000
LEGEND_ENTRIES = 24
DEADLINE_SECONDS = 300


def load_models(names: Sequence[str]) -> dict[str, Segmenter | CheckpointError]:
    """Each named model, or the error in its place."""
    return ui.load_each(segmentation.load, names)


# ---- what a model makes of a picture ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A picture as a model divides it."""

    picture: Image.Image  # RGB
    result: Segmentation
    seconds: float

    @functools.cached_property
    def shown(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Picture (h, w, 3), ids and confidence (h, w) at the size of the page, where SHOWN_PX is the longer side."""
        size = shown_size(self.picture.size)
        ids = Image.fromarray(self.result.ids).resize(size, Image.Resampling.NEAREST)
        confidence = Image.fromarray(self.result.confidence).resize(size, Image.Resampling.NEAREST)
        return shown_picture(self.picture), np.asarray(ids), np.asarray(confidence)

    @functools.cached_property
    def shares(self) -> list[segmentation.Share]:
        return self.result.shares()

    @property
    def nbytes(self) -> int:
        """Memory it takes, about."""
        arrays = (self.result.ids, self.result.confidence, self.result.probabilities)
        return sum(array.nbytes for array in arrays) + 3 * self.result.ids.size + 8 * SHOWN_PX**2

    def known(self, confidence: float) -> float:
        """The share of the pixels whose confidence is at least so many percent."""
        return float((self.result.confidence >= confidence / 100).mean())

    def hidden_ids(self, hidden: Collection[str]) -> list[int]:
        return [k for k, name in enumerate(self.result.label_names) if name in hidden]


class Recent:
    """The last results, as many as fit into `limit` bytes, one at least: sliders and clicks come back to them."""

    def __init__(self, limit: int = RECENT_BYTES):
        self.limit = limit
        self._kept: OrderedDict[tuple, Seen] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple) -> Seen | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: tuple, seen: Seen) -> Seen:
        with self._lock:
            self._kept[key] = seen
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > self.limit:
                self._kept.popitem(last=False)
        return seen


class Stopped(Exception):
    """The work has no one left who waits for it."""


def see(recent: Recent, model: Segmenter, path: str | None, on_tile: Callable[[int, int], None] | None = None) -> Seen:
    """What the model makes of the picture in the file, from `recent` where it is there.

    Paths of uploads name their content, so that equal ones are equal pictures.
    Raises PictureError as pictures.read_picture, InputError where it takes longer than DEADLINE_SECONDS.
    """
    key = (model.name, model.weights_sha256, path)
    if path and (seen := recent.get(key)):
        return seen
    picture, started, left = pictures.read_picture(path), time.perf_counter(), visitors.left()

    def after_tile(done: int, total: int) -> None:
        if left():
            raise Stopped
        if done < total and time.perf_counter() - started > DEADLINE_SECONDS:
            raise ui.InputError(f"Out of time after {done} of {total} tiles: use a smaller picture.")
        if on_tile:
            on_tile(done, total)

    result = model.predict(picture, on_tile=after_tile)
    return recent.keep(key, Seen(picture, result, time.perf_counter() - started))


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


# ---- painting ---------------------------------------------------------------------------------------------------------


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """The width and height at which a picture of this width and height is shown."""
    scale = SHOWN_PX / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shown_picture(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize(shown_size(picture.size), Image.Resampling.BICUBIC))


def paint(
    picture: np.ndarray,
    ids: np.ndarray,
    confidence: np.ndarray | None,
    palette: np.ndarray,
    *,
    opacity: float = OPACITY,
    below: float = 0,
    hidden: Collection[int] = (),
) -> np.ndarray:
    """The picture (H, W, 3) uint8 under its classes' colours at `opacity` percent, outlined a little stronger.

    Pixels whose confidence (H, W) is under `below` percent are blanked by stripes; hidden ids and those without a colour
    in the palette (K, 3) stay as they are. All (H, W) arrays are read in bands, so that a large picture takes little more
    memory than itself.
    """
    strength = np.zeros(256, np.float32)
    strength[: len(palette)] = opacity / 100
    strength[list(hidden)] = 0
    colours = np.zeros((256, 3), np.float32)
    colours[: len(palette)] = palette
    height, width = ids.shape
    stripe_px = max(2, max(height, width) // 96)
    out = np.empty_like(picture)
    for top in range(0, height, BAND):
        rows = slice(top, min(top + BAND, height))
        band, base = ids[rows], picture[rows].astype(np.float32)
        alpha = strength[band]  # (rows, W)
        alpha = np.where(_outline(ids, rows), np.minimum(1, alpha * 1.6), alpha)[..., None]
        painted = base + alpha * (colours[band] - base)
        if below > 0 and confidence is not None:
            y, x = np.ogrid[rows, :width]
            stripes = BLANK[((x + y) // stripe_px) % 2]
            unsure = confidence[rows] < below / 100
            painted[unsure] = 0.08 * base[unsure] + 0.92 * stripes[unsure]
        out[rows] = painted.round().clip(0, 255)
    return out


def _outline(ids: np.ndarray, rows: slice) -> np.ndarray:
    """Where a class ends, in these rows: pixels whose left or upper neighbour, or the one after, is of another."""
    first, last = max(rows.start - 1, 0), min(rows.stop + 1, len(ids))
    part = ids[first:last]
    edge = np.zeros(part.shape, bool)
    across, down = part[:, 1:] != part[:, :-1], part[1:] != part[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge[rows.start - first : rows.stop - first]


def overlay(seen: Seen, opacity: float, below: float, hidden: Collection[str], *, pixel=None) -> Image.Image:
    """The picture with its classes as the page shows it, and a ring around `pixel` (x, y of the picture) if given."""
    picture, ids, confidence = seen.shown
    options = {"opacity": opacity, "below": below, "hidden": seen.hidden_ids(hidden)}
    image = Image.fromarray(paint(picture, ids, confidence, seen.result.palette, **options))
    if pixel is not None:
        x, y = ((at + 0.5) * shown / own for at, shown, own in zip(pixel, image.size, seen.picture.size, strict=True))
        draw = ImageDraw.Draw(image)
        for radius, colour, width in ((11, "black", 6), (10, "white", 3)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return image


def full_overlay(seen: Seen, opacity: float, below: float, hidden: Collection[str]) -> Image.Image:
    """The same at the picture's own size, without a ring."""
    result, options = seen.result, {"opacity": opacity, "below": below, "hidden": seen.hidden_ids(hidden)}
    return Image.fromarray(paint(np.asarray(seen.picture), result.ids, result.confidence, result.palette, **options))


def encoded(image: Image.Image, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 92, "subsampling": 0} if format == "JPEG" else {}))
    return buffer.getvalue()


def shown_file(image: Image.Image, name: str) -> str:
    """The path of a picture for the page to show."""
    return ui.cached_file(encoded(image), f"{file_stem(name)}.jpg")


def file_stem(name: str) -> str:
    """A file's name out of a model's, which may be a path or a Hub id."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-.")[:60] or "model"


# ---- tables and words -------------------------------------------------------------------------------------------------


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
    name = "Classes in the picture: share of the area, mean confidence"
    return f'<div class="table"><table aria-label="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def report(model: Segmenter, seen: Seen, below: float) -> dict:
    """What is in the picture, as the JSON to download."""
    palette = seen.result.palette.tolist()
    return {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "width": seen.picture.width,
        "height": seen.picture.height,
        "seconds": round(seen.seconds, 3),
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
    answered = (
        "no picture yet" if seconds is None else f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:.0f} ms"
    )
    return ui.facts(
        {
            "Answered in": answered,
            "Model": KINDS.get(model.kind, model.kind),
            "Classes": len(model.label_names),
            "Parameters": f"{model.parameters / 1e6:.1f} M",
            "Weights": model.weights_sha256[:12],
            "Device": ui.device_line({model.name: model}),
        }
    )


def legend_html(seen: Seen | None, hidden: Collection[str]) -> str:
    """A button for each class in the picture, largest first; those that are not painted are pressed out."""
    if seen is None:
        return '<div class="legend"></div>'
    buttons = []
    for each in seen.shares[:LEGEND_ENTRIES]:
        label, colour = html.escape(each.label), "rgb({},{},{})".format(*seen.result.palette[each.index].tolist())
        on = each.label not in hidden
        buttons.append(
            f'<button type="button" data-label="{label}" aria-pressed="{str(on).lower()}" title="{"Hide" if on else "Show"} '
            f'{label}"><i style="background:{colour}"></i>{label}</button>'
        )
    more = len(seen.shares) - LEGEND_ENTRIES
    rest = f"<span>and {more} more in the table</span>" if more > 0 else ""
    return f'<div class="legend" role="group" aria-label="Classes shown">{"".join(buttons)}{rest}</div>'


def risk_at(curve: Mapping[str, Sequence[float]], coverage: float) -> float:
    """The measured share of wrong pixels among the surest `coverage` of them, between the points of the curve."""
    order = np.argsort(curve["coverage"])
    return float(np.interp(coverage, np.asarray(curve["coverage"])[order], np.asarray(curve["risk"])[order]))


def curve_html(model: Segmenter, seen: Seen | None, below: float) -> str:
    """The measured risk-coverage curve, with a mark where this picture stands once pixels under `below` percent are left out."""
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
        mark = f'<line class="mark" x1="{x}" x2="{x}" y1="{top}" y2="{top + height}"/><circle class="mark" cx="{x}" cy="{y}" r="4.5"/>'
        said += f"When measured, {risk_at(curve, known):.1%} of the surest {known:.0%} of pixels were wrong."
    elif known is not None:
        said += "Nothing is left."
    else:
        said = "The fewer pixels it must answer for, the fewer of them are wrong."
    axes = "".join(
        f'<text x="{left + width * share}" y="{top + height + 15}" text-anchor="{anchor}">{share:.0%}</text>'
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    axes += "".join(
        f'<text x="{left - 5}" y="{top + height * (1 - share) + 4}" text-anchor="end">{share * highest:.{digits}%}</text>'
        f'<line class="grid" x1="{left}" x2="{left + width}" y1="{top + height * (1 - share)}" y2="{top + height * (1 - share)}"/>'
        for share in (0, 0.5, 1)
        for digits in (0 if highest > 0.06 else 1,)
    )
    return (
        f'<div class="curve"><strong>Wrong pixels by share answered</strong>'
        f'<svg viewBox="0 0 262 132" role="img" aria-label="Risk-coverage curve: wrong pixels over share of pixels answered">'
        f'{axes}<polygon points="{area}"/><polyline points="{line}"/>{mark}</svg><p>{html.escape(said)}</p></div>'
    )


# ---- two views of a picture -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """The classes of an example, known because it was painted or labelled."""

    ids: np.ndarray  # (H, W) uint8; 255 is not known
    label_names: list[str]


def read_examples() -> list[dict]:
    """The rows of the examples' index, [] where there is none."""
    index = EXAMPLES / "index.json"
    return json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []


def content(path: str | Path) -> str:
    """The hash of an upload's or an example's bytes. Raises PictureError as pictures.read_picture."""
    with uploads.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def truth_of(path: str, masks: Mapping[str, dict], label_names: Sequence[str]) -> Truth | None:
    """The truth of the example that this file is a copy of, in the ids of these labels; None where that isn't known.

    masks: {sha256 of an example's file: its row in the index}.
    """
    row = masks.get(content(path))
    if row is None:
        return None
    with Image.open(EXAMPLES / row["mask"]) as mask:
        ids = np.asarray(mask).astype(np.uint8)
    names = row["label_names"]
    known = {name: k for k, name in enumerate(label_names)}
    if not set(names) <= set(known):
        return None
    to_ours = np.full(256, 255, np.uint8)
    to_ours[: len(names)] = [known[name] for name in names]
    return Truth(to_ours[ids], list(label_names))


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The share of pixels with the same id in both (H, W), where neither is 255."""
    counted = (one != 255) & (other != 255)
    return float((one == other)[counted].mean()) if counted.any() else 0.0


def compared(
    recent: Recent, models: Mapping[str, Segmenter], masks: Mapping[str, dict], path: str | None, left: str, right: str
) -> tuple[tuple[Image.Image, Image.Image], str]:
    """Both views of the picture at the size of the page, and a sentence on how far they agree."""
    picture = pictures.read_picture(path)
    named = [name for name in (left, right) if name in models]
    first = models[named[0]] if named else next(iter(models.values()))
    views, ids, names = [], [], []
    for name in (left, right):
        base = shown_picture(picture)
        if name == PICTURE:
            views.append(base)
            continue
        if name == TRUTH:
            truth = truth_of(path, masks, first.label_names)
            if truth is None:
                views.append(base)
                continue
            mine, labels, palette = truth.ids, truth.label_names, first.palette
        else:
            model = models[name]
            seen = see(recent, model, path)
            mine, labels, palette = seen.result.ids, model.label_names, model.palette
        shown = np.asarray(Image.fromarray(mine).resize(shown_size(picture.size), Image.Resampling.NEAREST))
        hidden = [k for k, label in enumerate(labels) if label == BACKGROUND]
        views.append(paint(base, shown, None, palette, opacity=COMPARED_OPACITY, hidden=hidden))
        ids.append(mine)
        names.append(labels)
    said = f"Left: {left}. Right: {right}."
    if TRUTH in (left, right) and len(ids) < 2:
        said += " The truth is known of some of the examples alone, and for models of the same classes."
    elif len(ids) == 2 and left != right:
        if names[0] != names[1]:
            said += " They were trained to tell different classes apart."
        elif TRUTH in (left, right):
            said += f" {agreement(*ids):.1%} of the pixels are right."
        else:
            said += f" They agree on {agreement(*ids):.1%} of the pixels."
    return tuple(Image.fromarray(view) for view in views), said


def feature_picture(model: Segmenter, picture: Image.Image) -> tuple[Image.Image | None, str]:
    """The colours of the model's features at the size of the page, cells as they are, and a sentence on them."""
    features = model.features(picture)
    rows, columns, width = features.values.shape
    if features.colours is None:
        return None, f"{model.name} comes without a basis to colour its {width} features by."
    image = Image.fromarray(features.colours).resize(shown_size(picture.size), Image.Resampling.NEAREST)
    return image, f"{model.name}: {columns} × {rows} cells of {width} features each, as three colours."


# ---- the page ---------------------------------------------------------------------------------------------------------

LEGEND_CSS = """
.legend { display: flex; flex-wrap: wrap; gap: 6px; min-height: 30px; align-items: center; font-size: 0.85rem; }
.legend button { display: inline-flex; align-items: center; gap: 7px; min-height: 30px; padding: 3px 11px 3px 8px; margin: 0; cursor: pointer;
  border-radius: 999px; border: 1px solid var(--border-color-primary); background: var(--background-fill-primary);
  color: var(--body-text-color); font-size: 0.85rem; line-height: 1.3; }
.legend i { width: 13px; height: 13px; border-radius: 4px; flex: none; box-shadow: inset 0 0 0 1px rgb(128 128 128 / 0.35); }
.legend button[aria-pressed="false"] { color: var(--body-text-color-subdued); text-decoration: line-through; background: none; }
.legend button[aria-pressed="false"] i { opacity: 0.25; }
.legend span { color: var(--body-text-color-subdued); }
"""

LEGEND_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-label]');
  if (button) trigger('click', { label: button.dataset.label });
});
"""

TABLE_CSS = """
.table { max-height: 330px; overflow-y: auto; margin-bottom: 0.75rem; }
table { width: 100%; border-collapse: collapse; border: 0 !important; font-size: 0.85rem; font-variant-numeric: tabular-nums; margin: 0; }
tr { border: 0 !important; }
th, td { padding: 4px 0 4px 8px; border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; text-align: right; font-weight: 400; }
th:first-child { padding-left: 0; text-align: left; overflow-wrap: anywhere; }
thead th { position: sticky; top: 0; background: var(--block-background-fill); }
thead button { all: unset; cursor: pointer; font-weight: 500; font-size: 0.8rem; white-space: nowrap; }
thead button:focus-visible { outline: 2px solid var(--primary-600); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
"""

TABLE_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-column]');
  if (!button) return;
  const heading = button.closest('th'), column = Number(button.dataset.column), table = button.closest('table');
  const first = column ? 'descending' : 'ascending';
  const order = heading.ariaSort === first ? (column ? 'ascending' : 'descending') : first;
  heading.parentElement.querySelectorAll('th').forEach((other) => { other.ariaSort = other === heading ? order : 'none'; });
  const value = (row) => row.children[column].textContent;
  const compare = (a, b) => column ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => order === 'ascending' ? compare(a, b) : compare(b, a));
  table.tBodies[0].append(...rows);
});
"""

CURVE_CSS = """
.curve { font-size: 0.85rem; color: var(--body-text-color-subdued); }
.curve strong { color: var(--body-text-color); font-weight: 500; }
.curve svg { display: block; width: 100%; max-width: 380px; margin-top: 6px; }
.curve p { margin: 4px 0 0; min-height: 3.6em; }
.curve text { font-size: 10px; fill: currentColor; }
.curve polyline { fill: none; stroke: var(--primary-600); stroke-width: 2; stroke-linejoin: round; }
.curve polygon { fill: var(--primary-600); opacity: 0.14; }
.curve line.grid { stroke: currentColor; stroke-width: 0.5; opacity: 0.3; }
.curve line.mark { stroke: var(--body-text-color); stroke-width: 1; stroke-dasharray: 3 3; }
.curve circle.mark { fill: var(--body-text-color); stroke: var(--block-background-fill); stroke-width: 1.5; }
"""

SAVE_FILE = """(file) => {
  if (!file) return;
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""

WAITING = "Choose a picture first."


def build(models: dict[str, Segmenter | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause."""
    ready = {name: model for name, model in models.items() if not isinstance(model, Exception)}
    with ui.blocks("What is where? · Vitrail") as page:
        ui.heading(
            "What is where?",
            "A Swin, a ViT and a U-Net name every pixel of your picture, and say how sure they are. The models of scenes have "
            "seen drawings only: for photographs there are photo and, on the road, street.",
        )
        for name, error in models.items():
            if name not in ready:
                ui.degraded(name, error)
        if ready:
            _Page(page, ready)
    return page


class _Page:
    """The parts of the page and their events, over models that are loaded."""

    def __init__(self, page: gr.Blocks, models: dict[str, Segmenter]):
        self.page, self.models, self.recent, self.flags = page, models, Recent(), ui.StopFlags()
        self.examples = read_examples()
        self.masks = {content(EXAMPLES / row["file"]): row for row in self.examples if row.get("mask")}
        self.one = {"concurrency_id": STEM, "concurrency_limit": 1}
        self.quiet = self.one | ui.HIDDEN
        self.latest = {"trigger_mode": "always_last"} | self.quiet
        self._main_part()
        self._views_part()
        self._main_events()
        self._endpoints()

    # What stands where

    def _main_part(self) -> None:
        with gr.Row(elem_classes="v-columns", equal_height=False):
            with gr.Column(scale=7, min_width=280):
                self.box = pictures.picture_input("Your picture", height=280, elem_id="segmentation-picture")
                if self.examples:
                    self._example_buttons()
            with gr.Column(scale=9, min_width=320):
                with gr.Column(elem_classes="v-card"):
                    self._overlay_card()
                with gr.Column(elem_classes="v-card"):
                    self._pixel_card()
            with gr.Column(scale=6, min_width=260):
                with gr.Column(elem_classes="v-card"):
                    self._sureness_card()
                with gr.Column(elem_classes="v-card"):
                    self._table_card()
        self.hidden = gr.State([BACKGROUND])
        self.file = gr.DownloadButton("File", visible=False)

    def _example_buttons(self) -> None:
        with gr.Column(elem_classes="v-examples"):
            gr.Examples(
                [[str(EXAMPLES / row["file"])] for row in self.examples],
                self.box,
                label="Or one of these: scenes no model was trained on, with their truth, and photographs",
                examples_per_page=len(self.examples),
                api_name="segmentation_example",
                api_visibility="private",
            )
            credits = " · ".join(dict.fromkeys(row["credit"] for row in self.examples))
            gr.HTML(html.escape(credits), elem_classes="v-credits", padding=False)
        ui.name_examples(self.page, [row["name"] for row in self.examples])

    def _overlay_card(self) -> None:
        self.model_name = gr.Radio(
            list(self.models), value=next(iter(self.models)), label="Model", show_label=False, container=False,
            elem_classes="chips", visible=len(self.models) > 1,
        )  # fmt: skip
        self.overlay = pictures.picture_output("Classes over the picture", height=430, elem_id="segmentation-overlay")
        self.legend = gr.HTML(
            legend_html(None, ()), css_template=LEGEND_CSS, js_on_load=LEGEND_JS, padding=False,
            elem_id="segmentation-legend",
        )  # fmt: skip
        self.status = gr.HTML(ui.status(WAITING), padding=False, elem_id="segmentation-status")
        with gr.Row():
            self.downloads = [
                gr.Button(text, size="sm", min_width=90, interactive=False)
                for text in ("Mask PNG", "Overlay PNG", "JSON")
            ]

    def _pixel_card(self) -> None:
        ui.subheading("One pixel", "Click one in the coloured picture, or say where it is.")
        with gr.Row():
            self.x, self.y = (
                gr.Number(label=name, minimum=0, step=1, min_width=90, elem_id=f"segmentation-{name}") for name in "xy"
            )
        self.top = gr.Label(
            num_top_classes=TOP_K, label="At this pixel", show_label=False, container=False, elem_classes="v-answer",
            elem_id="segmentation-top",
        )  # fmt: skip

    def _sureness_card(self) -> None:
        ui.subheading("How sure?", "Blank the pixels that the model is less sure of.")
        self.opacity = gr.Slider(0, 100, OPACITY, step=1, label="Opacity, %")
        self.below = gr.Slider(0, 99, 0, step=1, label="Don't know below, %")
        self.curve = gr.HTML(
            curve_html(next(iter(self.models.values())), None, 0), css_template=CURVE_CSS, padding=False,
            elem_id="segmentation-curve",
        )  # fmt: skip
        ui.as_sent(self.model_name, self.opacity, self.below, self.x, self.y)

    def _table_card(self) -> None:
        ui.subheading("All of it", "Press a heading to sort by it.")
        self.table = gr.HTML(
            table_html(None), css_template=TABLE_CSS, js_on_load=TABLE_JS, padding=False, elem_id="segmentation-table"
        )
        self.facts = gr.HTML(card(next(iter(self.models.values()))), padding=False)

    def _views_part(self) -> None:
        names = list(self.models)
        others = [PICTURE, TRUTH] if self.masks else [PICTURE]
        ui.section("The same picture, seen otherwise", "Both follow the picture above.")
        with gr.Row(elem_classes="v-columns", equal_height=False):
            with gr.Column(min_width=320, elem_classes="v-card"):
                ui.subheading("Two at once", "Drag the line.")
                with gr.Row():
                    self.left = gr.Dropdown([*names, *others], value=names[0], label="Left", min_width=130)
                    self.right = gr.Dropdown(
                        [*names, *others], value=(names + [PICTURE])[1], label="Right", min_width=130
                    )
                self.slider = gr.ImageSlider(
                    label="Two views", show_label=False, interactive=False, height=380, max_height=380,
                    buttons=["fullscreen"], elem_id="segmentation-slider",
                )  # fmt: skip
                self.slider_note = gr.HTML(ui.status(WAITING), padding=False, elem_id="segmentation-compared")
            with gr.Column(min_width=320, elem_classes="v-card"):
                ui.subheading(
                    "What it decides from",
                    "Three principal components of the features before the last layer. Equal colours are equal in all pictures.",
                )
                self.features_of = gr.Dropdown(names, value=names[0], label="Model", min_width=130)
                self.features = pictures.picture_output("Features", height=380, elem_id="segmentation-features")
                self.features_note = gr.HTML(ui.status(WAITING), padding=False, elem_id="segmentation-features-note")

    # What happens when

    @property
    def _look(self) -> list:
        """The inputs of `_painted`."""
        return [self.box, self.model_name, self.opacity, self.below, self.hidden, self.x, self.y]

    @property
    def _shown(self) -> list:
        """All that shows a result of the chosen model."""
        return [self.overlay, self.legend, self.status, self.curve, self.top, self.table, self.facts, *self.downloads]

    def _model(self, name) -> Segmenter:
        return self.models[ui.choice(name, "Model", self.models)]

    def _see(self, path, name) -> Seen:
        return see(self.recent, self._model(name), path)

    def _pixel(self, seen: Seen, x, y) -> tuple[int, int] | None:
        """The pixel asked for, None where none is. Raises InputError outside of the picture."""
        if x is None or y is None:
            return None
        width, height = seen.picture.size
        return ui.number(x, "x", 0, width - 1, integer=True), ui.number(y, "y", 0, height - 1, integer=True)

    def _painted(self, seen: Seen, name, opacity, below, hidden, pixel) -> str:
        opacity, below = check_percent(opacity, "Opacity"), check_percent(below, "Confidence")
        return shown_file(overlay(seen, opacity, below, hidden, pixel=pixel), f"{name}-overlay")

    def _emptied(self, name):
        model = self._model(name)
        off = [gr.Button(interactive=False)] * 3
        return [
            None,
            legend_html(None, ()),
            ui.status(WAITING),
            curve_html(model, None, 0),
            None,
            [],
            card(model),
            *off,
        ]

    def _main_events(self) -> None:
        def fresh_picture(path, name, request: gr.Request):
            return None, None, fresh_model(path, name, request)

        def fresh_model(path, name, request: gr.Request):
            self.flags.set(request.session_hash)  # nobody waits for what was asked before
            self.flags.arm(request.session_hash)
            return ui.status("Waiting for the model …", 0) if path else gr.skip()

        def halt(request: gr.Request):
            self.flags.set(request.session_hash)

        def segment(path, name, opacity, below, hidden, x, y, request: gr.Request):
            model = self._model(name)
            if path is None:
                yield self._emptied(name)
                return
            flag, rest = self.flags.get(request.session_hash), len(self._shown) - 3
            try:
                for event in watched(lambda on_tile: see(self.recent, model, path, on_tile), flag):
                    if isinstance(event, Seen):
                        seen = event
                    elif event[1] > 1:
                        text = f"Tile {event[0]} of {event[1]}"
                        yield gr.skip(), gr.skip(), ui.status(text, event[0] / event[1]), *[gr.skip()] * rest
            except Stopped:
                yield [gr.skip()] * len(self._shown)
                return
            pixel = self._pixel(seen, x, y)
            width, height = seen.picture.size
            yield (
                self._painted(seen, name, opacity, below, hidden, pixel),
                legend_html(seen, hidden),
                ui.status(f"{name}: {len(seen.shares)} classes in {width} × {height} px."),
                curve_html(model, seen, below),
                dict(seen.result.top(*pixel, TOP_K)) if pixel else None,
                table_html(seen),
                card(model, seen.seconds),
                *[gr.Button(interactive=True)] * 3,
            )

        def click(path, name, opacity, below, hidden, event: gr.SelectData):
            seen = self._see(path, name)
            x, y = (
                min(int(at * own / shown), own - 1)
                for at, own, shown in zip(event.index, seen.picture.size, shown_size(seen.picture.size), strict=True)
            )
            return x, y, *at_pixel(path, name, opacity, below, hidden, x, y)

        def at_pixel(path, name, opacity, below, hidden, x, y):
            if path is None:
                return gr.skip(), gr.skip()
            seen = self._see(path, name)
            pixel = self._pixel(seen, x, y)
            top = dict(seen.result.top(*pixel, TOP_K)) if pixel else None
            return top, self._painted(seen, name, opacity, below, hidden, pixel)

        def repaint(path, name, opacity, below, hidden, x, y):
            if path is None:
                return gr.skip(), gr.skip()
            seen = self._see(path, name)
            painted = self._painted(seen, name, opacity, below, hidden, self._pixel(seen, x, y))
            return painted, curve_html(self._model(name), seen, below)

        def press(path, name, opacity, below, hidden, x, y, event: gr.EventData):
            label = event.label
            hidden = [each for each in hidden if each != label] if label in hidden else [*hidden, label]
            painted, _ = repaint(path, name, opacity, below, hidden, x, y)
            return hidden, painted, legend_html(self._see(path, name), hidden)

        def views(path, left, right):
            if path is None:
                return None, ui.status(WAITING)
            pair, said = compared(self.recent, self.models, self.masks, path, left, right)
            return tuple(shown_file(view, f"{side}-view") for view, side in zip(pair, "lr", strict=True)), ui.status(
                said
            )

        def features(path, name):
            if path is None:
                return None, ui.status(WAITING)
            image, said = feature_picture(self._model(name), pictures.read_picture(path))
            return image, ui.status(said)

        chosen = [self.box, self.model_name]
        slider, components = [self.slider, self.slider_note], [self.features, self.features_note]
        picture = self.box.change(fresh_picture, chosen, [self.x, self.y, self.status], queue=False, **ui.HIDDEN)
        model = self.model_name.input(fresh_model, chosen, self.status, queue=False, **ui.HIDDEN)
        for begun in (picture, model):
            seen = begun.then(segment, self._look, self._shown, **self.quiet)
            seen.failure(self._emptied, self.model_name, self._shown, queue=False, **ui.HIDDEN)
            if begun is picture:
                after = seen.success(views, [self.box, self.left, self.right], slider, **self.quiet)
                after.success(features, [self.box, self.features_of], components, **self.quiet)
                seen.failure(
                    lambda: [None, ui.status(WAITING)] * 2, None, [*slider, *components], queue=False, **ui.HIDDEN
                )
        self.page.unload(halt)
        self.overlay.select(click, self._look[:-2], [self.x, self.y, self.top, self.overlay], **self.quiet)
        gr.on([self.x.input, self.y.input], at_pixel, self._look, [self.top, self.overlay], **self.latest)
        gr.on([self.opacity.change, self.below.change], repaint, self._look, [self.overlay, self.curve], **self.latest)
        self.legend.click(press, self._look, [self.hidden, self.overlay, self.legend], **self.quiet)
        gr.on([self.left.input, self.right.input], views, [self.box, self.left, self.right], slider, **self.latest)
        self.features_of.input(features, [self.box, self.features_of], components, **self.latest)

        makers = (self._mask_file, self._overlay_file, self._json_file)
        for button, make in zip(self.downloads, makers, strict=True):
            made = button.click(make, self._look[:-2], self.file, **self.quiet)
            made.success(None, self.file, js=SAVE_FILE)

    def _mask_file(self, path, name, *_) -> str:
        data = encoded(self._see(path, name).result.indexed_png(), "PNG")
        return ui.cached_file(data, f"{file_stem(name)}-mask.png")

    def _overlay_file(self, path, name, opacity, below, hidden) -> str:
        opacity, below = check_percent(opacity, "Opacity"), check_percent(below, "Confidence")
        data = encoded(full_overlay(self._see(path, name), opacity, below, hidden), "PNG")
        return ui.cached_file(data, f"{file_stem(name)}-overlay.png")

    def _json_file(self, path, name, _opacity, below, _hidden) -> str:
        said = report(self._model(name), self._see(path, name), check_percent(below, "Confidence"))
        data = json.dumps(said, indent=1, ensure_ascii=False).encode()
        return ui.cached_file(data, f"{file_stem(name)}.json")

    # The same for programs

    def _endpoints(self) -> None:
        def segmentation_predict(picture, model, opacity, confidence):
            """Every pixel's class: the mask as an indexed PNG, the overlay, and each class's area and confidence.

            Parameters:
                picture: a picture file
                model: the name of a loaded model
                opacity: of the overlay, 0 to 100 percent
                confidence: pixels less sure than so many percent are blanked in the overlay, 0 to 100
            """
            chosen = self._model(model)
            opacity, below = check_percent(opacity, "Opacity"), check_percent(confidence, "Confidence")
            seen = see(self.recent, chosen, picture)
            mask = self._mask_file(picture, model)
            return mask, self._overlay_file(picture, model, opacity, below, [BACKGROUND]), report(chosen, seen, below)

        def segmentation_pixel(picture, model, x, y):
            """The most probable classes of one pixel, best first.

            Parameters:
                picture: a picture file
                model: the name of a loaded model
                x: from the left, 0 to width - 1
                y: from the top, 0 to height - 1
            """
            seen = self._see(picture, model)
            width, height = seen.picture.size
            x, y = ui.number(x, "x", 0, width - 1, integer=True), ui.number(y, "y", 0, height - 1, integer=True)
            top = seen.result.top(x, y, TOP_K)
            return {"x": x, "y": y, "top": [{"label": label, "probability": round(p, 6)} for label, p in top]}

        def segmentation_compare(picture, left, right):
            """The picture under two models' classes, at the same size, and how far the two agree.

            Parameters:
                picture: a picture file
                left: the name of a loaded model, "the picture", or, for examples, "the truth"
                right: the same
            """
            options = [*self.models, PICTURE, *([TRUTH] if self.masks else [])]
            left, right = ui.choice(left, "Left", options), ui.choice(right, "Right", options)
            pair, said = compared(self.recent, self.models, self.masks, picture, left, right)
            return tuple(shown_file(view, f"{side}-view") for view, side in zip(pair, "lr", strict=True)), said

        def segmentation_features(picture, model):
            """The model's features of the picture as colours, in a basis that is the same for every picture.

            Parameters:
                picture: a picture file
                model: the name of a loaded model
            """
            return feature_picture(self._model(model), pictures.read_picture(picture))

        mask, painted = gr.File(label="Mask", visible=False), gr.File(label="Overlay", visible=False)
        result, said = gr.JSON(label="Result", visible=False), gr.Textbox(label="Sentence", visible=False)
        for function, inputs, outputs in (
            (segmentation_predict, [self.box, self.model_name, self.opacity, self.below], [mask, painted, result]),
            (segmentation_pixel, [self.box, self.model_name, self.x, self.y], result),
            (segmentation_compare, [self.box, self.left, self.right], [self.slider, said]),
            (segmentation_features, [self.box, self.features_of], [self.features, said]),
        ):
            gr.Button(visible=False).click(function, inputs, outputs, api_name=function.__name__, **self.one)


def check_percent(value, name: str) -> float:
    return ui.number(value, f"{name}, in percent,", 0, 100)


def main() -> None:
    ui.run(STEM, __doc__.splitlines()[0], load_models, build, MODELS)


if __name__ == "__main__":
    main()
