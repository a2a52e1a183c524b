"""Writes apps/examples: what people can try without pictures of their own, and what the home page's cards show.

    python -m training.data.examples [--data_dir build/data/emoji] [--output_dir apps/examples]

Takes seconds, after `make data`. classifier/ gets two pictures a class that no script trains on; its index.json lists
file, name, label, art set, licence and split of every picture. ddpm/ gets what the shipped weights draw.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro
from datasets import Dataset
from PIL import Image

from hub_models import ddpm

PICTURES = (  # name, style; all of the validation split, whose concepts are in no training picture
    ("pleading face", "noto"),
    ("fox", "fluent"),
    ("birthday cake", "noto"),
    ("rose", "fluent-flat"),
    ("airplane departure", "fluent"),
    ("flag: Cuba", "twemoji"),
    ("soccer ball", "fluent"),
    ("octopus", "twemoji"),
    ("post office", "noto"),
    ("doughnut", "fluent"),
    ("tornado", "fxemoji"),
    ("firefighter", "noto"),
    ("yin yang", "twemoji"),
    ("shamrock", "noto"),
    ("moai", "fluent"),
    ("face blowing a kiss", "fluent-flat"),
    ("monorail", "twemoji"),
    ("milky way", "noto"),
    ("woman dancing", "fluent"),
    ("purple heart", "fluent-flat"),
    ("bell", "fxemoji"),
    ("flag: Ghana", "twemoji"),
    ("baseball", "noto"),
    ("post office", "fluent"),
)
DRAWN = (
    "face",
    "person",
    "food",
    "vehicle",
    "plant",
    "flag",
)  # one picture each, seeds 0, 1, …: the first, not the best
STYLES = ("noto", "twemoji", "fluent", "fluent-flat", "fxemoji")  # permissive; OpenMoji is share-alike and stays out


@dataclass(frozen=True)
class Config:
    data_dir: Path = Path("build/data/emoji")  # what training.data.emoji wrote
    output_dir: Path = Path("apps/examples")
    split: str = "validation"


def main(cfg: Config) -> list[dict]:
    """The rows of index.json, after writing it and the pictures. Raises SystemExit where the data is not built."""
    files = sorted(str(file) for file in cfg.data_dir.glob(f"data/{cfg.split}-*.parquet"))
    if not files:
        raise SystemExit(f"{cfg.data_dir}/data has no {cfg.split} split: run `make data` first")
    data = Dataset.from_parquet(files)
    label_names = data.features["label"].names
    wanted = {pair: None for pair in PICTURES if pair[1] in STYLES}
    plain = data.remove_columns("image")
    for i, row in enumerate(plain):
        if not row["skin_tone"] and wanted.get((row["name"], row["style"]), 0) is None:
            wanted[row["name"], row["style"]] = i
    missing = [" / ".join(pair) for pair, i in wanted.items() if i is None]
    if missing:
        raise SystemExit(f"not in the {cfg.split} split, choose others: {', '.join(missing)}")

    draw_cards(cfg.output_dir / "ddpm")
    folder = cfg.output_dir / "classifier"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = []
    for number, ((name, style), i) in enumerate(wanted.items(), start=1):
        row = data[i]
        slug = "".join(c if c.isalnum() else "-" for c in name.lower().replace(": ", "-"))
        file = f"{number:02d}-{slug}-{style}.png"
        row["image"].save(folder / file, optimize=True)
        origin = {key: row[key] for key in ("name", "style", "license", "source")}
        index.append({"file": file, "label": label_names[row["label"]], **origin, "split": cfg.split})
    (folder / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return index


def draw_cards(folder: Path) -> None:
    """A picture of each class of DRAWN at the model's own settings, 96 px."""
    model = ddpm.load("emoji-32", device="cpu")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    *_, last = model.generate(DRAWN, range(len(DRAWN)), num_inference_steps=25, sampler="dpm++")
    for label, pixels in zip(DRAWN, ddpm.to_uint8(last.x_t), strict=True):
        picture = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        picture.save(folder / f"card-{label}.png", optimize=True)


if __name__ == "__main__":
    rows = main(tyro.cli(Config, description=__doc__))
    print(f"{len(rows)} pictures of {len({row['label'] for row in rows})} labels")
