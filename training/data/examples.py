"""Writes apps/examples: what people can try without pictures of their own, and what the home page's cards show.

    python -m training.data.examples [--parts classifier ddpm …] [--output_dir apps/examples]

Takes a minute, after `make data`. classifier/ gets two pictures a class that no script trains on, families/ some of
these; their index.json lists file, name, label, art set, licence and split of every picture. ddpm/ and text_to_image/
get what the shipped weights draw. segmentation/ gets scenes with their masks, detection/ some with the sentence that
says what is in them. captioning/ gets pictures whose name and
style are both in the training data, but not together, and scenes that are not in it. The last two and the first two
open with their first drawing, and photographs out of scikit-image and scikit-learn (`pip install scikit-learn`) stand
next. families/textures/ gets squares cut out of such photographs. pretrain/known/ gets a sheet of
pictures that no script trains on, some of each class, among which a picture's neighbours are looked for.
"""

import importlib.util
import json
import shutil
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tyro
from datasets import Dataset
from PIL import Image

from hub_models import ddpm, text_to_image
from hub_models.palette import default_palette
from hub_models.pictures import frame
from training.data.captions import MOST_SAID, scene_caption, spoken
from training.data.scenes import Scenes


def named(text: str) -> tuple[tuple[str, str], ...]:
    """(name, style) of each picture in a table of NAME/STYLE."""
    parts = (picture.strip().partition("/") for picture in text.split(","))
    return tuple((name, style) for name, _, style in parts)


# All of the validation split, whose concepts are in no training picture.
PICTURES = named("""
    pleading face/noto, fox/fluent, birthday cake/noto, rose/fluent-flat, airplane departure/fluent,
    flag: Cuba/twemoji, soccer ball/fluent, octopus/twemoji, post office/noto, doughnut/fluent, tornado/fxemoji,
    firefighter/noto, yin yang/twemoji, shamrock/noto, moai/fluent, face blowing a kiss/fluent-flat,
    monorail/twemoji, milky way/noto, woman dancing/fluent, purple heart/fluent-flat, bell/fxemoji,
    flag: Ghana/twemoji, baseball/noto, post office/fluent
""")
# All of the split heldout_pairs, which no script trains on.
CAPTIONED = named("""
    smiling face with sunglasses/twemoji, thinking face/noto, detective/noto, dog/noto, spouting whale/fluent,
    crab/twemoji, mushroom/fluent-flat, pancakes/fluent, carrot/fluent, fire engine/fluent, taxi/fxemoji,
    circus tent/noto, wrapped gift/noto, camera/fluent, broken heart/fluent, cloud with lightning and rain/twemoji
""")
# Of PICTURES, one of most classes.
SEEN = named("""
    pleading face/noto, birthday cake/noto, fox/fluent, rose/fluent-flat, airplane departure/fluent, firefighter/noto,
    flag: Cuba/twemoji, purple heart/fluent-flat
""")
# Of the validation split, in pairs: things that have parts in common, in one style and in another.
COMPARED = named("""
    fox/fluent, pleading face/noto, firefighter/noto, octopus/twemoji, birthday cake/noto,
    face blowing a kiss/fluent-flat, rose/fluent-flat, woman dancing/fluent
""")
KNOWN_EACH, KNOWN_COLUMNS, KNOWN_PX = 20, 20, 64  # pictures a class at most, and the sheet that they lie on
CAPTIONED_SCENES = 8  # the first of the set, not the best
DRAWN = ("face", "person", "food", "vehicle", "plant", "flag")  # one picture each, seeds 0, 1, …: the first
WRITTEN = ("a grinning face", "a cat face", "a red apple", "a sunflower", "an automobile", "a guitar")  # seeds 0, 1, …
ORIGIN = ("name", "style", "license", "source")
STYLES = ("noto", "twemoji", "fluent", "fluent-flat", "fxemoji")  # permissive; OpenMoji is share-alike and stays out
SCENES = {"new_scenes": 24, "validation": 24}  # the first of each set, not the best; OpenMoji's again stay out
COUNTED = {"new_scenes": 8, "validation": 4}  # likewise
SETS_CREDIT = (
    "Noto Emoji (Google, Apache-2.0), Twemoji (Twitter, Inc. and other contributors, CC BY 4.0), Fluent Emoji "
    "(Microsoft, MIT), FxEmojis (Mozilla, Apache-2.0)"
)
SCENES_CREDIT, ART_CREDIT = f"Scenes: painted from {SETS_CREDIT}", f"Art: {SETS_CREDIT}; scenes are painted from it"
PHOTOGRAPHS = (  # name, package, file in it, by, licence, source; as the packages' own notes say
    ("astronaut", "skimage", "data/astronaut.png", "NASA", "public domain", "https://flic.kr/p/r9qvLn"),
    ("cat", "skimage", "data/chelsea.png", "Stefan van der Walt", "CC0-1.0", "scikit-image: chelsea"),
    ("coffee", "skimage", "data/coffee.png", "Rachel Michetti", "CC0-1.0", "scikit-image: coffee"),
    ("rocket", "skimage", "data/rocket.jpg", "SpaceX", "CC0-1.0",
     "https://www.flickr.com/photos/spacexphotos/16511594820/"),
    ("temple", "sklearn", "datasets/images/china.jpg", "danielbuechele", "CC-BY-2.0",
     "https://www.flickr.com/photos/danielbuechele/6061409035/"),
)  # fmt: skip
PHOTOGRAPH_PX = 640  # at most, of the longer side
TEXTURES = (  # name, file of scikit-image, the square that is cut out, by, source
    ("wood", "data/coffee.png", (490, 170, 590, 270), "Rachel Michetti", "scikit-image: coffee"),
    ("fur", "data/chelsea.png", (205, 0, 301, 96), "Stefan van der Walt", "scikit-image: chelsea"),
    ("bricks", "data/brick.png", (0, 0, 320, 320), "CC0Textures", "https://cc0textures.com/view.php?tex=Bricks25"),
)
TEXTURE_PX = 128  # at most, of a side
Part = Literal[
    "classifier", "ddpm", "segmentation", "detection", "text_to_image", "captioning", "families", "pretrain"
]  # fmt: skip
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Config:
    data_dir: Path = Path("build/data/emoji")  # what training.data.emoji wrote
    output_dir: Path = Path("apps/examples")
    split: str = "validation"
    parts: tuple[Part, ...] = PARTS


def main(cfg: Config) -> None:
    """Write the parts asked for. Raises SystemExit where the data is not built or a package is missing."""
    if "classifier" in cfg.parts:
        print(f"classifier: {len(choose_pictures(cfg, 'classifier', PICTURES))} pictures")
    if "families" in cfg.parts:
        print(f"families: {len(choose_pictures(cfg, 'families', SEEN))} pictures")
        print(f"families: {len(cut_textures(cfg.output_dir / 'families' / 'textures'))} textures")
    if "pretrain" in cfg.parts:
        print(f"pretrain: {len(choose_pictures(cfg, 'pretrain', COMPARED))} pictures")
        print(f"pretrain: {len(known_sheet(cfg))} known pictures")
    if "ddpm" in cfg.parts:
        draw_cards(cfg.output_dir / "ddpm")
    if "text_to_image" in cfg.parts:
        draw_wishes(cfg.output_dir / "text_to_image")
    if "segmentation" in cfg.parts:
        print(f"segmentation: {len(paint_scenes(cfg.output_dir / 'segmentation'))} scenes and photographs")
    if "detection" in cfg.parts:
        print(f"detection: {len(count_scenes(cfg.output_dir / 'detection'))} scenes")
    if "captioning" in cfg.parts:
        print(f"captioning: {len(choose_captioned(cfg))} pictures and scenes")


def choose_pictures(cfg: Config, part: str, chosen: tuple[tuple[str, str], ...]) -> list[dict]:
    """The rows of a part's index.json, after writing it and the pictures."""
    folder = cfg.output_dir / part
    index = save_pictures(folder, cfg.data_dir, cfg.split, chosen)
    for row in index:
        row["credit"] = f"Art: {SETS_CREDIT}"
    return written(folder, index)


def save_pictures(folder: Path, data_dir: Path, split: str, pictures: tuple[tuple[str, str], ...]) -> list[dict]:
    """Rows on the pictures (name, style) of a split, after writing them into the folder in place of what was there."""
    data = opened_split(data_dir, split)
    label_names = data.features["label"].names
    wanted = dict.fromkeys(pair for pair in pictures if pair[1] in STYLES)
    places: dict[tuple[str, str], int] = {}
    plain = data.remove_columns("image")
    for i, row in enumerate(plain):
        if not row["skin_tone"] and (row["name"], row["style"]) in wanted:
            places.setdefault((row["name"], row["style"]), i)
    missing = [" / ".join(pair) for pair in wanted if pair not in places]
    if missing:
        raise SystemExit(f"not in the {split} split, choose others: {', '.join(missing)}")

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    for number, (name, style) in enumerate(wanted, start=1):
        row = data[places[name, style]]
        slug = "".join(c if c.isalnum() else "-" for c in name.lower().replace(": ", "-"))
        file = f"{number:02d}-{slug}-{style}.png"
        row["image"].save(folder / file, optimize=True)
        origin = {key: row[key] for key in ORIGIN}
        rows.append({"file": file, "label": label_names[row["label"]], **origin, "split": split})
    return rows


def known_sheet(cfg: Config) -> list[dict]:
    """The rows of pretrain/known/index.json, after writing it and the sheet: KNOWN_EACH pictures a class at most.

    All of them are ones that no script trains on, and none is among the examples; styles take turns.
    """
    folder, rows, tiles = cfg.output_dir / "pretrain" / "known", [], []
    count: dict[int, int] = {}
    for split in ("validation", "heldout_pairs"):
        data = opened_split(cfg.data_dir, split)
        rows_of: dict[str, list[int]] = {style: [] for style in STYLES}
        for i, row in enumerate(data.remove_columns("image")):
            shown = (row["name"], row["style"]) in (*PICTURES, *COMPARED)
            if row["style"] in rows_of and not row["skin_tone"] and not shown:
                rows_of[row["style"]].append(i)
        for turn in zip_longest(*rows_of.values()):
            for i in (i for i in turn if i is not None):
                row = data[i]
                if count.setdefault(row["label"], 0) < KNOWN_EACH:
                    count[row["label"]] += 1
                    tiles.append(np.asarray(frame(row["image"], KNOWN_PX)))
                    label = data.features["label"].names[row["label"]]
                    rows.append({"label": label} | {key: row[key] for key in ORIGIN} | {"split": split})
    folder.mkdir(parents=True)
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % KNOWN_COLUMNS)
    sheet = np.stack(tiles).reshape(-1, KNOWN_COLUMNS, KNOWN_PX, KNOWN_PX, 3).swapaxes(1, 2)
    image = Image.fromarray(sheet.reshape(-1, KNOWN_COLUMNS * KNOWN_PX, 3))
    image.save(folder / "known.jpg", quality=88, subsampling=0, optimize=True)
    return listed(folder, rows)


def opened_split(data_dir: Path, split: str) -> Dataset:
    """The pictures of a split. Raises SystemExit where there is none."""
    files = sorted(str(file) for file in data_dir.glob(f"data/{split}-*.parquet"))
    if not files:
        raise SystemExit(f"{data_dir}/data has no {split} split: run `make data` first")
    return Dataset.from_parquet([*files])


def choose_captioned(cfg: Config) -> list[dict]:
    """The rows of captioning/index.json, after writing it, the pictures and the scenes."""
    folder = cfg.output_dir / "captioning"
    index = save_pictures(folder, cfg.data_dir, "heldout_pairs", CAPTIONED)
    for row in index:
        row["credit"] = ART_CREDIT
    scenes = Scenes("new_scenes", length=CAPTIONED_SCENES, max_objects=MOST_SAID)
    for number in range(CAPTIONED_SCENES):
        scene, file = scenes.scene(number), f"scene-{number:02d}.png"
        scene.image.save(folder / file, optimize=True)
        objects = [{"name": o.name} | origin(scenes, o) for o in scene.objects]
        said = scene_caption(scene.objects)
        index.append(
            {"file": file, "name": said, "credit": ART_CREDIT, "set": "new_scenes", "scene": number, "objects": objects}
        )
    return written(folder, index)


def origin(scenes: Scenes, thing) -> dict:
    """Style, licence and source of the drawing that an object of a scene is."""
    return {key: scenes.source.column(key)[thing.source_index] for key in ("style", "license", "source")}


def written(folder: Path, index: list[dict]) -> list[dict]:
    """The rows of an index.json, after writing it, a line each: with photographs behind the first drawing."""
    index[1:1] = photographs(folder)
    return listed(folder, index)


def listed(folder: Path, index: list[dict]) -> list[dict]:
    """The rows of an index.json, after writing it, a line each."""
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in index)
    (folder / "index.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    return index


def photographs(folder: Path) -> list[dict]:
    """Rows on the photographs, after writing them. Raises SystemExit where their packages are missing."""
    places, rows = places_of({package for _, package, *_ in PHOTOGRAPHS}), []
    for name, package, file, by, license, source in PHOTOGRAPHS:
        with Image.open(places[package] / file) as picture:
            picture = picture.convert("RGB")
        picture.thumbnail((PHOTOGRAPH_PX, PHOTOGRAPH_PX), Image.Resampling.LANCZOS)
        picture.save(folder / f"photo-{name}.jpg", quality=85, optimize=True)
        facts = {"name": name, "credit": f"{name}: {by}, {license}", "license": license, "source": source}
        rows.append({"file": f"photo-{name}.jpg", **facts})
    return rows


def places_of(packages: set[str]) -> dict[str, Path]:
    """{package: its folder}. Raises SystemExit where one is missing."""
    specs = {package: importlib.util.find_spec(package) for package in sorted(packages)}
    places = {package: Path(spec.origin).parent for package, spec in specs.items() if spec and spec.origin}
    if missing := [package for package in specs if package not in places]:
        raise SystemExit(f"the photographs come with {', '.join(missing)}: pip install scikit-image scikit-learn")
    return places


def cut_textures(folder: Path) -> list[dict]:
    """The rows of families/textures/index.json, after writing it and the textures."""
    place, rows = places_of({"skimage"})["skimage"], []
    folder.mkdir(parents=True, exist_ok=True)
    for name, source_file, box, by, source in TEXTURES:
        with Image.open(place / source_file) as picture:
            picture = picture.convert("RGB").crop(box)
        picture.thumbnail((TEXTURE_PX, TEXTURE_PX), Image.Resampling.LANCZOS)
        picture.save(folder / f"{name}.jpg", quality=90, optimize=True)
        facts = {"name": name, "credit": f"{name}: {by}, CC0-1.0", "license": "CC0-1.0", "source": source}
        rows.append({"file": f"{name}.jpg", **facts})
    return listed(folder, rows)


def draw_cards(folder: Path) -> None:
    """A picture of each class of DRAWN at the model's own settings, 96 px."""
    model = ddpm.load("emoji-32", device="cpu")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    *_, last = model.generate(DRAWN, range(len(DRAWN)), num_inference_steps=25, sampler="dpm++")
    for label, pixels in zip(DRAWN, ddpm.to_uint8(last.x_t), strict=True):
        picture = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        picture.save(folder / f"card-{label}.png", optimize=True)


def draw_wishes(folder: Path) -> None:
    """What the text-to-image model draws for each of WRITTEN at its own settings, 96 px."""
    model = text_to_image.load("emoji", device="cpu")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    *_, last = model.generate(WRITTEN, range(len(WRITTEN)))
    for number, picture in enumerate(model.decode(last.latents), start=1):
        picture.resize((96, 96), Image.Resampling.LANCZOS).save(folder / f"card-{number}.png", optimize=True)


def paint_scenes(folder: Path) -> list[dict]:
    """The rows of index.json, after writing it, the scenes with their masks (palette PNGs of ids) and photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        if not old.name.startswith("card"):  # those are screenshots
            old.unlink()
    index = []
    for which, count in SCENES.items():
        scenes = Scenes(which, length=count)
        for number in range(count):
            scene, stem = scenes.scene(number), f"{which}-{number:02d}".replace("_", "-")
            scene.image.save(folder / f"{stem}.png", optimize=True)
            mask = Image.fromarray(scene.mask)
            mask.putpalette([part for colour in default_palette(scenes.label_names) for part in colour])
            mask.save(folder / f"{stem}-mask.png", optimize=True)
            row = {"file": f"{stem}.png", "mask": f"{stem}-mask.png", "label_names": scenes.label_names}
            index.append(row | scene_row(scenes, number))
    return written(folder, index)


def count_scenes(folder: Path) -> list[dict]:
    """The rows of detection/index.json, after writing it and the scenes; said: what is in one, as people say it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = []
    for which, count in COUNTED.items():
        scenes = Scenes(which, length=count)
        for number in range(count):
            scene, file = scenes.scene(number), f"{which}-{number:02d}.png".replace("_", "-")
            scene.image.save(folder / file, optimize=True)
            said = ", ".join(spoken(o.name) for o in scene.objects)
            index.append({"file": file, "said": said} | scene_row(scenes, number))
    return listed(folder, index)


def scene_row(scenes: Scenes, number: int) -> dict:
    """What an index says of a scene: its name, credit and number, and class, place and origin of each object."""
    things = scenes.scene(number).objects
    objects = [{"name": o.name, "label": scenes.label_names[o.label], "box": o.box} | origin(scenes, o) for o in things]
    said = ", ".join(o.name for o in things)
    return {"name": said, "credit": SCENES_CREDIT, "set": scenes.which, "scene": number, "objects": objects}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
