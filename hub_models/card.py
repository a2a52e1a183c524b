"""A model card written from a run and its results, and a lint that refuses offline what the Hub would refuse.

Every number in a card comes from the run's manifest or from results.json; what was not recorded says so. The lint also
reads the cards of data sets and the front matter of Spaces.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

KEYS = {
    "model": set(
        """language license license_name license_link library_name tags datasets metrics base_model base_model_relation
        pipeline_tag new_version widget instance_prompt inference thumbnail model-index""".split()
    ),
    "dataset": set(
        """language license license_name license_link license_details pretty_name tags annotations_creators
        language_creators language_details language_bcp47 multilinguality size_categories source_datasets
        task_categories task_ids paperswithcode_id configs dataset_info train-eval-index viewer thumbnail vitrail""".split()
    ),
    "space": set(
        """title emoji colorFrom colorTo sdk python_version sdk_version app_file app_build_command app_port base_path
        suggested_hardware suggested_storage fullWidth header short_description models datasets tags thumbnail pinned
        hf_oauth hf_oauth_scopes hf_oauth_expiration_minutes hf_oauth_authorized_org disable_embedding
        startup_duration_timeout custom_headers preload_from_hub license duplicated_from""".split()
    ),
}
NAMES = {"model": "model card", "dataset": "data set card", "space": "Space"}
RELATIONS = {"adapter", "merge", "quantized", "finetune"}
PIPELINE_TAGS = set(
    """any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition depth-estimation
    document-question-answering feature-extraction fill-mask graph-ml image-classification image-feature-extraction
    image-segmentation image-text-to-text image-to-3d image-to-image image-to-text image-to-video keypoint-detection
    mask-generation object-detection other question-answering reinforcement-learning robotics sentence-similarity
    summarization table-question-answering tabular-classification tabular-regression text-classification
    text-generation text-ranking text-to-3d text-to-audio text-to-image text-to-speech text-to-video
    time-series-forecasting token-classification translation unconditional-image-generation video-classification
    video-text-to-text visual-document-retrieval visual-question-answering voice-activity-detection
    zero-shot-classification zero-shot-image-classification zero-shot-object-detection""".split()
)
LICENSES = set(
    """afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0
    lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
    openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib""".split()
)
# Licences that ask for the notice at most, the most demanding last: each may become part of something under a later one.
NOTICE = (
    "cc0-1.0 unlicense wtfpl zlib isc mit bsd-2-clause bsd-3-clause bsd apache-2.0 odc-by cc-by-2.0 cc-by-2.5 cc-by-3.0 "
    "cc-by-4.0".split()
)
# Licences under which something made of parts has to be as a whole, and what the parts may be under.
WHOLE = {
    "cc-by-sa-4.0": {*NOTICE, "cc-by-sa-3.0"},
    "cc-by-sa-3.0": set(NOTICE) - {"cc-by-4.0"},
    "cc-by-nc-4.0": set(NOTICE),
    "cc-by-nc-sa-4.0": {*NOTICE, "cc-by-nc-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0"},
    "gpl-3.0": {name for name in NOTICE if not name.startswith("cc-by")} | {"lgpl-3.0", "mpl-2.0"},
    "agpl-3.0": {name for name in NOTICE if not name.startswith("cc-by")} | {"gpl-3.0", "lgpl-3.0", "mpl-2.0"},
    **{name: set(NOTICE) for name in (
        "openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "bigcode-openrail-m", "gemma", "llama2",
        "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "deepfloyd-if-license", "apple-amlr", "apple-ascl",
    )},
}  # fmt: skip
AND = " AND "  # as in SPDX: all of these hold, and no one licence was found that covers them

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
METRIC_TYPES = {"top1": "accuracy", "top5": "top-5 accuracy"}
# Numbers in [0, 1] that read better in %.
SHARES = re.compile(r"top\d+|accuracy|.*_accuracy|recall@\d+|miou|.*_iou|.*_precision(_real)?|.*_right")
UNKNOWN = "not recorded"


def format_number(name: str, value: float | None) -> str:
    """A metric as people read it: shares in %, counts with thousands, else four significant digits; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if SHARES.fullmatch(name.rsplit("/", 1)[-1]) and 0 <= value <= 1:
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def metric_table(results: dict) -> list[str]:
    """The lines of a Markdown table of a results.json: each metric, and the baseline where it has the same name."""
    metrics, baseline = results.get("metrics", {}), results.get("baseline") or {}
    beside = [name for name in metrics if name in baseline]
    title = results.get("baseline_name", "baseline")
    lines = (
        [f"| metric | measured | {title} |", "|---|---:|---:|"] if beside else ["| metric | measured |", "|---|---:|"]
    )
    for name, value in metrics.items():
        cells = [f"`{name}`", format_number(name, value)]
        if beside:
            cells.append(format_number(name, baseline[name]) if name in baseline else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def class_table(results: dict) -> list[str]:
    """The lines of a Markdown table of the per-class numbers of a results.json, a column per set; none without them."""
    sets = {name: row for name, row in (results.get("per_class") or {}).items() if isinstance(row, dict)}
    if not sets:
        return []
    labels = list(dict.fromkeys(label for row in sets.values() for label in row))
    lines = [f"| class | {' | '.join(sets)} |", "|---|" + "---:|" * len(sets)]
    for label in labels:
        cells = [format_number("accuracy", row.get(label)) for row in sets.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


class LicenseError(ValueError):
    """Why no licence can be stated for something, and how to settle it."""


def one_license(licenses: Sequence[str | None]) -> str:
    """The Hub licence id under which something made of parts under these licences may be given away.

    A licence may itself be several joined by " AND ". Raises LicenseError where one is unknown or none, or where two of
    them exclude each other.
    """
    settle = "read them, decide, and say so with --license ID (ids: https://hf.co/docs/hub/repositories-licenses)"
    parts = list(dict.fromkeys(part for name in licenses for part in (name or "").split(AND)))
    if not parts or "" in parts:
        raise LicenseError(f"no licence is stated for a part of it: {settle}")
    if unknown := [part for part in parts if part not in NOTICE and part not in WHOLE]:
        if len(parts) == 1 and parts[0] in LICENSES - {"unknown", "other"}:
            return parts[0]
        raise LicenseError(
            f"{' and '.join(parts)} are its parts' licences, and what {unknown[0]} allows isn't known: {settle}"
        )
    if whole := [part for part in parts if part in WHOLE]:
        for name in whole:
            if all(part == name or part in WHOLE[name] for part in parts):
                return name
        raise LicenseError(f"its parts' licences, {' and '.join(parts)}, exclude each other: {settle}")
    return max(parts, key=NOTICE.index)


def license_of(run: dict) -> str | None:
    """The licence of a run's weights: the one that was settled, else the one that its data's and its base model's allow.

    None where the run states none at all. Raises LicenseError.
    """
    if run.get("license_settled") or run.get("license") == "other":
        return run.get("license")
    parts = [run["license"]] if run.get("license") else []  # data that states none is taken for the publisher's own
    parts += [run["base_license"]] if "base_license" in run else []
    return one_license(parts) if parts else None


def write_card(run: dict, results: dict | None) -> str:
    """A model card in Markdown with YAML front matter.

    run: stem, name, title, summary, library_name, pipeline_tag, tags, license, base_license, license_settled, datasets,
    base_model, command, hardware, hours, steps, images_seen, seed, config, parameters, attributions, usage, limits,
    pictures, repo_id, earlier (the stages before this one); any may be absent. A licence that can't be resolved is left
    out, and the card says why.
    results: the results.json, or None before the evaluation. Raises ValueError where Twemoji art would lose its licence.
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
        usage = usage.replace("org/name", run["repo_id"])
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


CURVES = "training"  # the picture of the run's own curves, which stands with the training


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
    datasets = [d for d in run.get("datasets") or [] if "/" in str(d) and not _is_local(d)]
    base = run.get("base_model")
    base = base.partition("@")[0] if base else None
    base = base if base and not _is_local(base) else None
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
    for name, value in ((results or {}).get("metrics") or {}).items():
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
    below = [name for name, value in results["metrics"].items()
             if name in baseline and SHARES.fullmatch(name.rsplit("/", 1)[-1]) and value < baseline[name]]  # fmt: skip
    if below:
        parts.append(f"Below {results.get('baseline_name', 'the baseline')} in: {', '.join(f'`{n}`' for n in below)}.")
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
    elif run.get("base_model"):
        rows["fine-tuned from"] = (
            f"`{Path(run['base_model']).name if _is_local(run['base_model']) else run['base_model']}`"
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
    if attributions:
        parts += ["Trained on the work of, with thanks:", "\n".join(f"- {text}" for text in attributions)]
    return parts


def _citation(run: dict) -> str:
    title = run.get("title") or run.get("name", "Model")
    return f"```bibtex\n@misc{{vitrail,\n  title = {{{title}}},\n  note  = {{Vitrail, training.{run.get('stem')}}}\n}}\n```"


def _is_local(name: str) -> bool:
    """Whether a data set or base model is a path rather than a Hub id, as far as one can tell offline."""
    return not HUB_ID.fullmatch(str(name)) or (Path(str(name)).exists() and "/" in str(name))


def lint(text: str, repo_type: str = "model") -> list[str]:
    """What the Hub would refuse in the README.md of a model, data set or Space, one line each; asks no network."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", text, re.DOTALL)
    if not match:
        return ["the card has no front matter between two lines of ---"]
    try:
        front = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"the front matter is not YAML: {' '.join(str(error).split())}"]
    if not isinstance(front, dict):
        return ["the front matter is not a mapping of keys to values"]
    problems = [f"{key}: no such key in a {NAMES[repo_type]}" for key in front if key not in KEYS[repo_type]]
    problems += [f"{where} is null: leave the key out" for where in _nulls(front)]
    problems += _lint_license(front, nameable="license_name" in KEYS[repo_type])
    for key in ("datasets", "base_model", "models", "new_version", "duplicated_from"):
        for value in _as_list(front.get(key)):
            if value is not None and (not isinstance(value, str) or _is_local(value)):
                problems.append(f"{key}: {value!r} is no Hub id (a local path?)")
    for key in ("tags", "metrics", "task_categories", "models"):
        if key in front and not (isinstance(front[key], list) and all(isinstance(v, str) for v in front[key])):
            problems.append(f"{key} must be a list of strings")
    own = {"model": _lint_model, "dataset": _lint_dataset, "space": _lint_space}[repo_type]
    return problems + own(front)


def _lint_model(front: dict) -> list[str]:
    problems = []
    if not front.get("library_name"):
        problems.append("library_name is missing: the Hub no longer guesses it")
    if "pipeline_tag" in front and front["pipeline_tag"] not in PIPELINE_TAGS:
        problems.append(f"pipeline_tag: {front['pipeline_tag']!r} is no task of the Hub")
    if "base_model_relation" in front and front["base_model_relation"] not in RELATIONS:
        problems.append(
            f"base_model_relation: {front['base_model_relation']!r} is none of {', '.join(sorted(RELATIONS))}"
        )
    for i, shown in enumerate(_as_list(front.get("widget"))):
        url = shown.get("output", {}).get("url") if isinstance(shown, dict) else None
        if url is not None and (str(url).startswith(("/", "~", "file:")) or "\\" in str(url) or ".." in str(url)):
            problems.append(f"widget[{i}].output.url: {url!r} is no file of the repository")
    return problems + _lint_model_index(front)


def _lint_dataset(front: dict) -> list[str]:
    problems = []
    for key in ("size_categories",):
        for value in _as_list(front.get(key)):
            if not re.fullmatch(
                r"n<1K|1K<n<10K|10K<n<100K|100K<n<1M|1M<n<10M|10M<n<100M|100M<n<1B|n>1T|unknown", str(value)
            ):
                problems.append(f"{key}: {value!r} is none of n<1K, 1K<n<10K, …")
    for i, config in enumerate(_as_list(front.get("configs"))):
        if not isinstance(config, dict) or not config.get("config_name"):
            problems.append(f"configs[{i}].config_name is missing")
            continue
        for entry in _as_list(config.get("data_files")):
            for path in _as_list(entry.get("path") if isinstance(entry, dict) else entry):
                if str(path).startswith(("/", "~")) or "\\" in str(path) or ".." in str(path).split("/"):
                    problems.append(f"configs[{i}]: {path!r} is no path within the data set")
    return problems


COLOURS = "red yellow green blue indigo purple pink gray".split()
HARDWARE = set(
    """cpu-basic cpu-upgrade t4-small t4-medium l4x1 l4x4 l40sx1 l40sx4 l40sx8 a10g-small a10g-large a10g-largex2
    a10g-largex4 a100-large a100x4 a100x8 zero-a10g""".split()
)
CHOICES = {"colorFrom": COLOURS, "colorTo": COLOURS, "sdk": ("gradio", "docker", "static"), "header": ("mini", "default"),
           "suggested_hardware": HARDWARE}  # fmt: skip
FLAGS = ("pinned", "fullWidth", "hf_oauth", "disable_embedding")
ISOLATION = {f"cross-origin-{kind}-policy" for kind in ("embedder", "opener", "resource")}
PRELOAD = re.compile(r"[\w.-]+(/[\w.-]+)?( [^\s,]+(,[^\s,]+)*( [0-9a-f]{40})?)?")


def _lint_space(front: dict) -> list[str]:
    """The front matter of a Space: what configures its machine, and is refused, or worse, ignored."""
    problems = [f"{key} is missing" for key in ("title", "sdk") if not front.get(key)]
    problems += [
        f"{key}: {front[key]!r} is none of {', '.join(sorted(allowed))}"
        for key, allowed in CHOICES.items()
        if key in front and front[key] not in allowed
    ]
    problems += [f"{key} must be true or false" for key in FLAGS if key in front and not isinstance(front[key], bool)]
    if front.get("sdk") == "gradio":
        problems += [f"{key} is missing" for key in ("sdk_version", "app_file") if not front.get(key)]
        if "sdk_version" in front and not re.fullmatch(r"\d+\.\d+\.\d+", str(front["sdk_version"])):
            problems.append(f"sdk_version: {front['sdk_version']!r} is no full version (6.31.0)")
    if "python_version" in front and not re.fullmatch(r"3\.\d+(\.\d+)?", str(front["python_version"])):
        problems.append(f"python_version: {front['python_version']!r} is no version")
    elif "python_version" in front and not isinstance(front["python_version"], str):
        problems.append('python_version must be quoted: YAML reads 3.10 as 3.1')  # fmt: skip
    if str(front.get("suggested_hardware")).startswith("zero-") and not re.fullmatch(
        r"3\.12(\.12)?|3\.10(\.13)?", str(front.get("python_version", "3.12"))
    ):
        problems.append("python_version: ZeroGPU has 3.12 and 3.10 alone")
    if "emoji" in front and not (isinstance(front["emoji"], str) and front["emoji"] and min(front["emoji"]) > "\u00ff"):
        problems.append(f"emoji: {front['emoji']!r} is no emoji")
    if len(str(front.get("short_description", ""))) > 60:
        problems.append("short_description is longer than 60 characters")
    if "startup_duration_timeout" in front and not re.fullmatch(
        r"\d+(\.\d+)?\s?(s|m|h)\w*", str(front["startup_duration_timeout"])
    ):
        problems.append(f"startup_duration_timeout: {front['startup_duration_timeout']!r} is no time (30m, 1h)")
    for key in ("app_file", "thumbnail"):
        if _is_path(front.get(key)) and not re.match(r"https?://|[\w.-]+(/[\w.-]+)*$", str(front[key])):
            problems.append(f"{key}: {front[key]!r} is no file of the Space")
    for item in _as_list(front.get("preload_from_hub")):
        if not PRELOAD.fullmatch(str(item)):
            problems.append(f'preload_from_hub: {item!r} is not "org/repo file,file <commit sha>"')
    headers = front.get("custom_headers") or {}
    problems += [
        f"custom_headers.{key}: only {', '.join(sorted(ISOLATION))}" for key in headers if key not in ISOLATION
    ]
    return problems


def _lint_license(front: dict, *, nameable: bool) -> list[str]:
    licence = front.get("license")
    problems = [
        f"license: {value!r} is no licence id of the Hub (use `other` with license_name and license_link)"
        for value in _as_list(licence)
        if value is not None and value not in LICENSES
    ]
    if nameable and "other" in _as_list(licence):
        problems += [f"license: other needs {key}" for key in ("license_name", "license_link") if not front.get(key)]
    return problems


def _lint_model_index(front: dict) -> list[str]:
    """model-index needs: name; results[] with task.type, dataset.type, dataset.name, metrics[].type and .value."""
    if "model-index" not in front:
        return []
    index, problems = front["model-index"], []

    def need(holder: object, key: str, where: str) -> object:
        value = holder.get(key) if isinstance(holder, dict) else None
        if value in (None, "", [], {}):
            problems.append(f"{where}.{key} is missing")
        return value

    if not isinstance(index, list) or not index:
        return ["model-index must be a list of models"]
    for i, model in enumerate(index):
        where = f"model-index[{i}]"
        need(model, "name", where)
        for j, result in enumerate(_as_list(need(model, "results", where))):
            here = f"{where}.results[{j}]"
            need(need(result, "task", here), "type", f"{here}.task")
            dataset = need(result, "dataset", here)
            for key in ("type", "name"):
                need(dataset, key, f"{here}.dataset")
            if isinstance(dataset, dict) and _is_path(dataset.get("type")):
                problems.append(f"{here}.dataset.type: {dataset['type']!r} is a local path")
            for k, metric in enumerate(_as_list(need(result, "metrics", here))):
                need(metric, "type", f"{here}.metrics[{k}]")
                value = need(metric, "value", f"{here}.metrics[{k}]")
                if isinstance(value, float) and not math.isfinite(value):
                    problems.append(f"{here}.metrics[{k}].value is not finite")
            if isinstance(result, dict) and "source" in result:
                need(result["source"], "url", f"{here}.source")
    return problems


def _is_path(value: object) -> bool:
    return isinstance(value, str) and (value.startswith(("/", ".", "~")) or value.count("/") > 1 or "\\" in value)


def _nulls(value: object, where: str = "") -> list[str]:
    """Where in the front matter a null stands, as dotted paths."""
    if value is None:
        return [where]
    if isinstance(value, dict):
        return [hit for key, inner in value.items() for hit in _nulls(inner, f"{where}.{key}" if where else str(key))]
    if isinstance(value, list):
        return [hit for i, inner in enumerate(value) for hit in _nulls(inner, f"{where}[{i}]")]
    return []


def _as_list(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]
