"""Opening what `huggingface_hub.PyTorchModelHubMixin` wrote: config.json and model.safetensors of a class of ours."""

import inspect
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hub_models import building, store
from hub_models.documents import read_object


def opened(folder: Path, kind: Any) -> Any:
    """The module of a class `kind` as its `save_pretrained` wrote it: fp32, eval, no gradients.

    kind's __init__ raises ValueError or TypeError for arguments that it doesn't take. Raises CheckpointError, inside
    `store.opening`, for all that can be wrong with a folder.
    """
    config = read_object(folder / "config.json")
    known = {name: config[name] for name in inspect.signature(kind).parameters if name in config}
    with building.as_large_as_its_weights(folder), torch.device("meta"):
        try:
            module = kind(**known)
        except (ValueError, TypeError) as error:
            raise store.CheckpointError(f"{folder}/config.json: {store.one_line(error)}; export it again") from error
    weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    try:
        module.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise store.CheckpointError(
            f"{folder}: weights and config.json disagree ({store.one_line(error)}); export it again"
        ) from error
    return module.eval().requires_grad_(False)
