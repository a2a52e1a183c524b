"""What a data set says of itself: the front matter of the card (README.md) that lies in its folder.

    ---
    pretty_name: Photo scenes
    license: other
    license_name: for-research
    license_link: https://…
    vitrail:
      credits: ["SIFT Flow, Liu, Yuen and Torralba 2011"]
      limits: ["For research: …"]
      show_pictures: false
      kind: photographs
    ---

The first four keys are the Hub's own. What nobody says isn't guessed: a folder without a card is its owner's, and its
name is what it is called. Cards of sets that we may not pass on lie in training/data/cards. What is ours has names
instead of folders, and is described here.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from hub_models.publish.licences import AND
from training.data.files import DataError

CARDS = Path(__file__).parent / "cards"
CARD = "README.md"
OWN = "vitrail"  # our key in the front matter: an object of these
LISTS = ("credits", "limits")
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Facts:
    """Title, licence, credits and limits of a data set, for the card of what is trained on it; how it was split."""

    title: str
    license: str | None = None  # an id of the Hub, or several joined by AND
    license_name: str | None = None  # where that is "other"
    license_link: str | None = None
    credits: tuple[str, ...] = ()  # whose work it is, a line each
    limits: tuple[str, ...] = ()  # what follows for weights that were trained on it, a sentence each
    show_pictures: bool = True  # whether a card may show pictures of it
    kind: str | None = None  # what its pictures are, in the plural: "photographs"
    # Of what is ours
    ours: str | None = None  # what models trained on it are called
    about: str | None = None  # what is in it, where that is more than the title
    sample: bool = False  # a few pictures of it, to test with: they don't show every class
    evaluation_sets: tuple[str, ...] = ("validation",)  # the splits to measure on
    by_concept: bool = False  # validation shows things that no training picture shows
    painted_sets: tuple[str, ...] = ()  # sets of scenes painted from it to measure on; see training.data.scenes

    @property
    def pictures(self) -> str:
        """What its pictures are, in the plural."""
        return self.kind or f"pictures of {self.title}"

    @property
    def known_sets(self) -> tuple[str, ...]:
        """The evaluation sets of things that training pictures show, too; all, where things weren't kept apart."""
        return tuple(name for name in self.evaluation_sets if name != "validation" or not self.by_concept)

    def licensed(self) -> dict[str, str]:
        """license, license_name and license_link, as far as they are stated."""
        stated = {key: getattr(self, key) for key in ("license", "license_name", "license_link")}
        return {key: value for key, value in stated.items() if value}


ART = (
    "Noto Emoji, Google, Apache-2.0",
    "Twemoji, Twitter and other contributors, CC BY 4.0",
    "Fluent Emoji, Microsoft, MIT",
    "Fluent Emoji Flat, Microsoft, MIT",
    "FxEmojis, Mozilla, Apache-2.0",
)
EMOJI = Facts(
    "emoji art in five styles", credits=ART, ours="emoji", by_concept=True, kind="drawings",
    limits=("It has seen drawn emoji only; photographs are outside of what was measured.",),
    evaluation_sets=("validation", "heldout_pairs", "unseen_style"),
    painted_sets=("new_scenes", "validation", "unseen_style"),
)  # fmt: skip
SCENES = Facts(
    "emoji scenes", credits=ART, ours="scenes", about="scenes painted from emoji art in five styles", by_concept=True,
    kind="painted scenes",
    limits=("It has seen painted scenes only; photographs are outside of what was measured.",),
    evaluation_sets=EMOJI.painted_sets,
)  # fmt: skip
OURS = {  # the samples have nothing of the unseen style
    "emoji": EMOJI,
    "emoji-sample": dataclasses.replace(
        EMOJI, sample=True, evaluation_sets=EMOJI.evaluation_sets[:2], painted_sets=EMOJI.painted_sets[:2]
    ),
    "scenes": SCENES,
    "scenes-sample": dataclasses.replace(SCENES, sample=True, evaluation_sets=SCENES.evaluation_sets[:2]),
}


def facts_of(dataset_name: str) -> Facts:
    """What the card in a data set's folder says; of one without a card, and of one on the Hub, its name alone.

    Raises DataError where the front matter can't be read or says something else than it should.
    """
    if dataset_name in OURS:
        return OURS[dataset_name]
    folder = Path(dataset_name).expanduser()
    path, name = folder / CARD, folder.name or dataset_name
    if not path.is_file() or path.is_symlink():
        return Facts(name)
    front = _front_matter(path)
    own = front.get(OWN) or {}
    if not isinstance(own, dict):
        raise DataError(f"{path}: {OWN} has to be an object with {', '.join(LISTS)}, kind and show_pictures.")
    for key in LISTS:
        if not isinstance(own.get(key, []), list) or not all(isinstance(line, str) for line in own.get(key, [])):
            raise DataError(f"{path}: {OWN}.{key} has to be a list of texts.")
    if not isinstance(own.get("show_pictures", True), bool):
        raise DataError(f"{path}: {OWN}.show_pictures has to be true or false.")
    stated: dict = {key: front.get(key) for key in ("license", "license_name", "license_link")}
    if isinstance(stated["license"], list) and all(isinstance(one, str) for one in stated["license"]):
        stated["license"] = AND.join(stated["license"]) or None
    for key, value in {"pretty_name": front.get("pretty_name"), f"{OWN}.kind": own.get("kind"), **stated}.items():
        if value is not None and not isinstance(value, str):
            raise DataError(f"{path}: {key} has to be a text.")
    return Facts(
        front.get("pretty_name") or name,
        **stated,
        credits=tuple(own.get("credits", ())),
        limits=tuple(own.get("limits", ())),
        show_pictures=own.get("show_pictures", True),
        kind=own.get("kind"),
    )


def split_folders(folder: Path) -> dict[str, str] | None:
    """{folder at the top: split} of the configurations that a card lists for the Hub; None where it lists none."""
    path = folder / CARD
    configs = _front_matter(path).get("configs") if path.is_file() and not path.is_symlink() else None
    if not isinstance(configs, list):
        return None
    files = [config.get("data_files") for config in configs if isinstance(config, dict)]
    named = {}
    for part in (part for parts in files if isinstance(parts, list) for part in parts):
        top = str(part.get("path")).partition("/")[0] if isinstance(part, dict) else ""
        if top and isinstance(part.get("split"), str) and (folder / top).is_dir():
            named[top] = part["split"]
    return named


def front_matter(text: str) -> dict:
    """The YAML before a card's text; {} where there is none. Raises yaml.YAMLError, RecursionError."""
    parts = text.split("---\n", 2)
    front = yaml.safe_load(parts[1]) if text.startswith("---\n") and len(parts) == 3 else {}
    return front if isinstance(front, dict) else {}


def _front_matter(path: Path) -> dict:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is no card: it has more than {MAX_BYTES:,} bytes.")
    try:
        return front_matter(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: its front matter is no YAML ({str(error).splitlines()[0]}).") from error


def put_card(name: str, folder: Path) -> None:
    """Lay the card training/data/cards/NAME.md into a data set's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CARDS / f"{name}.md", folder / CARD)
