"""The files of a data set: whatever names one, only plain files inside the data set's own folder are opened.

    files = Files((folder.resolve(),))
    files.read("images/1.png")

A data set is somebody else's words: a row of a parquet file, a line of metadata.jsonl or a link may name any path of
this machine. Each is resolved first; what then lies elsewhere, or is no plain file (a device, a pipe, a folder), is
refused with a `DataError` before it is opened, and what is read comes from the very file that was looked at.
"""

import difflib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_SKIPPED_SHARE = 0.05  # of the pictures on disk, and of the rows
MAX_FILE_BYTES = 256 * 2**20  # of a picture, a mask, or a list of them; `datasets` reads its files in parts
ADDRESS = re.compile(r"^[A-Za-z][\w+.-]*:/|::")  # hf://…, zip://…::…, file:/…
ELSEWHERE = "only files inside the data set's folder are opened: put it there, or its bytes into the data"


class DataError(ValueError):
    """The data cannot be trained on; the message says where, why, and what to do."""


def choices(wrong: str, names: Iterable[str], lead: str) -> str:
    """ "It has: a, b. Did you mean 'a'?" """
    names = list(names)
    guess = difflib.get_close_matches(wrong.lower(), [n.lower() for n in names], 1, cutoff=0.5) if wrong else []
    guess = [n for n in names if guess and n.lower() == guess[0] and n != wrong]
    return f"{lead}: {', '.join(names) or 'none'}." + (f" Did you mean '{guess[0]}'?" if guess else "")


def some(names: Sequence[str]) -> str:
    """The first ten, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def first_line(error: BaseException) -> str:
    """What the error says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Files:
    """Where the files that a data set names may lie: resolved folders, the first of them for relative names.

    None at all where the data come from somewhere else, and can't name a file of this machine.
    """

    folders: tuple[Path, ...] = ()

    def read(self, name: str | os.PathLike, most_bytes: int = MAX_FILE_BYTES) -> bytes:
        """What is in a file that the data name. Raises DataError if it may not be opened, OSError if it can't be."""
        descriptor = self._open(name)
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            content = file.read(most_bytes + 1) if size <= most_bytes else b""
        if size > most_bytes or len(content) > most_bytes:
            raise DataError(f"{shown(name)} has more than {most_bytes >> 20} MiB: make it smaller, or take it out")
        return content

    def head(self, name: str | os.PathLike, count: int) -> bytes:
        """The first bytes of a file that the data name. Raises DataError and OSError as `read` does."""
        with open(self._open(name), "rb") as file:
            return file.read(count)

    def place(self, name: str | os.PathLike) -> tuple[Path, Path]:
        """(folder, path in it) of a file that data name, links resolved. Raises DataError where it lies elsewhere."""
        text = os.fspath(name)
        if "\0" in text:
            raise DataError(f"{shown(name)} is no name of a file: it has a NUL in it")
        if text.encode(errors="ignore").decode() != text:  # half of a pair of surrogates
            raise DataError(f"{shown(name)} is no name of a file: it is no text")
        if ADDRESS.search(text):
            raise DataError(f"{shown(name)} is an address, and {ELSEWHERE}")
        if not self.folders:
            raise DataError(
                f"{shown(name)} is a file of this machine, and these data may name none: they need the bytes"
            )
        try:
            path = Path(os.path.realpath(self.folders[0] / text))
        except OSError as error:  # a name too long
            raise DataError(f"{shown(name)} is no name of a file: {error.strerror}") from error
        for folder in self.folders:
            if path.is_relative_to(folder):
                return folder, path.relative_to(folder)
        raise DataError(f"{shown(name)} is not in the data set's folder, and {ELSEWHERE}")

    def _open(self, name: str | os.PathLike) -> int:
        """A descriptor of a plain file. Each step of the way is taken by its descriptor and follows no link.

        So a link that appears between the look and the opening leads nowhere.
        """
        folder, inside = self.place(name)
        step = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in inside.parent.parts:
                following = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=step)
                os.close(step)
                step = following
            if not stat.S_ISREG(os.stat(inside.name or ".", dir_fd=step, follow_symlinks=False).st_mode):
                raise DataError(f"{shown(name)} is no plain file: {ELSEWHERE}")
            descriptor = os.open(inside.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=step)
        finally:
            os.close(step)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise DataError(f"{shown(name)} is no plain file: {ELSEWHERE}")
        return descriptor


def shown(name: str | os.PathLike) -> str:
    """A name out of somebody else's data, fit for a message: quoted, on one line, at most 120 characters."""
    text = os.fspath(name)
    return repr(text if len(text) <= 120 else f"{text[:60]}…{text[-59:]}")


def check_folder(folder: Path, where: str) -> None:
    """Return if all that lies in a data set's folder is plain files, folders, and links to such inside of it.

    Hidden folders and files are not looked at, as `datasets` doesn't; but for its own .huggingface.yaml.
    Raises DataError that names the first thing that isn't.
    """
    files = Files((folder.resolve(),))
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(names)]:
            path = Path(parent, name)
            if name.startswith(".") and name != ".huggingface.yaml":
                continue
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                continue
            inside = path.relative_to(folder).as_posix()
            if not stat.S_ISLNK(mode):
                raise DataError(f"{where}: {shown(inside)} is a device, a pipe or a socket: take it out of the folder.")
            try:
                target = Path(*files.place(path.absolute()))
            except DataError:
                raise DataError(
                    f"{where}: {shown(inside)} is a link that leads out of the folder: put what it leads to into its "
                    "place."
                ) from None
            if target.is_dir() and Path(os.path.realpath(parent)).is_relative_to(target):
                raise DataError(f"{where}: {shown(inside)} is a link to a folder around it: take it out.")
            if not target.is_dir() and not target.is_file():
                raise DataError(f"{where}: {shown(inside)} is a link to nothing that can be read: take it out.")


def check_named(data_files: dict | None, folder: Path | None, where: str) -> None:
    """Return if the data files that a data set's own description names are its own. Raises DataError.

    data_files: {split: paths or addresses}, as `datasets` understood the README.md. folder: None for one of the Hub.
    """
    for name in (str(name) for names in (data_files or {}).values() for name in names):
        if folder is None:
            if not name.startswith((f"hf://datasets/{where}@", f"hf://datasets/{where}/")) or ".." in name.split("/"):
                raise DataError(f"{where}: its description names {shown(name)}, which is not a file of it.")
            continue
        try:
            home, inside = Files((folder.resolve(),)).place(name)
        except DataError as error:
            raise DataError(f"{where}: its description names {error}.") from error
        if not (home / inside).is_file():
            raise DataError(f"{where}: its description names {shown(name)}, which is no plain file.")
