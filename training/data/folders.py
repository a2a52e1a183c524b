"""A folder of pictures as rows, by rules of our own: which files are read, of which split and class each is.

Splits are folders whose whole names say so: train, validation, test, or a synonym of WORDS, at the top or in the one
folder above, such as images/ and masks/; or names that differ in such a word alone (training_set, test_set); or as the
README's front matter says. A word in any other name is a word. Without such folders all is "train".

What is said of pictures stands in metadata files (`training.data.metadata`), wherever they lie, in any other table that
names them (labels.csv, captions.txt), or in a .txt file beside each; without metadata folders are classes, and two
folders such as images/ and masks/ are pairs by name.
"""

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
from training.data.files import MAX_SKIPPED_SHARE, DataError, Files, first_line, shown, some
from training.data.metadata import KINDS, metadata_files, text_of
from training.data.said import SIDECARS, WORD, WORDS, File, Place, kind, naming, plain, said_rows

YEAR = re.compile(r"[-_]?\d{4}$")  # train2017
IMAGES = {"images", "image", "imgs", "img", "pictures", "photos", "jpegimages"}
MASKS = {"masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "gt"}
MASK_ENDINGS = ("_mask", "-mask", "_gt", "_seg", "_label", "_labels")  # of a mask's name beside its picture's
TABLES = (".parquet", ".arrow")  # with these in it, a folder isn't one of pictures
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
HEIC = (".heic", ".heif", ".hif")
OTHERS = {".avif", ".jxl", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2"}  # beside PIL's own
FOLDERS_OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
HEADS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")  # how files of pictures begin
Left = dict[str, list[str]]  # {why a picture is not read: their files}


@dataclass(frozen=True)
class Found:
    """The splits of a data set as `datasets.Dataset`s, nothing decoded, and of each the files that no row has.

    left: None where that isn't known, as of tables of the Hub. tables: whether it is of tables that hold the pictures.
    """

    splits: dict[str, Any]
    left: dict[str, Left] | None
    tables: bool = False


Reader = Callable[[Path, Files, str], Found | None]  # of a folder, as it is called in messages


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
    pictures = [name for name in names if kind(name) in endings or _unnamed_picture(files, home, name, others)]
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
    place, tables = arranged([*pictures, *unread], said, named), []
    if said:
        rows, reason = [], ""
    elif _is_pair({parts[0] if parts else "" for _, parts in map(place, pictures)}):
        rows, reason = _pairs(pictures, place), "its picture or mask is missing"
    else:
        rows, reason = _folders(files, home, pictures, names, place), "no .txt beside it"
        if not any("text" in row for row in rows) and len({row["label"].index for row in rows if "label" in row}) < 2:
            said = tables = naming(files, home, names, pictures, place)  # folders say nothing
        if tables:
            print(f"{where}: what is said of the pictures is read from {some(tables)}")
    if said:
        rows = said_rows(files, home, names, said, where, caption_column, place if tables else None)
        reason = f"no row of {some(said)}"
    used = {value for row in rows for value in row.values() if isinstance(value, File)}
    split_of = {name: place(name)[0] for name in [*pictures, *unread, *(row["image"] for row in rows)]}
    left: dict[str, Left] = {}
    for name in [*pictures, *unread]:
        why = "in no folder of a split" if split_of[name] is None else unread.get(name, reason)
        spare = said and (_kept_for_masks(name) or kind(name) not in endings | others)  # for another use
        if split_of[name] is None or name not in used and not spare:
            left.setdefault(split_of[name] or "train", {}).setdefault(why, []).append(name)
    by_split = {}
    for row in rows:
        by_split.setdefault(split_of[row["image"]], []).append(row)
    by_split.pop(None, None)
    for split, lost in left.items():
        many = sum(map(len, lost.values()))
        if tables and split != "train" and split not in by_split:
            print(f"{where}: {split} is left out: {left_out(lost)}")
            continue
        count = many + len(by_split.get(split, ()))
        if many > MAX_SKIPPED_SHARE * count:
            raise DataError(
                f"{where}: {many} of {count} pictures on disk ({split}) would not be read, more than "
                f"{MAX_SKIPPED_SHARE:.0%}: {left_out(lost)}. Mend that, or move them out of the folder."
            )
    return Found({split: dataset_of(home, own, where) for split, own in by_split.items()}, left)


def left_out(left: Left) -> str:
    """The files that are not read, for a message."""
    return "; ".join(f"{some(names)} ({why})" for why, names in left.items())


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
        folders[:] = [name for name in folders if not name.startswith(".") and name not in FOLDERS_OF_SYSTEMS]
        here = Path(parent).relative_to(folder).as_posix()
        names += [posixpath.normpath(f"{here}/{name}") for name in files if not name.startswith(".")]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{name.encode('utf-8', 'replace').decode()!r} is no name in UTF-8: rename it.") from None
    return sorted(names)


def _unnamed_picture(files: Files, home: Path, name: str, others: set[str]) -> bool:
    """Whether a file is a picture by how it begins, though its name doesn't say so: without an ending, or another."""
    known = {*others, *KINDS, *TABLES, *ARCHIVES, *SIDECARS, ".md", ".py", ".xml", ".yaml", ".yml", ".npy", ".npz"}
    if kind(name) in known:
        return False
    try:
        head = files.head(home / name, 16)
    except (OSError, DataError):  # said where it matters
        return False
    bitmap = head.startswith(b"BM") and head[6:10] == bytes(4)
    return head.startswith(HEADS) or bitmap or (head[:4], head[8:12]) == (b"RIFF", b"WEBP")


def _kept_for_masks(name: str) -> bool:
    return any(part.lower() in MASKS for part in PurePosixPath(name).parent.parts)


def _is_pair(tops: set[str]) -> bool:
    low = {top.lower() for top in tops}
    return len(low & IMAGES) == 1 and bool(low & MASKS)


def arranged(pictures: Sequence[str], said: Sequence[str], named: dict[str, str]) -> Place:
    """Which split a file is of, None where it is in none, and the other folders that it is in.

    Folders of splits lie at the top, below folders that are around everything, or below a folder each (images/train,
    masks/train). said: the metadata files. named: {folder: split} that the data set's description names.
    """

    parts, around = [PurePosixPath(name).parent.parts for name in pictures], 0
    alike = _alike({part for p in set(parts) for part in p})

    def known(name: str) -> str | None:
        return named.get(name) or WORDS.get(YEAR.sub("", name.lower())) or alike.get(name)

    while all(len(p) > around + 1 for p in parts) and len({p[around] for p in parts}) == 1:
        inside = {known(p[around + 1]) for p in parts}
        if known(parts[0][around]) and (None in inside or "train" not in inside):  # else train/train, train/val
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
        inside = folders[around:] if folders[:around] == prefix else ()
        if not first and not second:
            return "train", inside or folders
        if second and len(inside) > 1:
            return known(inside[1]), (inside[0], *inside[2:])
        return (known(inside[0]), inside[1:]) if first and inside else (None, ())

    return place


def _alike(names: Iterable[str]) -> dict[str, str]:
    """{folder: split} of those whose names differ in the word of a split alone, "train" among them: training_set and
    test_set. Not where "train" is there by itself, nor of masks: train_labels."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        if found := WORD.match(YEAR.sub("", name)):
            before, word, after = (part or "" for part in found.groups())
            groups.setdefault((before, after), {})[name] = WORDS[word.lower()]
    if "train" in groups.pop(("", ""), {}).values():
        return {}
    found = {}
    for affixes, splits in groups.items():
        if "train" in splits.values() and len(set(splits.values())) > 1:
            if not any(affix.strip("-_ .").lower() in MASKS for affix in affixes):
                found |= splits
    return found


def _pairs(pictures: Sequence[str], place: Place) -> list[dict]:
    """Pictures below images/ with what has the same name below masks/, or that with what all masks have around it."""
    shown, said = (
        {name: (place(name)[0], *below) for name, below in _below_one(
            {name: place(name)[1][1:] for name in pictures if (place(name)[1] or ("",))[0].lower() in words}).items()}
        for words in (IMAGES, MASKS)
    )  # fmt: skip
    masks, endings, rows = {}, [("", ""), *(("", ending) for ending in MASK_ENDINGS)], []
    if affix := _affix([PurePosixPath(n).stem for n in shown], [PurePosixPath(n).stem for n in said]):
        endings.append(affix)
    for before, after in endings:
        for name, where in said.items():
            stem = PurePosixPath(name).stem
            if stem.lower().startswith(before) and stem.lower().endswith(after):
                masks.setdefault((*where, stem[len(before) : len(stem) - len(after)]), name)
    for name, where in shown.items():
        if mask := masks.get((*where, PurePosixPath(name).stem)) or masks.get((*where, PurePosixPath(name).name)):
            rows.append({"image": File(name), "label": File(mask)})
    return rows


def _affix(pictures: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
    """What stands before and after a picture's name in those of most masks, in small letters; None where nothing."""
    found: Counter = Counter()
    for stem in pictures[:20]:
        found.update({(m[: m.index(stem)].lower(), m[m.index(stem) + len(stem) :].lower()) for m in masks if stem in m})
    best = found.most_common(1)
    return best[0][0] if best and 2 * best[0][1] > min(20, len(pictures)) else None


def _folders(files: Files, home: Path, pictures: Sequence[str], names: Sequence[str], place: Place) -> list[dict]:
    """Pictures with the class that their folder names, and the text beside them; without these columns where none has.

    The class is the folder that a picture lies in; where some lie deeper than others, the one nearest to the top.
    Where most have a text, those without are left out.
    """
    below = _below_all({name: place(name)[1] for name in pictures})
    which = -1 if len({len(b) for b in below.values()}) == 1 else 0
    beside = _texts(files, home, pictures, names)
    told, classed, rows = sum(map(bool, beside.values())), any(below.values()), []
    for name, folders in below.items():
        row: dict = {"image": File(name)}
        text = beside[name]
        if not text and 2 * told > len(pictures):
            continue
        if classed:
            row["label"] = unicodedata.normalize("NFC", folders[which]) if folders else None
        if told:
            row["text"] = text and " ".join(text_of(files.read(home / text), text).split())
        rows.append(row)
    if classed:  # a class has the same number in every split
        number = {label: k for k, label in enumerate(sorted({row["label"] for row in rows} - {None}))}
        for row in rows:
            row["label"] = _Class(row["label"], number)
    return rows


def _below_all(below: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The folders of each picture without those that all have: first ones, last ones (n01/images), images/ alone."""
    below = _below_one(below, 1)
    while below and all(below.values()) and len({b[-1] for b in below.values()}) == 1:
        if max(map(len, below.values())) == 1 and next(iter(below.values()))[0].lower() not in IMAGES:
            break
        below = {name: b[:-1] for name, b in below.items()}
    return below


def _below_one(below: dict[str, tuple[str, ...]], least: int = 0) -> dict[str, tuple[str, ...]]:
    """The folders of each picture without the first ones that all have; `least` of them stay."""
    while below and all(len(b) > least for b in below.values()) and len({b[0] for b in below.values()}) == 1:
        below = {name: b[1:] for name, b in below.items()}  # annotations/trimaps
    return below


def _texts(files: Files, home: Path, pictures: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """The .txt beside each picture, 1.txt or 1.png.txt; none where they hold boxes of things, as YOLO writes them."""
    texts = {plain(str(PurePosixPath(name).with_suffix(""))): name for name in names if kind(name) in SIDECARS}
    beside = {name: texts.get(plain(str(PurePosixPath(name).with_suffix("")))) or texts.get(plain(name))
              for name in pictures}  # fmt: skip
    told = [text for text in beside.values() if text]
    lines = (line for text in told for line in files.read(home / text).splitlines() if line.strip())
    if (first := next(lines, None)) is not None and _is_box(first) and all(map(_is_box, lines)):
        print(f"{some(told)}: boxes, not captions: they are not read")
        return dict.fromkeys(pictures)
    return beside


def _is_box(line: bytes) -> bool:
    """Whether it is the number of a class and where it is, as YOLO writes it."""
    words = line.split()
    return len(words) >= 5 and words[0].isdigit() and all(re.fullmatch(rb"-?[\d.]+(e-?\d+)?", word) for word in words)


class _Class:
    """A class of folders: its name, None where there is none, and {name: number} of all."""

    def __init__(self, name: str | None, number: dict[str, int]):
        self.index, self.names = None if name is None else number[name], list(number)


def dataset_of(home: Path, rows: list[dict], where: str):
    """Rows as a `datasets.Dataset`; files by their whole paths. Raises DataError where a column has two types."""
    import datasets
    import pyarrow

    columns, features = {}, {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values: list[Any] = [row.get(name) for row in rows]
        kinds = {type(value) for value in values} - {type(None)}
        if kinds == {File}:
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
                odd = next((row for row, value in zip(rows, values, strict=True) if type(value) is not usual), None)
                odd = odd or rows[_first_other(values)]
                raise DataError(
                    f"{where}, {odd['image']}: column '{name}' is {odd.get(name)!r}, which does not go with the "
                    f"others ({usual.__name__}): {first_line(error)}."
                ) from error
            columns[name] = array
            features[name] = datasets.Features.from_arrow_schema(pyarrow.schema([(name, array.type)]))[name]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _first_other(values: list) -> int:
    """Which of values of one Python type is the first that isn't of the type that most of them have in a table."""
    import pyarrow

    kinds = []
    for value in values:
        try:
            kinds.append(str(pyarrow.array([value]).type))
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError):
            kinds.append("none")
    usual = Counter(kinds).most_common(1)[0][0]
    return next((k for k, kind in enumerate(kinds) if kind != usual), 0)
