"""The folder of uploads stays small: parts of uploads that broke off go, and beyond MOST what was unused longest.

gradio deletes the files that it knows of an hour after their last use, and all of them when it ends; not what a
connection left half-way, nor what a server that was killed has left.
"""

import os
from pathlib import Path

MOST = 2 << 30  # bytes of all files together
BROKEN_OFF_SECONDS = (
    900  # since the last byte of an upload, after which nobody sends the rest: see sizes.PATIENCE_SECONDS
)
EVERY_SECONDS = 60


def tidy(folder: str | Path, now: float, most: int = MOST) -> list[Path]:
    """Delete what should not be there any more at this time, in seconds since 1970; returns it.

    A part of an upload lies in the folder itself, under a name of tempfile; a whole one in a folder named by its hash.
    """
    files, gone = [], []
    for path in Path(folder).rglob("*"):
        try:
            found = path.lstat()
        except OSError:  # deleted meanwhile
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        if path.parent == Path(folder) and path.name.startswith("tmp") and now - found.st_mtime > BROKEN_OFF_SECONDS:
            gone.append(path)
        else:
            files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    size = sum(size for _, size, _ in files)
    for _, own, path in sorted(files):
        if size <= most:
            break
        gone.append(path)
        size -= own
    for path in gone:
        _delete(path, Path(folder))
    return gone


def _delete(path: Path, folder: Path) -> None:
    """The file, and its folder where that is empty then; what somebody else has deleted is as well."""
    try:
        path.unlink(missing_ok=True)
        if path.parent != folder:
            os.rmdir(path.parent)
    except OSError:
        pass
