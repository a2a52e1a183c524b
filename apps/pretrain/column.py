"""The towers side by side: what each learned from, what was measured of it, and an untrained one of each kind."""

from collections.abc import Mapping
from dataclasses import dataclass

from apps.kit import measured
from hub_models import pretrain
from hub_models.pretrain import Tower

LABELS = "classifier="  # before the name of a classifier, among the names of towers
UNTRAINED = "untrained="
WAYS = {  # objectives of training/pretrain: title, and what a tower learned from. A new one gets a line here.
    "mae": ("Masked patches", "It filled in what was hidden of a picture (MAE)."),
    "beit": ("Masked codes", "It named the codes that a VQ tokenizer has for what was hidden of a picture (BEiT)."),
    "lejepa": ("Views, LeJEPA", "Views of one picture had to agree, and all of them to be spread evenly."),
    "dino": ("Views, DINO", "It had to say of a part what its own average said of the whole."),
    "simclr": ("Views, SimCLR", "It had to find the other view of a picture among those of others."),
    "distil": ("A teacher", "It copied the features of another model."),
    "rotation": ("Turns", "It had to say how a picture was turned."),
    "triplet": ("Triplets", "Views of one picture had to be nearer than those of others."),
}
KINDS = {"VisionTransformer": "ViT", "SwinTransformer": "Swin"}  # what people call timm's classes
FIGURES = (  # of results.json, and what they are called
    ("unseen_style/knn", "k-NN, unseen style"), ("validation/knn", "k-NN, new things"),
    ("unseen_style/probe", "Probe, unseen style"), ("validation/probe", "Probe, new things"),
    ("unseen_style/top1", "Its labels, unseen style"), ("validation/top1", "Its labels, new things"),
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A tower on the page."""

    name: str
    tower: Tower
    title: str
    said: str  # what it learned from
    figures: Mapping[str, float]  # what its folder says was measured, shares of pictures

    @property
    def kind(self) -> str:
        kind = type(self.tower.model).__name__
        return KINDS.get(kind, kind)


def columns(towers: Mapping[str, Tower]) -> dict[str, Column]:
    """{name: column} of these towers, and one with fresh weights for each architecture whose folder is there."""
    found = {name: _column(name, tower) for name, tower in towers.items()}
    for column in list(found.values()):
        name, folder = f"{UNTRAINED}{column.kind.lower()}", column.tower.folder
        if folder is not None and name not in found:
            fresh = Tower(pretrain.untrained(folder).to(column.tower.device), name=name)
            found[name] = Column(name, fresh, "Nothing", "Fresh random weights: what the architecture does alone.", {})
    return found


def _column(name: str, tower: Tower) -> Column:
    labelled, variant = name.startswith(LABELS), name.removeprefix(LABELS)
    metrics, run = measured.of_folder(tower.folder) if tower.folder is not None else ({}, {})
    figures = {said: value for key, said in FIGURES if (value := measured.number(metrics, key)) is not None}
    if labelled:
        return Column(name, tower, "Labels", "It was told the class of every picture.", figures)
    config = run.get("config")
    objective = config.get("objective") if isinstance(config, dict) else None
    title, said = (
        WAYS.get(str(objective)) or WAYS.get(variant) or (variant.rstrip("/"), "Its folder doesn't say from what.")
    )
    return Column(name, tower, title, said, figures)
