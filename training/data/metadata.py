"""What is said of pictures in files beside them: metadata.jsonl, .json, .csv, .tsv or .parquet, and captions.

All that stands in CSV is text, "None", "NA" and 007 too. It may come from a spreadsheet: commas, semicolons or tabs;
UTF-8, UTF-16 or Windows-1252.
"""

import contextlib
import csv
import io
import json
from pathlib import PurePosixPath

from training.data.files import DataError, first_line

STEMS = ("metadata", "captions")  # the latter where there is no file of the first name
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
FILE = "file_name"  # the column that names the picture; X_file_name names another one, of column X


def metadata_files(names: list[str]) -> list[str]:
    """Those of the files of a folder that say something of pictures, sorted."""
    for stem in STEMS:
        paths = [path for path in map(PurePosixPath, names) if path.suffix.lower() in KINDS]
        if found := sorted(str(path) for path in paths if path.stem.lower() == stem):
            return found
    return []


def rows_of(content: bytes, place: str) -> list[dict]:
    """The rows of a metadata file, each with its `file_name`. Raises DataError that names the file and the row."""
    kind = PurePosixPath(place).suffix.lower()
    try:
        rows = _parquet(content, place) if kind == ".parquet" else _of_text(text_of(content, place), place, kind)
    except RecursionError as error:
        raise DataError(f"{place} cannot be read: {first_line(error)}.") from error
    if not rows:
        raise DataError(f"{place} is empty: a line per picture is needed, with its `{FILE}`.")
    return rows


def text_of(content: bytes, place: str) -> str:
    """What is in a text file, in UTF-8, UTF-16 or, which is said, Windows-1252. Raises DataError."""
    head = content[:1000]
    codes = ["utf-8-sig", "cp1252"]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        codes = ["utf-16"]
    elif head.count(0) > len(head) // 4:
        codes = ["utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"]
    for code in codes:
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(code)
            if code == "cp1252":
                print(f"{place} is not in UTF-8: it is read as Windows-1252")
            return text
    raise DataError(f"{place} cannot be read: it is no text in UTF-8.")


def _of_text(text: str, place: str, kind: str) -> list[dict]:
    if kind in (".csv", ".tsv"):
        return _csv(text, place)
    if kind == ".jsonl":
        lines = [
            (f"{place}, line {number},", line)
            for number, line in enumerate(io.StringIO(text, newline=None), 1)
            if line.strip()
        ]
        rows = [_json(line, where) for where, line in lines]
    else:
        rows, lines = _json(text, place), []
        if isinstance(rows, dict):  # {file: caption} or {file: {column: value}}
            rows = [{FILE: name} | (row if isinstance(row, dict) else {"text": row}) for name, row in rows.items()]
        rows = rows if isinstance(rows, list) else [rows]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            where = lines[number][0] if lines else f"{place}, row {number + 1},"
            raise DataError(f'{where} is not an object like {{"{FILE}": …}}.')
    return rows


def _json(text: str, where: str):
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.") from error


def _csv(text: str, place: str) -> list[dict]:
    if text.startswith("sep="):  # a line for Excel
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{place} is not CSV: {error}.") from error
    for number, row in enumerate(rows, 1):
        if None in row:
            raise DataError(
                f"{place}, row {number}, has more fields than the header: put a text with {delimiter!r} into double "
                "quotes."
            )
    return rows


def _parquet(content: bytes, place: str) -> list[dict]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{place} is no parquet file: {first_line(error)}") from error


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
