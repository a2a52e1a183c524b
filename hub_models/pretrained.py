"""Opening folders of transformers and diffusers: config, weights and processors, with every failure in words."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from hub_models import building, store
from hub_models.documents import read_object
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
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, trust_remote_code=False,
            variant=store.variant_of(folder),
        )  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more: they are not those of a trained "
            f"{purpose} of this architecture; export it again"
        )
    return model


def open_diffusers(folder: Path, kind: Any, purpose: str) -> Any:
    """The model of a stock class of diffusers, fp32 and eval, from safetensors.

    Raises CheckpointError where it can't be opened, or weights and config disagree. purpose: what it is, for messages.
    """
    try:
        with building.as_large_as_its_weights(folder):
            with torch.device("meta"):
                kind.from_config(read_object(folder / "config.json"))
            options: dict = {"use_safetensors": True, "low_cpu_mem_usage": False, "output_loading_info": True}
            options["variant"] = store.variant_of(folder)
            model, report = kind.from_pretrained(folder, trust_remote_code=False, **options)
    except CheckpointError:
        raise
    except Exception as error:  # diffusers raises anything from OSError to AttributeError on a config it cannot read
        raise CheckpointError(
            f"{folder}: diffusers cannot read the {purpose} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); export it again"
        ) from error
    if wrong := [*report["missing_keys"], *report["unexpected_keys"]]:
        raise CheckpointError(f"{folder}: weights and config.json disagree, first at {wrong[0]!r}; export again")
    return model.float().eval().requires_grad_(False)


def open_processors(folder: Path, config: PreTrainedConfig) -> tuple:
    """The folder's tokenizer and image processor. Raises CheckpointError."""
    with _as_checkpoint_error(folder, config.model_type):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if has_no_words(tokenizer):
        raise CheckpointError(f"{folder}: {NO_WORDS}")
    return tokenizer, open_image_processor(folder)


NO_WORDS = (
    "the tokenizer has no words, so that every text would be the same to the model: tokenizer.json or its vocabulary "
    "is missing; download or export it again"
)


def has_no_words(tokenizer) -> bool:
    """Whether a tokenizer knows its marks alone: what transformers makes, in silence, without a vocabulary."""
    return len(tokenizer) <= len(set(tokenizer.all_special_ids))


def open_image_processor(folder: Path):
    """The folder's image processor. Raises CheckpointError."""
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a foreign file raises
        raise CheckpointError(
            f"{folder}/preprocessor_config.json is not one that transformers knows ({store.one_line(error)}); save an "
            "image processor there"
        ) from error


def is_framed(folder: Path, otherwise: bool) -> bool:
    """What our key `framed` in preprocessor_config.json says: whether a picture stands whole in a white square."""
    path = folder / "preprocessor_config.json"
    framed = read_object(path).get("framed", otherwise) if path.is_file() else otherwise
    if not isinstance(framed, bool):
        raise CheckpointError(f"{path}: framed must be true or false, it is {str(framed)[:40]}")
    return framed


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
