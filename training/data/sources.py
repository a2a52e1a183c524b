"""Pictures with labels or captions, checked before training: the emoji build, a folder, or a data set of the Hub.

    source = open_source("emoji", split="train")
    source.preload(64)
    source.picture(0), source.label(0), source.captions(0)

Whatever is wrong with the data (a column, a caption, a label, a missing file) is a `DataError` that names the place and
what to do. A few unreadable pictures are left out and listed in `Source.skipped`; more than 5 % are an error.
"""

import dataclasses
import hashlib
import io
import json
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from hub_models.pictures import formats, upright
from training.data.facts import Facts, facts_of
from training.data.files import DataError, choices, some
from training.data.metadata import captions_in
from training.data.split import THREADS, Split, need, open_split, readable

CAPTIONS = ("text", "caption", "captions", "name")  # columns of captions, the first that is there
PRELOAD_BYTES = 2 * 2**30  # larger than that, pictures are decoded as they are asked for


def open_source(
    dataset_name: str = "emoji",
    *,
    split: str,
    dataset_config_name: str | None = None,
    image_column: str = "image",
    label_column: str | None = None,
    caption_column: str | None = None,
    skin_tones: bool = False,
    limit: int | None = None,
) -> "Source":
    """One split of a data set, as a `Source`.

    dataset_name: "emoji" (what `make data` built, in build/data or $VITRAIL_DATA), "emoji-sample" (the bundled 100
    pictures), a folder (class folders, pictures with metadata.jsonl or .csv, parquet files), or a Hub id.
    split: a split of the data set; "unseen_style" of "emoji" is the OpenMoji build. Where there is no "validation",
    a tenth of "train" is, chosen by a hash, and "train" is the rest.
    label_column, caption_column: None takes "label", and the first of CAPTIONS, if there.
    skin_tones: whether the skin-tone variants of the emoji build are in. limit: at most that many, evenly spread.

    Raises DataError.
    """
    split_of = open_split(
        dataset_name, split, config_name=dataset_config_name, image_column=image_column, caption_column=caption_column,
        skin_tones=skin_tones, limit=limit,
    )  # fmt: skip
    columns = split_of.data.column_names
    labels, label_names, wrong = None, None, {}
    named = next((name for name in columns if name.lower() == "label"), None)
    if label_column is not None or named is not None:
        asked, label_column = label_column is not None, label_column or named or "label"
        split_of.need(label_column, "label_column")
        try:
            labels, label_names = _labels(split_of, label_column)
        except _Missing as error:
            if asked:
                raise
            wrong["labels"] = error
    captions, asked = None, caption_column is not None
    caption_column = caption_column or next((c for name in CAPTIONS for c in columns if c.lower() == name), None)
    if caption_column is not None:
        split_of.need(caption_column, "caption_column")
        try:
            captions = _captions(split_of, caption_column)
        except DataError as error:
            if asked:
                raise
            wrong["captions"] = error
    return Source(split_of, image_column, labels, label_names, captions, dataset_name, wrong)


class _Missing(DataError):
    """A row without a label, which is no fault until labels are asked for."""


class Source:
    """Pictures of one split, each with its label and captions, if any; see `open_source`.

    labels: int64 (N,), indices into label_names. data_hash: sha256 of pictures, labels and captions, whatever their
    paths; digests: that of each picture's file. skipped: the unreadable pictures that were left out. licenses: what
    the column "license" says, sorted.
    array: uint8 (N, R, R, 4) after `preload`, or None.
    """

    def __init__(self, split: Split, image_column, labels, label_names, captions, dataset_name: str, wrong: dict):
        self.name, self.label_names, self.array, self._wrong = split.where, label_names, None, wrong
        self._dataset_name, self._image_column, self._resolution_px = dataset_name, image_column, None
        self._rows = dataclasses.replace(split, data=split.data.select_columns([image_column]))
        self._rows, good, self.digests, self.skipped = readable(
            self._rows, self._digest, "pictures", "unreadable pictures"
        )
        self._data = split.data.remove_columns([image_column]).select(good)
        self._labels = None if labels is None else labels[good]
        self._captions = None if captions is None else [captions[i] for i in good]
        self.licenses = licenses(self._data)
        content = hashlib.sha256(json.dumps([label_names, self._captions]).encode())
        content.update(b"".join(self.digests))
        content.update(b"" if self._labels is None else self._labels.astype("<i8").tobytes())
        self.data_hash = content.hexdigest()

    def __len__(self) -> int:
        return len(self._rows.names)

    @property
    def facts(self) -> Facts:
        """What the data set says of itself. Raises DataError where its card can't be read."""
        return facts_of(self._dataset_name)

    @property
    def labels(self) -> np.ndarray:
        if self._labels is None:
            raise self._wrong.get("labels") or DataError(
                f"{self.name} has no labels: name the column with --label_column. "
                f"{choices('', self._data.column_names, 'It has')}"
            )
        return self._labels

    @property
    def names(self) -> list[str]:
        """What each picture is called in messages."""
        return self._rows.names

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def captions(self, index: int) -> list[str]:
        """The captions of a picture, at least one."""
        if self._captions is None:
            raise self._wrong.get("captions") or DataError(
                f"{self.name} has no captions: name the column with --caption_column, or write a .txt beside each "
                f"picture. "
                f"{choices('', self._data.column_names, 'It has')}"
            )
        return self._captions[index]

    def column(self, name: str) -> list:
        """The values of any other column."""
        need(self.name, self._data.column_names, name)
        return list(self._data[name])

    def picture(self, index: int) -> Image.Image:
        """The picture, upright, RGB or RGBA; after `preload`, square, RGBA, and resized."""
        if self.array is not None:
            return Image.fromarray(self.array[index])
        picture = decode(self._bytes(index))
        return picture if self._resolution_px is None else square(picture, self._resolution_px)

    def preload(self, resolution_px: int) -> None:
        """Decode and resize all pictures once: from now on they are square, resolution_px a side, RGBA.

        An oblong picture is centred on transparent ground. They are kept in `array`, unless that took more than 2 GiB:
        then `array` is None, and `picture` resizes each when asked.
        """
        self.array, self._resolution_px = None, resolution_px
        shape = (len(self), resolution_px, resolution_px, 4)
        if np.prod(shape, dtype=np.int64) > PRELOAD_BYTES:
            return
        array = np.empty(shape, np.uint8)  # (N, R, R, 4)

        def load(index: int) -> None:
            array[index] = np.asarray(square(decode(self._bytes(index)), resolution_px))

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(load, range(len(self))):
                pass
        self.array = array

    def _bytes(self, index: int) -> bytes:
        return file_of(self._rows, index, self._image_column)

    def _digest(self, index: int) -> bytes | str:
        """The sha256 of a picture's file; "" where it cannot be read."""
        try:
            content = self._bytes(index)
            decode(content, draft=True)
        except DataError:
            raise
        except Exception:  # PIL raises a dozen kinds, struct.error and SyntaxError among them, for broken files
            return ""
        return hashlib.sha256(content).digest()


def file_of(split: Split, index: int, column: str) -> bytes:
    """The file of a picture as a row names it, {"bytes", "path"}. Raises DataError where the path may not be opened."""
    picture = split.data[int(index)][column]
    if picture["bytes"] is not None:
        return picture["bytes"]
    try:
        return split.files.read(picture["path"])
    except DataError as error:
        raise DataError(f"{split.where}, {split.names[index]}: {error}.") from error


def licenses(data) -> list[str]:
    """What the column "license" says, sorted."""
    stated = data["license"] if "license" in data.column_names else []
    return sorted({license for license in stated if isinstance(license, str)})


def decode(content: bytes, *, draft: bool = False) -> Image.Image:
    """The picture of an image file's bytes: upright, its first frame, RGBA where it has transparency, else RGB.

    draft: JPEGs are read at a fraction of their size, only to see whether they can be. Raises what PIL raises.
    """
    with Image.open(io.BytesIO(content), formats=formats()) as image:
        if draft:
            image.draft("RGB", (64, 64))
        return upright(image)


def square(picture: Image.Image, resolution_px: int) -> Image.Image:
    """The picture centred on a transparent square and resized, RGBA; premultiplied by PIL, so without dark fringes."""
    picture = picture.convert("RGBA")
    if picture.width != picture.height:
        side = max(picture.size)
        padded = Image.new("RGBA", (side, side))
        padded.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = padded
    return picture.resize((resolution_px, resolution_px), Image.Resampling.BICUBIC)


def _captions(split: Split, column: str) -> list[list[str]]:
    """The captions of each row. Raises DataError that names the first without, and how many there are."""
    values = list(split.data[column])
    lost = [name for value, name in zip(values, split.names, strict=True) if not value]
    try:
        return [
            captions_in(value, f"{split.where}, {name}", column)
            for value, name in zip(values, split.names, strict=True)
        ]
    except DataError as error:
        more = f" {len(lost)} of {len(values)} pictures have none: {some(lost)}." if len(lost) > 1 else ""
        raise DataError(f"{error}{more}") from None


def _labels(split: Split, column: str) -> tuple[np.ndarray, list[str]]:
    """Indices of classes, int64 (N,), and the names of the classes, the same in every split.

    Of whole numbers each that is there is a class, whatever lies between; text that is whole numbers goes by size.
    """
    import datasets

    data, where = split.data, split.where
    feature = data.features[column]
    values, kind = list(data[column]), getattr(feature, "dtype", "")

    def everywhere() -> set:  # a class may be in one split alone, and has the same index in all
        found = {v for part in split.siblings if column in part.column_names for v in part.unique(column)}
        return found - {None, ""}

    if isinstance(feature, datasets.ClassLabel):
        label_names = list(feature.names)
    elif kind in ("string", "large_string"):
        names = everywhere()
        label_names, values = sorted({text for name in names if (text := _name(name))}), [_name(v) for v in values]
        if all(name.isdecimal() and name.isascii() for name in label_names):
            label_names.sort(key=int)
        index = {name: k for k, name in enumerate(label_names)}
        values = [index.get(v) for v in values]
    elif re.fullmatch(r"u?int\d+", kind):
        index = {number: k for k, number in enumerate(sorted(k for k in everywhere() if k >= 0))}
        label_names = [str(number) for number in index]
        values = [v if v is None else index.get(v, v) for v in values]
    else:
        raise DataError(
            f"{where}: column '{column}' holds {kind or feature}, but a label is a class name or an integer. "
            f"{choices(column, data.column_names, 'The columns are')}"
        )
    for value, name in zip(values, split.names, strict=True):
        if value is None:
            raise _Missing(f"{where}, {name}: the label is missing in column '{column}': put it into a class folder.")
        if not 0 <= value < len(label_names):
            raise DataError(
                f"{where}, {name}: label {value} is out of range, column '{column}' has {len(label_names)} classes "
                f"(0 to {len(label_names) - 1})."
            )
    return np.array(values, dtype=np.int64), label_names


def _name(text: str | None) -> str | None:
    """The name of a class as a table has it, whatever is around it and however its accents are written."""
    return unicodedata.normalize("NFC", text).strip() if text else None


def compare(train, held_out, *, labelled: bool = False) -> None:
    """Say which pictures are in both of two splits, and which classes are in one alone. Each is a `Source` or a
    `training.data.masks.MaskSource`.

    labelled: whether classes are learned. Raises DataError where one can't be: no training picture shows it.
    """
    known = {digest[:32] for digest in train.digests}
    twice = [name for name, digest in zip(held_out.names, held_out.digests, strict=True) if digest[:32] in known]
    if twice:
        print(
            f"{train.name}: {len(twice)} of {len(held_out)} pictures to validate are trained on too, so "
            f"that scores are too good: {some(twice)}. Take them out of one of the two."
        )
    if not labelled:
        return
    names, alike = train.label_names, {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    if twice := [some(own) for own in alike.values() if len(own) > 1]:
        print(f"{train.name}: classes whose names differ in case alone: {'; '.join(twice)}. Are they one?")
    shown, measured = (np.bincount(source.labels, minlength=len(names)) for source in (train, held_out))
    lost = [name for name, own, other in zip(names, shown, measured, strict=True) if not own and other]
    if lost:
        raise DataError(
            f"{train.name}: class {some(lost)} has no picture to train on, only some to validate: add pictures, or "
            "take the class out."
        )
    for which, counts in (("to train on", shown), ("to validate", measured)):
        if none := [name for name, count in zip(names, counts, strict=True) if not count]:
            print(f"{train.name}: class {some(none)} has no picture {which}: nothing is said of it")
