"""What was measured of a model, out of the results.json and run.json beside its weights; nothing is typed here."""

from pathlib import Path
from typing import Any

from hub_models import drawing, store
from hub_models.documents import CheckpointError, read_object


def documents(stem: str, name: str) -> tuple[dict, dict]:
    """The metrics and the run.json of a model, {} where there are none or they are out of form."""
    try:
        folder = store.resolve(stem, name)
    except CheckpointError:  # a model that was never in a folder
        return {}, {}
    return of_folder(folder)


def of_folder(folder: Path) -> tuple[dict, dict]:
    """The metrics and the run.json in a model's folder, {} where there are none or they are out of form."""
    metrics = _read(folder / "results.json").get("metrics")
    return metrics if isinstance(metrics, dict) else {}, _read(folder / "run.json")


def _read(path: Path) -> dict:
    try:
        return read_object(path) if path.is_file() else {}
    except CheckpointError:
        return {}


def number(found: dict, name: str) -> float | None:
    """What stands there under this name, None where it is no number."""
    value: Any = found.get(name)
    try:
        return float(value) if drawing.is_number(value) else None
    except OverflowError:  # of a whole number beyond all floats
        return None
