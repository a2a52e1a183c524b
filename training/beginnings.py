"""What a new model may begin as: the tower in a folder, of timm or of transformers, in the form that is wanted.

    folder = tower_folder("pretrain/lejepa-swin")      # or classifier/vit, clip/emoji, a run's export, a Hub id
    begun = in_transformers(folder)                    # a SwinModel or ViTModel, with the colours that it saw
    begun = in_timm(folder)                            # timm's model

A stem's bundled variant may go without the stem.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import transformers
from timm.data import resolve_model_data_config
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from transformers import AutoModel, SwinModel, ViTModel

from hub_models import pretrained, store, timm_folders
from hub_models.documents import read_object
from training import publish, towers

HOMES = ("pretrain", "classifier", "clip", "captioning", "segmentation")  # stems with a tower in their models


@dataclass(frozen=True)
class Begun:
    """A tower, and how pictures are shown to it."""

    model: Any
    side_px: int
    mean: tuple[float, ...]  # of the pixels it was trained on, in [0, 1]
    std: tuple[float, ...]


def tower_folder(name: str) -> Path:
    """Where a tower lies: a bundled model as stem/variant, a bundled variant of HOMES, a folder, or a Hub id.

    Raises store.CheckpointError.
    """
    stem, _, variant = name.partition("/")
    if stem in HOMES and variant in store.bundled(stem):
        return store.resolve(stem, variant)
    home = next((stem for stem in HOMES if name in store.bundled(stem)), HOMES[0])
    return store.resolve(home, name)


def is_timm(folder: Path) -> bool:
    """Whether a folder is of timm: transformers' configs name no architecture of their own."""
    return "architecture" in read_object(folder / "config.json")


def opened(folder: Path) -> Begun:
    """The timm model of a folder, with whatever class layer it has. Raises store.CheckpointError."""
    model = timm_folders.opened(folder, "a tower is a model of timm, or one of transformers")
    data = resolve_model_data_config(model)
    return Begun(model.requires_grad_(True), data["input_size"][-1], tuple(data["mean"]), tuple(data["std"]))


def in_transformers(folder: Path) -> Begun | None:
    """The Swin or ViT of a folder as a SwinModel or ViTModel; None of a timm model that is neither.

    Of a model of transformers the first one in it. Raises SystemExit where that has none, or timm's ViT is no plain
    one; store.CheckpointError.
    """
    if is_timm(folder):
        begun = opened(folder)
        if not isinstance(begun.model, SwinTransformer | VisionTransformer):
            return None
        return Begun(towers.in_transformers(begun.model), begun.side_px, begun.mean, begun.std)
    model, processor = _of_transformers(folder, SwinModel, ViTModel), pretrained.open_image_processor(folder)
    return Begun(model, model.config.image_size, tuple(processor.image_mean), tuple(processor.image_std))


def in_timm(folder: Path, num_classes: int, drop_path_rate: float = 0.0) -> tuple[Begun, dict]:
    """The tower of a folder as a timm model with a new class layer, and its arguments.

    Raises SystemExit where a model of transformers has no Swin or ViT that timm has; store.CheckpointError.
    """
    if is_timm(folder):
        base = opened(folder)
        config = read_object(folder / "config.json")
        name, args = config["architecture"], dict(config.get("model_args") or {})
        weights = base.model.state_dict()
        classes = base.model.pretrained_cfg.get("classifier")
        for layer in [classes] if isinstance(classes, str) else classes or []:
            weights = {key: value for key, value in weights.items() if not key.startswith(f"{layer}.")}
        side, mean, std = base.side_px, base.mean, base.std
    else:
        model, processor = _of_transformers(folder, SwinModel, ViTModel), pretrained.open_image_processor(folder)
        swin = isinstance(model, SwinModel)
        name = towers.NAME if swin else towers.VIT_NAME
        args, weights = towers.as_timm(model) if swin else towers.vit_as_timm(model)
        side, mean, std = args["img_size"], tuple(processor.image_mean), tuple(processor.image_std)
    args = {key: value for key, value in args.items() if key not in ("num_classes", "drop_path_rate")}
    made: Any = timm.create_model(name, num_classes=num_classes, drop_path_rate=drop_path_rate, **args)
    made.load_state_dict(weights, strict=False)
    return Begun(made, side, mean, std), args


def swin_of(folder: Path) -> SwinModel:
    """The Swin of a folder, of timm or the first in a model of transformers. Raises SystemExit where there is none."""
    if is_timm(folder):
        return cast(SwinModel, towers.in_transformers(opened(folder).model))
    return _of_transformers(folder, SwinModel)


def is_swin(folder: Path) -> bool:
    """Whether a folder of timm holds a Swin."""
    return str(read_object(folder / "config.json").get("architecture")).startswith("swin_")


def _of_transformers(folder: Path, *kinds: type) -> Any:
    """The first module of one of these kinds in a model of transformers."""
    said = " or ".join(kind.__name__.removesuffix("Model") for kind in kinds)
    config = pretrained.open_config(folder, f"a model of transformers with a {said} in it")
    kind = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    for part in pretrained.open_model(folder, kind, config, f"its {said}").modules():
        if isinstance(part, kinds):
            return part
    raise SystemExit(f"--tower_name_or_path: there is no {said} in the {config.model_type} of {folder}")


def origin(name: str) -> list[str]:
    """Whose work a tower is, and which it is, for the card of a model that began with it."""
    folder = tower_folder(name)
    return [*inherited(folder), f"the backbone: {called(folder)}"]


def called(folder: Path) -> str:
    """A tower in a few words: where it is from, what it is, its weights."""
    config = read_object(folder / "config.json")
    name, weights = "/".join(folder.parts[-2:]), store.weights_sha256(folder)[:12]
    if is_timm(folder):
        return f"{name}, {config['architecture']} of timm, weights {weights}"
    return f"the tower of {name}, weights {weights}"


def inherited(folder: Path) -> Sequence[str]:
    """Whose work went into a model, by its run.json."""
    path = folder / publish.RUN
    return read_object(path).get("attributions", []) if path.is_file() else []
