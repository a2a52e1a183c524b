"""What strangers' files say: JSON, and the headers of safetensors files, read within bounds and checked for their form.

Every failure is a CheckpointError: one sentence that names the file and says what to do.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

MAX_JSON_BYTES = 64 << 20  # the tokenizer.json of the largest vocabularies has half of it
MAX_HEADER_BYTES = 32 << 20
MAX_DEPTH = 32  # of brackets in brackets
BITS = {"BOOL": 8, "BF16": 16} | {f"{kind}{bits}": bits for kind in "UI" for bits in (8, 16, 32, 64)}
BITS |= {f"F{bits}": bits for bits in (16, 32, 64)}


class CheckpointError(RuntimeError):
    """One sentence: what is wrong with which file, and what to do."""


def read_json(path: Path, *, strict: bool = True, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The content of a JSON file in UTF-8; strict refuses a key that an object has twice, NaN and Infinity.

    Raises CheckpointError for what is no plain file, unreadable, larger than max_bytes, no JSON, or nested too deep.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing or no plain file: download or export it again")
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise CheckpointError(f"{path} has {size:,} bytes, at most {max_bytes:,} are read: export it again")
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): mend its permissions or its link") from error
    return parsed(raw, path, strict=strict)


def read_object(path: Path, **options) -> dict:
    """As `read_json`, of a file that must hold an object."""
    value = read_json(path, **options)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} where an object belongs: export it again")
    return value


def parsed(raw: bytes, path: Path, *, strict: bool = True) -> Any:
    """The value that JSON in UTF-8 stands for. path: what it is from, for messages. Raises CheckpointError."""
    once, refused = (_once, _refused) if strict else (None, None)
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=refused)
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested beyond reason: download or export it again") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are, and whole numbers of 4,301 digits
        raise CheckpointError(f"{path} is not JSON ({str(error)[:200]}): download or export it again") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for part in level for inner in _inside(part) if isinstance(inner, dict | list)]
    if level:
        raise CheckpointError(f"{path} is nested more than {MAX_DEPTH} deep: download or export it again")
    return value


def entries(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """(keys that lead to it, value) of everything in a JSON value, itself included; the places in lists are numbers."""
    yield path, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from entries(inner, (*path, key))


def within(name: Any) -> bool:
    """Whether this names a file below a folder: relative, and no way up."""
    return (
        isinstance(name, str)
        and 0 < len(name) < 4096
        and not any(c in name for c in "\\:\0")
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
    )


def read_header(path: Path) -> tuple[dict[str, dict], int]:
    """({name: {"dtype", "shape", "data_offsets"}}, where the data begin) of a safetensors file, each entry in form.

    Raises CheckpointError, also for a file that is cut short, and for one without a tensor.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(length) if length <= min(size - 8, MAX_HEADER_BYTES) else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): mend its permissions or its link") from error
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"{path} is cut short or no safetensors file: download or export it again")
    broken = f"{path} is no safetensors file (its header is broken): download it again"
    try:
        header = parsed(raw, path)
    except CheckpointError as error:
        raise CheckpointError(broken) from error
    if not isinstance(header, dict) or not isinstance(header.pop("__metadata__", None), dict | None):
        raise CheckpointError(broken)
    if not all(_in_form(entry) for entry in header.values()):
        raise CheckpointError(broken)
    needed = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < needed:
        raise CheckpointError(f"{path} is cut short: {size:,} of {needed:,} bytes; download or export it again")
    if not header:
        raise CheckpointError(f"{path} holds no tensor: export it again")
    return header, 8 + length


def _in_form(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 16:
        return False
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, *offsets)):
        return False
    bits = BITS.get(entry["dtype"])
    return offsets[0] <= offsets[1] and (bits is None or (offsets[1] - offsets[0]) * 8 == math.prod(shape) * bits)


def _once(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has {twice[:60]!r} twice")
    return found


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _inside(part: Any):
    return part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
