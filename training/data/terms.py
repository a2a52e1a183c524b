"""Writes apps/detection/terms.json: by what words people mean the classes of the emoji, for counting what they ask for.

    python -m training.data.terms [--data_dir build/data/emoji] [--output apps/detection/terms.json]

{class: words in the singular}: the names of its emoji as captions say them ("cat face" is a face, "police car" a
vehicle), words of every day that no name is (`EVERYDAY`), and other nouns that most names end in ("button"). Flags of
countries are left out: what they are called begins with "flag of". The names are of Unicode CLDR by emojibase-data.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from training.data.captions import phrase
from training.data.files import DataError
from training.data.sources import open_source

SPLITS = ("train", "validation", "heldout_pairs")
LEAST, SHARE = 2, 0.75  # a noun is of a class where so many names end in it, and so many of these are of that class
# Of each class what people say, and no emoji of the data set is called.
EVERYDAY = {
    "face": "smiley, emoticon, monster face, mask face",
    "person": "human, kid, lady, guy, worker, arm, finger, dancer, runner, swimmer, player",
    "animal": "beast, pet, creature, insect, puppy, kitten, pony, bear, horse, dinosaur",
    "plant": "flower, tree, bush, leaf, plant, grass, clover",
    "food": "fruit, vegetable, apple, drink, beverage, meal, dish of food, cake, meat, tea, coffee, beer, wine, juice",
    "vehicle": "car, plane, aeroplane, aircraft, boat, train, truck, lorry, bike, motorbike, tram, van, cab",
    "building": "home, tower, skyscraper, temple, shop, store, bridge, house",
    "sport and event": "ball, game, gift, present, prize, toy, football, party",
    "object": "tool, bag, hat, shoe, phone, clock, lamp, book, map, computer, camera, instrument, knife, box",
    "symbol": "heart, arrow, sign, button, logo, icon, number, letter, circle",
    "flag": "banner, pennant",
    "sky and weather": "moon, planet, storm, lightning, snow, wind, wave",
}


@dataclass(frozen=True)
class Config:
    """Writes the words by which people mean the classes of the emoji."""

    data_dir: Path = Path("build/data/emoji")  # what training.data.emoji wrote
    output: Path = Path("apps/detection/terms.json")


def terms_of(labels: Mapping[str, str]) -> dict[str, list[str]]:
    """{class: words} of {name: class}, the words of each class sorted; no word twice."""
    words = {phrase(name).lower(): label for name, label in labels.items() if not name.startswith("flag: ")}
    ends: dict[str, Counter] = defaultdict(Counter)
    for name, label in words.items():
        ends[noun(name)][label] += 1
    for label, said in EVERYDAY.items():
        for word in said.split(", "):
            words.setdefault(word, label)
    for end, counted in ends.items():
        (label, most), *_ = counted.most_common(1)
        if most >= max(LEAST, SHARE * counted.total()) and end.isalpha() and len(end) > 2:
            words.setdefault(end, label)
    return {label: sorted(word for word, of in words.items() if of == label) for label in EVERYDAY}


def noun(name: str) -> str:
    """The last word of what a name is about: "face" of "face with tears of joy"."""
    return re.split(r" (?:of|with|in|on|and|behind|from|at|over|for|to) ", name)[0].split()[-1]


def written(terms: Mapping[str, Iterable[str]]) -> str:
    """The file, a line for each class."""
    rows = ",\n".join(
        f"{json.dumps(label)}: {json.dumps([*said], ensure_ascii=False)}" for label, said in terms.items()
    )
    return f"{{\n{rows}\n}}\n"


def main(cfg: Config) -> None:
    """Write the file. Raises SystemExit where the data are not built."""
    labels: dict[str, str] = {}
    try:
        for split in SPLITS:
            source = open_source(str(cfg.data_dir), split=split)
            named = zip(source.column("name"), source.labels, strict=True)
            labels |= {name: source.label_names[label] for name, label in named}
    except DataError as error:
        raise SystemExit(f"error: {error}") from None
    terms = terms_of(labels)
    cfg.output.write_text(written(terms), encoding="utf-8")
    print(f"{cfg.output}: {sum(map(len, terms.values()))} words for {len(terms)} classes")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__, use_underscores=True))
