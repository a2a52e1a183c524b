"""COCO's JSON files of boxes, as the rows of a folder of pictures: which lie beside them, or anywhere in the folder.

    train/_annotations.coco.json, train/1.jpg, …, valid/…           as Roboflow exports them
    annotations/instances_train2017.json, train2017/1.jpg, …        as COCO itself has them
    result.json, images/1.jpg, …                                    as Label Studio exports them: all is "train"

A file is of the split whose word is in its name, or in that of a folder around it. Of several of one split those called
"instances" are read, as there are. A row has a column `objects` {"bbox": [[left, top, width, height], …], "categories":
[name, …]}, and width and height as the file says them; where masks are wanted, "segmentation", too, each as a text of
JSON. Crowds (`iscrowd`) are left out.
"""

import json
import math
import re
from pathlib import Path, PurePosixPath

from training.data import folders
from training.data.files import DataError, Files, first_line, shown, some
from training.data.metadata import text_of
from training.data.said import WORDS, File, Known, check_missing, kind

MAX_BYTES = 2**30  # of one file: instances_train2017.json has 448 MB
CALLED = re.compile(r"coco|instances", re.IGNORECASE)  # who is called so has to be one
LISTS = ("images", "annotations", "categories")
LINES = 20  # of faults that a message lists
Faults = dict[str, list[str]]  # {what is wrong: where}


def read_masks(folder: Path, files: Files, where: str) -> folders.Found | None:
    """`read`, with masks."""
    return read(folder, files, where, masks=True)


def read(folder: Path, files: Files, where: str, masks: bool = False) -> folders.Found | None:
    """The splits of a folder with COCO's JSON files in it; None where it has none. Raises DataError."""
    home, names = folder.resolve(), folders.listed(folder)
    found: dict[str, dict] = {}
    for name in names:
        if kind(name) == ".json" and (content := _opened(files, home, name)) is not None:
            found[name] = content
    called = {name: content for name, content in found.items() if "instances" in name.lower()}
    if not found:
        return None
    tables, endings = called or found, folders.extensions()[0]
    pictures = [name for name in names if kind(name) in endings]
    if not pictures:
        raise DataError(f"{where}: {some(list(tables))} names pictures, but the folder has none: lay them beside it.")
    known = Known(files, home, names, folders.arranged(pictures, list(tables), {}))
    by_split: dict[str, list[dict]] = {}
    named_by: dict[str, str] = {}
    missing: list[tuple[str, str]] = []
    for name, content in tables.items():
        for row in _rows(name, content, where, masks):
            file = known.found(name, row["image"])
            if file is None:
                missing.append((name, row["image"]))
                continue
            if other := named_by.get(file):
                twice = f"{other} and {name} both name" if other != name else f"{name} twice names"
                raise DataError(f"{where}: {twice} {file}: keep one of the two.")
            named_by[file] = name
            by_split.setdefault(split_of(name), []).append(row | {"image": File(file)})
    if missing:
        check_missing(missing, len(named_by), names, where)
    left = [name for name in pictures if name not in named_by]
    why = {f"no image of {some(list(tables))}": left} if left else {}
    splits = {split: folders.dataset_of(home, rows, where) for split, rows in by_split.items()}
    return folders.Found(splits, {"train" if "train" in splits else min(splits, default="train"): why})


def split_of(name: str) -> str:
    """The split of an annotation file: by the word in its name, else in the nearest folder around it; else "train"."""
    path = PurePosixPath(name)
    for part in (path.stem, *reversed(path.parent.parts)):
        for word, split in WORDS.items():
            if re.search(rf"(?i)(?<![a-z]){word}(?![a-z])", part):
                return split
    return "train"


def _opened(files: Files, home: Path, name: str) -> dict | None:
    """What is in a JSON file, None where that isn't COCO's boxes. Raises DataError where it should be."""
    try:
        content = files.read(home / name, MAX_BYTES)
    except (DataError, OSError) as error:
        raise DataError(f"{name} cannot be read: {first_line(error)}.") from error
    called = CALLED.search(PurePosixPath(name).name)
    if not called and not all(f'"{key}"'.encode() in content for key in LISTS):
        return None
    try:
        found = json.loads(text_of(content, name))
    except (ValueError, RecursionError) as error:
        said = error if isinstance(error, DataError) else f"{name} is not JSON: {first_line(error)}"
        raise DataError(f"{str(said).rstrip('.')}: export or download it again.") from error
    lacks = [key for key in LISTS if not isinstance(found, dict) or not isinstance(found.get(key), list)]
    if lacks and not called:
        return None
    if lacks:
        raise DataError(f"{name} has no list of {lacks[0]}: a file of COCO's boxes has {', '.join(LISTS)}.")
    return found


def _rows(name: str, content: dict, where: str, masks: bool) -> list[dict]:
    """A row for each picture of a file. Raises DataError that lists what is wrong by picture."""
    faults: Faults = {}
    classes = _classes(name, content["categories"])
    rows: dict = {}
    for number, image in enumerate(content["images"], 1):
        file = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(file, str) or not file or not isinstance(image.get("id"), int | str):
            raise DataError(f"{name}, image {number}, has no `file_name` and `id`: it is {_short(image)}.")
        if image["id"] in rows:
            raise DataError(f"{name}: two images have the id {image['id']}, {rows[image['id']]['image']} and {file}.")
        sizes = {key: value if type(value := image.get(key)) is int else None for key in ("width", "height")}
        lists = ("bbox", "categories", "segmentation") if masks else ("bbox", "categories")
        rows[image["id"]] = {"image": file, "objects": {key: [] for key in lists}, **sizes}
    crowds = 0
    for number, note in enumerate(content["annotations"], 1):
        image_id = note.get("image_id") if isinstance(note, dict) else None
        row = rows.get(image_id) if isinstance(image_id, int | str) else None
        if row is None:
            raise DataError(f"{name}, annotation {number}, is of no image that is listed: it is {_short(note)}.")
        box, category = note.get("bbox"), note.get("category_id")
        if note.get("iscrowd"):
            crowds += 1
        elif not isinstance(category, int | str) or category not in classes:
            known = some([f"{key} {value}" for key, value in classes.items()])
            faults.setdefault(f"category_id {_short(category)} is none of its categories ({known})", []).append(
                row["image"]
            )
        elif not is_box(box):
            faults.setdefault(f"bbox {_short(box)} is not [left, top, width, height]", []).append(row["image"])
        else:
            row["objects"]["bbox"].append([float(value) for value in box])
            row["objects"]["categories"].append(classes[category])
            if masks:
                row["objects"]["segmentation"].append(json.dumps(note.get("segmentation")))
    if faults:
        raise DataError(f"{where}, {name}:{listed_faults(faults)}")
    if crowds:
        print(f"{where}, {name}: {crowds} crowds are left out")
    return list(rows.values())


def _classes(name: str, categories: list) -> dict:
    """{id: name}. Raises DataError for a category without."""
    classes = {}
    for category in categories:
        called = category.get("name") if isinstance(category, dict) else None
        if not isinstance(called, str) or not called.strip() or not isinstance(category.get("id"), int | str):
            raise DataError(f'{name}: a category is {_short(category)}, not {{"id": 1, "name": "cat"}}.')
        if category["id"] in classes:
            raise DataError(f"{name}: two categories have the id {category['id']}: give each its own.")
        classes[category["id"]] = called.strip()
    return classes


def is_box(value) -> bool:
    """Whether it is a list of four finite numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)
        and all(math.isfinite(part) for part in value)
    )


def listed_faults(faults: Faults) -> str:
    """What is wrong and in which files, for the end of a message."""
    lines = [f"{some(list(dict.fromkeys(places)))}: {said}" for said, places in faults.items()]
    more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return ("\n  " if len(lines) > 1 else " ") + "\n  ".join([*lines[:LINES], *more])


def _short(value) -> str:
    return shown(json.dumps(value, ensure_ascii=False)[:120]) if isinstance(value, str) else str(value)[:120]
