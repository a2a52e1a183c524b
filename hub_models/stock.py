"""Whether a model folder asks for stock classes only: no code of its own, no other repository, no other file.

Checked where every folder comes through, `store.verify`, beside the trust_remote_code=False of each call: configs lie
in configs, and what opens the inner ones cannot be told. transformers then asks on the terminal, and a "y" runs the
code.
"""

import re
from pathlib import Path
from typing import Any

from hub_models.documents import CheckpointError, entries, within

OWN_CODE = ("auto_map", "custom_pipelines", "custom_pipeline", "custom_generate")
# A stock class looks these up, and one with a slash or a colon elsewhere: on the Hub, in a folder, in a file.
LOOKED_UP = """backbone architecture encoder_name attn_implementation _attn_implementation
    experts_implementation""".split()
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # the last has the safety checker of Stable Diffusion 1
# What timm's factory keeps for itself: with these, arguments of a model become another model, or weights from
# elsewhere.
NOT_OF_A_MODEL = """model_name pretrained pretrained_cfg pretrained_cfg_overlay pretrained_model_args pretrained_strict
    pretrained_filter_fn pretrained_custom_load checkpoint_path cache_dir scriptable exportable no_jit features_only
    out_indices feature_cfg feature_cls model_cfg model_cls kwargs_filter variant""".split()
ADVICE = "that's never done here; use a checkpoint of a stock class"


def check(path: Path, content: Any) -> None:
    """Return if the config at `path` asks for stock classes of the libraries alone. Raises CheckpointError."""
    if path.name == "adapter_config.json":
        raise CheckpointError(
            f"{path.parent} is an adapter for another model ({path.name}): merge it, and name the whole"
        )
    for keys, value in entries(content):
        key = keys[-1] if keys else None
        if key in OWN_CODE and value:
            raise CheckpointError(f"{path}: this repository wants to run its own code ({key}); {ADVICE}")
        if key in LOOKED_UP and isinstance(value, str) and re.search(r"[/\\:]", value):
            raise CheckpointError(f"{path}: {key} points to another place ({value[:60]!r}); {ADVICE}")
    if path.name == "model_index.json" and isinstance(content, dict):
        _check_components(path, content)
    arguments = content.get("model_args") if isinstance(content, dict) else None
    if arguments is not None and path.name == "config.json":
        if not isinstance(arguments, dict):
            raise CheckpointError(f"{path}: model_args is no object of arguments; export it again")
        if taken := sorted(set(arguments) & set(NOT_OF_A_MODEL)):
            raise CheckpointError(f"{path}: model_args has {taken[0]}, which is no argument of a model; remove it")


def _check_components(path: Path, index: dict) -> None:
    kind = index.get("_class_name")
    if isinstance(kind, list):
        raise CheckpointError(f"{path}: this repository wants to run its own code ({str(kind[:1])[:60]}); {ADVICE}")
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list):
            continue
        if not part.isidentifier() or not within(part):
            raise CheckpointError(f"{path}: {part[:60]!r} is no name of a part; export it again")
        if len(value) != 2 or not all(name is None or isinstance(name, str) for name in value):
            raise CheckpointError(f"{path}: {part} is not a library and a class; export it again")
        if any(value) and (value[0] not in LIBRARIES or not (value[1] or "").isidentifier()):
            raise CheckpointError(f"{path}: {part} is a class of {str(value[0])[:60]!r}, no stock one; {ADVICE}")
