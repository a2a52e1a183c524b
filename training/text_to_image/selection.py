"""Which pictures of a source are trained on or measured, and what is said of each.

Letters: N pictures, K captions of each.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hub_models.text_to_image import MAX_PROMPT_CHARACTERS, normalise_prompt
from training.data import captions
from training.data.sources import DataError, Source

EMOJI_COLUMNS = ("name", "keywords", "style")


@dataclass(frozen=True)
class Selection:
    """The pictures of a source that a config asks for, each with its captions."""

    source: Source
    rows: np.ndarray  # (N,) int64, rows of the source
    captions: list[list[str]]  # K captions of each, the plainest first
    names: list[str]  # what is in each; evaluations compare the plain captions of names
    prompts: list[str]  # what asks for this very picture: the plain caption, in its style

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Image.Image:
        return self.source.picture(int(self.rows[index]))

    @property
    def data_hash(self) -> str:
        content = json.dumps([self.source.data_hash, self.rows.tolist(), self.captions])
        return hashlib.sha256(content.encode()).hexdigest()


def select(source: Source, *, groups: Sequence[str] = (), styles: Sequence[str] = (), own=False) -> Selection:
    """The rows of these groups and styles with their captions; own: the source's captions, not the emoji's forms.

    Raises SystemExit where nothing is left, with the groups and styles that there are.
    """
    rows = np.arange(len(source))
    for column, wanted in (("group", groups), ("style", styles)):
        if wanted:
            values = source.column(column)
            rows = np.array([row for row in rows if values[row] in wanted], dtype=np.int64)
            if unknown := set(wanted) - set(values):
                raise SystemExit(f"no {column} {sorted(unknown)} in {source.name}: {', '.join(sorted(set(values)))}")
    if not len(rows):
        raise SystemExit(f"{source.name} has no picture of these groups and styles together: name more of them")
    if own or not is_emoji(source):
        texts = [[within_limits(text) for text in source.captions(row)] for row in rows]
        first = [text[0] for text in texts]
        return Selection(source, rows, texts, first, first)
    columns = [source.column(name) for name in EMOJI_COLUMNS]
    about = [tuple(column[row] for column in columns) for row in rows]
    words = {style: f", {said} style" for style, said in captions.STYLE_WORDS.items()}
    prompts = [captions.plain(name) + words.get(style, "") for name, _, style in about]
    return Selection(source, rows, [captions.captions(*one) for one in about], [name for name, *_ in about], prompts)


def within_limits(text: str) -> str:
    """A caption as a prompt, cut where prompts end: no model reads so far."""
    return normalise_prompt(text[:MAX_PROMPT_CHARACTERS])[:MAX_PROMPT_CHARACTERS]


def is_emoji(source: Source) -> bool:
    """Whether it has the columns that captions of emoji are made of."""
    try:
        return all(source.column(name) for name in EMOJI_COLUMNS)
    except DataError:
        return False
