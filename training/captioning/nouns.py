"""Which words of captions are nouns, by where they stand in them, and how many of those that a captioner says are true.

    nouns = nouns_of(texts)                      {"dog", "grass", …}
    share_right(said, references, nouns)         of the nouns in captions, those that a reference of the picture has

No tagger, no list: at least every tenth time a noun follows straight upon an article or a number, and every second time
a word that goes on comes next, or nothing. Words in -ing and -ed need more articles ("a building", "a running dog").
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

ARTICLES = frozenset("a an the two three four five six several some many his her their its another this that".split())
GOES_ON = frozenset(
    "is are was were in on at of with and while as to by near into from through over under behind beside across along "
    "against around between down up out off onto for during before after above below who that which has have next "
    "wearing holding standing sitting walking running riding jumping playing looking".split()
)
LEAST = 3  # times that a word is said


def nouns_of(texts: Iterable[str]) -> set[str]:
    """The nouns among the words of captions, in lower case."""
    seen, begun, closed = Counter(), Counter(), Counter()
    for text in texts:
        words = re.findall(r"\w+|[.,;]", text.lower())
        for at, word in enumerate(words):
            seen[word] += 1
            begun[word] += at > 0 and words[at - 1] in ARTICLES
            closed[word] += at + 1 == len(words) or words[at + 1] in GOES_ON or not words[at + 1].isalnum()
    return {
        word
        for word, count in seen.items()
        if count >= LEAST
        and word.isalpha()
        and word not in ARTICLES | GOES_ON
        and closed[word] >= count / 2
        and begun[word] >= count * (0.3 if word.endswith(("ing", "ed")) else 0.1)
    }


def share_right(said: Sequence[str], references: Sequence[Sequence[str]], nouns: set[str]) -> float:
    """Of the nouns in captions, each once a caption, the share that a reference of the picture has; 0 without any."""
    right = total = 0
    for text, known in zip(said, references, strict=True):
        own = set(re.findall(r"\w+", text.lower())) & nouns
        total += len(own)
        right += len(own & {word for one in known for word in re.findall(r"\w+", one.lower())})
    return right / max(1, total)
