"""What leaves a folder: the one list of pushes, Space builds and bundles, and the manifest over it."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hub_models.documents import CheckpointError
from hub_models.store import MANIFEST, READ, check_kind, file_sha256, stays_home

PUSHED = {
    "model": (*READ, ".md", ".png"),
    "dataset": (".parquet", ".json", ".jsonl", ".csv", ".txt", ".md", ".png", ".jpg"),
    "space": (*READ, ".md", ".png", ".jpg", ".svg", ".py", ".css", ".js"),
}


class PushError(CheckpointError):
    """One sentence: why nothing (or not everything) reached the Hub, and the line that repeats it."""


def write_manifest(folder: str | Path) -> dict:
    """Write manifest.json, {"files": {path: {"sha256", "size"}}} of what a push takes. Write it last. Returns it."""
    folder = Path(folder)
    names = [name for name in files_to_push(folder) if name != MANIFEST]
    files = {n: {"sha256": file_sha256(folder / n), "size": (folder / n).stat().st_size} for n in names}
    manifest = {"files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def files_to_push(folder: str | Path, *, repo_type: str = "model") -> list[str]:
    """Sorted relative paths of what leaves a folder: allowed suffixes only; no links, hidden files or checkpoints.

    The one list of pushes, Space builds and bundles. The links of a snapshot in the Hub's cache count as files.
    """
    return [name for name, is_link in _allowed(Path(folder), repo_type) if not is_link]


def without_links(folder: str | Path, *, repo_type: str = "model") -> list[str]:
    """`files_to_push` of a folder where no link would be left out, or taken for what it leads to. Raises PushError."""
    if links := links_in(folder, repo_type):
        raise PushError(f"{Path(folder) / links[0]} is a link, which may lead anywhere: put the file itself there")
    return files_to_push(folder, repo_type=repo_type)


def own_file(path: Path) -> bool:
    """Whether a path is a plain file that is where it says it is, or a link in the Hub's cache to a blob of its repo.

    Any other link may lead to a file that is nobody's to publish.
    """
    if not path.is_symlink():
        return path.is_file()
    link = Path(os.path.normpath(path.absolute()))
    at = next((place for place in link.parents if place.parent.name == "snapshots"), None)
    if at is None:
        return False
    blobs = at.parent.parent / "blobs"  # models--org--name/snapshots/<commit>/… → models--org--name/blobs/<hash>
    return (
        re.fullmatch(r"(models|datasets|spaces)--.+", blobs.parent.name) is not None
        and not any(place.is_symlink() for place in (blobs, *(p for p in link.parents if p.is_relative_to(at))))
        and path.resolve().parent == blobs.resolve()
        and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", path.resolve().name) is not None
        and path.is_file()
    )


def links_in(folder: str | Path, repo_type: str = "model") -> list[str]:
    """Sorted relative paths of links that would be pushed if they were files."""
    return [name for name, is_link in _allowed(Path(folder), repo_type) if is_link]


def left_out(folder: str | Path, *, repo_type: str = "model") -> list[str]:
    """Sorted relative paths of what a push leaves at home; a folder that stays as a whole ends in a slash."""
    folder = Path(folder)
    taken, found = set(files_to_push(folder, repo_type=repo_type)), set()
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        whole = next((i for i, part in enumerate(parts[:-1]) if part.startswith((".", "checkpoint-"))), None)
        if whole is not None:
            found.add("/".join(parts[: whole + 1]) + "/")
        elif (path.is_file() or path.is_symlink()) and "/".join(parts) not in taken:
            found.add("/".join(parts))
    return sorted(found)


def verify_files(folder: str | Path, names: Sequence[str]) -> None:
    """Return if each of these files of a data set or Space is what its name says.

    Raises CheckpointError for an LFS pointer, an HTML page, an empty data file, JSON that is none, half a parquet file.
    """
    for name in names:
        path = Path(folder) / name
        if path.suffix in (".py", ".txt", ".md", ".css", ".js", ".svg"):
            continue
        check_kind(path)
        if path.suffix == ".parquet":
            with path.open("rb") as file:
                start, _, end = file.read(4), file.seek(max(0, path.stat().st_size - 4)), file.read(4)
            if path.stat().st_size < 12 or (start, end) != (b"PAR1", b"PAR1"):
                raise CheckpointError(f"{path} is cut short or no parquet file: build it again")


def _allowed(folder: Path, repo_type: str) -> Iterator[tuple[str, bool]]:
    """(relative path, whether it is a link), sorted, of what a push would take if links were taken."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if stays_home(relative):
            continue
        if path.is_symlink() and (path.is_dir() or path.suffix in PUSHED[repo_type]):
            yield relative.as_posix(), path.is_dir() or not own_file(path)
        elif path.is_file() and path.suffix in PUSHED[repo_type]:
            yield relative.as_posix(), False
