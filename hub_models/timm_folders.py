"""A timm model from its folder: config.json and model.safetensors, never a pickle, as large as its weights call for."""

from pathlib import Path
from typing import Any

import timm
import torch

from hub_models import building, store
from hub_models.documents import read_object
from hub_models.store import CheckpointError


def opened(folder: Path, needed: str) -> Any:
    """timm's model of a folder, fp32, eval, without gradients. needed: what asks for it, as "this page needs a …".

    Raises CheckpointError, which names the file at fault.
    """
    for file in ("config.json", "model.safetensors"):  # beside other names timm would prefer a pickle
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} has no {file}: a timm model is config.json and model.safetensors")
    config = read_object(folder / "config.json")
    if not isinstance(config.get("architecture"), str):
        raise CheckpointError(f"{folder}/config.json names no timm architecture: {needed}")
    try:
        with building.as_large_as_its_weights(folder), torch.device("meta"):
            timm.create_model(f"local-dir:{folder}", pretrained=False)
        with building.as_large_as_its_weights(folder):
            model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a foreign architecture, its arguments or its shapes raise
        raise CheckpointError(
            f"{folder}: timm cannot open this as {str(config['architecture'])[:60]} ({store.one_line(error)}); "
            "export it again with timm.models.save_for_hf"
        ) from error
    return model.float().eval().requires_grad_(False)
