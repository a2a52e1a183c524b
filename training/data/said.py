"""What files beside pictures say of them, as rows: which picture a row means, however it is called there.

said_rows(files, home, names, ["metadata.jsonl"], where, None)
"""

import contextlib
import difflib
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from training.data.files import MAX_SKIPPED_SHARE, DataError, Files, choices, first_line, shown, some
from training.data.metadata import FILE, KINDS, captions_in, file_column, rows_of, together

WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
WORD = re.compile(rf"(?i)(.*(?<![^\W_]))?({'|'.join(WORDS)})((?![^\W_]).*)?$")  # in a name of more words
SIDECARS = (".txt", ".caption")
MANY_TABLES = 20  # of other names, that are looked into
TABLE_BYTES = 2**27  # of each of them
Place = Callable[[str], tuple[str | None, tuple[str, ...]]]  # of a file: its split, and the folders below that


class File(str):
    """A file that a row names, relative to the folder."""


def kind(name: str) -> str:
    """The ending of a file's name, in small letters."""
    return PurePosixPath(name).suffix.lower()


def naming(files: Files, home: Path, names: Sequence[str], pictures: Sequence[str], place: Place) -> list[str]:
    """Those tables, whatever they are called, of which most rows name pictures, if together they name most of those to
    train on; [] else. Not those beside one picture each.

    In CSV the name may lack its ending; the keys of a JSON may be numbers of something else.
    """
    whole = {plain(PurePosixPath(name).name) for name in pictures}
    stems = {plain(PurePosixPath(name).stem) for name in pictures}
    tables = [name for name in names if kind(name) in (*KINDS, ".txt") and kind(name) != ".parquet"]
    tables = [t for t in tables if plain(PurePosixPath(t).stem) not in stems and "submission" not in t.lower()]
    found, named = [], set()
    for name in tables[:MANY_TABLES]:
        known = whole if kind(name) in (".json", ".jsonl") else whole | stems
        with contextlib.suppress(DataError, OSError):
            rows = rows_of(files.read(home / name, TABLE_BYTES), name)
            column = file_column(rows[0])
            values = [str(row.get(column)).replace("\\", "/") for row in rows] if column else []
            last = [plain(PurePosixPath(value).name) for value in values]
            if len(rows[0]) > 1 and 2 * sum(value in known for value in last) > len(values):
                found.append(name)
                named.update(last)
    training = [PurePosixPath(name) for name in pictures if place(name)[0] == "train"]
    many = sum(plain(path.name) in named or plain(path.stem) in named for path in training)
    return found if 2 * many > len(training) else []


def said_rows(
    files: Files, home: Path, names: list[str], said: Sequence[str], where: str, caption_column: str | None,
    anywhere: Place | None = None,
) -> list[dict]:  # fmt: skip
    """The rows of the metadata files, files relative to the folder. A few that name what isn't there are left out.

    anywhere: of tables that name files wherever they lie, the arrangement of the folder.
    """
    known = Known(files, home, names, anywhere)
    rows, first, missing = [], {}, []
    for place in said:
        try:
            table = rows_of(files.read(home / place), place)
        except (OSError, DataError) as error:
            raise error if str(error).startswith(place) else DataError(f"{place}: {first_line(error)}.") from error
        name = FILE if FILE in table[0] else file_column(table[0], place)
        if name is None or (name != FILE and not isinstance(table[0][name], (str, int))):
            header = " in its first line" if kind(place) in (".csv", ".tsv") else ""
            raise DataError(
                f"{place} has no column `{FILE}`. {choices(FILE, table[0], 'It has')} Call the one that names the "
                f"pictures so{header}."
            )
        if name != FILE:
            table = [{FILE if key == name else key: value for key, value in row.items()} for row in table]
        columns = [key for key in table[0] if key == FILE or key.endswith(f"_{FILE}")]
        table = together(table, FILE)
        for number, row in enumerate(table, 1):
            made, lost = {}, []
            for column in columns:
                name = row.get(column)
                if anywhere and type(name) is int:
                    name = str(name)
                if not isinstance(name, str) or not name:
                    raise DataError(f"{place}, row {number}: `{column}` is {name!r}, not the name of a file.")
                try:
                    found = known.found(place, name)
                except DataError as error:
                    raise DataError(f"{place}, row {number}: {error}.") from error
                made[column[: -len(FILE) - 1] or "image"] = File(found or "")
                lost += [] if found else [name]
            if caption_column is not None and caption_column in table[0]:
                captions_in(row.get(caption_column), f"{place}, {row[FILE]}", caption_column)
            if lost:
                missing.append((place, lost[0] if len(lost[0]) <= 120 else shown(lost[0])))
                continue
            other = first.setdefault(made["image"], place)
            if other != place:
                raise DataError(f"{other} and {place} both name {row[FILE]}: keep one row for each picture.")
            rows.append(made | {key: value for key, value in row.items() if key not in columns and key not in made})
        counts = Counter(row["image"] for row in rows)
        for row in table if len(counts) < len(rows) else ():
            if (count := sum(other.get(FILE) == row[FILE] for other in table)) > 1:
                raise DataError(f"{place} names {row[FILE]} {count} times: keep one row for each picture.")
        if len(counts) < len(rows):
            [name] = [name for name, count in counts.items() if count > 1][:1]
            raise DataError(f"{place} names {name} 2 times: keep one row for each picture.")
    if missing:
        check_missing(missing, len(rows), names, where)
    return rows


class Known:
    """The files of a folder by what rows may call them.

    anywhere: where rows name files in whatever folder, without an ending too, the folder's arrangement: of several of
    one name that of the split which the table is named after is meant.
    """

    def __init__(self, files: Files, home: Path, names: Sequence[str], anywhere: Place | None):
        self._files, self._home, self._there, self._anywhere = files, home, set(names), anywhere
        self._alike: dict[str, list[str]] = {}
        self._bare: dict[str, list[str]] = {}  # without ending; anywhere without folders, too
        for name in names:
            self._alike.setdefault(plain(name), []).append(name)
            path = PurePosixPath(name)
            if kind(name) not in (*SIDECARS, *KINDS):
                for key in {str(path.with_suffix("")), *((path.name, path.stem) if anywhere else ())}:
                    self._bare.setdefault(plain(key), []).append(name)

    def found(self, table: str, name: str) -> str | None:
        """The file that a row names, or the only one whose name differs in case, form or ending alone; None where there
        is none. A whole path of another machine is of the file that lies at its end.

        Raises DataError where it leads out of the folder.
        """
        parent, tidy = posixpath.dirname(table), name.strip().replace("\\", "/")
        try:
            for text in (name, tidy):
                within, resolved = self._files.place(self._home / posixpath.join(parent, text))
                inside = posixpath.normpath(posixpath.join(parent, text))
                if inside in self._there:
                    return inside
        except DataError:
            if found := self._at_end(parent, tidy):
                return found
            raise
        others = self._alike.get(plain(inside)) or self._bare.get(plain(inside), [])
        if len(others) != 1 and self._anywhere:
            others = self._bare.get(plain(posixpath.basename(tidy)), [])
            if len(others) > 1:
                stem = PurePosixPath(table).stem  # train.csv, captions_train2017.json, trainLabels.csv
                split = next(
                    (of for word, of in WORDS.items() if re.search(rf"(?i)(?<![a-z]){word}(?![a-z])", stem)), None
                )
                split = split or ("train" if stem.startswith("train") else None)
                others = [other for other in others if self._anywhere(other)[0] == split]
        if len(others) == 1:
            return others[0]
        if found := self._at_end(parent, tidy):
            return found
        with contextlib.suppress(OSError):  # a name too long
            return resolved.as_posix() if within == self._home and (self._home / resolved).is_file() else None
        return None

    def _at_end(self, parent: str, tidy: str) -> str | None:
        if not tidy.startswith("/") and not re.match("[A-Za-z]:/", tidy):
            return None
        parts = tidy.split("/")[1:]
        ends = (posixpath.normpath(posixpath.join(parent, *parts[k:])) for k in range(len(parts)))
        return next((end for end in ends if end in self._there), None)


def plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def check_missing(missing: list[tuple[str, str]], count: int, names: Iterable[str], where: str) -> None:
    """Say which rows are left out as their files are missing. Raises DataError where they are more than 5 %."""
    place, name = missing[0]
    beside = {PurePosixPath(other).name: posixpath.relpath(other, posixpath.dirname(place)) for other in names}
    guess = difflib.get_close_matches(PurePosixPath(name).name, beside, 1)
    said = f"{place} names {name}, which is not there." + (f" Did you mean {beside[guess[0]]}?" if guess else "")
    more = f" So do {len(missing)} of {len(missing) + count} rows: {some([name for _, name in missing])}."
    if len(missing) > MAX_SKIPPED_SHARE * (len(missing) + count):
        raise DataError(said + more * (len(missing) > 1))
    print(f"{where}: {len(missing)} of {len(missing) + count} rows left out: {said}{more * (len(missing) > 1)}")
