"""The training pictures in colours they weren't drawn in, with captions that say the colour.

    recoloured = Recoloured(selection)
    recoloured.picture(7), recoloured.captions[7]          ["a blue apple", "a blue apple, noto style"]

Of each picture of one colour (`training.data.recolouring`): `variants` others, and of half of them the picture as it is
with its own colour's word. Sister pictures of a name get other colours. What colour prompts are judged on keeps a third
of its 48 pairs of thing and colour out, so that a colour on a thing is also asked for where that pair was not painted.
"""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import captions
from training.data.cache import cached
from training.data.recolouring import VERSION, WORDS, can_be_coloured, coloured, measured, recolour

# The fixed list of colour prompts, chosen before any was drawn; all are names of training pictures.
JUDGED_THINGS = ("automobile", "house", "cat face", "bird", "butterfly", "umbrella", "balloon", "guitar")
JUDGED_WORDS = ("red", "orange", "yellow", "green", "blue", "purple")
KEPT_OUT = frozenset(
    (thing, JUDGED_WORDS[(at + shift) % 6]) for at, thing in enumerate(JUDGED_THINGS) for shift in (0, 3)
)
NOT_OF = ("flags", "people-body")  # groups whose colours mean something, or are skin


class Recoloured:
    """Pictures of a selection with another colour, as `training.text_to_image` takes them.

    picture(i): RGBA, as large as the source's after its `preload`; captions: a list for each; names: the thing without
    its colour; words: its colour. Which picture gets which colour is a function of the selection, `seed` and
    `variants`, measured once and kept in the cache; keep=False measures it anew.
    """

    def __init__(self, selection, *, variants: int = 1, seed: int = 0, resolution_px: int = 128, keep: bool = True):
        self.source, self._of = selection.source, selection
        self.source.preload(resolution_px)
        styles, groups = (
            [values[row] for row in selection.rows]
            for values in (self.source.column("style"), self.source.column("group"))
        )
        facts = {"data": selection.data_hash, "variants": variants, "seed": seed, "resolution": resolution_px}
        facts |= {"version": VERSION, "kept_out": sorted(KEPT_OUT)}

        def table() -> list[list]:
            allowed = [group not in NOT_OF for group in groups]
            return _choose(selection, allowed, variants, seed)

        def build(folder: Path) -> None:
            (folder / "table.json").write_text(json.dumps(table()))

        chosen = json.loads((cached("recolourings", facts, build) / "table.json").read_text()) if keep else table()
        self._rows = [(int(index), word, bool(turned)) for index, word, turned in chosen]
        self.words = [word for _, word, _ in self._rows]
        self.names = [selection.names[index] for index, *_ in self._rows]
        self.styles = [styles[index] for index, *_ in self._rows]
        self.captions = [
            _said(coloured(name, word), style)
            for name, word, style in zip(self.names, self.words, self.styles, strict=True)
        ]
        self.prompts = [texts[-1] for texts in self.captions]
        content = json.dumps([facts, self._rows, self.captions])
        self.data_hash = hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def picture(self, index: int) -> Image.Image:
        picked, word, turned = self._rows[index]
        picture = self._of.picture(picked)
        made = recolour(picture, word) if turned else picture
        assert made is not None
        return made


def _said(name: str, style: str) -> list[str]:
    """The plain caption of a name that says its colour, and for a style with words the same in that style."""
    plain, said = captions.plain(name), captions.STYLE_WORDS.get(style)
    return [plain, f"{plain}, {said} style"] if said else [plain]


def _choose(selection, allowed: list[bool], variants: int, seed: int) -> list[list]:
    """[index in the selection, word, whether the picture is turned to it], in order of the index."""
    chosen, asked = [], {}
    for index, name in enumerate(selection.names):
        if not allowed[index] or not can_be_coloured(name):
            continue
        picture = selection.picture(index)
        colour = measured(picture)
        if colour is None or colour.word in ("black", "white", "grey"):
            continue
        if index % 2 == seed % 2 and (name, colour.word) not in KEPT_OUT:
            chosen.append([index, colour.word, False])
        order = list(WORDS)
        random.Random(f"{seed}/{name}").shuffle(order)
        made = 0
        for word in np.roll(order, -asked.get(name, 0)).tolist():
            if made == variants:
                break
            if word == colour.word or (name, word) in KEPT_OUT or recolour(picture, word) is None:
                continue
            chosen.append([index, word, True])
            made += 1
        asked[name] = asked.get(name, 0) + variants + 1  # where the next picture of this name begins
    return chosen
