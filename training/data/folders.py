"""A folder of pictures as rows, by rules of our own: which files are read, of which split and class each is.

Splits are folders whose whole names say so: train, validation, test, or a synonym of WORDS, at the top or in the one
folder above, such as images/ and masks/; or as the README's front matter says. A word in any other name is a word.
Without such folders all is "train".

What is said of pictures stands in metadata files (`training.data.metadata`), wherever they lie, or in a .txt file
beside each; without metadata folders are classes, and two folders such as images/ and masks/ are pairs by name.
"""

import contextlib
import difflib
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from hub_models.pictures import formats
from training.data.files import MAX_SKIPPED_SHARE, DataError, Files, choices, first_line, shown, some
from training.data.metadata import FILE, captions_in, metadata_files, rows_of, text_of

WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
YEAR = re.compile(r"[-_]?\d{4}$")  # train2017
IMAGES = {"images", "image", "imgs", "img", "pictures", "photos", "jpegimages"}
MASKS = {"masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "gt"}
MASK_ENDINGS = ("_mask", "-mask", "_gt", "_seg", "_label", "_labels")  # of a mask's name beside its picture's
TABLES = (".parquet", ".arrow")  # with these in it, a folder isn't one of pictures
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
SIDECARS = (".txt", ".caption")
HEIC = (".heic", ".heif", ".hif")
OTHERS = {".avif", ".jxl", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2"}  # beside PIL's own
Left = dict[str, list[str]]  # {why a picture is not read: their files}


@dataclass(frozen=True)
class Found:
    """The splits of a data set as `datasets.Dataset`s, nothing decoded, and of each the files that no row has.

    left: None where that isn't known, as of tables of the Hub. tables: whether it is of tables that hold the pictures.
    """

    splits: dict[str, Any]
    left: dict[str, Left] | None
    tables: bool = False


Place = Callable[[str], tuple[str | None, tuple[str, ...]]]  # of a file: its split, and the folders below that


def read(folder: Path, files: Files, where: str, caption_column: str | None, named: dict[str, str]) -> Found | None:
    """The pictures of a folder; None where it holds none, or tables of them.

    files: where what is read may lie. caption_column: looked into at once. named: {folder at the top: split} beside
    WORDS. Raises DataError for what is wrong in a metadata file, and where more than 5 % of the pictures of a split
    would not be read.
    """
    home, names, (endings, others) = folder.resolve(), listed(folder), extensions()
    said = metadata_files(names)
    if any(kind(name) in TABLES and name not in said for name in names):
        return None
    pictures = [name for name in names if kind(name) in endings]
    unread = {
        name: "`pip install pillow-heif` reads them" if kind(name) in HEIC else "save them as PNG or JPEG"
        for name in names
        if kind(name) in others
    }
    archives = [name for name in names if kind(name) in ARCHIVES]
    if archives and not pictures and not unread:
        raise DataError(f"{where}: pictures in an archive are not read: unpack {shown(archives[0])} into the folder.")
    if not pictures and not unread:
        return None
    if archives:
        print(f"{where}: what is in {some(archives)} is not read: unpack it, if it isn't")
    place = arranged([*pictures, *unread], said, named)
    if said:
        rows = _said(files, home, names, said, where, caption_column)
        reason = f"no row of {some(said)}"
    elif _is_pair({parts[0] if parts else "" for _, parts in map(place, pictures)}):
        rows, reason = _pairs(pictures, place), "its picture or mask is missing"
    else:
        rows, reason = _folders(files, home, pictures, names, place), "no .txt beside it"
    used = {value for row in rows for value in row.values() if isinstance(value, _File)}
    split_of = {name: place(name)[0] for name in [*pictures, *unread, *(row["image"] for row in rows)]}
    left: dict[str, Left] = {}
    for name in [*pictures, *unread]:
        why = "in no folder of a split" if split_of[name] is None else unread.get(name, reason)
        if split_of[name] is None or name not in used and not (said and _kept_for_masks(name)):
            left.setdefault(split_of[name] or "train", {}).setdefault(why, []).append(name)
    by_split = {}
    for row in rows:
        by_split.setdefault(split_of[row["image"]], []).append(row)
    by_split.pop(None, None)
    for split, lost in left.items():
        many = sum(map(len, lost.values()))
        count = many + len(by_split.get(split, ()))
        if many > MAX_SKIPPED_SHARE * count:
            raise DataError(
                f"{where}: {many} of {count} pictures on disk ({split}) would not be read, more than "
                f"{MAX_SKIPPED_SHARE:.0%}: {left_out(lost)}. Mend that, or move them out of the folder."
            )
    return Found({split: _dataset(home, own, where) for split, own in by_split.items()}, left)


def left_out(left: Left) -> str:
    """The files that are not read, for a message."""
    return "; ".join(f"{some(names)} ({why})" for why, names in left.items())


class _File(str):
    """A file that a row names, relative to the folder."""


def extensions() -> tuple[set[str], set[str]]:
    """The endings of pictures that are read here, in small letters, and those of pictures that are not."""
    kinds, known = formats(), Image.registered_extensions()
    endings = {ending for ending, kind in known.items() if kind in kinds}
    return endings, {*(ending for ending, kind in known.items() if kind in Image.OPEN), *OTHERS, *HEIC} - endings


def listed(folder: Path) -> list[str]:
    """All files of a folder but hidden ones, relative to it, sorted; a link to a folder inside is that folder's twin.

    Raises DataError for a name that is no text.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        here = Path(parent).relative_to(folder).as_posix()
        names += [posixpath.normpath(f"{here}/{name}") for name in files if not name.startswith(".")]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{name.encode('utf-8', 'replace').decode()!r} is no name in UTF-8: rename it.") from None
    return sorted(names)


def kind(name: str) -> str:
    """The ending of a file's name, in small letters."""
    return PurePosixPath(name).suffix.lower()


def _kept_for_masks(name: str) -> bool:
    return any(part.lower() in MASKS for part in PurePosixPath(name).parent.parts)


def _is_pair(tops: set[str]) -> bool:
    low = {top.lower() for top in tops}
    return len(low) == 2 and bool(low & IMAGES) and bool(low & MASKS)


def arranged(pictures: Sequence[str], said: Sequence[str], named: dict[str, str]) -> Place:
    """Which split a file is of, None where it is in none, and the other folders that it is in.

    Folders of splits lie at the top, below folders that are around everything, or below a folder each (images/train,
    masks/train). said: the metadata files. named: {folder: split} that the data set's description names.
    """

    def known(name: str) -> str | None:
        return named.get(name) or WORDS.get(YEAR.sub("", name.lower()))

    parts, around = [PurePosixPath(name).parent.parts for name in pictures], 0
    while all(len(p) > around + 1 for p in parts) and len({p[around] for p in parts}) == 1:
        if known(parts[0][around]):
            break
        around += 1
    prefix, parts = parts[0][:around], [p[around:] for p in parts]
    tops = {p[0] for p in parts if p}
    words = {known(top) for top in tops} - {None}
    deep = any(len(p) > 1 and known(p[0]) for p in parts)
    deep = deep or any(known(top) for name in said for top in PurePosixPath(name).parent.parts[around : around + 1])
    only = bool(tops) and all(known(top) for top in tops)
    first = ("train" in words and (only or deep or len(words) > 1)) or (only and deep) or any(t in named for t in tops)
    below = {known(p[1]) if len(p) > 1 else None for p in parts}
    second = not first and None not in below and "train" in below

    def place(name: str) -> tuple[str | None, tuple[str, ...]]:
        folders = PurePosixPath(name).parent.parts
        if not first and not second:
            return "train", folders
        inside = folders[around:] if folders[:around] == prefix else ()
        if second and len(inside) > 1:
            return known(inside[1]), (inside[0], *inside[2:])
        return (known(inside[0]), inside[1:]) if first and inside else (None, ())

    return place


# --- What is said of pictures ----------------------------------------------------------------------------------------


def _said(
    files: Files, home: Path, names: list[str], said: Sequence[str], where: str, caption_column: str | None
) -> list[dict]:
    """The rows of the metadata files, files relative to the folder. A few that name what isn't there are left out."""
    there, alike = set(names), {}
    for name in names:
        alike.setdefault(_plain(name), []).append(name)
    rows, counts, missing = [], Counter(), []
    for place in said:
        try:
            table = rows_of(files.read(home / place), place)
        except (OSError, DataError) as error:
            raise error if str(error).startswith(place) else DataError(f"{place}: {first_line(error)}.") from error
        if FILE not in table[0] and isinstance(table[0].get("image"), str):
            table = [{FILE if key == "image" else key: value for key, value in row.items()} for row in table]
        columns = [key for key in table[0] if key == FILE or key.endswith(f"_{FILE}")]
        if FILE not in columns:
            raise DataError(f"{place} has no column `{FILE}`. {choices(FILE, table[0], 'It has')}")
        for number, row in enumerate(table, 1):
            made, lost = {}, []
            for column in columns:
                name = row.get(column)
                if not isinstance(name, str) or not name:
                    raise DataError(f"{place}, row {number}: `{column}` is {name!r}, not the name of a file.")
                try:
                    found = _found(files, home, posixpath.dirname(place), name, there, alike)
                except DataError as error:
                    raise DataError(f"{place}, row {number}: {error}.") from error
                made[column[: -len(FILE) - 1] or "image"] = _File(found or "")
                lost += [] if found else [row[column]]
            if caption_column is not None and caption_column in table[0]:
                captions_in(row.get(caption_column), f"{place}, {row[FILE]}", caption_column)
            if lost:
                missing.append((place, lost[0] if len(lost[0]) <= 120 else shown(lost[0])))
                continue
            counts[made["image"]] += 1
            if counts[made["image"]] > 1:
                count = sum(other.get(FILE) == row[FILE] for other in table)
                raise DataError(f"{place} names {row[FILE]} {max(2, count)} times: keep one row for each picture.")
            rows.append(made | {key: value for key, value in row.items() if key not in columns and key not in made})
    if missing:
        _check_missing(missing, len(rows), names, where)
    return rows


def _found(
    files: Files, home: Path, parent: str, name: str, there: set[str], alike: dict[str, list[str]]
) -> str | None:
    """The file that a row names, or the only one whose name differs in case or form alone; None where there is none.

    Raises DataError where it leads out of the folder.
    """
    for text in (name, name.strip().replace("\\", "/")):
        within, resolved = files.place(home / posixpath.join(parent, text))
        inside = posixpath.normpath(posixpath.join(parent, text))
        if inside in there:
            return inside
    others = alike.get(_plain(inside), [])
    if len(others) == 1:
        return others[0]
    with contextlib.suppress(OSError):  # a name too long
        return resolved.as_posix() if within == home and (home / resolved).is_file() else None
    return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _check_missing(missing: list[tuple[str, str]], count: int, names: Iterable[str], where: str) -> None:
    """Say which rows are left out as their files are missing. Raises DataError where they are more than 5 %."""
    place, name = missing[0]
    beside = {PurePosixPath(other).name: posixpath.relpath(other, posixpath.dirname(place)) for other in names}
    guess = difflib.get_close_matches(PurePosixPath(name).name, beside, 1)
    said = f"{place} names {name}, which is not there." + (f" Did you mean {beside[guess[0]]}?" if guess else "")
    more = f" So do {len(missing)} of {len(missing) + count} rows: {some([name for _, name in missing])}."
    if len(missing) > MAX_SKIPPED_SHARE * (len(missing) + count):
        raise DataError(said + more * (len(missing) > 1))
    print(f"{where}: {len(missing)} of {len(missing) + count} rows left out: {said}{more * (len(missing) > 1)}")


def _pairs(pictures: Sequence[str], place: Place) -> list[dict]:
    """Pictures below images/ with what has the same name below masks/."""
    masks, rows = {}, []
    for name in pictures:
        split, (top, *rest) = place(name)
        stem = PurePosixPath(name).stem
        for ending in ("", *MASK_ENDINGS):
            if top.lower() in MASKS and stem.lower().endswith(ending):
                masks.setdefault((split, *rest, stem[: len(stem) - len(ending)]), name)
    for name in pictures:
        split, (top, *rest) = place(name)
        mask = masks.get((split, *rest, PurePosixPath(name).stem))
        if top.lower() in IMAGES and mask:
            rows.append({"image": _File(name), "label": _File(mask)})
    return rows


def _folders(files: Files, home: Path, pictures: Sequence[str], names: Sequence[str], place: Place) -> list[dict]:
    """Pictures with the class that their folder names, and the text beside them; without these columns where none has.

    The class is the folder that a picture lies in; where some lie deeper than others, the one nearest to the top.
    Where most have a text, those without are left out.
    """
    below = {name: place(name)[1] for name in pictures}
    while below and all(len(b) > 1 for b in below.values()) and len({b[0] for b in below.values()}) == 1:
        below = {name: b[1:] for name, b in below.items()}
    which = -1 if len({len(b) for b in below.values()}) == 1 else 0
    texts = {str(PurePosixPath(name).with_suffix("")): name for name in names if kind(name) in SIDECARS}
    beside = {name: texts.get(str(PurePosixPath(name).with_suffix(""))) for name in pictures}
    told, classed, rows = sum(map(bool, beside.values())), any(below.values()), []
    for name, folders in below.items():
        row: dict = {"image": _File(name)}
        text = beside[name]
        if not text and 2 * told > len(pictures):
            continue
        if classed:
            row["label"] = folders[which] if folders else None
        if told:
            row["text"] = " ".join(text_of(files.read(home / text), text).split()) if text else None
        rows.append(row)
    if classed:  # a class has the same number in every split
        number = {label: k for k, label in enumerate(sorted({row["label"] for row in rows} - {None}))}
        for row in rows:
            row["label"] = _Class(row["label"], number)
    return rows


class _Class:
    """A class of folders: its name, None where there is none, and {name: number} of all."""

    def __init__(self, name: str | None, number: dict[str, int]):
        self.index, self.names = None if name is None else number[name], list(number)


def _dataset(home: Path, rows: list[dict], where: str):
    """Rows as a `datasets.Dataset`; files by their whole paths. Raises DataError where a column has two types."""
    import datasets
    import pyarrow

    columns, features = {}, {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values: list[Any] = [row.get(name) for row in rows]
        kinds = {type(value) for value in values} - {type(None)}
        if kinds == {_File}:
            columns[name] = [value and {"bytes": None, "path": str(home / value)} for value in values]
            features[name] = datasets.Image(decode=False)
        elif kinds == {_Class}:
            columns[name] = [value.index for value in values]
            features[name] = datasets.ClassLabel(names=values[0].names)
        else:
            if kinds == {str, list}:
                values = [[value] if isinstance(value, str) else value for value in values]
            try:
                array = pyarrow.array(values)
            except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
                usual = Counter(type(value) for value in values).most_common(1)[0][0]
                odd = next((row for row, value in zip(rows, values, strict=True) if type(value) is not usual), rows[0])
                raise DataError(
                    f"{where}, {odd['image']}: column '{name}' is {odd.get(name)!r}, which does not go with the "
                    f"others ({usual.__name__}): {first_line(error)}."
                ) from error
            columns[name] = array
            features[name] = datasets.Features.from_arrow_schema(pyarrow.schema([(name, array.type)]))[name]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
