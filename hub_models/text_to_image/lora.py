"""A LoRA beside a pipeline: found, and merged into it.

A LoRA is one safetensors file, in the naming of diffusers or of kohya (which ComfyUI and AUTOMATIC1111 read), or the
export folder of a training with --lora_rank, whose config.json says of what it is one.
"""

import importlib.util
from pathlib import Path

from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from hub_models import store
from hub_models.documents import read_object
from hub_models.store import CheckpointError

FILE = "pytorch_lora_weights.safetensors"


def only_a_lora(folder: Path) -> str | None:
    """What to do with a folder that holds a LoRA and no pipeline, in a sentence; None of any other."""
    if (folder / "model_index.json").exists() or not (folder / FILE).is_file():
        return None
    about = read_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    base = about.get("base_model_name_or_path") or "BASE"
    return (
        f"{folder} is a LoRA, a change to another model: start the page with --model {base} --lora {folder}, or give "
        "the folder to stock load_lora_weights"
    )


def find(name: str) -> Path:
    """The checked file of a LoRA: the file itself, or the one in a folder. Raises CheckpointError."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = [path / FILE] if (path / FILE).is_file() else sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise CheckpointError(f"{name} holds {len(files)} .safetensors files: name the one that is the LoRA")
        [path] = files
    if not path.is_file() or path.suffix != ".safetensors":
        raise CheckpointError(f"{name} is no LoRA: name a .safetensors file, or the folder of one")
    store.check_kind(path)
    store.check_weights(path)
    return path


def merge(pipe: StableDiffusionPipeline, file: Path, name: str) -> None:
    """Have the pipeline draw as with the LoRA of this file at strength 1.

    Raises CheckpointError where it doesn't fit, and without the package peft.
    """
    if importlib.util.find_spec("peft") is None:
        raise CheckpointError("--lora needs the package peft: pip install 'peft>=0.21,<0.22'")
    unfit = f"{file} does not fit {name}: a LoRA changes the kind of model that it was trained on"
    try:
        pipe.load_lora_weights(file.parent, weight_name=file.name, use_safetensors=True)
    except Exception as error:  # whatever foreign names and shapes raise
        raise CheckpointError(f"{unfit} ({store.one_line(error)})") from error
    with safe_open(file, "np") as tensors:
        asked = sum(
            key.endswith((".lora_A.weight", ".lora_down.weight", ".lora.down.weight")) for key in tensors.keys()
        )  # noqa: SIM118
    taken = sum(hasattr(part, "lora_A") for model in (pipe.unet, pipe.text_encoder) for part in model.modules())
    if not taken or taken < asked:  # diffusers passes over what it finds no layer for
        raise CheckpointError(f"{unfit} (of its {asked} layers {taken} are there)")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
