"""Opening folders of transformers: config, weights, tokenizer and image processor, with every failure in words."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from hub_models import building, store
from hub_models.store import CheckpointError


def open_config(folder: Path, wanted: str) -> PreTrainedConfig:
    """The folder's config. Raises CheckpointError, which says that `wanted` is needed, where there is none to read."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a foreign config.json raises
        raise CheckpointError(
            f"{folder}/config.json is not one that transformers knows ({store.one_line(error)}): this needs {wanted}"
        ) from error


def open_model(folder: Path, kind: Any, config: PreTrainedConfig, purpose: str) -> PreTrainedModel:
    """The model of class `kind` (or an Auto class), fp32, from safetensors.

    Raises CheckpointError where it can't be opened or weights are missing: those of a trained `purpose` are expected.
    """
    with _as_checkpoint_error(folder, config.model_type), building.as_large_as_its_weights(folder):
        model, report = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more: they are not those of a trained "
            f"{purpose} of this architecture; export it again"
        )
    return model


def open_processors(folder: Path, config: PreTrainedConfig) -> tuple:
    """The folder's tokenizer and image processor. Raises CheckpointError."""
    with _as_checkpoint_error(folder, config.model_type):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer, open_image_processor(folder)


def open_image_processor(folder: Path):
    """The folder's image processor. Raises CheckpointError."""
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a foreign file raises
        raise CheckpointError(
            f"{folder}/preprocessor_config.json is not one that transformers knows ({store.one_line(error)}); save an "
            "image "
            "processor there"
        ) from error


@contextlib.contextmanager
def _as_checkpoint_error(folder: Path, model_type: str):
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # a part that is not known, a file that is missing, a shape that does not fit
        raise CheckpointError(
            f"{folder}: transformers cannot open this as {model_type} ({store.one_line(error)}); save model, image "
            "processor and, where it reads or writes text, tokenizer into it with save_pretrained"
        ) from error
