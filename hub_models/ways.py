"""How the steps of a drawing of `ddpm` go: towards what, how strongly, by which sampler, and where it forks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from hub_models import drawing
from hub_models.samplers import SAMPLERS


class Guide(Protocol):
    """A classifier of noisy pictures, such as `hub_models.classifier.Classifier` where it reads noise."""

    name: str
    weights_sha256: str

    def gradient(self, x_t: torch.Tensor, alpha_bar: float, labels: Sequence[str | None]) -> torch.Tensor:
        """∇ log p(label | x_t), of the shape of x_t (B, 3, R, R); 0 where the label is None. Raises ValueError."""
        ...


@dataclass(frozen=True)
class Fork:
    """Another way on, after `at` steps of a drawing are done; what is None stays as it was."""

    at: int
    labels: Sequence[int | str | None] | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    guide_scale: float | None = None


@dataclass(frozen=True)
class Way:
    """How a step is taken: towards which rows of the class embedding, how strongly (by w, by γ), by which sampler."""

    rows: list[int | None]
    scale: float
    guide_scale: float
    sampler: str


class Model(Protocol):
    """What is asked of the model: see `hub_models.ddpm.DDPM`."""

    null_label: int | None
    default_guidance: float

    def label_index(self, label: int | str | None) -> int | None: ...


@dataclass(frozen=True)
class Asked:
    """What somebody asks for, unchecked; guidance_scale None is the model's own."""

    labels: Sequence[int | str | None]
    guidance_scale: float | None
    sampler: str
    guide_scale: float


def ways_of(model: Model, asked: Asked, guide: Guide | None, fork: Fork | None, steps: int) -> list[Way]:
    """The way of each step. Raises ValueError for what is out of its range."""
    ways = [way_of(model, asked, guide)] * steps
    if fork is not None:
        at = drawing.check_whole("fork.at", fork.at, 0, steps - 1)
        first = ways[0]
        changed = {"labels": fork.labels, "guidance_scale": fork.guidance_scale, "sampler": fork.sampler,
                   "guide_scale": fork.guide_scale}  # fmt: skip
        here = replace(asked, guidance_scale=first.scale)
        other = replace(here, **{name: value for name, value in changed.items() if value is not None})
        if len(other.labels) != len(asked.labels):
            raise ValueError(
                f"{len(other.labels)} labels for {len(asked.labels)} seeds: a fork needs one label a picture, too"
            )
        ways[at:] = [way_of(model, other, guide)] * (steps - at)
    return ways


def way_of(model: Model, asked: Asked, guide: Guide | None) -> Way:
    """How a step goes, checked. Raises ValueError."""
    drawing.check_sampler(asked.sampler, SAMPLERS)
    followed = asked.guide_scale
    if not drawing.is_number(followed) or followed < 0:
        raise ValueError(f"guide_scale {followed!r} is not a number from 0: 1 to 10 is usual")
    if followed and guide is None:
        raise ValueError(f"guide_scale {followed:g} needs a guide, a classifier of noisy pictures")
    scale = model.default_guidance if asked.guidance_scale is None else asked.guidance_scale
    if not drawing.is_number(scale):
        raise ValueError(f"guidance_scale {scale!r} is not a finite number: 1 to 10 is usual")
    rows = [model.label_index(label) for label in asked.labels]
    if scale != 1 and model.null_label is None:
        if asked.guidance_scale is not None:
            raise ValueError("guidance needs a null label, and this model has none: set guidance_scale to 1")
        scale = 1.0
    return Way(rows, float(scale), float(followed), asked.sampler)


def row_of(label: int | str | None, label_names: Sequence[str], null_label: int | None) -> int | None:
    """The class embedding's row of a label's name or number; the null label's for None and "any".

    Raises ValueError that lists the labels.
    """
    if label is None or label == "any":
        if label_names and null_label is None:
            raise ValueError(f"this model has no null label: choose one of {', '.join(label_names)}")
        return null_label
    if not label_names:
        raise ValueError(f"this model is unconditional and knows no label {label!r}: pass None")
    if label in label_names:
        return [*label_names].index(str(label))
    if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(label_names):
        return int(label)
    raise ValueError(
        f"label {label!r} is unknown: choose a number from 0 to {len(label_names) - 1}, "
        f"or one of {', '.join(label_names)}, any"
    )
