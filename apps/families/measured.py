"""What was measured of a model, out of the results.json and run.json beside its weights; nothing is typed here."""

from typing import Any

from apps.kit.measured import documents, number

FIGURES = (
    "kid_x1000", "kid_x1000_low", "kid_x1000_high", "precision", "recall", "label_accuracy", "seconds_per_picture",
)  # fmt: skip


def row(member) -> dict[str, Any]:
    """A member of the page in the table: what its family can, and its figures, None where there is none."""
    family, model = member.family, member.model
    metrics, run = documents(family.stem, model.name)
    return {
        "family": member.name,
        "title": member.title,
        "likelihood": family.likelihood,
        "bits_per_dimension": number(metrics, family.bits),
        "encoder": family.encoder or None,
        "passes": family.passes(model),
        **{name: number(metrics, name) for name in FIGURES},
        "parameters": model.parameters,
        "hours": _hours(run),
    }


def _hours(run: dict) -> float | None:
    """Of the run and of those before it that it went on from."""
    earlier = run.get("earlier")
    stages = [run, *(stage for stage in (earlier if isinstance(earlier, list) else []) if isinstance(stage, dict))]
    hours = [value for stage in stages if (value := number(stage, "hours")) is not None]
    return sum(hours) if hours else None
