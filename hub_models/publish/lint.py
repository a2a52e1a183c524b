"""What the Hub would refuse in the README.md of a model, data set or Space, said offline."""

import math
import re
from pathlib import Path

import yaml

from hub_models.publish.licences import LICENSES

KEYS = {
    "model": set(
        """language license license_name license_link library_name tags datasets metrics base_model base_model_relation
        pipeline_tag new_version widget instance_prompt inference thumbnail model-index""".split()
    ),
    "dataset": set(
        """language license license_name license_link license_details pretty_name tags annotations_creators
        language_creators language_details language_bcp47 multilinguality size_categories source_datasets
        task_categories task_ids paperswithcode_id configs dataset_info train-eval-index viewer thumbnail
        vitrail""".split()
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
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


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
            if value is not None and (not isinstance(value, str) or is_local(value)):
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
CHOICES = {
    "colorFrom": COLOURS,
    "colorTo": COLOURS,
    "sdk": ("gradio", "docker", "static"),
    "header": ("mini", "default"),
    "suggested_hardware": HARDWARE,
}
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
        problems.append("python_version must be quoted: YAML reads 3.10 as 3.1")
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


def is_local(name: str) -> bool:
    """Whether a data set or base model is a path rather than a Hub id, as far as one can tell offline."""
    return not HUB_ID.fullmatch(str(name)) or (Path(str(name)).exists() and "/" in str(name))
