"""Places on this machine, and what is said instead of them in what leaves it."""

import json
import os
import re
from pathlib import Path
from typing import Any

from hub_models.documents import read_json

WHERE_FROM = ("_name_or_path", "name_or_path")  # where a library's config says that it was opened


def is_place(text: object) -> bool:
    """Whether a text is a path that means something on this machine alone: one from a root, a home or upwards."""
    text = text if isinstance(text, str) else ""
    rooted = os.path.isabs(text) or re.match(r"~|\.\.([/\\]|$)|[A-Za-z]:[/\\]|\\\\", text)
    return bool(rooted) and "\n" not in text and 2 < len(text) < 4096


def called(name: str | Path) -> str:
    """What a model, a run or a data set is called: the last part of its path, and of an export that of its run."""
    parts = [part for part in re.split(r"[/\\]", str(name)) if part not in ("", ".", "..", "~")]
    if parts == ["export"] or (not parts and Path(name).is_dir()):
        parts = list(Path(name).resolve().parts)
    if len(parts) > 1 and parts[-1] == "export":
        parts.pop()
    return parts[-1] if parts else "unnamed"


def portable(word: str) -> str:
    """A word of a command without the place it may name: /data/cats becomes cats, and so in --flag=/data/cats."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + (called(value) if is_place(value) else value)


def without_places(value: Any) -> Any:
    """The same JSON, where each place that stands in it alone has become its name, and so wherever else it is named."""
    places = {text: called(text) for text in _texts(value) if is_place(text)}
    longest_first = sorted(places, key=len, reverse=True)

    def said(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: said(inner) for key, inner in part.items()}
        if isinstance(part, list | tuple):
            return [said(inner) for inner in part]
        if isinstance(part, str):
            for place in longest_first:
                part = part.replace(place, places[place])
        return part

    return said(value)


def _texts(value: Any) -> list[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [value] if isinstance(value, str) else [text for part in inner for text in _texts(part)]


def forget_places(folder: Path) -> None:
    """Take out of the configs below a folder from where they were opened, and what else names a file elsewhere."""
    for path in sorted(folder.rglob("*.json")):
        if not path.name.endswith(("config.json", "index.json")):
            continue
        content = read_json(path, strict=False)
        if (kept := _without(content)) != content:
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(part) for key, part in value.items() if not _says_where(key, part)}
    return [_without(part) for part in value] if isinstance(value, list) else value


def _says_where(key: str, value: Any) -> bool:
    return key in WHERE_FROM or (is_place(value) and re.search("path|file|dir|folder", key) is not None)
