"""What is said of pictures in files beside them: metadata.jsonl, .json, .csv, .tsv or .parquet, and captions.

All that stands in CSV is text, "None", "NA" and 007 too. It may come from a spreadsheet: commas, semicolons, tabs or
bars; UTF-8, UTF-16 or Windows-1252. JSON may be a list of rows, one a line, {file: caption}, columns, COCO's captions.
"""

import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from training.data.files import DataError, first_line

STEMS = ("metadata", "captions")  # the latter where there is no file of the first name
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
FILE = "file_name"  # the column that names the picture; X_file_name names another one, of column X
FILES = (FILE, "filename", "file", "image", "image_name", "image_file", "image_path", "img", "img_name", "img_path",
         "filepath", "file_path", "path", "image_id", "img_id", "id")  # how it is called elsewhere  # fmt: skip


def metadata_files(names: list[str]) -> list[str]:
    """Those of the files of a folder that say something of pictures, sorted."""
    for stem in STEMS:
        paths = [path for path in map(PurePosixPath, names) if path.suffix.lower() in KINDS]
        if found := sorted(str(path) for path in paths if path.stem.lower() == stem):
            return found
    return []


def file_column(columns: Iterable[str], place: str = "") -> str | None:
    """Which of these columns names the pictures, by its name in any case; None where none does.

    In what is called metadata, as `datasets` has it, only `file_name` and image do.
    """
    plain = {name: name.strip().lower().replace(" ", "_").replace("-", "_") for name in columns}
    names = (FILE, "image") if PurePosixPath(place).stem.lower() == STEMS[0] else FILES
    return next((name for known in names for name in plain if plain[name] == known), None)


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
    if kind in (".csv", ".tsv", ".txt"):
        return _csv(text, place)
    whole = None
    if kind == ".json" or text.lstrip().startswith("["):
        with contextlib.suppress(DataError):
            whole = _json(text, place)
            if kind == ".jsonl" and not all(isinstance(row, dict) for row in whole):
                whole = None
    if whole is None and (kind == ".jsonl" or text.lstrip().startswith("{")):  # {…} a line
        lines = [
            (f"{place}, line {number},", line)
            for number, line in enumerate(io.StringIO(text, newline=None), 1)
            if line.strip()
        ]
        rows = [_json(line, where) for where, line in lines]
    else:
        rows, lines = _json(text, place) if whole is None else whole, []
        rows = _rows_in(rows, place) if isinstance(rows, dict) else rows if isinstance(rows, list) else [rows]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            where = lines[number][0] if lines else f"{place}, row {number + 1},"
            raise DataError(f'{where} is not an object like {{"{FILE}": …}}.')
    return rows


def _rows_in(found: dict, place: str) -> list:
    """The rows in an object: COCO's captions, {column: values}, {"data": rows}, {file: caption} or {file: {…}}."""
    images, notes = found.get("images"), found.get("annotations")
    if isinstance(images, list) and isinstance(notes, list):
        texts: dict = {}
        for note in notes:
            if isinstance(note, dict) and isinstance(note.get("caption"), str):
                texts.setdefault(note.get("image_id"), []).append(note["caption"])
        if not texts:
            raise DataError(f"{place} has COCO's annotations without captions, and boxes and outlines are not read.")
        rows = [row for row in images if isinstance(row, dict)]
        return [{FILE: row.get(FILE), "text": texts.get(row.get("id"))} for row in rows]
    column = file_column(found)
    if column is not None and isinstance(found[column], (list, dict)):  # as pandas writes a table
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in found.items()}
        if {len(v) if isinstance(v, list) else -1 for v in columns.values()} == {len(columns[column])}:
            return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    tables = [v for v in found.values() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)]
    if len(tables) == 1 and file_column(tables[0][0]):
        return tables[0]
    return [{FILE: name} | (row if isinstance(row, dict) else {"text": row}) for name, row in found.items()]


def _json(text: str, where: str):
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.") from error


def _csv(text: str, place: str) -> list[dict]:
    if text.startswith("sep="):  # a line for Excel
        text = text.partition("\n")[2]
    header = re.sub(r'"[^"]*"', "", text.partition("\n")[0])  # what is quoted divides nothing
    delimiter = max(",;\t|", key=header.count)

    def lines(strict: bool) -> list[list[str]]:
        text_lines = io.StringIO(text, newline="")
        return list(csv.reader(text_lines, delimiter=delimiter, skipinitialspace=True, strict=strict))

    try:
        found = lines(strict=True)
    except csv.Error as error:
        if "unexpected end" in str(error):  # it would swallow all that comes after it
            raise DataError(
                f'{place}: a text begins with a double quote that nothing closes: write "" for one.'
            ) from None
        try:
            found = lines(strict=False)
        except csv.Error as error:
            raise DataError(f"{place} is not CSV: {error}.") from error
    head = [name.strip() for name in found[0]] if found else []
    if twice := [name for name in head if name and head.count(name) > 1]:
        raise DataError(f"{place} has the column {twice[0]!r} twice: call one otherwise, or take it out.")
    rows = []
    for number, values in enumerate((line for line in found[1:] if any(map(str.strip, line))), 1):
        if any(map(str.strip, values[len(head) :])):
            raise DataError(
                f"{place}, row {number}, has more fields than the header: put a text with {delimiter!r} into double "
                "quotes."
            )
        rows.append({name: value for name, value in itertools.zip_longest(head, values[: len(head)]) if name})
    return rows


def together(rows: list[dict], column: str) -> list[dict]:
    """One row a picture, with a list of texts, where most pictures have several rows that differ in one text alone.

    Numbers that differ too, as those of captions, are left out. Other rows come back as they are.
    """
    of_picture: dict = {}
    if not all(isinstance(row.get(column), str) and row[column] for row in rows):
        return rows
    for row in rows:
        of_picture.setdefault(row.get(column), []).append(row)
    several = [own for own in of_picture.values() if len(own) > 1]
    if 2 * len(several) <= len(of_picture):
        return rows
    differ = {k for own in several for k in own[0] if any(row.get(k) != own[0][k] for row in own)}
    texts = [k for k in differ if not all(str(row.get(k)).strip().isdecimal() for row in rows)]
    if len(texts) != 1 or texts[0].lower() == "label":
        return rows
    kept = [k for k in rows[0] if k not in differ]
    return [{k: own[0].get(k) for k in kept} | {texts[0]: [row.get(texts[0]) for row in own]}
            for own in of_picture.values()]  # fmt: skip


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
