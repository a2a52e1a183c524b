"""Emoji art as a captioned, labelled data set: five styles to train on, a sixth that no model ever trains on.

    python -m training.data.emoji --output_dir build/data/emoji                                # five styles, about 3 minutes on two cores
    python -m training.data.emoji --output_dir build/data/emoji-unseen --styles openmoji       # the unseen style

The art comes as SVG from pinned npm packages (`npm pack`, checked by sha256; `--source_dir` takes tarballs that are already there),
names and keywords from emojibase-data (CLDR). Each drawing is matched to its emoji, rendered with alpha, and put in a split:

    train          what is trained on
    validation     5 % of the concepts, in all styles
    heldout_pairs  5 % of the (concept, style) pairs; the concept is in train in another style
    unseen_style   all of OpenMoji (share-alike art: a test set, never trained on)

A concept is an emoji without skin tone, gender, hair and direction (`base_code`): a cook, a woman cook and a man cook are one.
The same sources give the same bytes, on every build.
"""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LABELS = (
    "face",
    "person",
    "animal",
    "plant",
    "food",
    "vehicle",
    "building",
    "sport and event",
    "object",
    "symbol",
    "flag",
    "sky and weather",
)

# Every subgroup of CLDR, under the label of its emoji. Decided by the subgroup alone: the fuel pump and the traffic lights
# are of transport-ground, hence "vehicle"; mountains and beaches, of place-geographic, go with the other places to
# "building"; globes and maps, of place-map, are objects. None: no pictures of their own (skin tones, hair), left out.
_SUBGROUPS = {
    "face": """
        face-smiling face-affection face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell face-hat
        face-glasses face-concerned face-negative face-costume cat-face monkey-face
    """,
    "person": """
        hand-fingers-open hand-fingers-partial hand-single-finger hand-fingers-closed hands hand-prop body-parts
        person person-gesture person-role person-fantasy person-activity person-sport person-resting family
        person-symbol
    """,
    "animal": "animal-mammal animal-bird animal-amphibian animal-reptile animal-marine animal-bug",
    "plant": "plant-flower plant-other",
    "food": "food-fruit food-vegetable food-prepared food-asian food-sweet drink",
    "vehicle": "transport-ground transport-water transport-air",
    "building": "place-geographic place-building place-religious place-other",
    "sport and event": "event award-medal sport game",
    "object": """
        dishware place-map hotel time arts-crafts clothing sound music musical-instrument phone computer light-video
        book-paper money mail writing office lock tool science medical household other-object
    """,
    "symbol": """
        heart emotion transport-sign warning arrow religion zodiac av-symbol gender math punctuation currency
        other-symbol keycap alphanum geometric
    """,
    "flag": "flag country-flag subdivision-flag",
    "sky and weather": "sky-weather",
    None: "skin-tone hair-style",
}
LABEL_OF_SUBGROUP = {subgroup: label for label, text in _SUBGROUPS.items() for subgroup in text.split()}


@dataclass(frozen=True)
class Package:
    """A pinned npm package."""

    name: str
    version: str
    sha256: str  # of the tarball that `npm pack` gives

    @property
    def tarball(self) -> str:
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NAMES = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
STYLES = {
    "noto": Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
    ),
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
    "openmoji": Package(
        "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
    ),
}
# Firefox OS drawings whose names tell nothing or the wrong thing, and what they show; "" = not to be used.
# Checked by eye, since the package has no code points.
_DRAWN_IN_FXEMOJI = """
    grin 1f600  grinwide 1f603  grinwideeyes 1f604  grineyes 1f601  grinsquint 1f606  grinsweat 1f605  grintears 1f602
    smallsmile 1f642  winking 1f609  smileeyes 1f60a  kiss 1f617  kissing 1f618  kissclosedeyes 1f61a  kisseyes 1f619
    smiletongue 1f60b  tongueout 1f61b  tongueoutwink 1f61c  tongueoutwink2 1f61d  sunglasses 1f60e  smallfrown 1f641
    frownmouth 1f626  anguish 1f627  dissapointedrelief 1f625  crying 1f622  loudlycrying 1f62d  screamfear 1f631
    perservere 1f623  devilhorns 1f608  pouting 1f621  japaneseangrymask 1f47a  monkeysee 1f648  monkeyhear 1f649
    monkeyspeak 1f64a  blackskullcrossbones 2620
    heartarrow 1f498  heartribbon 1f49d  2hearts 1f495  heartyellow 1f49b  heartgreen 1f49a  heartpurple 1f49c
    sweatsplash 1f4a6  speechbubble 1f4ac  thoughtbaloon 1f4ad
    waving 1f44b  raisedhandsfingerssplayed 1f590  raisedhandpartfingers 1f596  aok 1f44c  left 1f448  right 1f449
    up 1f446  down 1f447  reversehandmiddlefinger 1f595  fistedhand 1f44a  high5 1f64c  hands 1f450
    leftwritinghand 270d  flexbicep 1f4aa  blonde 1f471  gpa 1f474  gma 1f475  frown 1f64d  pout 1f64e
    nogesture 1f645  okgesture 1f646  waitress 1f481  handup 1f64b  bowing 1f647  sleuthspy 1f575  construct 1f477
    turban 1f473  guapimao 1f472  bride 1f470  headmassage 1f486  bunny-ears 1f46f  girlgirl 1f46d  girlguy 1f46b
    guyguy 1f46c  couplekiss 1f48f  couple 1f491  contact 1f464  contact2 1f465
    dog 1f436  dogside 1f415  cat 1f431  catside 1f408  tiger 1f42f  tigerside 1f405  leopardside 1f406  pig 1f437
    pigside 1f416  pigsnout 1f43d  mouse 1f42d  mouseside 1f401  hampster 1f439  bunny 1f430  bunnyside 1f407
    frontfacingchick 1f425  dragonhead 1f432  dragonside 1f409  spurtingwhale 1f433  evergreen 1f332
    fallingleaf 1f342  leaffluttering 1f343
    chilipepper 1f336  acorn 1f330  fishcakeswirl 1f365  forkknife 1f37d  europeafricaglobe 1f30d  americasglobe 1f30e
    asiaaustraliaglobe 1f30f  meridianglobe 1f310  silhouetteohjapan 1f5fe  snowmountains 1f3d4  construction 1f3d7
    constructionsign 1f6a7  toykotower 1f5fc  highspeedtrainbulletnose 1f685  waningbibbousmoon 1f316  star 1f31f
    sunrays 2600  sunraincloud 1f326  stormcloud 1f329  wave 1f30a  bolt 26a1
    manltepiececlock 1f570  clock12oclock 1f55b  clock12thirty 1f567  clock1oclock 1f550  clock1thirty 1f55c
    clock2oclock 1f551  clock2thirty 1f55d  clock3oclock 1f552  clock3thirty 1f55e  clock4oclock 1f553
    clock4thirty 1f55f  clock5thirty 1f560  clock6oclock 1f555  clock6thirty 1f561  clock7oclock 1f556
    confetti 1f38a  bow 1f380  present 1f381  reminder 1f397  tennisball 1f3be  darksunglasses 1f576  tie 1f454
    mansshirt 1f455  womansshirt 1f45a  pinkwallet 1f45b  makeupbag 1f45d  mensshoe 1f45e  mensrunner 1f45f
    heels 1f460  sandals 1f461  speakercancellation 1f507  speakeronesoundwave 1f509  speaker3soundwaves 1f50a
    bellcancellation 1f515  studiomic 1f399  controlknob 1f39b  cellphone 1f4f1  phonerightarrowleft 1f4f2
    telephonereceiver2 1f4de  softshellfloppy 1f4be  handheldvideocamera 1f4f9  videocasette 1f4fc
    leftmagnifyingglass 1f50d  rightmagnifyingglass 1f50e  notebookdecorativecover 1f4d4  bookmarktab 1f4d1
    banknoteyen 1f4b4  banknotedollar 1f4b5  banknoteeuro 1f4b6  banknotepound 1f4b7  chartupwardstrendyen 1f4b9
    chartupwardstrend 1f4c8  chartdownwardstrend 1f4c9  envelopedownarrowabove 1f4e9  outbox 1f4e4
    closedmailboxraised 1f4eb  closedmailboxlowered 1f4ea  openmailboxraised 1f4ec  openmailboxlowered 1f4ed
    ballottboxwithballott 1f5f3  lowerleftpen 1f58a  lockandkey 1f510
    potablewatersystem 1f6b0  nooneunder18symbol 1f51e  arrowrightwardsupwards 2934  arrowrightwardsdownwards 2935
    clockwisedownupcircledarrows 1f503  anticlockwiseupwardsanddownwardsarrows 1f504  backwithleftwardsarrow 1f519
    endwithleftwardsarrow 1f51a  onarrowleftright 1f51b  soonwithrightarrow 1f51c  topwithupwardsarrow 1f51d
    heavylatincross 271d  sixpointedstarwithdot 1f52f  saggitarius 2650
    clockwiserightwardsleftwardscirclearrows 1f501  clockwiserightwardsleftwardscirclearrowsone 1f502
    blackrightpointingarrow 25b6  blackrightpointingdoublearrow 23e9  blackleftpointingarrow 25c0
    blackleftpointingdoublearrow 23ea  uppointingsmallredtrisngle 1f53c  blackuppointingdoublearrow 23eb
    downpointingsmallredtrisngle 1f53d  blackdownpointingdoublearrow 23ec  heavymultiplicationsymbol 2716
    doubleexclaimationmark 203c  exclaimationquestionmark 2049  blackquestionmark 2753  whiteexclaimationmark 2755
    heavyexclaimationmarksymbol 2757  eightspokedasterix 2733  negativesquaredlatincaptiala 1f170
    negativesquaredlatincaptialb 1f171  negativesquaredlatincaptialo 1f17e  squaredup 1f199
    cjkunifiedideograph-a 1f22f  cjkunifiedideograph-b 1f23a  cjkunifiedideograph-c 1f232  cjkunifiedideograph-d 1f233
    cjkunifiedideograph-e 1f234  cjkunifiedideograph-f 1f235  cjkunifiedideograph-g 1f236  cjkunifiedideograph-h 1f237
    cjkunifiedideograph-i 1f21a  cjkunifiedideograph-j 1f238  cjkunifiedideograph-k 1f239
    diamondshapewithdotinside 1f4a0
    blackwaving 1f3f4  chineseflag 1f1e8-1f1f3  franceflag 1f1eb-1f1f7  greatbritainflag 1f1ec-1f1e7
    italianflag 1f1ee-1f1f9  japanflag 1f1ef-1f1f5  koreaflag 1f1f0-1f1f7  russianflag 1f1f7-1f1fa
    spanishflag 1f1ea-1f1f8
"""
FXEMOJI = dict(pair for line in _DRAWN_IN_FXEMOJI.splitlines() for pair in re.findall(r"(\S+) (\S+)", line))
FXEMOJI |= {"heartblue": "", "tramcar": ""}  # a corner of it only; black all over

UNSEEN_STYLES = ("openmoji",)
CODE_POINTS_OF = {"fluent": "fluent-flat"}  # the 3D set has no code points of its own; the flat one has the same slugs

SPLITS = ("train", "validation", "heldout_pairs", "unseen_style")
VALIDATION_SHARE = 0.05  # of concepts
HELDOUT_SHARE = 0.05  # of the (concept, style) pairs of the other concepts

SKIN_TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}
ROWS_PER_FILE = 4000
ROWS_PER_GROUP = 100


class SourceError(RuntimeError):
    """A source package is absent, or not the pinned one."""


@dataclass(frozen=True)
class Config:
    """Render emoji art into a data set folder."""

    output_dir: Path = Path("build/data/emoji")  # the folder to write; an earlier build there is replaced
    resolution: int = 128  # side of the square pictures, in pixels
    styles: tuple[str, ...] = ("noto", "twemoji", "fluent", "fluent-flat", "fxemoji")  # openmoji: the unseen style
    source_dir: Path | None = None  # a folder with the npm tarballs; without it `npm pack` fetches them
    sample: bool = False  # write a sample of 100 pictures instead: each label in each split
    num_workers: int = 2  # rendering processes
    push_to_hub: bool = False  # upload the folder as a data set
    hub_dataset_id: str | None = None  # "name/data-set"; needed for push_to_hub
    hub_private: bool = False  # whether a repository created by the push is private


# ---------------------------------------------------------------------------------------------------------------------
# Concepts and splits

_TONES = {f"{code:x}" for code in range(0x1F3FB, 0x1F400)}
_HAIR = {f"{code:x}" for code in range(0x1F9B0, 0x1F9B4)}
_DROPPED = _TONES | _HAIR | {"fe0f", "2640", "2642", "27a1"}  # 27a1: "facing right"; alone it is an emoji, and stays
_ADULTS = {"1f468", "1f469", "1f9d1", "1f471"}  # man, woman, person, blond person
_CHILDREN = {"1f466", "1f467", "1f9d2"}  # boy, girl, child

# One thing under several code points: a gendered pair, a couple spelled in full, a flag flown by several territories.
_SAME = {
    "1f474": "1f9d3",  # old man, old woman, older person
    "1f475": "1f9d3",
    "1f936": "1f385",  # Santa Claus, Mrs. Claus, Mx Claus
    "1f9d1-200d-1f384": "1f385",
    "1f934": "1fac5",  # prince, princess, person with crown
    "1f478": "1fac5",
    "1f57a": "1f483",  # man dancing, woman dancing
    "1fac3": "1f930",  # pregnant man, woman, person
    "1fac4": "1f930",
    "1f46b": "1f46d",  # people holding hands
    "1f46c": "1f46d",
    "1f9d1-200d-1f91d-200d-1f9d1": "1f46d",
    "1f9d1-200d-2764-200d-1f9d1": "1f491",  # couple with heart
    "1f9d1-200d-2764-200d-1f48b-200d-1f9d1": "1f48f",  # kiss
    "1f9d1-200d-1f430-200d-1f9d1": "1f46f",  # people with bunny ears
    "1f9d1-200d-1faef-200d-1f9d1": "1f93c",  # people wrestling
    "1faf1-200d-1faf2": "1f91d",  # handshake of two tones
    # drawn alike, to the pixel, in at least one style
    "1f63a": "1f431",  # grinning cat, cat face
    "23f3": "231b",  # hourglasses
    "1f1e7-1f1fb": "1f1f3-1f1f4",  # Bouvet Island, Norway
    "1f1f8-1f1ef": "1f1f3-1f1f4",  # Svalbard & Jan Mayen, Norway
    "1f1e8-1f1f5": "1f1eb-1f1f7",  # Clipperton Island, France
    "1f1f2-1f1eb": "1f1eb-1f1f7",  # St. Martin, France
    "1f1e9-1f1ec": "1f1ee-1f1f4",  # Diego Garcia, British Indian Ocean Territory
    "1f1ea-1f1e6": "1f1ea-1f1f8",  # Ceuta & Melilla, Spain
    "1f1ed-1f1f2": "1f1e6-1f1fa",  # Heard & McDonald Islands, Australia
    "1f1fa-1f1f2": "1f1fa-1f1f8",  # U.S. Outlying Islands, United States
    "1f1ee-1f1e9": "1f1f2-1f1e8",  # Indonesia, Monaco
    "1f1f7-1f1f4": "1f1f9-1f1e9",  # Romania, Chad
}


def base_code(code: str) -> str:
    """The concept of an emoji: its code points without skin tone, gender, hair, direction and variation selector.

    "1f469-1f3fd-200d-1f373" (woman cook, medium skin tone) and "1f9d1-200d-1f373" (cook) are both "1f9d1-200d-1f373".
    Man, woman and person are one; so are boy, girl and child, all families, and the pairs of `_SAME`.
    """
    parts = code.lower().split("-")
    if len(parts) > 1:
        parts = [part for part in parts if part not in _DROPPED] or parts[:1]
    parts = ["1f9d1" if p in _ADULTS else "1f9d2" if p in _CHILDREN else p for p in parts]
    joined = "-".join(parts)
    joined = re.sub(r"(-?200d)+$|^(200d-?)+", "", re.sub(r"200d(-200d)+", "200d", joined))
    if "-" in joined and set(joined.split("-")) <= {"1f9d1", "1f9d2", "200d"}:
        return "1f46a"  # a family, whatever its members
    return _SAME.get(joined, joined)


def _share(text: str) -> float:
    """A number in [0, 1), fixed by the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def assign_splits(rows: list[dict]) -> list[str]:
    """The split of each row, from its `concept`, `style` and `skin_tone` alone."""
    styles_of = defaultdict(set)  # concept → the trainable styles that draw it (skin tones do not count)
    for row in rows:
        if row["style"] not in UNSEEN_STYLES and not row["skin_tone"]:
            styles_of[row["concept"]].add(row["style"])

    heldout = set()
    for concept, styles in styles_of.items():
        chosen = {style for style in styles if _share(f"pair:{concept}:{style}") < HELDOUT_SHARE}
        if styles - chosen:  # the concept stays in train in another style
            heldout |= {(concept, style) for style in chosen}

    def split(row: dict) -> str:
        if row["style"] in UNSEEN_STYLES:
            return "unseen_style"
        if concept_split(row["concept"]) == "validation":
            return "validation"
        return "heldout_pairs" if (row["concept"], row["style"]) in heldout else "train"

    return [split(row) for row in rows]


def concept_split(concept: str) -> str:
    """Whether a concept is one of "train" or of "validation", in whatever style."""
    return "validation" if _share(f"concept:{concept}") < VALIDATION_SHARE else "train"


# ---------------------------------------------------------------------------------------------------------------------
# Sources


def fetch(package: Package, source_dir: Path | None, work_dir: Path) -> Path:
    """The package's tarball, verified; from source_dir, else by `npm pack` into work_dir."""
    if source_dir is not None:
        path = Path(source_dir) / package.tarball
        if not path.is_file():
            raise SourceError(
                f"{path} is missing. Put it there with `npm pack {package.name}@{package.version}`, or leave out --source_dir."
            )
    else:
        path = work_dir / package.tarball
        if not path.is_file():
            if shutil.which("npm") is None:
                raise SourceError(
                    "npm is not installed, and the emoji art comes from npm packages. Install Node.js, or pass --source_dir with their tarballs."
                )
            command = [
                "npm",
                "pack",
                f"{package.name}@{package.version}",
                "--silent",
                "--pack-destination",
                str(work_dir),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode or not path.is_file():
                raise SourceError(
                    f"`{' '.join(command[:3])}` failed: {done.stderr.strip() or done.stdout.strip()}. Check the network, or pass --source_dir with the tarballs."
                )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SourceError(
            f"{path} has sha256 {found}, not the pinned {package.sha256}: delete it and fetch it again with `npm pack {package.name}@{package.version}`."
        )
    return path


def read_json(tarball: Path, *names: str) -> list:
    """The parsed JSON files of an npm tarball, in the order of names."""
    with tarfile.open(tarball) as tar:
        return [json.load(tar.extractfile(f"package/{name}")) for name in names]


def read_emoji(tarball: Path) -> list[dict]:
    """All emoji of emojibase with a label: code, concept, name, keywords, group, subgroup, skin_tone, label, shortcodes."""
    codes = ("cldr", "emojibase", "github", "iamcal", "joypixels")
    data, groups, *shortcodes = read_json(
        tarball, "en/data.json", "meta/groups.json", *(f"en/shortcodes/{name}.json" for name in codes)
    )
    emoji = []
    for entry in data:
        if "group" not in entry:
            continue  # regional indicators, the letters that flags are spelled with
        group, subgroup = groups["groups"][str(entry["group"])], groups["subgroups"][str(entry["subgroup"])]
        label = LABEL_OF_SUBGROUP[subgroup]
        if label is None:
            continue
        for variant in (entry, *entry.get("skins", ())):
            tones = variant.get("tone", [])
            tones = tones if isinstance(tones, list) else [tones]
            names = [table.get(variant["hexcode"], []) for table in shortcodes]
            emoji.append(
                {
                    "code": variant["hexcode"].lower(),
                    "concept": base_code(variant["hexcode"]),
                    "name": variant["label"],
                    "keywords": entry.get("tags", []),
                    "group": group,
                    "subgroup": subgroup,
                    "skin_tone": ", ".join(SKIN_TONES[tone] for tone in tones),
                    "label": label,
                    "shortcodes": [s for name in names for s in ([name] if isinstance(name, str) else name)],
                }
            )
    return emoji


# ---------------------------------------------------------------------------------------------------------------------
# Which drawing is which emoji


def slug(name: str) -> str:
    """A name as icon sets spell it: "woman's hat" → "womans-hat", "flag: Åland Islands" → "flag-aland-islands"."""
    name = re.sub(r"[’'“”.]", "", name).replace("&", "and").replace("*", "asterisk").replace("#", "hash")
    name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def match(emoji: list[dict], icons: set[str], slug_of_code: dict[str, str], by_hand: dict[str, str]) -> dict:
    """Which icon draws which emoji: {code: (icon, how)}, how being "table", "code point", "name", "Unicode name" or "shortcode".

    The surer ways go first, over all emoji, and an icon found by name is used once: a "cat" that is taken for the face
    is not the animal too. Names are compared without hyphens ("blackclubsuit").
    """
    bare = {}  # the icon of a name without hyphens
    for icon in sorted(icons):
        bare.setdefault(icon.replace("-", ""), icon)
    slug_of_code = {_without_selector(code): icon for code, icon in slug_of_code.items()}
    code_of_hand = {code: icon for icon, code in by_hand.items() if code}
    refused = {icon for icon, code in by_hand.items() if not code}

    def unicode_name(code: str) -> list[str]:
        return [unicodedata.name(chr(int(code, 16)), "")] if "-" not in code else []

    ways = {
        "table": lambda e: [code_of_hand.get(_without_selector(e["code"]))],
        "code point": lambda e: [slug_of_code.get(_without_selector(e["code"]))],
        "name": lambda e: [bare.get(slug(e["name"]).replace("-", ""))],
        "Unicode name": lambda e: [
            bare.get(slug(n).replace("-", "")) for n in unicode_name(_without_selector(e["code"]))
        ],
        "shortcode": lambda e: [bare.get(slug(s).replace("-", "")) for s in e["shortcodes"]],
    }
    found, used = {}, set()
    for how, candidates in ways.items():
        for entry in emoji:
            if entry["code"] in found:
                continue
            for icon in candidates(entry):
                if icon in icons and icon not in refused and icon not in used:
                    found[entry["code"]] = (icon, how)
                    used.add(icon)
                    break
    return found


def _without_selector(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


def icon_svg(icons: dict, name: str) -> str:
    """A square, transparent SVG of an icon of an iconify set; an oblong icon is centred, an alias flipped or turned as it says."""
    icon, changes = name, {}
    while icon in icons.get("aliases", {}):
        alias = icons["aliases"][icon]
        for flip in ("hFlip", "vFlip"):
            changes[flip] = changes.get(flip, False) != alias.get(flip, False)
        changes["rotate"] = changes.get("rotate", 0) + alias.get("rotate", 0)
        icon = alias["parent"]
    icon = icons["icons"][icon]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    x, y = (side - width) / 2, (side - height) / 2
    turn = f"rotate({90 * (changes.get('rotate', 0) % 4)} {side / 2:g} {side / 2:g})"
    if changes.get("hFlip"):
        turn += f" translate({side:g} 0) scale(-1 1)"
    if changes.get("vFlip"):
        turn += f" translate(0 {side:g}) scale(1 -1)"
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return (
        f'<svg {namespaces} viewBox="0 0 {side:g} {side:g}"><g transform="{turn}">'
        f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" viewBox="{left:g} {top:g} {width:g} {height:g}">'
        f"{icon['body']}</svg></g></svg>"
    )


def render(svg: str, resolution_px: int) -> bytes | None:
    """The PNG (RGBA, resolution_px squared) of an SVG; None where nothing is drawn or the SVG is broken."""
    import resvg_py
    from PIL import Image

    try:
        png = bytes(
            resvg_py.svg_to_bytes(svg_string=svg, width=resolution_px, height=resolution_px, skip_system_fonts=True)
        )
    except ValueError:
        return None
    with Image.open(io.BytesIO(png)) as image:
        return png if image.convert("RGBA").getchannel("A").getbbox() else None


# ---------------------------------------------------------------------------------------------------------------------
# The build


def build(config: Config) -> dict:
    """Write the data set folder and return its statistics: rows per split, and per style how its drawings were matched.

    Raises SourceError where a package is missing or not the pinned one, ValueError for a style that does not exist or
    a folder that holds something else.
    """
    unknown = [style for style in config.styles if style not in STYLES]
    if unknown or not config.styles:
        raise ValueError(f"no style {', '.join(unknown) or 'given'}: choose among {', '.join(STYLES)}.")
    output_dir = Path(config.output_dir)
    if output_dir.exists() and any(output_dir.iterdir()) and not (output_dir / "data").is_dir():
        raise ValueError(f"{output_dir} holds something else than a data set: choose another --output_dir.")

    with tempfile.TemporaryDirectory() as work_dir:
        emoji = read_emoji(fetch(NAMES, config.source_dir, Path(work_dir)))
        rows, svgs, styles = [], [], {}
        for style in (style for style in STYLES if style in config.styles):
            package = STYLES[style]
            icons, info, chars = read_json(
                fetch(package, config.source_dir, Path(work_dir)), "icons.json", "info.json", "chars.json"
            )
            if style in CODE_POINTS_OF:
                sister = fetch(STYLES[CODE_POINTS_OF[style]], config.source_dir, Path(work_dir))
                (chars,) = read_json(sister, "chars.json")
            names = {*icons["icons"], *icons.get("aliases", {})}
            found = match(emoji, names, chars, FXEMOJI if style == "fxemoji" else {})
            styles[style] = {
                "author": info["author"]["name"],
                "url": info["author"]["url"],
                "license": info["license"]["spdx"],
                "license_url": info["license"]["url"],
                "package": f"{package.name}@{package.version}",
                "matched_by": dict(Counter(how for _, how in found.values())),
                "pictures": 0,
                "without_skin_tone": 0,
                "empty": [],
            }
            for entry in emoji:
                if entry["code"] in found:
                    icon = found[entry["code"]][0]
                    row = {key: value for key, value in entry.items() if key != "shortcodes"}
                    row |= {"style": style, "license": info["license"]["spdx"]}
                    row |= {"source": f"{package.name}@{package.version}:{icon}"}
                    rows.append(row)
                    svgs.append(icon_svg(icons, icon))

    sizes = [config.resolution] * len(svgs)
    if config.num_workers > 1:
        with ProcessPoolExecutor(config.num_workers) as pool:
            pngs = list(pool.map(render, svgs, sizes, chunksize=32))
    else:
        pngs = list(map(render, svgs, sizes))
    kept = []
    for row, png in zip(rows, pngs, strict=True):
        statistics = styles[row["style"]]
        if png is None:
            statistics["empty"].append(row["name"])
            continue
        statistics["pictures"] += 1
        statistics["without_skin_tone"] += not row["skin_tone"]
        kept.append(row | {"image": {"bytes": png, "path": f"{row['style']}-{row['code']}.png"}})
    for row, split in zip(kept, assign_splits(kept), strict=True):
        row |= {"split": split, "concept_split": concept_split(row["concept"])}

    if config.sample:
        kept = take_sample(kept)

    splits = {split: [row for row in kept if row["split"] == split] for split in SPLITS}
    statistics = {
        "resolution": config.resolution,
        "sample": config.sample,
        "styles": styles,
        "splits": {
            split: {
                "pictures": len(part),
                "without_skin_tone": sum(not row["skin_tone"] for row in part),
                "concepts": len({row["concept"] for row in part}),
                "labels": dict(Counter(row["label"] for row in part if not row["skin_tone"])),
            }
            for split, part in splits.items()
            if part
        },
    }
    _write(output_dir, splits, statistics)
    return statistics


def take_sample(rows: list[dict]) -> list[dict]:
    """100 of the rows, in their order: for each label 6 of train, 1 of validation, 1 of heldout_pairs, and 4 skin tones."""
    by_hash = sorted(rows, key=lambda row: _share(f"sample:{row['style']}:{row['code']}"))
    plain = [row for row in by_hash if not row["skin_tone"]]
    taken = []
    for label in LABELS:
        part = {split: [r for r in plain if r["split"] == split and r["label"] == label] for split in SPLITS}
        heldout = part["heldout_pairs"][:1]
        concepts = {row["concept"] for row in heldout}
        twins = [row for row in part["train"] if row["concept"] in concepts][:1]  # the concept in another style
        others = [row for row in part["train"] if row["concept"] not in concepts]
        taken += heldout + part["validation"][:1] + (twins + others)[:6]
    taken += [row for row in by_hash if row["skin_tone"] and row["split"] == "train"][:4]
    chosen = {(row["style"], row["code"]) for row in taken}
    return [row for row in rows if (row["style"], row["code"]) in chosen]


def features():
    """The columns, as `datasets.Features`."""
    from datasets import ClassLabel, Features, Image, List, Value

    text = Value("string")
    return Features(
        {
            "image": Image(),
            "name": text,
            "keywords": List(text),
            "group": text,
            "subgroup": text,
            "style": text,
            "code": text,  # lower-case hex, as "1f469-200d-1f373"
            "concept": text,  # base_code(code)
            "concept_split": text,  # train or validation: which of the unseen style's concepts are new as well
            "skin_tone": text,  # "" without one
            "label": ClassLabel(names=list(LABELS)),
            "license": text,
            "source": text,
        }
    )


def _write(output_dir: Path, splits: dict[str, list[dict]], statistics: dict) -> None:
    """Write data/<split>-*.parquet and README.md beside output_dir, then move the finished folder there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = features().arrow_schema
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as work_dir:
        folder = Path(work_dir) / output_dir.name
        (folder / "data").mkdir(parents=True)
        for split, rows in splits.items():
            files = -(-len(rows) // ROWS_PER_FILE)
            for k in range(files):
                part = [
                    {name: row[name] for name in schema.names} | {"label": LABELS.index(row["label"])}
                    for row in rows[k * ROWS_PER_FILE : (k + 1) * ROWS_PER_FILE]
                ]
                path = folder / "data" / f"{split}-{k:05d}-of-{files:05d}.parquet"
                pq.write_table(pa.Table.from_pylist(part, schema), path, row_group_size=ROWS_PER_GROUP)
        (folder / "README.md").write_text(card(statistics))
        if output_dir.exists():
            shutil.rmtree(output_dir)
        folder.rename(output_dir)


def card(statistics: dict) -> str:
    """The dataset card: front matter, what is in it, counts, licences and attributions."""
    import yaml

    licenses = sorted({style["license"].lower() for style in statistics["styles"].values()})
    pictures = sum(split["pictures"] for split in statistics["splits"].values())
    front = {
        "license": licenses[0] if len(licenses) == 1 else licenses,
        "language": ["en"],
        "pretty_name": "Emoji art with names, keywords and labels",
        "task_categories": ["image-classification", "text-to-image"],
        "tags": ["emoji", "svg"],
        "size_categories": ["n<1K" if pictures < 1000 else "1K<n<10K" if pictures < 10_000 else "10K<n<100K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in statistics["splits"]],
            }
        ],
    }
    explained = {
        "train": "what is trained on",
        "validation": "5 % of the concepts, in all styles",
        "heldout_pairs": "5 % of the (concept, style) pairs, whose concept is in train in another style",
        "unseen_style": "a style that no model is trained on; `concept_split` says which concepts are new as well",
    }
    ways = ("code point", "table", "name", "Unicode name", "shortcode")
    resolution = statistics["resolution"]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        "# Emoji art with names, keywords and labels",
        "",
        f"{pictures:,} drawings of emoji, {resolution} × {resolution} px with alpha, rendered from SVG.",
        "Each has the name and the keywords of CLDR, its group and subgroup, one of 12 labels, and its licence.",
        *(["It is a sample: the table of styles counts what it was drawn from."] if statistics["sample"] else []),
        "",
        "## Splits",
        "",
        "A concept is an emoji without skin tone, gender, hair and direction: a cook, a woman cook and a man cook are one.",
        "It is in one split, `heldout_pairs` apart, which takes single styles of concepts that are in `train`.",
        "",
        "| split | pictures | without skin tone | concepts | |",
        "|---|---:|---:|---:|---|",
        *(
            f"| {name} | {s['pictures']:,} | {s['without_skin_tone']:,} | {s['concepts']:,} | {explained[name]} |"
            for name, s in statistics["splits"].items()
        ),
        "",
        "Pictures without skin tone per label:",
        "",
        "| label | " + " | ".join(statistics["splits"]) + " |",
        "|---|" + "---:|" * len(statistics["splits"]),
        *(
            f"| {label} | " + " | ".join(f"{s['labels'].get(label, 0):,}" for s in statistics["splits"].values()) + " |"
            for label in LABELS
        ),
        "",
        "## Styles",
        "",
        "How the drawings were matched to emoji: by their code points, by a table of ours, by the name in CLDR or in Unicode, by a shortcode.",
        "",
        "| style | pictures | without skin tone | "
        + " | ".join(f"by {way}" for way in ways)
        + " | left out as empty |",
        "|---|" + "---:|" * (len(ways) + 3),
        *(
            f"| {name} | {s['pictures']:,} | {s['without_skin_tone']:,} | "
            + " | ".join(f"{s['matched_by'].get(way, 0):,}" for way in ways)
            + f" | {len(s['empty'])} |"
            for name, s in statistics["styles"].items()
        ),
        "",
        "## Licences and attribution",
        "",
        "The art keeps the licence of its set, which is in the column `license` of every row; `source` names package and drawing.",
        "It was rendered to pixels and otherwise left as it is.",
        "",
        "| style | by | licence | package |",
        "|---|---|---|---|",
        *(
            f"| {name} | [{s['author']}]({s['url']}) | [{s['license']}]({s['license_url']}) | `{s['package']}` |"
            for name, s in statistics["styles"].items()
        ),
        "",
        f"Names, keywords and groups: `{NAMES.name}@{NAMES.version}` (MIT), from Unicode CLDR (Unicode License v3).",
        "",
        "## Use",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'data = load_dataset("path/of/this/folder")',
        f'data["{next(iter(statistics["splits"]), "train")}"][0]["image"]',
        "```",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    import sys

    import tyro

    config = tyro.cli(Config, description=__doc__)
    if config.push_to_hub and not config.hub_dataset_id:
        sys.exit("--push_to_hub needs --hub_dataset_id name/data-set.")
    try:
        statistics = build(config)
    except (SourceError, ValueError) as error:
        sys.exit(f"error: {error}")
    for name, style in statistics["styles"].items():
        ways = ", ".join(f"{count:,} by {way}" for way, count in style["matched_by"].items())
        empty = f"; {len(style['empty'])} empty left out: {', '.join(style['empty'])}" if style["empty"] else ""
        print(
            f"{name:12} {style['pictures']:6,} pictures, {style['without_skin_tone']:,} without skin tone ({ways}){empty}"
        )
    for name, split in statistics["splits"].items():
        print(
            f"{name:14} {split['pictures']:6,} pictures, {split['without_skin_tone']:,} without skin tone, {split['concepts']:,} concepts"
        )
    print(f"written to {config.output_dir}")
    if config.push_to_hub:
        from training import publish

        publish.push_export(config.output_dir, config.hub_dataset_id, private=config.hub_private, repo_type="dataset")


if __name__ == "__main__":
    main()
