"""How a benchmark says what it found: a table in markdown, and the same numbers in build/bench/."""

import json
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "build" / "bench"


def markdown(rows: Sequence[dict]) -> str:
    """A table of rows with the same keys; numbers with three digits that count, right-aligned."""
    titles = list(rows[0])
    right = [all(isinstance(row[title], int | float) for row in rows) for title in titles]
    lines = [titles, ["---:" if number else "---" for number in right]]
    lines += [[_said(row[title]) for title in titles] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _said(value) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def write(name: str, found: dict) -> Path:
    """Keep what was found as build/bench/<name>.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path
