"""Captions of the emoji art: from name, keywords and style to what a person would type.

    plain("red apple")                                     "a red apple"
    captions("red apple", ["fruit"], "noto")               every fixed form of it, the plain ones first
    draw_caption("red apple", ["fruit"], "noto", rng)      one at random, also with several keywords

    draw_description("red apple", ["fruit"], "noto", rng)  one as a captioner shall say it: the plain one in most cases

And captions of scenes, which say what is where, and the way back:

    scene_caption(scene.objects)                           "a cat face to the left of a pizza, a blue car below"
    read_layout("a cat face to the left of a pizza")       ["cat face", "pizza"], [(0, "to the left of", 1)]

A style is named by `STYLE_WORDS`, the words that apps offer.
"""

import math
import random
import re
import unicodedata
from collections.abc import Iterable, Sequence

from training.data.sources import DataError, Source

# What a person types to get a style; the style that no model trains on has no words.
STYLE_WORDS = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent": "3d fluent",
    "fluent-flat": "flat fluent",
    "fxemoji": "firefox",
}
# What one thing of a scene is to another, and how it is said of the one that was named just before.
RELATIONS = {
    "to the left of": "to the left",
    "to the right of": "to the right",
    "above": "above",
    "below": "below",
    "in front of": "in front",
    "partly behind": "partly behind",
}
MOST_SAID = 3  # things of a scene that a caption names, the largest
OVERLAP = 0.5  # from this share of the smaller box on, one of two things is in front of the other
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
    """One caption at random: two in three are fixed, the rest join the name, or now and then nothing, with keywords."""
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


def draw_description(name: str, keywords: Sequence[str], style: str | None, rng: random.Random) -> str:
    """One caption at random as a captioner learns to say it: the plain one in at least every second case, so that it is
    the most probable of all; else also the style, a keyword, or that it is an emoji."""
    article, more, kind = plain(name), new_keywords(name, keywords), rng.random()
    if kind < 0.25 and style in STYLE_WORDS:
        return f"{article}, {STYLE_WORDS[style]} style"
    if 0.25 <= kind < 0.35:
        return f"an emoji of {article}"
    if 0.35 <= kind < 0.45 and more:
        return f"{article}, {rng.choice(more)}"
    return article


def new_keywords(name: str, keywords: Sequence[str]) -> list[str]:
    """The keywords with a word that the name does not have, in their order."""
    known = set(phrase(name).lower().split())
    return [keyword for keyword in keywords if set(keyword.lower().split()) - known]


class Captions:
    """What can be said of each picture of a source: made from names, keywords and styles where it has them (the emoji
    build), else the source's own captions.

    names (N,): what makes two pictures show the same thing; the first caption where there are no names. made: whether
    they are made so.
    """

    def __init__(self, source: Source):
        self.names = [source.captions(i)[0] for i in range(len(source))]
        self._own = None
        try:
            self._keywords, self._styles = source.column("keywords"), source.column("style")
        except DataError:
            self._own = [source.captions(i) for i in range(len(source))]

    @property
    def made(self) -> bool:
        return self._own is None

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

    def describe(self, index: int, seed: int) -> str:
        """One caption at random for a captioner to learn, a function of the seed."""
        rng = random.Random(seed)
        if self._own is not None:
            return rng.choice(self._own[index])
        return draw_description(self.names[index], self._keywords[index], self._styles[index], rng)

    def words(self) -> list[str]:
        """Texts that hold every word of any caption, each once: what a vocabulary has to know."""
        if self._own is not None:
            return sorted({text for texts in self._own for text in texts})
        texts = {text for name in self.names for text in (name, plain(name))} | set(STYLE_WORDS.values())
        texts |= {keyword for keywords in self._keywords for keyword in keywords}
        return sorted(texts | set(captions("thing", ["word"], next(iter(STYLE_WORDS)))))


def say_cut(where: str, texts: Iterable[Sequence[str]], tokenizer, most: int) -> int:
    """How many captions have more tokens than a model reads, its marks at the ends included; says so if there are any.

    texts: the captions of each picture.
    """
    all_of = [text for own in texts for text in own]
    long = [text for text in all_of if len(text.encode()) >= most - tokenizer.num_special_tokens_to_add()]
    count = sum(len(ids) > most for ids in tokenizer(long, verbose=False)["input_ids"]) if long else 0
    if count:
        print(f"{where}: {count} of {len(all_of)} captions are longer than {most} tokens, and cut there")
    return count


# --- Scenes: what is where -------------------------------------------------------------------------------------------


def relation(one, other) -> str:
    """What one object of a scene (`training.data.scenes.SceneObject`) is to another, a key of RELATIONS.

    Where they overlap, in front of or partly behind; else on which side of it, by the larger difference of their
    centres.
    """
    if _overlap(one.box, other.box) >= OVERLAP:
        return "in front of" if one.z > other.z else "partly behind"
    x, y = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    if abs(x) >= abs(y):
        return "to the left of" if x < 0 else "to the right of"
    return "above" if y < 0 else "below"


def holds(said: str, one, other) -> bool:
    """Whether it is true of two objects of a scene: a side within 60 degrees of its direction, an order of things that
    overlap by half of what `relation` asks for."""
    if said in ("in front of", "partly behind"):
        return _overlap(one.box, other.box) >= OVERLAP / 2 and (one.z > other.z) == (said == "in front of")
    x, y = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    along, across = {"to the left of": (-x, y), "to the right of": (x, y), "above": (-y, x), "below": (y, x)}[said]
    return along > 0 and abs(across) <= math.tan(math.radians(60)) * along


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """The area that two boxes share, as a share of the smaller one."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(0, wide) * max(0, high) / smaller


def scene_caption(objects: Sequence, rng: random.Random | None = None) -> str:
    """What is where in a scene: its MOST_SAID largest objects, each after the first with its place.

    A place without a thing is in relation to the thing that was named just before. rng: any order, and either form
    ("a cat to the left of a dog, …", "a cat, a dog to the right, …"); without it the largest first, in the first form.
    """
    told = largest(objects)
    if rng is not None:
        rng.shuffle(told)
    things = [spoken(one.name) for one in told]
    joined = rng is None or rng.random() < 0.7
    if len(told) > 1 and joined:
        clauses = [f"{things[0]} {relation(told[0], told[1])} {things[1]}"]
    else:
        clauses = things[:1]
    for at in range(2 if joined else 1, len(told)):
        clauses.append(f"{things[at]} {RELATIONS[relation(told[at], told[at - 1])]}")
    return ", ".join(clauses)


def spoken(name: str) -> str:
    """A name as captions of scenes say it: plain, without the commas that divide things there."""
    return plain(name).replace(",", "")


def largest(objects: Sequence) -> list:
    """The objects that a caption names, largest first."""
    return sorted(objects, key=lambda o: (-o.visible_px, o.z))[:MOST_SAID]


_LONG = re.compile(rf"^(.+?) ({'|'.join(RELATIONS)}) (.+)$")
_SHORT = re.compile(rf"^(.+?) ({'|'.join(RELATIONS.values())})(?: of)?(?: (?:it|them|that))?$")
_STYLE = re.compile(rf"\b(?:in )?(?:{'|'.join(STYLE_WORDS.values())}|fluent) style\b")


def core(text: str) -> str:
    """What a caption says beside its wording: lower case, no accents, punctuation, style, "an emoji of", article."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    words = " ".join(re.findall(r"\w+", _STYLE.sub(" ", text)))
    words = re.sub(r"^(?:an? )?emoji of (?=.)", "", words)
    return re.sub(r"^(?:an?|the) (?=.)", "", words)


def read_layout(text: str) -> tuple[list[str], list[tuple[int, str, int]]]:
    """The things that a caption of a scene names, as `core` has them, and (one, what it is to the other, the other)."""
    things: list[str] = []
    relations: list[tuple[int, str, int]] = []
    shorts = {short: long for long, short in RELATIONS.items()}
    for clause in _STYLE.sub(" ", text.lower()).split(","):
        clause = re.sub(r"\s+", " ", clause).strip().removeprefix("and ")
        if found := _SHORT.match(clause):
            things.append(core(found[1]))
            if len(things) > 1:
                relations.append((len(things) - 1, shorts[found[2]], len(things) - 2))
        elif found := _LONG.match(clause):
            things += [core(found[1]), core(found[3])]
            relations.append((len(things) - 2, found[2], len(things) - 1))
        elif core(clause):
            things.append(core(clause))
    return things, relations
