"""Folders of text-to-image models: opened with every part checked, and written."""

import hashlib
import importlib
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, StableDiffusionPipeline
from transformers import PreTrainedModel

from hub_models import building, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.drawing import is_number
from hub_models.pictures import is_ground
from hub_models.pretrained import NO_WORDS, has_no_words
from hub_models.store import CheckpointError
from hub_models.text_to_image import lora as adapters
from hub_models.text_to_image import single
from hub_models.text_to_image.model import EXTRA, TextToImage
from hub_models.text_to_image.settings import FEW_STEPS, MAX_GUIDANCE, SAMPLERS


def load(name: str = "emoji", device: str | torch.device | None = None, lora: str | None = None) -> TextToImage:
    """The model of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    Any folder of a StableDiffusionPipeline will do, and a single file of one. lora: a file or folder that is merged
    into it; name and hash are then those of both. Raises store.CheckpointError, which names the file at fault.
    """
    folder = resolve(name)
    file = None if lora is None else adapters.find(lora)
    with store.opening(folder):
        served = _open(folder, str(name))
    if file is not None:
        adapters.merge(served.pipe, file, str(name))
        served.name = f"{name} + {file.parent.parent.name if file.parent.name == 'export' else file.stem}"
        both = served.weights_sha256 + store.file_sha256(file)
        served.weights_sha256 = hashlib.sha256(both.encode()).hexdigest()
    served.pipe.to(device or default_device())
    if served.device.type == "cpu":  # a decode takes two thirds of the time then
        served.pipe.vae.to(memory_format=torch.channels_last)
    return served


def resolve(name: str | Path) -> Path:
    """`store.resolve`; of a single-file checkpoint the pipeline folder that it is made into. Raises CheckpointError."""
    if str(name) not in store.bundled("text_to_image") and (file := single.file_of(str(name))):
        folder = single.as_folder(file) if file.name != adapters.FILE else file.parent
        store.verify(folder)
        return folder
    return store.resolve("text_to_image", name)


def _open(folder: Path, name: str) -> TextToImage:
    if said := adapters.only_a_lora(folder):
        raise CheckpointError(said)
    index = read_object(folder / "model_index.json")
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise CheckpointError(
            f"{folder}/model_index.json is of a {index.get('_class_name')}: this page needs a StableDiffusionPipeline "
            "folder, such as training/text_to_image.py exports"
        )
    parts = {part: _load_part(folder, part, index.get(part)) for part in ("unet", "vae", "text_encoder")}
    try:
        with building.as_large_as_its_weights(folder):
            options: dict = parts | {"variant": store.variant_of(folder / "safety_checker")}
            pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, trust_remote_code=False, **options)
    except CheckpointError:
        raise
    except Exception as error:  # diffusers raises anything from OSError to AttributeError on a config it cannot read
        raise CheckpointError(
            f"{folder}: diffusers cannot open this pipeline ({store.one_line(error)}); export it again"
        ) from error
    if problem := _mismatch(pipe):
        raise CheckpointError(f"{folder}: {problem}")
    extra = _read_extra(folder / "preprocessor_config.json", pipe)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.float().eval().requires_grad_(False)
    return TextToImage(pipe, name=name, weights_sha256=store.weights_sha256(folder), **extra)


def _load_part(folder: Path, part: str, kind) -> torch.nn.Module:
    """One of a pipeline's models by its own stock class, in fp32. Raises CheckpointError, also for missing weights."""
    try:
        library, name = kind
        if library not in ("diffusers", "transformers"):
            raise ValueError(f"it is a {library}.{name}, not a class of diffusers or transformers")
        stock = getattr(importlib.import_module(library), name)
        if not isinstance(stock, type) or not issubclass(stock, ModelMixin | PreTrainedModel):
            raise ValueError(f"{library}.{name} is no model")
        with building.as_large_as_its_weights(folder / part):
            if issubclass(stock, ModelMixin):  # transformers begins on this device by itself
                with torch.device("meta"):
                    stock.from_config(read_object(folder / part / "config.json"))
            model, info = stock.from_pretrained(
                folder / part,
                use_safetensors=True,
                output_loading_info=True,
                torch_dtype=torch.float32,
                trust_remote_code=False,
                variant=store.variant_of(folder / part),
            )
    except CheckpointError:
        raise
    except Exception as error:  # whatever a foreign config or foreign shapes raise
        raise CheckpointError(
            f"{folder}/{part} cannot be opened ({store.one_line(error)}); download or export it again"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)  # the pooler draws nothing
    if missing:
        raise CheckpointError(
            f"{folder}/{part}: weights and config.json disagree, first at {missing[0]!r}; export again"
        )
    return model


def _mismatch(pipe: StableDiffusionPipeline) -> str | None:
    """What keeps these parts from drawing together; None if nothing."""
    unet, vae, text = pipe.unet.config, pipe.vae.config, pipe.text_encoder.config
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        return (
            f"the U-Net works on {unet.in_channels} channels, the autoencoder makes {vae.latent_channels} (inpainting?)"
        )
    if not isinstance(unet.sample_size, int):
        return f"the U-Net's sample_size is {unet.sample_size}: only square pictures are drawn here"
    if unet.cross_attention_dim != text.hidden_size:
        return f"the U-Net reads states of {unet.cross_attention_dim}, the text tower makes them of {text.hidden_size}"
    if pipe.scheduler.config.get("prediction_type") not in ("epsilon", "v_prediction", "sample"):
        return (
            f"prediction_type {pipe.scheduler.config.get('prediction_type')!r} is not epsilon, v_prediction or sample"
        )
    if has_no_words(pipe.tokenizer):
        return NO_WORDS
    limit = text.max_position_embeddings
    if pipe.tokenizer.model_max_length > limit:
        return f"the tokenizer's model_max_length {pipe.tokenizer.model_max_length} is above the text tower's {limit}"
    return None


def save_folder(folder: Path | str, pipe: StableDiffusionPipeline, **extra) -> None:
    """Write the folder that `load` reads, weights in the precision they have (`publish.halves` makes them fp16).

    extra: what preprocessor_config.json holds, keys of EXTRA; ValueError for others.
    """
    if unknown := set(extra) - set(EXTRA):
        raise ValueError(f"preprocessor_config.json has no {sorted(unknown)}: its keys are {', '.join(EXTRA)}")
    folder = Path(folder)
    pipe.vae.to(memory_format=torch.contiguous_format)  # safetensors takes no other
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(extra, indent=2) + "\n", encoding="utf-8")


def _read_extra(path: Path, pipe: StableDiffusionPipeline) -> dict:
    """What preprocessor_config.json says, checked against the pipeline. Raises CheckpointError."""
    if not path.exists():
        return {}
    saved, channels = read_object(path), pipe.unet.config.in_channels
    extra = {key: saved[key] for key in EXTRA if key in saved}
    checks = {
        "guidance_scale": lambda v: is_number(v) and 1 <= v <= extra.get("max_guidance", MAX_GUIDANCE),
        "max_guidance": lambda v: is_number(v) and 1 <= v <= MAX_GUIDANCE,
        "default_steps": lambda v: isinstance(v, int) and 1 <= v <= pipe.scheduler.config.num_train_timesteps,
        "default_sampler": lambda v: v in (*SAMPLERS, *FEW_STEPS),
        "resolution_px": lambda v: isinstance(v, int) and v > 0 and v % pipe.vae_scale_factor == 0,
        "ground": is_ground,
        "styles": lambda v: all(isinstance(style, str) for style in v),
        "latent_to_rgb": lambda v: v is None or np.isfinite(np.array(v, float).reshape(channels, 3)).all(),
        "latent_to_rgb_bias": lambda v: np.isfinite(np.array(v, float).reshape(3)).all(),
    }
    for key, value in extra.items():
        try:
            good = checks[key](value)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise CheckpointError(f"{path}: {key} is {str(value)[:60]}, which does not fit; correct it or export again")
    return extra
