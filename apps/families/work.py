"""Families at work one after the other: on a drawing, or on walks.

Letters: B pictures of a family, S pictures of a walk, R pixels a side.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from apps.families import paint
from apps.families.family import Family, Frames, variant_of

WALK = 7  # pictures of a strip, both ends among them
FADE = "Cross-fade"


@dataclass(frozen=True)
class Member:
    """A model of the page: its name there (stem=variant), its family, and itself."""

    name: str
    family: Family
    model: Any

    @property
    def title(self) -> str:
        return self.family.title

    @property
    def variant(self) -> str:
        return variant_of(self.name)


@dataclass(frozen=True)
class Progress:
    """A step of several families' work."""

    index: int
    total: int


class Part:
    """The work of one family: `pixels` is what there is of it by now, `refusal` why there is nothing."""

    def __init__(self, member: Member, frames: Callable[[], Frames], said: str):
        self.member, self.frames, self.said = member, frames, said
        self.total, self.done, self.seconds = member.family.passes(member.model), 0, 0.0
        self.refusal: str | None = None
        self._frame, self._painted = None, None

    @property
    def pixels(self) -> np.ndarray | None:
        """uint8 (B, R, R, 3), None before the first step."""
        if self._frame is not None:
            self._frame, self._painted = None, self._frame.paint()
        return self._painted

    @property
    def is_done(self) -> bool:
        return self.done == self.total and self.refusal is None

    def run(self) -> Generator[int]:
        """The number of steps done after each; a family that refuses is done at once. Times what it takes itself."""
        try:
            with contextlib.closing(self.frames()) as frames:
                while True:
                    began = time.monotonic()
                    if (frame := next(frames, None)) is None:
                        break
                    self.total, self._frame = frame.total, frame
                    if frame.index + 1 == frame.total:
                        self.pixels  # noqa: B018 – it's a picture only then
                    self.seconds += time.monotonic() - began
                    self.done = frame.index + 1
                    yield self.done
        except ValueError as error:
            self.refusal = sentence(error)
            yield self.total


def sentence(error: ValueError) -> str:
    """What a contract says it can't, as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


class Round:
    """Parts that are worked on one after the other; its steps are theirs."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = parts

    def steps(self) -> Iterator[Progress]:
        before, total = 0, sum(part.total for part in self.parts)
        for part in self.parts:
            planned = part.total
            for done in part.run():
                yield Progress(before + min(done, planned) - 1, total)
            before += planned


class Order(Round):
    """The same label and seeds, drawn by each family."""

    def __init__(self, members: Sequence[Member], label: str, seeds: Sequence[int]):
        self.label, self.seeds = label, list(seeds)
        super().__init__([Part(member, functools.partial(self._frames, member), member.family.how(member.model))
                          for member in members])  # fmt: skip

    def _frames(self, member: Member) -> Frames:
        known = member.family.labels(member.model)
        if self.label not in known:
            raise ValueError(f"it knows no “{self.label}”" + (f": {', '.join(known)}" if known else ""))
        return member.family.draw(member.model, self.label, self.seeds)

    def receipt(self, name: str, k: int | None = None) -> dict:
        """What draws a family's picture k again, or all of its."""
        part = next(part for part in self.parts if part.member.name == name)
        seeds = self.seeds if k is None else self.seeds[k : k + 1]
        return part.member.family.receipt(part.member.model, self.label, seeds, part.done)

    def sheet(self) -> paint.Sheet:
        """What there is by now."""
        rows = [
            paint.Row(
                part.member.name, part.member.title, part.member.variant, part.said, part.pixels, part.seconds,
                part.done, part.total, part.refusal, self.receipt(part.member.name) if part.done else None,
            )
            for part in self.parts
        ]  # fmt: skip
        return paint.Sheet(self.label, self.seeds, rows)


class Walks(Round):
    """The walks of each family, between seeds and between pictures; of one that has none, why."""

    def __init__(self, members: Sequence[Member], label: str, seed: int, other: int,
                 first: Image.Image | None, second: Image.Image | None):  # fmt: skip
        self.members, self.label, self.seeds, self.ends = members, label, (seed, other), (first, second)
        self.ways: list[tuple[Member, str, Part]] = []
        for member in members:
            family, model = member.family, member.model
            if family.between_pictures and first is not None and second is not None:
                walk = functools.partial(family.between_pictures, model, first, second, WALK)
                self.ways.append((member, "between the pictures", Part(member, walk, family.space)))
            if family.between_seeds:
                walk = functools.partial(self._between_seeds, member)
                self.ways.append((member, f"“{label}”, seed {seed} to {other}", Part(member, walk, family.space)))
        super().__init__([part for *_, part in self.ways])

    def _between_seeds(self, member: Member) -> Frames:
        if self.label not in member.family.labels(member.model):
            raise ValueError(f"it knows no “{self.label}”")
        return member.family.between_seeds(member.model, self.label, *self.seeds, WALK)

    def strips(self) -> list[paint.Strip]:
        """All, each family's in its place, and a cross-fade of the pictures for comparison."""
        found = []
        for member in self.members:
            named = member.name, member.title, member.variant
            own = [(way, part) for whose, way, part in self.ways if whose is member]
            for way, part in own:
                strip = paint.Strip(
                    member.name, member.title, member.variant, way, part.said, part.pixels, part.refusal
                )
                found.append(strip)
            if not own:
                said = member.family.space
                found.append(paint.Strip(*named, "", said, None, None))
        if None not in self.ends:
            side = max((member.model.resolution_px for member in self.members), default=32)
            pixels = paint.fade(*self.ends, side, WALK)
            said = "No model: each pixel fades from one picture into the other. It is what a walk should not look like."
            found.append(paint.Strip(FADE, FADE, "", "between the pictures", said, pixels, None))
        return found
