"""A Stable Diffusion that is one file, as web interfaces have it, made into the folder of a pipeline: once.

diffusers tells from its tensors of which kind it is, and takes configs and tokenizer of that kind from the Hub's cache
or the Hub.
"""

import shutil
from pathlib import Path

from diffusers import StableDiffusionPipeline
from huggingface_hub import constants

from hub_models import store
from hub_models.client import haste
from hub_models.store import CheckpointError


def file_of(name: str) -> Path | None:
    """The single file that is meant: itself, or the only one in a folder that is no model folder; None of all else."""
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return path
        is_model = any((path / index).exists() for index in ("model_index.json", "config.json"))
        files = [] if is_model or not path.is_dir() else sorted(path.glob("*.safetensors"))
    except (OSError, ValueError):  # a name that no file can have
        return None
    return files[0] if len(files) == 1 else None


def as_folder(file: Path) -> Path:
    """The folder of a stock pipeline, kept under $HF_HOME/vitrail. Raises CheckpointError."""
    if file.suffix != ".safetensors":
        raise CheckpointError(f"{file} is no .safetensors file, and nothing else is opened: save it as one")
    store.check_kind(file)
    store.check_weights(file)
    folder = Path(constants.HF_HOME, "vitrail", f"{file.stem}-{store.file_sha256(file)[:16]}")
    if folder.is_dir():
        return folder
    half = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(half, ignore_errors=True)
    try:
        with haste():
            pipe = StableDiffusionPipeline.from_single_file(
                str(file), local_files_only=constants.is_offline_mode(), safety_checker=None
            )
        pipe.save_pretrained(half, safe_serialization=True)
        half.rename(folder)
    except Exception as error:  # no Stable Diffusion, no configs, no room
        shutil.rmtree(half, ignore_errors=True)
        convert = f"StableDiffusionPipeline.from_single_file('{file}').save_pretrained('{file.stem}')"
        raise CheckpointError(
            f"{file} is a single-file checkpoint that diffusers can't make into a pipeline folder here "
            f'({store.one_line(error)[:120]}): where the Hub can be reached run python -c "from diffusers import '
            f'StableDiffusionPipeline; {convert}", and name that folder'
        ) from error
    return folder
