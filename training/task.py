"""What a training script consists of, and what all of them do with it: fit, export, card, push.

    run(Task(...), cfg, argv)

A script says what is learned and how it is measured; `evaluate_checkpoint` of each gives `Results` of saved weights.
"""

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hub_models.worlds import World
from training import publish, worlds
from training.config import TrainConfig
from training.data.boxes import BoxSource, PaintedBoxes
from training.data.masks import MaskSource, PaintedSource
from training.data.sources import Source, compare, open_source
from training.loop import fit
from training.optim import Player
from training.order import Samples

FEW = 10  # pictures of a set, below which a share of them is said with its interval
SHARE = re.compile(r"(^|/)(top1|recall@1|(?!pixel_)\w*accuracy)$")  # of pictures


@dataclass(frozen=True)
class Card:
    """What a script says of a model; the rest of the card comes from its data, its config and the loop."""

    name: str  # the variant, as a file name
    title: str
    summary: str
    library_name: str
    pipeline_tag: str | None
    tags: Sequence[str]
    parameters: int
    usage: str  # Python that loads it with the library alone
    limits: Sequence[str]
    credits: Sequence[str] = ()  # whose work is in it, beside that of the data


@dataclass(frozen=True)
class Task:
    """An experiment, put together: what is trained on what, and what is done with what came of it.

    served(module): the first player's module, with averaged weights, as its contract serves it. This is what the
    others are given: `evaluate` to measure, `draw` to make a picture of, `finished` to fit what is exported with it,
    whose result `save` writes into a folder and `card` describes.
    """

    stem: str
    source: (
        Source | MaskSource | PaintedSource | BoxSource | PaintedBoxes
    )  # the training data, whose facts and licences the card states
    players: Sequence[Player]
    samples: Samples
    served: Callable[[Any], Any]
    evaluate: Callable[[Any], dict[str, float]]
    save: Callable[[Path, Any], None]
    card: Callable[[Any], Card]
    draw: Callable[[Any], Image.Image] | None = None
    finished: Callable[[Any], Any] = lambda served: served
    seen: Callable[[], Iterable[Image.Image]] | None = None  # some training pictures: the world that the weights know
    pictures_per_sample: int = 1
    cfg: TrainConfig | None = None  # where a checkpoint that it begins from decides something that the config doesn't


def run(task: Task, cfg: TrainConfig, argv: Sequence[str] | None = None) -> None:
    """Train, export to cfg.output_dir/export with a card, and push that if cfg says so. Raises what `fit` raises."""
    cfg = task.cfg or cfg
    draw, seen = task.draw, task.seen

    @functools.cache
    def world(pictures: Callable[[], Iterable[Image.Image]]) -> World:
        return worlds.reference(pictures(), task.source.facts.pictures)

    def export(module: torch.nn.Module, folder: Path, run: dict) -> list[str]:
        made = task.finished(task.served(module))
        count = {"images_seen": run["images_seen"] * task.pictures_per_sample}
        facts = run | count | described(task, cfg, task.card(made), argv)

        def save(target: Path) -> None:
            task.save(target, made)
            if seen:
                worlds.put(target, world(seen))

        return publish.write_export(folder, save, facts)

    fit(
        task.players, task.samples, cfg, run_dir=cfg.output_dir, export=export,
        evaluate=lambda module: task.evaluate(task.served(module)),
        draw_samples=draw and (lambda module: draw(task.served(module))),
    )  # fmt: skip
    if cfg.push_to_hub and cfg.hub_model_id:
        publish.push_export(Path(cfg.output_dir, "export"), cfg.hub_model_id, private=cfg.hub_private)


def described(task: Task, cfg: TrainConfig, card: Card, argv: Sequence[str] | None) -> dict:
    """What the card says beside what the loop knows: the script's part, the data's, and the command."""
    facts = task.source.facts
    said = {key.name: getattr(card, key.name) for key in dataclasses.fields(card) if key.name != "credits"}
    return said | {
        "stem": task.stem,
        "tags": list(card.tags),
        **(facts.licensed() or {"license": publish.license_of(task.source.licenses)}),
        "datasets": [] if facts.ours or Path(cfg.dataset_name).expanduser().exists() else [cfg.dataset_name],
        "base_model": cfg.pretrained_model_name_or_path,
        "command": publish.command_line(task.stem, argv),
        "attributions": list(dict.fromkeys([*facts.credits, *card.credits])),
        "limits": [*card.limits, *facts.limits],
    }


def opened(cfg: TrainConfig, split: str, **columns) -> Source:
    """A split of the data that a config names; with skin tones, if they are asked for, to train on alone."""
    return open_source(
        cfg.dataset_name, split=split, dataset_config_name=cfg.dataset_config_name, image_column=cfg.image_column,
        skin_tones=cfg.skin_tones and split == "train", **columns,
    )  # fmt: skip


def opened_pair(cfg: TrainConfig, *splits: str, **columns) -> tuple[Source, Source]:
    """What is trained on and what is validated on, of the two splits named, compared: see `sources.compare`."""
    train, held_out = (opened(cfg, split, **columns) for split in splits or ("train", "validation"))
    compare(train, held_out, labelled=columns.get("label_column") is not None)
    return train, held_out


def with_model(served, model: torch.nn.Module):
    """A contract's object around another module of the same kind; the one that is given stays as it is."""
    other = copy.copy(served)
    other.model = model
    return other


@dataclass
class Results:
    """What was measured of saved weights, filled set by set: the fields of results.json, and figures for the card."""

    baseline_name: str
    metrics: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)  # what of it a simpler way gives
    per_class: dict[str, Mapping[str, float | None]] = field(default_factory=dict)  # {set: {class: number}}
    curves: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Image.Image] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)  # of the data, one a set
    left_out: list[str] = field(default_factory=list)  # what isn't said of these weights, a sentence each
    more: dict[str, Any] = field(default_factory=dict)  # what else is stated: judges, settings

    def note(self, which: str, metrics: dict[str, float], baseline: dict[str, float] | None = None) -> None:
        """Keep the numbers of a set, under its name; of a share of fewer than FEW pictures, say how far it is known."""
        from scipy.stats import binomtest

        count = int(metrics.get("pictures", FEW))
        for key in [key for key in metrics if SHARE.search(key)] if count < FEW else []:
            known = binomtest(round(metrics[key] * count), count).proportion_ci(method="wilson")
            self.left_out.append(
                f"{which}/{key} is of {count} picture{'s' * (count > 1)} alone: with 95 % confidence it lies between "
                f"{100 * known.low:.0f} and {100 * known.high:.0f} %."
            )
        for kept, numbers in ((self.metrics, metrics), (self.baseline, baseline or {})):
            kept |= {f"{which}/{key}": value for key, value in numbers.items()}

    def as_json(self) -> dict:
        """The fields of results.json."""
        return {
            "metrics": self.metrics,
            "baseline": self.baseline,
            "baseline_name": self.baseline_name,
            "per_class": self.per_class,
            "curves": self.curves,
            "data_hash": "-".join(value[:12] for value in self.hashes),
            **({"left_out": self.left_out} if self.left_out else {}),
        } | self.more


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, for a sentence."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def by_label(label_names: Sequence[str], values: Iterable[float]) -> dict[str, float | None]:
    """{label: its number}, None where there is none."""
    return {label: None if value != value else float(value) for label, value in zip(label_names, values, strict=True)}
