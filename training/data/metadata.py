"""The metadata files of a folder, and the captions in them, looked at before anything is opened."""

import csv
import difflib
import io
import json
from collections import Counter
from pathlib import Path

from training.data.files import DataError, Files, choices, first_line

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def check_metadata(folder: Path, caption_column: str | None) -> None:
    """Refuse metadata that name a picture twice, or one that is not there; `datasets` would be silent or obscure."""
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
                captions_in(row.get(caption_column), f"{place}, {row[columns[0]]}", caption_column)


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


def captions_in(value, place: str, column: str) -> list[str]:
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
