"""What the page computes, for people and for programs: what is asked, checked; and the answers of its endpoints."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
from PIL import Image

from apps.families import measured, paint
from apps.families.family import ANY, Seen
from apps.families.rows import FAMILIES
from apps.families.work import Member, Order, Walks, sentence
from apps.kit import drawing_page, pictures, values
from apps.kit.session import StopFlags, until

MAX_PICTURES = 4  # of each family


class Desk:
    """The models that are loaded, and the flags of those who draw, look and walk."""

    def __init__(self, models: Mapping[str, Any]):
        found = {name: Member(name, FAMILIES[name.partition("=")[0]], model) for name, model in models.items()}
        self.members = values.Models(found)
        self.drawing, self.looking, self.walking = StopFlags(), StopFlags(), StopFlags()
        labels = (label for member in found.values() for label in member.family.labels(member.model))
        self.labels = list(dict.fromkeys(labels))

    @functools.cached_property
    def table(self) -> dict[str, dict]:
        """{name: what its family can and what was measured of it}."""
        return {name: measured.row(member) for name, member in self.members.items()}

    def chosen(self, names) -> list[Member]:
        """The members of these names, in the page's order; all for None. Raises InputError."""
        return [self.members[name] for name in self.members.several(names, "Family", "Families")]

    # What is asked

    def order(self, label, count, seed, names) -> Order:
        """The drawing that raw parameters stand for. Raises InputError, which says what they can be."""
        label = values.choice(label, "Label", self.labels)
        count = values.number(count, "Pictures", 1, MAX_PICTURES, integer=True)
        first = values.seed(seed)
        return Order(self.chosen(names), label, [(first + k) % 2**63 for k in range(count)])

    def looks(self, picture: Image.Image, label, seed, names) -> Iterator[tuple[Member, Seen | None, str | None]]:
        """What each family makes of a picture, as it comes: (member, what it has by now, or why there is nothing)."""
        label, seed = values.choice(label, "Label", [ANY, *self.labels]), values.seed(seed)
        return self._looks(self.chosen(names), picture, label, seed)

    def _looks(self, members, picture, label, seed):
        for member in members:
            try:
                for seen in member.family.look(member.model, picture, label, seed):
                    yield member, seen, None
            except ValueError as error:
                yield member, None, sentence(error)

    def walks(self, label, seed, other, names, first: Image.Image | None, second: Image.Image | None) -> Walks:
        """The ways between two seeds of a label, and between two pictures where there are two. Raises InputError."""
        label = values.choice(label, "Label", self.labels)
        return Walks(self.chosen(names), label, values.seed(seed), values.seed(other), first, second)

    # For programs

    def families_draw(self, label, count, seed, families, request: gr.Request):
        """Draw the same label and seeds by several families. Returns a PNG of each picture with its receipt in its
            text, and for each family its receipt, its seconds, or why it has none.

        Parameters:
            label: a class name
            count: how many pictures of each family, 1 to 4
            seed: the first picture's, reduced modulo 2**63; -1 draws a fresh one; picture k has seed + k
            families: names of loaded models, each stem=variant; all for null
        """
        order = self.order(label, count, seed, families)
        drawing_page.whole(order, self.drawing, request.session_hash)
        sheet, drawn = order.sheet(), []
        for row in sheet.rows:
            for k, pixels in enumerate([] if row.pixels is None else row.pixels):
                receipt = order.receipt(row.name, k)
                drawn.append((paint.with_receipt(Image.fromarray(pixels), receipt), f"{row.name}, {order.seeds[k]}"))
        said = {
            row.name: {"receipt": row.receipt, "seconds": row.seconds, "how": row.said, "refused": row.refusal}
            for row in sheet.rows
        }
        return drawn, said

    def families_picture(self, picture, label, seed, families, request: gr.Request):
        """Ask several families about a picture: decoded again, completed, denoised, its energy, how real it looks.
            Returns the pictures that come of it, and what each family says, or why it says nothing.

        Parameters:
            picture: an image file
            label: a class name, or "any"
            seed: of all that is drawn by chance, reduced modulo 2**63; -1 draws a fresh one
            families: names of loaded models, each stem=variant; all for null
        """
        asked, last = self.looks(pictures.read_picture(picture), label, seed, families), {}
        with self.looking.armed(request.session_hash) as stop:
            for member, seen, refusal in until(asked, stop, drawing_page.DEADLINE_SECONDS):
                last[member.name] = seen, refusal
        shown = [
            (Image.fromarray(pixels), f"{name}, {what}")
            for name, (seen, _) in last.items() for what, pixels in (seen.pictures if seen else ())
        ]  # fmt: skip
        said = {
            name: {"said": seen and seen.said, "facts": dict(seen.facts) if seen else {}, "refused": refusal}
            for name, (seen, refusal) in last.items()
        }
        return shown, said

    def families_between(self, label, seed, other_seed, families, first, second, request: gr.Request):
        """Walk from one picture to another in each family that has a space to walk in. Returns a PNG of each walk, a
            strip of seven pictures, and what space it is, or why there is none.

        Parameters:
            label: a class name, of walks between seeds
            seed: where these begin, reduced modulo 2**63; -1 draws a fresh one
            other_seed: where they end
            families: names of loaded models, each stem=variant; all for null
            first: an image file, where walks between pictures begin; with none of both, there are none
            second: an image file, where they end
        """
        ends = [None if path is None else pictures.read_picture(path) for path in (first, second)]
        walks = self.walks(label, seed, other_seed, families, *ends)
        if walks.parts:
            drawing_page.whole(walks, self.walking, request.session_hash)
        strips = [(paint.strip(strip.pixels), f"{strip.name}, {strip.way}") for strip in walks.strips()
                  if strip.pixels is not None]  # fmt: skip
        said = [{"family": strip.name, "way": strip.way, "space": strip.said, "refused": strip.refusal}
                for strip in walks.strips()]  # fmt: skip
        return strips, said

    def families_table(self, families):
        """What each family is good for, with what was measured of its model: likelihood, encoder, passes, KID,
            precision, recall, label accuracy, seconds, parameters, hours. What nobody has measured is null.

        Parameters:
            families: names of loaded models, each stem=variant; all for null
        """
        return [self.table[member.name] for member in self.chosen(families)]
