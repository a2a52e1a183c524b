"""Captions of the emoji art: from name, keywords and style to what a person would type.

    plain("red apple")                                     "a red apple"
    captions("red apple", ["fruit"], "noto")               every fixed form of it, the plain ones first
    draw_caption("red apple", ["fruit"], "noto", rng)      one at random, also with several keywords

A style is named by `STYLE_WORDS`, the words that apps offer.
"""

import random
import re
from collections.abc import Sequence

from training.data.sources import DataError, Source

# What a person types to get a style; the style that no model trains on has no words.
STYLE_WORDS = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent": "3d fluent",
    "fluent-flat": "flat fluent",
    "fxemoji": "firefox",
}
NO_ARTICLE = ("the ", "a ", "an ", "japanese ", "flag of ")


def phrase(name: str) -> str:
    """A name as running words: "flag: Ukraine" is "flag of Ukraine", "keycap: 1" is "keycap 1"."""
    kind, colon, rest = name.partition(": ")
    return name if not colon else f"flag of {rest}" if kind == "flag" else f"{kind} {rest}"


def plain(name: str) -> str:
    """The plain caption of a name, as evaluations use it: "a red apple", "an orange", "eyes", "the flag of Ukraine"."""
    words = phrase(name)
    low = words.lower()
    if low.startswith("flag of "):
        return f"the {words}"
    if low.startswith(NO_ARTICLE) or not low[:1].isalpha() or _plural(low):
        return words
    return f"{'an' if low[0] in 'aeiou' else 'a'} {words}"


def _plural(words: str) -> bool:
    """Whether the thing named is several: "eyes", "beans", "hands with ten fingers"; a guess by the ending."""
    head = re.split(r" (?:of|with|in|on|and|behind) ", words)[0].split()[-1]
    return head.endswith("s") and not head.endswith(("ss", "us", "is"))


def captions(name: str, keywords: Sequence[str] = (), style: str | None = None) -> list[str]:
    """The fixed captions of a picture: without style first, then, for a style with words, in that style.

    Keywords that the name already says are not repeated.
    """
    words, article, more = phrase(name), plain(name), new_keywords(name, keywords)
    forms = [article, words, f"an emoji of {article}"]
    if more:
        forms.append(f"{words}, {more[0]}")
    if style in STYLE_WORDS:
        said = STYLE_WORDS[style]
        forms += [f"{words}, {said} style", f"{article}, {said} style", f"an emoji of {article} in {said} style"]
        if more:
            forms.append(f"{words}, {', '.join(more[:3])}, {said} style")
    return forms


def draw_caption(name: str, keywords: Sequence[str], style: str | None, rng: random.Random) -> str:
    """One caption at random: two in three are fixed ones, the rest join the name, or now and then nothing, with keywords."""
    more = new_keywords(name, keywords)
    if not more or rng.random() < 0.67:
        return rng.choice(captions(name, keywords, style))
    said = rng.sample(more, min(len(more), rng.randint(1, 4)))
    if len(more) < 3 or rng.random() < 0.8:  # keywords alone tell a thing only when there are several
        said.insert(rng.randint(0, 1), phrase(name))
    else:
        said = rng.sample(more, min(len(more), 4))
    if style in STYLE_WORDS and rng.random() < 0.4:
        said.append(f"{STYLE_WORDS[style]} style")
    return ", ".join(said)


def new_keywords(name: str, keywords: Sequence[str]) -> list[str]:
    """The keywords with a word that the name does not have, in their order."""
    known = set(phrase(name).lower().split())
    return [keyword for keyword in keywords if set(keyword.lower().split()) - known]


class Captions:
    """What can be said of each picture of a source: made from names, keywords and styles where it has them (the emoji
    build), else the source's own captions.

    names (N,): what makes two pictures show the same thing; the first caption where there are no names.
    """

    def __init__(self, source: Source):
        self.names = [source.captions(i)[0] for i in range(len(source))]
        self._own = None
        try:
            self._keywords, self._styles = source.column("keywords"), source.column("style")
        except DataError:
            self._own = [source.captions(i) for i in range(len(source))]

    def __len__(self) -> int:
        return len(self.names)

    def plain(self, index: int) -> str:
        """The one caption that evaluations use."""
        return plain(self.names[index]) if self._own is None else self.names[index]

    def all(self, index: int) -> list[str]:
        """The fixed captions of a picture, `plain` first."""
        if self._own is not None:
            return self._own[index]
        return captions(self.names[index], self._keywords[index], self._styles[index])

    def draw(self, index: int, seed: int) -> str:
        """One caption at random, a function of the seed."""
        rng = random.Random(seed)
        if self._own is not None:
            return rng.choice(self._own[index])
        return draw_caption(self.names[index], self._keywords[index], self._styles[index], rng)

    def words(self) -> list[str]:
        """Texts that hold every word of any caption, each once: what a vocabulary has to know."""
        if self._own is not None:
            return sorted({text for texts in self._own for text in texts})
        texts = {text for name in self.names for text in (name, plain(name))} | set(STYLE_WORDS.values())
        texts |= {keyword for keywords in self._keywords for keyword in keywords}
        return sorted(texts | set(captions("thing", ["word"], next(iter(STYLE_WORDS)))))
