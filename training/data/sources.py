"""Pictures with labels or captions, checked before training starts: the emoji build, a folder, or a data set of the Hub.

    source = open_source("emoji", split="train")
    source.preload(64)
    source.picture(0), source.label(0), source.captions(0)

Whatever is wrong with the data (a column, a caption, a label, a missing file) is a `DataError` that names the place and
what to do. A few unreadable pictures are left out and listed in `Source.skipped`; more than 5 % are an error.
"""

import contextlib
import csv
import dataclasses
import difflib
import hashlib
import io
import json
import os
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from training.data.files import DataError, Files, check_folder, check_named

ROOT = Path(__file__).resolve().parents[2]
MAX_SKIPPED_SHARE = 0.05  # of the pictures
VALIDATION_SHARE = 0.10  # of the rows, where a data set has no validation split
PRELOAD_BYTES = 2 * 2**30  # larger than that, pictures are decoded as they are asked for
IN_MEMORY_BYTES = 2**30  # larger local parquet files are memory-mapped from the cache of `datasets`
THREADS = 2
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
KINDS = (
    "imagefolder",
    "parquet",
    "arrow",
    "json",
    "csv",
    "webdataset",
    "cache",
)  # of data files, as `datasets` calls them


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
    label_column, caption_column: None takes "label", and "text" or "name", if there.
    skin_tones: whether the skin-tone variants of the emoji build are in. limit: at most that many, evenly spread.

    Raises DataError.
    """
    import datasets

    folder, where = locate(dataset_name, split)
    if folder is not None:
        check_metadata(folder, caption_column)
    splits = load_splits(datasets, folder, where, dataset_config_name)
    carved = split in ("train", "validation") and "validation" not in splits and "train" in splits
    if split not in splits and not carved:
        raise DataError(f"{where} has no split '{split}'. {choices(split, splits, 'It has')}")
    data = splits["train" if carved else split]
    if not len(data):
        raise DataError(f"{where}, split '{split}', is empty: nothing to train on.")

    columns = data.column_names
    _need(where, columns, image_column, "image_column")
    data = _as_pictures(datasets, data, where, image_column)
    names = _row_names(data, image_column, folder)

    kept = np.arange(len(data))
    if "skin_tone" in columns and not skin_tones:
        kept = np.array([i for i, tone in enumerate(data["skin_tone"]) if not tone], dtype=np.int64)
    if carved:
        rank = sorted(kept, key=lambda i: hashlib.sha256(names[i].encode()).digest())
        tenth = rank[: max(1, round(VALIDATION_SHARE * len(rank)))]
        kept = np.array(sorted(tenth) if split == "validation" else sorted(set(kept) - set(tenth)), dtype=np.int64)
    if limit is not None and limit < len(kept):
        kept = kept[np.arange(limit) * len(kept) // limit]
    if not len(kept):
        raise DataError(f"{where}, split '{split}', is empty once it is filtered: add pictures, or raise the limit.")

    labels, label_names = None, None
    if label_column is not None or "label" in columns:
        label_column = label_column or "label"
        _need(where, columns, label_column, "label_column")
        labels, label_names = _labels(datasets, splits, data, where, label_column, names)
        labels = labels[kept]
    captions = None
    if caption_column is not None or "text" in columns or "name" in columns:
        asked = caption_column is not None
        caption_column = caption_column or ("text" if "text" in columns else "name")
        _need(where, columns, caption_column, "caption_column")
        try:
            captions = [
                _caption(value, f"{where}, {name}", caption_column)
                for value, name in zip(data.select(kept)[caption_column], (names[i] for i in kept), strict=True)
            ]
        except DataError:
            if asked:
                raise
    kept_names, files = [names[i] for i in kept], files_of(folder, where, data)
    return Source(data.select(kept), kept_names, where, image_column, labels, label_names, captions, files)


class Source:
    """Pictures of one split, each with its label and captions, if any; see `open_source`.

    labels: int64 (N,), indices into label_names. data_hash: sha256 of pictures, labels and captions, whatever their paths.
    skipped: the unreadable pictures that were left out. licenses: what the column "license" says, sorted.
    array: uint8 (N, R, R, 4) after `preload`, or None.
    """

    def __init__(self, data, names, where, image_column, labels, label_names, captions, files):
        self.name, self.array = where, None
        self._names, self._files = names, files
        self._image_column, self._resolution_px = image_column, None
        self._pictures = data.select_columns([image_column])

        with ThreadPoolExecutor(THREADS) as pool:
            digests = list(pool.map(self._digest, range(len(data))))
        good = [i for i, digest in enumerate(digests) if digest is not None]
        self.skipped = [names[i] for i, digest in enumerate(digests) if digest is None]
        if len(self.skipped) > MAX_SKIPPED_SHARE * len(data):
            raise DataError(
                f"{where}: {len(self.skipped)} of {len(data)} pictures cannot be read, more than {MAX_SKIPPED_SHARE:.0%}: "
                f"{some(self.skipped)}. Repair or remove them."
            )
        if self.skipped:
            print(f"{where}: {len(self.skipped)} unreadable pictures left out: {some(self.skipped)}")
            data, self._pictures = data.select(good), self._pictures.select(good)

        self._names = [names[i] for i in good]
        self._data = data.remove_columns([image_column])
        self._labels = None if labels is None else labels[good]
        self.label_names = label_names
        self._captions = None if captions is None else [captions[i] for i in good]
        self.licenses = licenses(data)
        content = hashlib.sha256(json.dumps([label_names, self._captions]).encode())
        content.update(b"".join(digests[i] for i in good))
        content.update(b"" if labels is None else self._labels.astype("<i8").tobytes())
        self.data_hash = content.hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def labels(self) -> np.ndarray:
        if self._labels is None:
            raise DataError(
                f"{self.name} has no labels: name the column with --label_column. {choices('', self._data.column_names, 'It has')}"
            )
        return self._labels

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def captions(self, index: int) -> list[str]:
        """The captions of a picture, at least one."""
        if self._captions is None:
            raise DataError(
                f"{self.name} has no captions: name the column with --caption_column. {choices('', self._data.column_names, 'It has')}"
            )
        return self._captions[index]

    def column(self, name: str) -> list:
        """The values of any other column."""
        _need(self.name, self._data.column_names, name)
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
        return file_of(self._pictures[int(index)][self._image_column], self._files, self.name, self._names[index])

    def _digest(self, index: int) -> bytes | None:
        """The sha256 of a picture's file; None where it cannot be read."""
        try:
            content = self._bytes(index)
            decode(content, draft=True)
        except DataError:
            raise
        except Exception:  # PIL raises a dozen kinds, struct.error and SyntaxError among them, for broken files
            return None
        return hashlib.sha256(content).digest()


def file_of(picture: dict, files: Files, where: str, name: str) -> bytes:
    """The file of a picture as data name it, {"bytes", "path"}. Raises DataError where the path may not be opened."""
    if picture["bytes"] is not None:
        return picture["bytes"]
    try:
        return files.read(picture["path"])
    except DataError as error:
        raise DataError(f"{where}, {name}: {error}.") from error


def licenses(data) -> list[str]:
    """What the column "license" says, sorted."""
    stated = data["license"] if "license" in data.column_names else []
    return sorted({license for license in stated if isinstance(license, str)})


def decode(content: bytes, *, draft: bool = False) -> Image.Image:
    """The picture of an image file's bytes: upright, its first frame, RGBA where it has transparency, else RGB.

    draft: JPEGs are read at a fraction of their size, only to see whether they can be. Raises what PIL raises.
    """
    with Image.open(io.BytesIO(content)) as image:
        if draft:
            image.draft("RGB", (64, 64))
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits: PIL would clip them to 255
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
        return image.convert("RGBA" if alpha else "RGB")


def square(picture: Image.Image, resolution_px: int) -> Image.Image:
    """The picture centred on a transparent square and resized, RGBA. PIL resizes RGBA premultiplied: no dark fringes."""
    picture = picture.convert("RGBA")
    if picture.width != picture.height:
        side = max(picture.size)
        padded = Image.new("RGBA", (side, side))
        padded.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = padded
    return picture.resize((resolution_px, resolution_px), Image.Resampling.BICUBIC)


# ---------------------------------------------------------------------------------------------------------------------
# Finding and loading


def locate(dataset_name: str, split: str) -> tuple[Path | None, str]:
    """The folder of a data set, None for one on the Hub, and the name to use in messages."""
    built = Path(os.environ.get("VITRAIL_DATA") or ROOT / "build" / "data")
    if dataset_name == "emoji":
        folder = built / ("emoji-unseen" if split == "unseen_style" else "emoji")
        if not folder.is_dir():
            raise DataError(
                f"The emoji data are not built: {folder} is missing. Run `make data`, or use the bundled 'emoji-sample'."
            )
        return folder, dataset_name
    if dataset_name == "emoji-sample":
        return ROOT / "tests" / "data" / "emoji-sample", dataset_name
    folder = Path(dataset_name)
    if folder.is_dir():
        return folder, dataset_name
    if folder.exists():
        raise DataError(f"{dataset_name} is a file: give the folder that holds the pictures or parquet files.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset_name) or dataset_name.startswith("."):
        parent = folder.parent if folder.parent.is_dir() else None
        beside = [p.name for p in parent.iterdir() if p.is_dir()] if parent else []
        guess = difflib.get_close_matches(folder.name, beside, 1)
        hint = f" Did you mean {parent / guess[0]}?" if guess else ""
        raise DataError(f"There is no folder {dataset_name}.{hint}")
    return None, dataset_name


def load_splits(datasets, folder: Path | None, where: str, config_name: str | None):
    """All splits of a data set: a DatasetDict. A local one leaves nothing in the cache, unless it is large."""
    datasets.disable_progress_bars()
    try:
        if folder is None:
            return undecoded(built(datasets, folder, where, config_name))
        check_folder(folder, where)
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        if not any(path.stat().st_size for path in files if path.suffix != ".md"):
            raise DataError(f"{where} is empty: it holds no pictures and no parquet files.")
        small = sum(path.stat().st_size for path in files if path.suffix == ".parquet") <= IN_MEMORY_BYTES
        with tempfile.TemporaryDirectory() if small else contextlib.nullcontext() as cache_dir:
            return undecoded(built(datasets, folder, where, config_name, cache_dir, small))
    except DataError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, ValueError and KeyError among them
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if "corresponds to no data" in str(cause):
            raise DataError(f"{where} is empty: its files hold no rows.") from error
        if folder is None:
            raise DataError(
                f"'{where}' is no folder here, and the Hub did not give it: {first_line(cause)}. "
                "Check the spelling, the network, and the access token of a private data set."
            ) from error
        raise DataError(f"{where} cannot be read as a data set: {first_line(cause)}") from error


def built(datasets, folder: Path | None, where: str, config_name: str | None, cache_dir=None, in_memory: bool = False):
    """What `load_dataset` gives, after a look at which files it is going to read. Raises DataError, and what it raises."""
    name = where if folder is None else str(folder.resolve())
    builder = datasets.load_dataset_builder(name, config_name, cache_dir=cache_dir)
    check_named(builder.config.data_files, folder, where)
    if builder.name not in KINDS:
        raise DataError(
            f"{where} holds {builder.name} files: give pictures with metadata.jsonl or .csv, class folders, or parquet files."
        )
    builder.download_and_prepare(verification_mode=None if folder is None else "no_checks")
    return builder.as_dataset(in_memory=in_memory)


def undecoded(splits):
    """The same splits, in which no column decodes by itself: what a row names as a file is opened here, or not at all."""
    for split, data in splits.items():
        decodes = {
            name: dataclasses.replace(feature, decode=False)
            for name, feature in data.features.items()
            if getattr(feature, "decode", False) and hasattr(feature, "decode_example")
        }
        for name, feature in decodes.items():
            data = data.cast_column(name, feature)
        splits[split] = data
    return splits


def files_of(folder: Path | None, where: str, data) -> Files:
    """The folders whose files the rows may name: the data set's own. Of the Hub, only what was pulled of pictures there.

    A parquet file of the Hub has the bytes of its pictures; if it names a file, that is one of this machine.
    """
    from datasets import config
    from huggingface_hub import constants

    if folder is not None:
        return Files((folder.resolve(),))
    if data.info.builder_name != "imagefolder":
        return Files()
    pulled = Path(constants.HF_HUB_CACHE, f"datasets--{where.replace('/', '--')}")
    return Files((pulled.resolve(), Path(config.DOWNLOADED_DATASETS_PATH).resolve()))


def check_metadata(folder: Path, caption_column: str | None) -> None:
    """Refuse metadata files that name a picture twice, or one that is not there; `datasets` would be silent or obscure."""
    files = Files((folder.resolve(),))
    for path in sorted(p for p in folder.rglob("metadata.*") if p.name in METADATA):
        place = path.relative_to(folder)
        try:
            rows = _read_metadata(files.read(path.absolute()), place)
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{place} cannot be read: {first_line(error)}.") from error
        if not rows:
            raise DataError(f"{place} is empty: a line per picture is needed, with its `file_name`.")
        if not any(key.endswith("file_name") for key in rows[0]):
            raise DataError(f"{place} has no column `file_name`. {choices('file_name', rows[0], 'It has')}")
        columns = [key for key in rows[0] if key.endswith("file_name")]
        for column in columns:
            counts = Counter(row.get(column) for row in rows)
            for name, count in counts.items():
                if not isinstance(name, str) or not name:
                    line = next(k for k, row in enumerate(rows) if row.get(column) == name) + 1
                    raise DataError(f"{place}, row {line}: `{column}` is {name!r}, not the name of a file.")
                if count > 1 and column == "file_name":
                    raise DataError(f"{place} names {name} {count} times: keep one row for each picture.")
                try:
                    inside = files.place(path.parent.absolute() / name)
                except DataError as error:
                    row = next(k for k, row in enumerate(rows) if row.get(column) == name) + 1
                    raise DataError(f"{place}, row {row}: {error}.") from error
                if not Path(*inside).is_file():
                    guess = difflib.get_close_matches(
                        Path(name).name, [p.name for p in path.parent.rglob("*") if p.is_file()], 1
                    )
                    hint = f" Did you mean {guess[0]}?" if guess else ""
                    raise DataError(f"{place} names {name}, which is not there.{hint}")
        if caption_column is not None and caption_column in rows[0]:
            for row in rows:
                _caption(row.get(caption_column), f"{place}, {row[columns[0]]}", caption_column)


def _read_metadata(content: bytes, place: Path) -> list[dict]:
    if place.suffix == ".parquet":
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        except pyarrow.ArrowException as error:
            raise DataError(f"{place} is no parquet file: {first_line(error)}") from error
    file = io.StringIO(content.decode("utf-8-sig"), newline="")
    if place.suffix == ".csv":
        try:
            return list(csv.DictReader(file))
        except csv.Error as error:
            raise DataError(f"{place} is not CSV: {error}.") from error
    rows = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{place}, line {number}, is not JSON: {error}.") from error
        if not isinstance(rows[-1], dict):
            raise DataError(f'{place}, line {number}, is not an object like {{"file_name": …}}.')
    return rows


def _as_pictures(datasets, data, where: str, column: str):
    """The data with the column's pictures as {"bytes", "path"}, not decoded."""
    feature = data.features[column]
    if not isinstance(feature, datasets.Image):
        encoded = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        binary = getattr(feature, "dtype", "") in ("binary", "large_binary")
        if not encoded and not binary:
            pictures = [name for name, f in data.features.items() if isinstance(f, datasets.Image)]
            raise DataError(
                f"{where}: column '{column}' holds {getattr(feature, 'dtype', feature)}, no pictures. "
                f"{choices(column, pictures, 'Pictures are in') if pictures else 'No column holds pictures.'} Set --image_column."
            )
    return data.cast_column(column, datasets.Image(decode=False))


def _row_names(data, column: str, folder: Path | None) -> list[str]:
    """What to call each row in messages: its file, relative to the folder, or its number."""
    names = []
    for index, picture in enumerate(data.select_columns([column]).with_format("arrow").iter(1000)):
        for row, path in enumerate(picture[column].combine_chunks().field("path").to_pylist()):
            number = index * 1000 + row
            local = path and folder is not None and Path(path).is_absolute()
            local = local and Path(path).is_relative_to(folder.resolve())
            names.append(Path(path).relative_to(folder.resolve()).as_posix() if local else f"row {number}")
    return names


def _labels(datasets, splits, data, where: str, column: str, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Indices of classes, int64 (N,), and the names of the classes, the same in every split."""
    feature = data.features[column]
    values = list(data[column])

    def everywhere() -> list:  # a class may be in one split alone, and has the same index in all
        return [v for part in splits.values() if column in part.column_names for v in part.unique(column)]

    if isinstance(feature, datasets.ClassLabel):
        label_names = list(feature.names)
    elif getattr(feature, "dtype", "") in ("string", "large_string"):
        label_names = sorted({v for v in everywhere() if v})
        index = {name: k for k, name in enumerate(label_names)}
        values = [index.get(v) for v in values]
    elif re.fullmatch(r"u?int\d+", getattr(feature, "dtype", "")):
        label_names = [str(k) for k in range(max((v for v in everywhere() if v is not None), default=-1) + 1)]
    else:
        raise DataError(
            f"{where}: column '{column}' holds {getattr(feature, 'dtype', feature)}, but a label is a class name or an integer. "
            f"{choices(column, data.column_names, 'The columns are')}"
        )
    for value, name in zip(values, names, strict=True):
        if value is None:
            raise DataError(f"{where}, {name}: the label is missing in column '{column}'.")
        if not 0 <= value < len(label_names):
            raise DataError(
                f"{where}, {name}: label {value} is out of range, column '{column}' has {len(label_names)} classes (0 to {len(label_names) - 1})."
            )
    return np.array(values, dtype=np.int64), label_names


def _caption(value, place: str, column: str) -> list[str]:
    """The captions of one row; raises DataError where one is missing or is not text."""
    captions = list(value) if isinstance(value, (list, tuple)) else [value]
    for caption in captions or [None]:
        if caption is None:
            raise DataError(f"{place}: the caption is missing in column '{column}'.")
        if not isinstance(caption, str):
            raise DataError(
                f"{place}: the caption in column '{column}' is {caption!r}, a {type(caption).__name__}, not text."
            )
        if not caption.strip():
            raise DataError(f"{place}: the caption in column '{column}' is empty.")
    return captions


def _need(where: str, columns: list[str], column: str, flag: str | None = None) -> None:
    if column not in columns:
        advice = f" Set --{flag}." if flag else ""
        raise DataError(f"{where} has no column '{column}'. {choices(column, columns, 'It has')}{advice}")


def choices(wrong: str, names, lead: str) -> str:
    """ "It has: a, b. Did you mean 'a'?" """
    names = list(names)
    guess = difflib.get_close_matches(wrong.lower(), [n.lower() for n in names], 1, cutoff=0.5) if wrong else []
    guess = [n for n in names if guess and n.lower() == guess[0]]
    return f"{lead}: {', '.join(names) or 'none'}." + (f" Did you mean '{guess[0]}'?" if guess else "")


def some(names: list[str]) -> str:
    """The first ten, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def first_line(error: Exception) -> str:
    """What the error says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
