"""A model card written from a run and its results.

Every number in it comes from the run's manifest or from results.json; what was not recorded says so.
"""

import math
from pathlib import Path
from typing import Any

import yaml

from hub_models.publish.licences import NOTICE, LicenseError, license_of
from hub_models.publish.lint import is_local
from hub_models.publish.tables import SHARES, UNKNOWN, class_table, metric_table

CURVES = "training"  # the picture of the run's own curves, which stands with the training
METRIC_TYPES = {"top1": "accuracy", "top5": "top-5 accuracy"}


def write_card(run: dict[str, Any], results: dict | None) -> str:
    """A model card in Markdown with YAML front matter.

    run: stem, name, title, summary, library_name, pipeline_tag, tags, license, base_license, license_settled, datasets,
    base_model, command, hardware, hours, steps, images_seen, seed, config, parameters, attributions, usage, limits,
    pictures, repo_id, earlier (the stages before this one), lineage (what it began from), base_attributions; any may be
    absent. A licence that can't be resolved is left
    out, and the card says why.
    results: the results.json, or None before the evaluation. Raises ValueError where
    Twemoji art would lose its licence.
    """
    attributions, doubt = list(run.get("attributions") or []), None
    try:
        run = run | {"license": license_of(run)}
    except LicenseError as error:
        run, doubt = run | {"license": None}, str(error).partition(":")[0]
    lost = run.get("license") in (None, *NOTICE[: NOTICE.index("cc-by-4.0")])
    if any("twemoji" in text.lower() for text in attributions) and lost and not doubt:
        raise ValueError(
            f"weights trained with Twemoji art need license cc-by-4.0, the run says {run.get('license')}: "
            "set it in the script's run description"
        )
    usage = (run.get("usage") or "").rstrip()
    if run.get("repo_id"):
        usage = usage.replace("org/name", str(run["repo_id"]))
    front = yaml.safe_dump(_front_matter(run, results), sort_keys=False, allow_unicode=True, width=120)
    parts = [f"---\n{front}---", f"# {run.get('title') or run.get('name', 'Model')}", run.get("summary", "")]
    parts += _gallery(run)
    parts += ["## What was measured", *_measured(results)]
    parts += ["## Use it", f"```python\n{usage}\n```"] if usage else []
    parts += ["## How it was trained", *_training(run)]
    parts += ["## Data and licences", *_licences(run, attributions, doubt)]
    limits = list(run.get("limits") or [])
    parts += ["## Limits", "\n".join(f"- {text}" for text in limits) or UNKNOWN.capitalize() + "."]
    parts += ["## Cite", _citation(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _gallery(run: dict) -> list[str]:
    """The pictures of a card, in the Hub's own gallery too where the model draws."""
    names = [name for name in run.get("pictures") or [] if Path(name).stem != CURVES]
    shown = [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in names]
    return (["<Gallery />"] if _widget(run) else []) + shown


def _widget(run: dict) -> list[dict] | None:
    """What <Gallery /> shows: pictures drawn from a prompt."""
    drawn = [name for name in run.get("pictures") or [] if Path(name).stem == "samples"]
    if run.get("pipeline_tag") != "text-to-image":
        return None
    return [{"text": "samples drawn from captions of the data", "output": {"url": name}} for name in drawn] or None


def _front_matter(run: dict, results: dict | None) -> dict:
    """The YAML of the card; keys without a value are left out, never null."""
    datasets = [d for d in run.get("datasets") or [] if "/" in str(d) and not is_local(d)]
    base = run.get("base_model")
    base = base.partition("@")[0] if base else None
    base = base if base and "/" in base and not is_local(base) else None  # a name without a slash is a bundled one
    tags = list(run.get("tags") or [])
    relation = "adapter" if "lora" in tags else "finetune"
    tags += ["template:sd-lora"] if relation == "adapter" else []
    front = {
        "license": run.get("license"),
        "license_name": run.get("license_name"),
        "license_link": run.get("license_link"),
        "library_name": run.get("library_name"),
        "pipeline_tag": run.get("pipeline_tag"),
        "tags": list(dict.fromkeys([*tags, "vitrail"])),
        "datasets": datasets,
        "base_model": base,
        "base_model_relation": relation if base else None,
        "widget": _widget(run),
        "model-index": _model_index(run, results),
    }
    return {key: value for key, value in front.items() if value not in (None, [], "")}


def _model_index(run: dict, results: dict | None) -> list[dict] | None:
    """The Hub's table of results: one entry per set that was measured."""
    by_set: dict[str, list[dict]] = {}
    if not results:
        return None
    for name, value in (results.get("metrics") or {}).items():
        split, _, metric = name.rpartition("/")
        if isinstance(value, int | float) and math.isfinite(value):
            entry = {"type": METRIC_TYPES.get(metric, metric), "name": name, "value": float(f"{value:.6g}")}
            by_set.setdefault(split, []).append(entry)
    if not by_set:
        return None
    kind = Path(str(results["dataset"])).name
    entries = []
    for split, metrics in by_set.items():
        dataset = {"type": kind, "name": f"{kind} ({split})" if split else kind} | ({"split": split} if split else {})
        entries.append({"task": {"type": run.get("pipeline_tag") or "other"}, "dataset": dataset, "metrics": metrics})
    return [{"name": str(run.get("name") or run["stem"]), "results": entries}]


def _measured(results: dict | None) -> list[str]:
    if not results:
        return ["Not measured yet: `python -m training.evaluate` fills this in."]
    stem, kind = results.get("stem"), Path(str(results.get("dataset"))).name
    parts = [f"By `python -m training.evaluate {stem}` on `{kind}`.", "\n".join(metric_table(results))]
    baseline = results.get("baseline") or {}
    shares = {name: value for name, value in results["metrics"].items() if SHARES.fullmatch(name.rsplit("/", 1)[-1])}
    below = [name for name, value in shares.items() if name in baseline and value < baseline[name]]
    if below:
        parts.append(f"Below {results.get('baseline_name', 'the baseline')} in: {', '.join(f'`{n}`' for n in below)}.")
    parts += results.get("left_out") or []
    if table := class_table(results):
        parts += ["Per class:", "\n".join(table)]
    return parts


def _training(run: dict) -> list[str]:
    number = {key: run.get(key) for key in ("hours", "steps", "images_seen", "seed", "parameters", "skipped_steps")}
    said = {key: UNKNOWN if value is None else f"{value:,}" for key, value in number.items()}
    said["seed"] = UNKNOWN if number["seed"] is None else str(number["seed"])
    rows = {
        "hardware": run.get("hardware") or UNKNOWN,
        "hours": said["hours"],
        "optimiser steps": said["steps"],
        "pictures seen": said["images_seen"],
        "seed": said["seed"],
        "parameters": said["parameters"],
    }
    if number["skipped_steps"]:
        rows["steps skipped (loss or gradient not finite)"] = said["skipped_steps"]
    for number, change in enumerate(run.get("changed_on_resume") or [], 1):
        rows[f"changed on the way ({number})"] = change
    earlier = run.get("earlier") or []
    for number, stage in enumerate(earlier, 1):
        rows[f"before that (stage {number})"] = "; ".join([_effort(stage), *(stage.get("changed_on_resume") or [])])
    if earlier:
        rows["in all"] = _effort(in_all(run))
    elif run.get("lineage"):
        rows["fine-tuned from"] = "; that from ".join(run["lineage"])
    elif run.get("base_model"):
        rows["fine-tuned from"] = (
            f"`{Path(run['base_model']).name if is_local(run['base_model']) else run['base_model']}`"
        )
    if run.get("data_hash"):
        rows["training data, sha256"] = f"`{run['data_hash'][:16]}…`"
    commands = [stage.get("command") or UNKNOWN for stage in earlier] + [run.get("command") or UNKNOWN]
    parts = ["```\n{}\n```".format("\n".join(commands))] if run.get("command") else [f"Command: {UNKNOWN}."]
    parts += [f"![{CURVES}]({name})" for name in run.get("pictures") or [] if Path(name).stem == CURVES]
    parts.append("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]))
    return parts


def in_all(run: dict) -> dict:
    """Hours, steps and images_seen of a run and the stages before it, together."""
    stages = [*(run.get("earlier") or []), run]
    return {key: sum(stage.get(key) or 0 for stage in stages) for key in ("hours", "steps", "images_seen")}


def _effort(stage: dict) -> str:
    return (
        f"{stage.get('steps', 0):,} steps, {stage.get('images_seen', 0):,} pictures, {stage.get('hours', 0):.2f} hours"
    )


def _licences(run: dict, attributions: list[str], doubt: str | None) -> list[str]:
    licence = f"No licence is stated for these weights yet{': ' + doubt if doubt else ''}."
    named = f", [{run['license_name']}]({run.get('license_link', '')})" if run.get("license_name") else ""
    parts = [f"These weights: `{run['license']}`{named}." if run.get("license") else licence]
    if run.get("base_license"):
        parts.append(f"The model that they began from: `{run['base_license']}`.")
    if before := run.get("base_attributions"):
        parts += ["It had seen the work of, with thanks:", "\n".join(f"- {text}" for text in before)]
    if attributions:
        parts += ["Trained on the work of, with thanks:", "\n".join(f"- {text}" for text in attributions)]
    return parts


def _citation(run: dict) -> str:
    title = run.get("title") or run.get("name", "Model")
    note = f"Vitrail, training.{run.get('stem')}"
    return f"```bibtex\n@misc{{vitrail,\n  title = {{{title}}},\n  note  = {{{note}}}\n}}\n```"
