"""What a sentence asks for: "two faces and a cat" is two of the class face and one animal; and what of it is there.

Read word by word, without a model: the longest name that begins at a word is what is meant there, and of several names
in a row the last is the thing ("a car key" is a key). Whatever stands between a number and a thing is passed over.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hub_models.texts import without_accents

TERMS = Path(__file__).with_name("terms.json")  # {class: words in the singular}, by training.data.terms
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
NUMBERS = {word: number for number, word in enumerate(ONES)} | {"seventeen": 17, "eighteen": 18, "nineteen": 19}
NUMBERS |= {"twenty": 20, "thirty": 30, "no": 0, "without": 0, "another": 1, "single": 1, "dozen": 12, "pair": 2}
NUMBERS |= {"couple": 2}
ARTICLES = {"a", "an"}
ARTICLE, SOME, NUMBER = "article", "some", "number"
GROUPS = {"couple", "pair", "dozen", "single"}
SEVERAL = {"some", "several", "many", "few", "lots", "lot"}
BOUNDS = {  # words before a number: at least and at most, as what is added to it; None for no bound
    ("at", "least"): (0, None), ("at", "most"): (None, 0), ("up", "to"): (None, 0), ("exactly",): (0, 0),
    ("more", "than"): (1, None), ("fewer", "than"): (None, -1), ("less", "than"): (None, -1),
}  # fmt: skip
ENDS = set(  # a thing ends before these
    ", . ; : & + / ( ) ! ? | and or plus with to in on at under below above behind front next beside between near by "
    "around left right over inside outside from into partly together while near there is are has have".split()
)
PASSED = set(  # words that say nothing of what should be there
    "the of i want see show draw me please should be that this it its picture pictures image photo photograph drawing "
    "painting emoji emojis icon style noto twemoji 3d fluent flat firefox in one only just".split()
)
IRREGULAR = {
    "person": ("people", "persons"), "child": ("children",), "mouse": ("mice",), "goose": ("geese",),
    "foot": ("feet",), "tooth": ("teeth",), "leaf": ("leaves",), "knife": ("knives",), "wolf": ("wolves",),
    "loaf": ("loaves",), "life": ("lives",), "shelf": ("shelves",), "elf": ("elves",), "half": ("halves",),
    "scarf": ("scarves", "scarfs"), "ox": ("oxen",), "die": ("dice",), "cactus": ("cacti", "cactuses"),
    "octopus": ("octopi", "octopuses"), "fish": ("fish", "fishes"), "sheep": ("sheep",), "deer": ("deer",),
    "aircraft": ("aircraft",),
}  # fmt: skip
TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Wish:
    """How many things of a class there should be."""

    label: str
    low: int  # at least
    high: int | None  # at most; None: as many as there are
    said: tuple[str, ...] = ()  # in these words

    def __add__(self, other: "Wish") -> "Wish":
        high = None if self.high is None or other.high is None else self.high + other.high
        return Wish(self.label, self.low + other.low, high, (*self.said, *other.said))

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low) if self.low else "none"
        return f"at least {self.low}" if self.high is None else f"at most {self.high}"


@dataclass(frozen=True)
class Verdict:
    """What was asked for beside what is there, by class; the rows in the order of the sentence."""

    wishes: list[Wish]
    found: Mapping[str, int]
    unknown: list[str] = field(default_factory=list)  # what of the sentence is no class that the model knows

    @property
    def missing(self) -> dict[str, int]:
        short = {wish.label: wish.low - self.found.get(wish.label, 0) for wish in self.wishes}
        return {label: count for label, count in short.items() if count > 0}

    @property
    def too_many(self) -> dict[str, int]:
        over = {w.label: self.found.get(w.label, 0) - w.high for w in self.wishes if w.high is not None}
        return {label: count for label, count in over.items() if count > 0}

    @property
    def not_asked_for(self) -> dict[str, int]:
        asked = {wish.label for wish in self.wishes}
        return {label: count for label, count in self.found.items() if label not in asked}

    @property
    def as_wanted(self) -> bool:
        """Whether all that was asked for is there, and nothing else, and all of the sentence was understood."""
        return not (self.missing or self.too_many or self.not_asked_for or self.unknown) and bool(self.wishes)


def words(text: str) -> list[str]:
    """The words and punctuation of a text: lower case, without accents, hyphens and possessives."""
    text = without_accents(text.lower().replace("’", "'"))
    return TOKEN.findall(re.sub(r"'s\b|'", "", text).replace("-", " "))


def plurals(word: str) -> tuple[str, ...]:
    """How a noun is said of several: "boxes", "faces", "babies", "women"; tomatoes and pianos are both taken."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("man") and word not in ("human", "german"):
        return (f"{word[:-2]}en",)
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (f"{word}es",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (f"{word[:-1]}ies",)
    return (f"{word}s", f"{word}es") if word.endswith("o") else (f"{word}s",)


def several(term: Sequence[str]) -> list[tuple[str, ...]]:
    """A name of several words as it is said of several things: "cat faces", "faces with tears of joy"."""
    middle = ("of", "with", "in", "on", "and", "behind", "from", "at", "over", "for", "to", "without")
    at = next((k for k, word in enumerate(term) if k and word in middle), len(term)) - 1
    return [(*term[:at], plural, *term[at + 1 :]) for plural in plurals(term[at])]


@functools.cache
def everyday() -> dict[str, list[str]]:
    """{class: words} for the classes of the emoji; a model with classes of other names takes what it has of these."""
    return json.loads(TERMS.read_text(encoding="utf-8"))


class Reader:
    """Reads sentences for a model's classes. A class's own name goes before what else a word may mean."""

    def __init__(self, label_names: Iterable[str]):
        self.label_names = list(label_names)
        self.known: dict[tuple[str, ...], tuple[str, bool | None]] = {}  # words: class, whether they say several
        for label in self.label_names:
            parts = label.replace("_", " ").split(" and ")
            for name in dict.fromkeys([label.replace("_", " "), *parts]):
                self._learn(name, label)
        for label in self.label_names:
            for name in everyday().get(label, ()):
                self._learn(name, label)
        self.longest = max(map(len, self.known), default=0)

    def _learn(self, name: str, label: str) -> None:
        term = tuple(words(name))
        counted = term[:1] and term[0] in NUMBERS and term[-1].endswith("s")  # "two hearts" are two
        if not term or counted or all(word in PASSED | ENDS or len(word) == 1 for word in term):
            return
        for words_of, more in ((term, False), *((plural, True) for plural in several(term))):
            before, now = self.known.setdefault(words_of, (label, more))
            if before == label and now is not more:
                self.known[words_of] = label, None  # "houses": the name of one emoji, and several of another

    def read(self, text: str) -> tuple[list[Wish], list[str]]:
        """What the text asks for, a Wish for each class, and what in it is no thing of a class.

        "no faces" asks for none, "faces" and "some faces" for two at least, "at most 3 faces" for that.
        """
        said, at, part = words(text), 0, Part()
        wishes: dict[str, Wish] = {}
        unknown: list[str] = []

        def end() -> Part:
            if wish := part.wish():
                wishes[wish.label] = wishes[wish.label] + wish if wish.label in wishes else wish
            elif part.passed:
                unknown.append(" ".join(part.passed))
            return Part()

        while at < len(said):
            span, count = self._longest_at(said, at), counted(said, at)
            if span and not part.closed:
                part.thing = *self.known[tuple(said[at : at + span])], " ".join(said[at : at + span])
            elif count:
                part = end() if part.thing else part
                span, *part.count = count if part.count is None else (count[0], *part.count)
            elif said[at] in ENDS and not (part.closed and said[at] in "&."):  # "the flag of St. Kitts & Nevis"
                part = end()
            elif said[at] == "of":
                part.closed = part.thing is not None
            elif not span and said[at] not in PASSED:
                part.passed.append(said[at])
            at += span or 1
        end()
        return list(wishes.values()), unknown

    def _longest_at(self, said: Sequence[str], at: int) -> int:
        """How many words the longest known name takes that begins here; 0 where none does."""
        spans = range(min(self.longest, len(said) - at), 0, -1)
        return next((span for span in spans if tuple(said[at : at + span]) in self.known), 0)

    def verdict(self, text: str, found: Mapping[str, int]) -> Verdict:
        """What the text asks for beside what is there, {class: count}."""
        wishes, unknown = self.read(text)
        return Verdict(wishes, found, unknown)


@dataclass
class Part:
    """The words of a sentence that are about one thing, as far as they are read."""

    count: list | None = None  # at least, at most (None: no bound), and whether that is an article, some, or a number
    thing: tuple[str, bool | None, str] | None = None  # its class, whether it is said of several, in these words
    closed: bool = False  # whether "of" has followed it: "a flag of Ukraine", "a face of a cat"
    passed: list[str] = field(default_factory=list)  # words that no class has

    def wish(self) -> Wish | None:
        """What is asked for; None where no thing is."""
        if self.thing is None:
            return None
        label, several, said = self.thing
        low, high, kind = self.count or (1, 1 if several is False else None, ARTICLE)
        if kind == ARTICLE and several:
            low, high = 2, None  # "faces", "a crowd of people"
        elif kind == SOME and several is False:
            low = 1  # "some food"
        return Wish(label, low, high, (said,))


def counted(said: Sequence[str], at: int) -> tuple[int, int, int | None, str] | None:
    """How many words say how many things come, which is at least and at most, and in what way they say it.

    None where no such words begin here.
    """
    for bound, (more, less) in BOUNDS.items():
        number = _number(said, at + len(bound))
        if tuple(said[at : at + len(bound)]) == bound and number is not None:
            low = 0 if more is None else number + more
            return len(bound) + 1, low, None if less is None else max(number + less, 0), NUMBER
    grouped = said[at] in ARTICLES and at + 1 < len(said) and said[at + 1] in GROUPS | SEVERAL  # "a dozen", "a few"
    span = 2 if grouped else 1
    last = said[at + span - 1]
    if last in SEVERAL:
        return span, 2, None, SOME
    number = _number(said, at + span - 1)
    if number is not None:
        return span, number, number, NUMBER
    return (1, 1, 1, ARTICLE) if said[at] in ARTICLES else None


def _number(said: Sequence[str], at: int) -> int | None:
    word = said[at] if at < len(said) else ""
    return int(word) if re.fullmatch("[0-9]{1,3}", word) else NUMBERS.get(word)
