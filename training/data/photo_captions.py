"""Captions for photographs whose labels are known: so that a captioner hears of more than Flickr8k shows.

    python -m training.data.photo_captions [--data_dir build/data] [--output_dir build/data/photo-captions]

Flickr8k's people in red shirts and dogs in the snow are all that it has; of a pair of shoes a captioner trained on it
alone says that a man wears them. Five captions are made of each training photograph of photo-scenes, from the classes
of its pixels ("A cow stands on the grass."), and of clothing-10, from its folder ("A pair of shoes."), and these stand
beside Flickr8k's own. The validation part is Flickr8k's: no validation photograph of the others is touched.
"""

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from skimage.measure import label as components

from training.data.facts import facts_of
from training.data.files import DataError

EACH = 5  # captions of a photograph, as Flickr8k has
SEEN = 0.03  # share of a photograph from which on a class is worth a word
A_THING = 0.004  # of one of its patches to be counted
CLOTHES = {
    "dress": "a dress", "hat": "a hat", "longsleeve": "a long-sleeved shirt", "outwear": "a jacket",
    "pants": "a pair of trousers", "shirt": "a shirt", "shoes": "a pair of shoes", "shorts": "a pair of shorts",
    "skirt": "a skirt", "t-shirt": "a t-shirt",
}  # fmt: skip
LAID_OUT = ("{0}.", "{0} on its own.", "A close-up of {0}.", "There is {0}.", "{0} is shown.", "One can see {0}.")
SCENES = {  # by the beginnings of the names that SIFT Flow gives its photographs
    "coast": "the coast", "forest": "a forest", "highway": "a highway", "insidecity": "a city", "mountain": "mountains",
    "opencountry": "open country", "street": "a street", "tallbuilding": "tall buildings",
}  # fmt: skip
THINGS = {
    "person": ("a person", "people"), "car": ("a car", "cars"), "boat": ("a boat", "boats"), "cat": ("a cat", "cats"),
    "dog": ("a dog", "dogs"), "cow": ("a cow", "cows"), "sheep": ("a sheep", "sheep"), "bird": ("a bird", "birds"),
    "flower": ("a flower", "flowers"), "bicycle": ("a bicycle", "bicycles"), "aeroplane": ("an airplane", "airplanes"),
    "sign": ("a sign", "signs"), "chair": ("a chair", "chairs"), "book": ("a book", "books"),
}  # fmt: skip
STUFF = {
    "sky": "the sky", "building": "buildings", "tree": "trees", "grass": "grass", "water": "water", "road": "a road",
    "mountain": "mountains", "sand": "sand",
}  # fmt: skip
UNDER = ("water", "road", "grass", "sand")
BEHIND = ("building", "tree", "mountain", "sky")
COUNTS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Config:
    data_dir: Path = Path("build/data")  # where flickr8k, photo-scenes and clothing-10 lie
    output_dir: Path = Path("build/data/photo-captions")
    seed: int = 0


def main(cfg: Config) -> None:
    """Write the folder. Raises SystemExit where a set is missing."""
    for name in ("flickr8k", "photo-scenes", "clothing-10"):
        if not (cfg.data_dir / name / "train").is_dir():
            raise SystemExit(f"{cfg.data_dir / name} is missing: see training/data/cards/{name}.md")
    shutil.rmtree(cfg.output_dir, ignore_errors=True)
    rng = random.Random(cfg.seed)
    made = [*of_scenes(cfg.data_dir / "photo-scenes", rng), *of_clothes(cfg.data_dir / "clothing-10", rng)]
    for part, more in (("train", made), ("validation", [])):
        folder = cfg.output_dir / part
        shutil.copytree(cfg.data_dir / "flickr8k" / part, folder)
        with (folder / "metadata.jsonl").open("a", encoding="utf-8") as rows:
            for path, captions in more:
                name = f"{path.parent.name}-{path.name}" if path.parent.name != "images" else path.name
                shutil.copy(path, folder / name)
                rows.write(json.dumps({"file_name": name, "text": captions}) + "\n")
    (cfg.output_dir / "README.md").write_text(card(cfg.data_dir, len(made)), encoding="utf-8")
    print(f"{cfg.output_dir}: Flickr8k and {len(made)} photographs more")


def of_clothes(folder: Path, rng: random.Random) -> Iterator[tuple[Path, list[str]]]:
    """(file, captions) of each training photograph of clothing-10."""
    for kind, thing in CLOTHES.items():
        for path in sorted((folder / "train" / kind).glob("*.jpg")):
            yield path, [sentence(form.format(thing)) for form in rng.sample(LAID_OUT, EACH)]


def of_scenes(folder: Path, rng: random.Random) -> Iterator[tuple[Path, list[str]]]:
    """(file, captions) of each training photograph of photo-scenes that something can be said of."""
    names = json.loads((folder / "id2label.json").read_text(encoding="utf-8"))
    train = folder / "train"
    for line in (train / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        with Image.open(train / row["label_file_name"]) as mask:
            ids = np.asarray(mask)  # (H, W)
        seen = {names[str(k)]: ids == k for k in np.unique(ids) if str(k) in names and (ids == k).mean() >= SEEN}
        scene = next((said for start, said in SCENES.items() if f"siftflow-{start}" in row["file_name"]), None)
        if captions := captions_of(seen, scene, rng):
            yield train / row["file_name"], captions


def captions_of(seen: Mapping[str, np.ndarray], scene: str | None, rng: random.Random) -> list[str]:
    """Five captions of a photograph, from its classes {name: (H, W) bool} and its kind; [] where there are none."""
    things = [counted(name, seen[name]) for name in THINGS if name in seen]
    stuff = {name: STUFF[name] for name in STUFF if name in seen}
    under, behind = ([stuff[name] for name in order if name in stuff] for order in (UNDER, BEHIND))
    forms = []
    if things:
        main = " and ".join(things[:2])
        forms = [
            main,
            f"there is {main}" if main.startswith(("a ", "an ")) else f"there are {main}",
            f"a view of {main}",
        ]
        forms += [f"{main} on {under[0]}"] * 2 if under else []
        forms += [f"{main} in front of {behind[0]}"] if behind and behind[0] != STUFF["sky"] else []
        forms += [f"{main} near {each}" for each in [*under[1:], *behind[1:2]] if each != STUFF["sky"]]
        forms += (
            [f"{main} on {under[0]} in front of {behind[0]}"] if under and behind and behind[0] != STUFF["sky"] else []
        )
        forms += [f"{main} in {scene}"] if scene in ("a city", "a street", "a forest") else []
    elif len(stuff) > 1 or scene:
        listed = [*behind[: 2 if under else 3], *under[:1]]
        whole = ", ".join(listed[:-1]) + f" and {listed[-1]}" if len(listed) > 1 else "".join(listed)
        forms = [f"a view of {scene}", f"a picture of {scene}", scene] if scene else []
        forms += [whole, f"a view of {whole}"] if whole else []
        forms += [
            f"{each} under the sky" for each in (scene, *behind) if each and "sky" in stuff and each != STUFF["sky"]
        ]
        forms += [f"{each} near {under[0]}" for each in behind if under and each != STUFF["sky"]]
    if not forms:
        return []
    return [sentence(form) for form in (rng.sample(forms, EACH) if len(forms) >= EACH else rng.choices(forms, k=EACH))]


def counted(name: str, mask: np.ndarray) -> str:
    """ "a cow", "two cows" or "cows": by how many patches of the mask are large enough to be one."""
    sizes = np.bincount(components(mask, connectivity=2).ravel())[1:] / mask.size
    count, (one, several) = int((sizes >= A_THING).sum()), THINGS[name]
    return one if count <= 1 else f"{COUNTS[count]} {several}" if count in COUNTS else several


def sentence(text: str) -> str:
    """With a capital and a stop."""
    return f"{text[0].upper()}{text[1:].removesuffix('.')}."


def card(data_dir: Path, made: int) -> str:
    """Who the whole is, in the front matter of its card. Raises DataError where a part doesn't say."""
    parts = [facts_of(str(data_dir / name)) for name in ("flickr8k", "photo-scenes", "clothing-10")]
    if not all(part.credits for part in parts):
        raise DataError(
            f"a part of {data_dir} has no card: copy those of training/data/cards into the folders as README.md"
        )
    said = {
        "credits": [each for part in parts for each in part.credits],
        "limits": [parts[0].limits[0], f"Captions of {made:,} photographs are made from labels, in few forms."],
        "show_pictures": False,
        "kind": "photographs",
    }
    front = {"pretty_name": "Photographs with captions", "license": "other", "license_name": "research-only",
             "license_link": "https://doi.org/10.1613/jair.3994"}  # fmt: skip
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()]
    lines += ["vitrail:", *(f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in said.items())]
    text = (
        "Flickr8k, and the training photographs of photo-scenes and clothing-10 with captions made from their labels."
    )
    return "\n".join(["---", *lines, "---", "", "# Photographs with captions", "", text, ""])


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
