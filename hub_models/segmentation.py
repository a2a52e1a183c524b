"""What is where in a picture: a class and a calibrated confidence for each pixel, by any semantic segmenter.

A model folder is stock: either of transformers (config.json, model.safetensors: `AutoModelForSemanticSegmentation`
opens it, `pipeline("image-segmentation", model=folder, image_processor=folder)` serves it) or of
segmentation_models_pytorch (`smp.from_pretrained`). Beside the weights stands preprocessor_config.json of a stock image
processor; own keys in it, all optional: label_names, palette, temperature, resolution_px, max_side_px, pca {mean,
basis, low, high}, risk_coverage {coverage, risk}.

Letters: B tiles, R side of a tile in pixels, K classes, H × W pixels of the picture given, h × w of the picture as the
model sees it, D features.
"""

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    AutoModelForSemanticSegmentation,
)

from hub_models import building, components, pretrained, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.palette import default_palette
from hub_models.pictures import on_ground
from hub_models.store import CheckpointError
from hub_models.worlds import World, world_of

Stock = Any  # a PreTrainedModel, or one of smp: what they are made of is typed as Tensor | Module
PROCESSOR = "preprocessor_config.json"
OWN_KEYS = ("label_names", "palette", "temperature", "resolution_px", "max_side_px", "pca", "risk_coverage")
BATCH = 8  # tiles that are seen at once
MIN_OVERLAP = 0.25  # of a tile, with the next one
MAX_SIDE = 4  # a picture is seen at no more than so many times the model's side, where the folder says nothing
MAX_NUMBERS = 2**26  # probabilities kept of a picture: K · h · w
ROWS = 64  # of the picture whose classes are decided at once
CELL_PX = 4  # side of a cell of a feature map


@dataclass(frozen=True)
class Share:
    """How much of a picture is of one class, and how sure the model is of it."""

    label: str
    index: int
    area: float  # share of the pixels in [0, 1]
    confidence: float  # mean over those pixels, in [0, 1]


@dataclass(frozen=True)
class Segmentation:
    """Classes and confidence of each pixel of a picture; made by `Segmenter.predict`."""

    ids: np.ndarray  # (H, W) uint8, indices into label_names
    confidence: np.ndarray  # (H, W) float32 in [0, 1]: calibrated probability of that class
    probabilities: np.ndarray  # (K, h, w) float16, at the scale the model saw
    label_names: list[str]
    palette: np.ndarray  # (K, 3) uint8

    def shares(self) -> list[Share]:
        """The classes that are in the picture, largest area first."""
        area = np.bincount(self.ids.ravel(), minlength=len(self.label_names))  # (K,)
        total = np.bincount(self.ids.ravel(), self.confidence.ravel(), len(self.label_names))
        return [
            Share(self.label_names[k], int(k), float(area[k] / self.ids.size), float(total[k] / area[k]))
            for k in np.argsort(-area, kind="stable")
            if area[k]
        ]

    def top(self, x: int, y: int, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes of pixel (x, y) with their probabilities, best first; the first is that of `ids`.

        Raises ValueError for a pixel outside of the picture.
        """
        height, width = self.ids.shape
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"pixel ({x}, {y}) is outside of a picture of {width} × {height}")
        probabilities = torch.from_numpy(self.probabilities)
        row = resized_rows(probabilities, y, y + 1, (height, width))[:, 0, x].numpy()  # (K,)
        order = np.argsort(-row, kind="stable")
        first = int(self.ids[y, x])  # decided before probabilities were rounded to 16 bits
        order = [first, *(i for i in order if i != first)][:k]
        return [(self.label_names[i], float(row[i])) for i in order]

    def indexed_png(self) -> Image.Image:
        """The ids as a picture of mode "P" with the palette: each byte is a class."""
        image = Image.fromarray(self.ids, "L")
        image.putpalette(self.palette.tobytes())  # makes it mode "P", bytes untouched
        return image


@dataclass(frozen=True)
class FeatureMap:
    """What the class layer is given, for each cell of a picture."""

    values: np.ndarray  # (h, w, D) float32
    colours: np.ndarray | None  # (h, w, 3) uint8: three principal components in the basis of the weights; None without


class Segmenter:
    """A segmenter with its classes and its pre-processing. Built by `load`, or from parts that are being trained."""

    world: World | None = None  # of the pictures that it was trained on, where its folder has it

    def __init__(
        self,
        model: Stock,
        processor,
        label_names: Sequence[str],
        *,
        name: str,
        weights_sha256: str = "",
        own: dict | None = None,
    ):
        """own: the keys of OWN_KEYS that preprocessor_config.json has."""
        own = own or {}
        self.model, self.processor, self.name, self.weights_sha256 = model, processor, name, weights_sha256
        self.kind: str = kind_of(model)
        self.label_names = list(label_names)
        self.palette = np.array(own.get("palette") or default_palette(self.label_names), np.uint8)  # (K, 3)
        self.resolution_px: int = int(own.get("resolution_px") or side_of(processor, model))
        self.max_side_px: int = int(own.get("max_side_px") or MAX_SIDE * self.resolution_px)
        self.temperature = float(own.get("temperature") or 1.0)
        self.risk_coverage: dict[str, list[float]] | None = own.get("risk_coverage")
        self.pca: dict[str, list] | None = own.get("pca")
        self.parameters = sum(p.numel() for p in model.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def pixel_values(self, tiles: Sequence[np.ndarray]) -> torch.Tensor:
        """Tiles, uint8 (R, R, 3), as the model wants them: (B, 3, R, R) on the CPU, by its processor, unresized."""
        off = {key: False for key in ("do_resize", "do_center_crop", "do_pad") if getattr(self.processor, key, False)}
        images = [Image.fromarray(tile) for tile in tiles]
        return self.processor(images=images, return_tensors="pt", **off)["pixel_values"]

    @torch.no_grad()
    def tile_probabilities(self, tiles: Sequence[np.ndarray]) -> torch.Tensor:
        """Calibrated probabilities (B, K, R, R) float32 of tiles, on the CPU: softmax of logits / temperature.

        Guo et al. 2017, "On calibration of modern neural networks", §4.2.
        """
        x = self.pixel_values(tiles).to(self.device)
        return (full_logits(self.model, x).float() / self.temperature).softmax(1).cpu()

    def predict(self, image: Image.Image, *, on_tile: Callable[[int, int], None] | None = None) -> Segmentation:
        """Classes and confidence of each pixel, of a picture of any size and shape.

        A picture whose longer side is the model's is seen whole, a smaller one enlarged to that first. A larger one is
        seen in overlapping tiles whose probabilities are blended, after it is shrunk to `max_side_px` where it is
        beyond. on_tile(done, total) is called after every batch of tiles; what it raises ends the work.
        """
        seen, box = padded(at_side(image, self.seen_side(image)), self.resolution_px)
        corners = list(itertools.product(*(starts(side, self.resolution_px) for side in seen.shape[:2])))
        if len(corners) == 1:
            blended = self.tile_probabilities([seen])[0]  # (K, R, R)
            if on_tile:
                on_tile(1, 1)
        else:
            blended = self._blended(seen, corners, on_tile)  # (K, h, w)
        left, top, right, bottom = box
        kept = blended[:, top:bottom, left:right].contiguous()
        ids, confidence = decide(kept, (image.height, image.width))
        return Segmentation(ids, confidence, kept.half().numpy(), self.label_names, self.palette)

    def seen_side(self, image: Image.Image) -> int:
        """The longer side, in pixels, that a picture has when the model sees it: from R to max_side_px."""
        most = min(self.max_side_px, math.isqrt(MAX_NUMBERS // len(self.label_names)))
        return max(self.resolution_px, min(max(image.size), most))

    def _blended(self, seen: np.ndarray, corners: list[tuple[int, ...]], on_tile) -> torch.Tensor:
        side, (height, width, _) = self.resolution_px, seen.shape
        total = torch.zeros(len(self.label_names), height, width)
        weight, window = torch.zeros(height, width), tile_window(side)
        for at in range(0, len(corners), BATCH):
            part = corners[at : at + BATCH]
            tiles = [np.ascontiguousarray(seen[top : top + side, left : left + side]) for top, left in part]
            for (top, left), probability in zip(part, self.tile_probabilities(tiles), strict=True):
                total[:, top : top + side, left : left + side] += probability * window
                weight[top : top + side, left : left + side] += window
            if on_tile:
                on_tile(at + len(part), len(corners))
        return total.div_(weight)

    @torch.no_grad()
    def features(self, image: Image.Image) -> FeatureMap:
        """What the class layer is given, averaged over cells of CELL_PX pixels of the picture at the model's side.

        The picture is seen whole. Colours are the first three principal components in the basis that comes with the
        weights, so a colour means the same in every picture; None where the folder has no basis.
        """
        seen, (left, top, right, bottom) = padded(at_side(image, self.resolution_px), self.resolution_px)
        with class_layer_input(self.model) as caught:
            self.model(self.pixel_values([seen]).to(self.device))
        cells = max(1, self.resolution_px // CELL_PX)
        x = F.adaptive_avg_pool2d(caught[0].float(), min(cells, caught[0].shape[-1]))[0].cpu()  # (D, cells, cells)
        cell_px = self.resolution_px / x.shape[-1]
        sides = ((top, bottom), (left, right))
        rows, columns = (slice(int(a / cell_px), max(int(a / cell_px) + 1, round(b / cell_px))) for a, b in sides)
        values = x[:, rows, columns].permute(1, 2, 0).numpy()  # (h, w, D)
        return FeatureMap(np.ascontiguousarray(values), components.colours(values, self.pca))


# --- Sizes, tiles and their blending ---------------------------------------------------------------------------------


def at_side(image: Image.Image, side_px: int) -> Image.Image:
    """The picture, RGB on white, with a longer side of side_px: as it is where it has that, else resized (bicubic)."""
    image = on_ground(image)
    if max(image.size) == side_px:
        return image
    scale = side_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def padded(image: Image.Image, side_px: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The picture in the middle of one with sides of at least side_px, filled with the pixels of its edges.

    uint8 (h, w, 3), and (left, top, right, bottom) of the picture in it.
    """
    width, height = max(side_px, image.width), max(side_px, image.height)
    left, top = (width - image.width) // 2, (height - image.height) // 2
    around = ((top, height - image.height - top), (left, width - image.width - left), (0, 0))
    return np.pad(np.asarray(image), around, mode="edge"), (left, top, left + image.width, top + image.height)


def starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` begin along a length of at least that, evenly; neighbours share MIN_OVERLAP or more."""
    count = 1 + math.ceil((length - side) / (side * (1 - MIN_OVERLAP)))
    return [round(at) for at in np.linspace(0, length - side, count)]


def tile_window(side: int) -> torch.Tensor:
    """The weight (side, side) of each pixel of a tile in the blend: falls to the edges over the overlap."""
    place = torch.arange(side) + 0.5
    ramp = (torch.minimum(place, side - place) / (side * MIN_OVERLAP)).clamp(max=1)
    return ramp[:, None] * ramp[None]


def resized_rows(planes: torch.Tensor, start: int, stop: int, size: tuple[int, int]) -> torch.Tensor:
    """Rows start … stop - 1 of planes (K, h, w) resized to `size` = (H, W): (K, rows, W) float32.

    As F.interpolate(mode="bilinear", align_corners=False) of the whole, which would take K · H · W numbers.
    """
    height, width = planes.shape[1:]
    if (height, width) == size:
        return planes[:, start:stop].float()
    place = ((torch.arange(start, stop) + 0.5) * height / size[0] - 0.5).clamp(min=0)
    low = place.long().clamp(max=height - 1)
    high, share = (low + 1).clamp(max=height - 1), (place - low)[None, :, None]
    rows = planes[:, low].float() * (1 - share) + planes[:, high].float() * share  # (K, rows, w)
    return F.interpolate(rows[None], size=(stop - start, size[1]), mode="bilinear", align_corners=False)[0]


def decide(probabilities: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Most probable class (H, W) uint8 and its probability (H, W) float32, of probabilities (K, h, w); in strips."""
    ids, confidence = np.empty(size, np.uint8), np.empty(size, np.float32)
    for start in range(0, size[0], ROWS):
        stop = min(start + ROWS, size[0])
        best, index = resized_rows(probabilities, start, stop, size).max(0)
        ids[start:stop], confidence[start:stop] = index.numpy(), best.numpy()
    return ids, confidence


# --- Models ----------------------------------------------------------------------------------------------------------


def full_logits(model: Stock, pixel_values: torch.Tensor) -> torch.Tensor:
    """Scores before the softmax of every pixel, (B, K, R, R), of pictures (B, 3, R, R): any of the models here."""
    out = model(pixel_values)
    if isinstance(out, tuple | list):  # a smp model with a head for whole pictures
        out = out[0]
    logits = out if torch.is_tensor(out) else out.logits
    if logits.shape[-2:] != pixel_values.shape[-2:]:
        logits = F.interpolate(logits, size=pixel_values.shape[-2:], mode="bilinear", align_corners=False)
    return logits


def kind_of(model: Stock) -> str:
    """ "swin" (UperNet with Swin), "dpt", "unet" (smp), else transformers' model_type or the name of the smp class."""
    if isinstance(model, smp.base.SegmentationModel):
        return type(model).__name__.lower()
    kind = model.config.model_type
    return "swin" if kind == "upernet" and model.config.backbone_config.model_type == "swin" else kind


def class_layer(model: Stock) -> Any:
    """The layer that gives a score to each class: the last one of its width that isn't an auxiliary head's."""
    classes = classes_of(model)
    heads = [layer for name, layer in model.named_modules() if "auxiliary" not in name]
    found = [head for head in heads if getattr(head, "out_channels", getattr(head, "out_features", None)) == classes]
    if not found:
        raise ValueError(f"a {kind_of(model)} model has no layer of {classes} outputs")
    return found[-1]


@contextlib.contextmanager
def class_layer_input(model: Stock) -> Generator[list[torch.Tensor]]:
    """A list that gets the input (B, D, h, w) of the class layer at every call of the model in the block."""
    caught: list[torch.Tensor] = []
    hook = class_layer(model).register_forward_pre_hook(lambda _layer, inputs: caught.append(inputs[0]))
    try:
        yield caught
    finally:
        hook.remove()


def classes_of(model: Stock) -> int:
    """K."""
    return model.config["classes"] if isinstance(model.config, dict) else model.config.num_labels


def side_of(processor, model: Stock) -> int:
    """The side in pixels of the squares that a model was made for, by its processor, else its config, else 512."""
    size = dict(getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {})
    sides = [size[key] for key in ("height", "width", "shortest_edge") if isinstance(size.get(key), int)]
    if not sides and not isinstance(model.config, dict) and isinstance(getattr(model.config, "image_size", None), int):
        sides = [model.config.image_size]
    return min(sides, default=512)


# --- Folders ---------------------------------------------------------------------------------------------------------


def load(name: str = "swin-scenes", device: str | torch.device | None = None) -> Segmenter:
    """The segmenter of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"); fp32, eval.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("segmentation", name)
    with store.opening(folder):
        served = _open(folder, str(name))
        served.world = world_of(folder)
    served.model.to(device or default_device())
    return served


def _open(folder: Path, name: str) -> Segmenter:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: this page needs a semantic segmenter's folder")
    config, own = read_object(folder / "config.json"), _own_keys(folder)
    processor = pretrained.open_image_processor(folder)
    if "_model_class" not in config:
        model = _transformers_model(folder)
        names = own.get("label_names") or [str(model.config.id2label[k]) for k in range(model.config.num_labels)]
    else:
        model = _smp_model(folder, config)
        names = own.get("label_names") or [f"class {k}" for k in range(classes_of(model))]
    _check(folder, model, names, own)
    model = model.eval().requires_grad_(False)
    return Segmenter(model, processor, names, name=name, weights_sha256=store.weights_sha256(folder), own=own)


def _own_keys(folder: Path) -> dict:
    if not (folder / PROCESSOR).is_file():
        raise CheckpointError(f"{folder} has no {PROCESSOR}: save the model's image processor there")
    kept = read_object(folder / PROCESSOR)
    return {key: kept[key] for key in OWN_KEYS if key in kept}


def _transformers_model(folder: Path) -> Stock:
    wanted = "a model of AutoModelForSemanticSegmentation, or one of segmentation_models_pytorch"
    config = pretrained.open_config(folder, wanted)
    if type(config) not in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        raise CheckpointError(
            f"{folder}/config.json says model_type {config.model_type!r}, which has no semantic segmenter in "
            "transformers: choose a SegFormer, UperNet, DPT, BEiT or MobileViT checkpoint, or an smp one"
        )
    return pretrained.open_model(folder, AutoModelForSemanticSegmentation, config, "segmenter")


def _smp_model(folder: Path, config: dict) -> Stock:
    known = {kind.__name__ for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if config["_model_class"] not in known:
        raise CheckpointError(
            f"{folder}/config.json says {str(config['_model_class'])[:60]!r}: smp has {', '.join(sorted(known))}"
        )
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder} has no model.safetensors: save it again with smp's save_pretrained")
    try:
        arguments = {key: value for key, value in config.items() if not key.startswith("_")} | {"encoder_weights": None}
        kind = getattr(smp, config["_model_class"])
        with building.as_large_as_its_weights(folder), torch.device("meta"):
            kind(**arguments)
        with building.as_large_as_its_weights(folder):
            return smp.from_pretrained(str(folder), encoder_weights=None)  # else it would download those of the encoder
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder}: segmentation_models_pytorch cannot open this ({store.one_line(error)}); save it again with "
            "save_pretrained"
        ) from error


def _check(folder: Path, model: Stock, names: Sequence[str], own: dict) -> None:
    classes, where = classes_of(model), f"{folder}/{PROCESSOR}"
    if not 2 <= classes <= 256:
        raise CheckpointError(f"{folder} tells {classes} classes apart: this page needs 2 to 256")
    if len(names) != classes or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{where}: label_names must be {classes} strings, one a class")
    palette = own.get("palette")
    if palette is not None:
        try:
            fits = np.array(palette, np.uint8).shape == (classes, 3)
        except (ValueError, TypeError, OverflowError):
            fits = False
        if not fits:
            raise CheckpointError(f"{where}: palette must be {classes} colours of three bytes")
    for key in ("temperature", "resolution_px", "max_side_px"):
        value = own.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e5):
            raise CheckpointError(f"{where}: {key} must be a positive number, it is {str(value)[:40]}")
    for key, parts in (("pca", {"mean", "basis", "low", "high"}), ("risk_coverage", {"coverage", "risk"})):
        if own.get(key) is not None and not (isinstance(own[key], dict) and parts <= set(own[key])):
            raise CheckpointError(f"{where}: {key} must have {', '.join(sorted(parts))}")


def save_folder(folder: str | Path, segmenter: Segmenter) -> None:
    """Write what `load` reads: the stock files of the model and its image processor, our keys among the latter's."""
    folder, model = Path(folder), segmenter.model
    if not isinstance(model.config, dict):
        model.config.id2label = dict(enumerate(segmenter.label_names))
        model.config.label2id = {name: k for k, name in enumerate(segmenter.label_names)}
    model.save_pretrained(folder)
    if isinstance(model.config, dict):
        (folder / "README.md").unlink(missing_ok=True)  # smp's own card, which states a licence
    segmenter.processor.save_pretrained(folder)
    own = {
        "label_names": segmenter.label_names,
        "palette": segmenter.palette.tolist(),
        "temperature": segmenter.temperature,
        "resolution_px": segmenter.resolution_px,
        "max_side_px": segmenter.max_side_px,
        "pca": segmenter.pca,
        "risk_coverage": segmenter.risk_coverage,
    }
    path = folder / PROCESSOR
    kept = json.loads(path.read_text(encoding="utf-8")) | {
        key: value for key, value in own.items() if value is not None
    }
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
