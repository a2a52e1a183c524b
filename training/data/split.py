"""One split of a data set, opened: rows of a folder or of the Hub, in which no picture is decoded yet.

    split = open_split("path/to/pictures", "train")
    split.data, split.names, split.files

Where there is no "validation", a tenth of "train" is, chosen by a hash, and "train" is the rest.
"""

import contextlib
import dataclasses
import difflib
import glob
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from training.data import folders
from training.data.facts import CARD, OURS, front_matter, split_folders
from training.data.files import (
    MAX_SKIPPED_SHARE,
    DataError,
    Files,
    check_folder,
    check_named,
    choices,
    first_line,
    some,
)

ROOT = Path(__file__).resolve().parents[2]
THREADS = 2
VALIDATION_SHARE = 0.10  # of the rows, where a data set has no validation split
ENOUGH = round(1 / VALIDATION_SHARE)  # pictures of a class, of which one at least is held out then
IN_MEMORY_BYTES = 2**30  # larger local parquet files are memory-mapped from the cache of `datasets`
# Of data files, as `datasets` calls them.
KINDS = ("imagefolder", "parquet", "arrow", "json", "csv", "webdataset", "cache")


@dataclass(frozen=True)
class Split:
    """The chosen rows of a split, what each is called in messages, and what is needed to open their files."""

    data: Any  # a `datasets.Dataset`
    names: list[str]  # (N,) file relative to the folder, or row number
    where: str  # what the data set is called in messages
    folder: Path | None  # None: it is of the Hub
    files: Files  # where what a row names may lie
    siblings: Sequence[Any]  # all splits: a class may be in one of them alone
    whole: int = 0  # rows of what it is a part of, where that was divided here

    def need(self, column: str, flag: str | None = None) -> None:
        """Raise DataError where there is no such column."""
        need(self.where, self.data.column_names, column, flag)


def open_split(
    dataset_name: str,
    split: str,
    *,
    config_name: str | None = None,
    image_column: str = "image",
    caption_column: str | None = None,
    skin_tones: bool = True,
    limit: int | None = None,
    reader: folders.Reader | None = None,
) -> Split:
    """The rows of a split; without the skin-tone variants of the emoji build, and at most `limit`, evenly spread.

    reader: what else may know how to read a folder, asked before the rules of `folders` are. Raises DataError.
    """
    import datasets

    folder, where = locate(dataset_name, split)
    found = load_splits(datasets, folder, where, config_name, caption_column, reader)
    splits = found.splits
    carved = split in ("train", "validation") and "validation" not in splits and "train" in splits
    if split not in splits and not carved:
        raise DataError(f"{where} has no split '{split}'. {choices(split, splits, 'It has')}")
    data = splits["train" if carved else split]
    if not len(data):
        raise DataError(f"{where}, split '{split}', is empty: nothing to train on.")
    need(where, data.column_names, image_column, "image_column")
    data = as_pictures(datasets, data, where, image_column)
    names = row_names(data, image_column, folder)
    kept, whole = np.arange(len(data)), 0
    if "skin_tone" in data.column_names and not skin_tones:
        kept = np.array([i for i, tone in enumerate(data["skin_tone"]) if not tone], dtype=np.int64)
    if carved:
        tenth, whole = held_out(data, kept, names, where), len(kept)
        kept = np.array(sorted(tenth if split == "validation" else set(kept) - tenth), dtype=np.int64)
    if found.left is not None and not (carved and split == "validation"):  # said with "train"
        apart = f", {len(tenth)} of them held out to validate" if carved else ""
        lost = found.left.get("train" if carved else split, {})
        more = f"; left out: {folders.left_out(lost)}" if lost else ""
        count = len(data) + sum(map(len, lost.values()))
        what = f"{len(data)} rows" if found.tables else f"{len(data)} of {count} pictures on disk"
        print(f"{where}, {split}: {what} are read{apart}{more}")
    if limit is not None and limit < len(kept):
        kept, whole = kept[np.arange(limit) * len(kept) // limit], 0
    if not len(kept):
        raise DataError(f"{where}, split '{split}', is empty once it is filtered: add pictures, or raise the limit.")
    files = files_of(folder, where, data)
    return Split(data.select(kept), [names[i] for i in kept], where, folder, files, list(splits.values()), whole)


def held_out(data, rows: np.ndarray, names: Sequence[str], where: str) -> set[int]:
    """The tenth of these rows that is validated on, by a hash of their names.

    Of a class ("label") with ten pictures or more it has one at least, and not all of any, where it can. Raises
    DataError where there is but one picture.
    """
    if len(rows) == 1:
        raise DataError(
            f"{where} has one picture: two are needed at least, one to train on and one to validate. Add some."
        )
    rank = sorted((int(i) for i in rows), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    tenth = set(rank[: max(1, round(VALIDATION_SHARE * len(rank)))])
    of_class: dict = {}
    if "label" in data.column_names:
        labels = list(data["label"])
        for i in rank if all(isinstance(label, (int, str)) for label in labels) else []:
            of_class.setdefault(labels[i], []).append(i)
    better = set(tenth)
    for own in of_class.values():
        if tenth.issuperset(own):
            better.remove(own[-1])
        elif len(own) >= ENOUGH and tenth.isdisjoint(own):
            better.add(own[0])
    return better or tenth


def readable(
    split: Split, look: Callable[[int], Any], what: str, left: str
) -> tuple[Split, np.ndarray, list, list[str]]:
    """The rows whose files can be read, as a split and as numbers, what `look` found in each, and the others' names.

    look(i) -> what a row's files are, or a text: which of them cannot be read ("" if there is but one). what, left: how
    such rows are called. Raises DataError where they are more than 5 %, of both parts where a tenth was held out.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, range(len(split.data))))
    good = [i for i, facts in enumerate(found) if not isinstance(facts, str)]
    skipped = [split.names[i] + f" ({facts})" * bool(facts) for i, facts in enumerate(found) if isinstance(facts, str)]
    if len(skipped) > MAX_SKIPPED_SHARE * max(len(found), split.whole) or not good:
        raise DataError(
            f"{split.where}: {len(skipped)} of {len(found)} {what} cannot be read, more than {MAX_SKIPPED_SHARE:.0%}: "
            f"{some(skipped)}. Repair or remove them."
        )
    if skipped:
        print(f"{split.where}: {len(skipped)} {left} left out: {some(skipped)}")
        split = dataclasses.replace(split, data=split.data.select(good), names=[split.names[i] for i in good])
    return split, np.array(good, np.int64), [found[i] for i in good], skipped


def known_concepts(source, split: str) -> np.ndarray:
    """The rows of a split that are measured, int64 (N,): of an unseen style those of training concepts, else all."""
    if split != "unseen_style":
        return np.arange(len(source))
    return np.flatnonzero(np.asarray(source.column("concept_split")) == "train")


def locate(dataset_name: str, split: str) -> tuple[Path | None, str]:
    """The folder of a data set, None for one on the Hub, and the name to use in messages."""
    if not dataset_name.strip():
        raise DataError("--dataset_name is empty: give a folder, 'emoji', or the id of a data set on the Hub.")
    built = Path(os.environ.get("VITRAIL_DATA") or ROOT / "build" / "data")
    if dataset_name == "emoji":
        folder = built / ("emoji-unseen" if split == "unseen_style" else "emoji")
        if not folder.is_dir():
            raise DataError(
                f"The emoji data are not built: {folder} is missing. Run `make data`, or use the bundled "
                "'emoji-sample'."
            )
        return folder, dataset_name
    if dataset_name == "emoji-sample":
        return ROOT / "tests" / "data" / "emoji-sample", dataset_name
    folder = Path(dataset_name).expanduser()
    if folder.is_dir():
        return folder, dataset_name
    if folder.exists():
        raise DataError(f"{dataset_name} is a file: give the folder that holds the pictures or parquet files.")
    if address := re.match(r"https?://[^/]+/(?:datasets/)?(\w[\w.-]*(?:/\w[\w.-]*)?)", dataset_name):
        raise DataError(f"{dataset_name} is an address: give the id of a data set on the Hub alone: {address[1]}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset_name) or dataset_name.startswith("."):
        raise DataError(f"There is no folder {dataset_name}.{meant(dataset_name)}")
    return None, dataset_name


def meant(dataset_name: str) -> str:
    """ " Did you mean …?" of a folder that is there, or of ours; "" where none is called so."""
    folder = Path(dataset_name).expanduser()
    there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    known = {name: str(folder.parent / name) for name in there} | {
        name: name for name in OURS if folder.name == dataset_name
    }
    guess = difflib.get_close_matches(folder.name, known, 1)
    return f" Did you mean {known[guess[0]]}?" if guess else ""


def load_splits(
    datasets,
    folder: Path | None,
    where: str,
    config_name: str | None,
    caption_column: str | None,
    reader: folders.Reader | None = None,
) -> folders.Found:
    """All splits of a data set, and of a folder what in it is not read.

    What comes of tables of this machine leaves nothing in the cache, unless it is large.
    """
    datasets.disable_progress_bars()
    try:
        if folder is None:
            if config_name is None and (pictures := of_hub(datasets, where, caption_column)):
                return pictures
            return folders.Found(undecoded(prepared(datasets, folder, where, config_name).as_dataset()), None)
        check_folder(folder, where)
        files = Files((folder.resolve(),))
        if reader and (pictures := reader(folder, files, where)):
            return pictures
        if pictures := folders.read(folder, files, where, caption_column, split_folders(folder) or {}):
            return pictures
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        if not any(path.stat().st_size for path in files if path.suffix != ".md"):
            raise DataError(f"{where} is empty: it holds no pictures and no parquet files.")
        small = sum(path.stat().st_size for path in files if path.suffix == ".parquet") <= IN_MEMORY_BYTES
        with tempfile.TemporaryDirectory() if small else contextlib.nullcontext() as cache_dir:
            builder = prepared(datasets, folder, where, config_name, cache_dir)
            splits = undecoded(builder.as_dataset(in_memory=small))
            return folders.Found(splits, {"train": unread(folder, builder.config.data_files, splits)}, tables=True)
    except DataError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, ValueError and KeyError among them
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if "corresponds to no data" in str(cause):
            raise DataError(f"{where} is empty: its files hold no rows.") from error
        if folder is None:
            raise DataError(
                f"'{where}' is no folder here, and the Hub did not give it: {first_line(cause)}. "
                f"Check the spelling, the network, and the access token of a private data set.{meant(where)}"
            ) from error
        raise DataError(f"{where} cannot be read as a data set: {first_line(cause)}") from error


def of_hub(datasets, where: str, caption_column: str | None) -> folders.Found | None:
    """Pictures in folders on the Hub, by the same rules; None for other data, and where a card says what is a split."""
    from huggingface_hub import snapshot_download

    if datasets.load_dataset_builder(where).name != "imagefolder":
        return None
    snapshot, files = Path(snapshot_download(where, repo_type="dataset")), Files((pulled(where),))
    if (snapshot / CARD).exists() and "configs" in front_matter(files.read(snapshot / CARD).decode("utf-8-sig")):
        return None
    found = folders.read(snapshot, files, where, caption_column, {})
    for part in found.splits.values() if found else ():
        part.info.builder_name = "imagefolder"  # its files were pulled, see `files_of`
    return found


def pulled(where: str) -> Path:
    """Where the files of a data set of the Hub lie."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"datasets--{where.replace('/', '--')}").resolve()


def prepared(datasets, folder: Path | None, where: str, config_name: str | None, cache_dir=None):
    """The builder of what `load_dataset` gives, after a look at the files that it reads. Raises DataError, and what
    that does."""
    name, data_files = where if folder is None else str(folder.resolve()), None
    if folder is not None and config_name is None and split_folders(folder) is None:
        data_files = tables(folder)
    builder = (
        datasets.load_dataset_builder("parquet", data_files=data_files, cache_dir=cache_dir)
        if data_files
        else datasets.load_dataset_builder(name, config_name, cache_dir=cache_dir)
    )
    check_named(builder.config.data_files, folder, where)
    if builder.name not in KINDS:
        raise DataError(
            f"{where} holds {builder.name} files: give pictures with metadata.jsonl or .csv, class folders, or parquet "
            "files."
        )
    builder.download_and_prepare(verification_mode=None if folder is None else "no_checks")
    return builder


def unread(folder: Path, data_files, splits) -> folders.Left:
    """The tables of a folder that are not among these files, and its pictures that no row names."""
    home, (endings, _), there = folder.resolve(), folders.extensions(), folders.listed(folder)
    pictures = [name for name in there if folders.kind(name) in endings]
    read = {os.path.relpath(path, home) for paths in data_files.values() for path in paths}
    for data in splits.values() if pictures else ():
        for column, feature in data.features.items():
            if hasattr(feature, "decode_example"):
                read.update(row_names(data, column, folder))
    left = {
        "in no split": [name for name in there if folders.kind(name) in folders.TABLES and name not in read],
        "no row names it": [name for name in pictures if name not in read],
    }
    return {why: names for why, names in left.items() if names}


def tables(folder: Path) -> dict[str, list[str]]:
    """{split: patterns of its parquet files} of a folder whose card names none; {} where there are none.

    A file is of the split that its whole name is, before -00000-of-00001 or a number, or that of its folder. Without
    such names all are "train"; beside them another name is a split of its own.
    """
    found: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for name in folders.listed(folder):
        path = PurePosixPath(name)
        if path.suffix.lower() != ".parquet":
            continue
        stem = re.sub(r"(-\d+)?(-of-\d+)?$", "", path.stem)
        words = [word.lower() for word in (stem, *reversed(path.parent.parts))]
        split = next((folders.WORDS[word] for word in words if word in folders.WORDS), None)
        if split is None and "-of-" in path.stem and re.fullmatch(r"\w+", stem):
            split = stem
        kept, key = (found, split) if split else (others, re.sub(r"\W+", "_", stem) or "others")
        kept.setdefault(key, []).append(glob.escape(str(folder.resolve() / name)))
    return found | others if found else {"train": sum(others.values(), [])} if others else {}


def undecoded(splits):
    """The same splits, in which no column decodes by itself: a file that a row names is opened here, or not at all."""
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
    """The folders whose files the rows may name: the data set's own. Of the Hub, only pictures that were pulled.

    A parquet file of the Hub has the bytes of its pictures; if it names a file, that is one of this machine.
    """
    from datasets import config

    if folder is not None:
        return Files((folder.resolve(),))
    if data.info.builder_name != "imagefolder":
        return Files()
    return Files((pulled(where), Path(config.DOWNLOADED_DATASETS_PATH).resolve()))


def as_pictures(datasets, data, where: str, column: str):
    """The data with the column's pictures as {"bytes", "path"}, not decoded."""
    feature = data.features[column]
    if not isinstance(feature, datasets.Image):
        encoded = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        binary = getattr(feature, "dtype", "") in ("binary", "large_binary")
        if not encoded and not binary:
            pictures = [name for name, f in data.features.items() if isinstance(f, datasets.Image)]
            where_else = choices(column, pictures, "Pictures are in") if pictures else "No column holds pictures."
            raise DataError(
                f"{where}: column '{column}' holds {getattr(feature, 'dtype', feature)}, no pictures. {where_else} Set "
                "--image_column."
            )
    return data.cast_column(column, datasets.Image(decode=False))


def row_names(data, column: str, folder: Path | None) -> list[str]:
    """What to call each row in messages: its file, relative to the folder, or its number."""
    names, home = [], folder and folder.resolve()
    for index, picture in enumerate(data.select_columns([column]).with_format("arrow").iter(1000)):
        for row, path in enumerate(picture[column].combine_chunks().field("path").to_pylist()):
            number = index * 1000 + row
            local = path and home is not None and Path(path).is_absolute() and Path(path).is_relative_to(home)
            names.append(Path(path).relative_to(home).as_posix() if local else f"row {number}")
    return names


def need(where: str, columns: Sequence[str], column: str, flag: str | None = None) -> None:
    """Raise DataError where there is no such column."""
    if column not in columns:
        advice = f" Set --{flag}." if flag else ""
        raise DataError(f"{where} has no column '{column}'. {choices(column, columns, 'It has')}{advice}")
