"""Half the bytes: weights on disk are fp16, and every config says that they are computed with as fp32."""

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from hub_models.documents import CheckpointError, read_object
from hub_models.publish.packing import write_manifest
from hub_models.store import MANIFEST, read_tensors


def to_half(folder: str | Path) -> None:
    """Make every floating tensor of every safetensors file fp16, and have transformers load them as fp32.

    Each config.json of transformers, nested configs too, gets "dtype": "float32": without it transformers loads halves.
    Those of diffusers and timm stay as they are (both upcast by themselves). A manifest that is there is written anew.
    Raises CheckpointError for a weight that fp16 can't hold.
    """
    folder = Path(folder)
    for path in sorted(folder.rglob("*.safetensors")):
        _halve(path)
    for path in sorted(folder.rglob("config.json")):
        config = read_object(path)
        if _say_float32(config):
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if (folder / MANIFEST).is_file():
        write_manifest(folder)


def _halve(path: Path) -> None:
    tensors, changed = {}, False
    for name, dtype, shape, raw in read_tensors(path):
        if dtype == "BF16":  # numpy knows no bfloat16: it is the upper half of a float32
            values = (raw.view("<u2").astype("<u4") << 16).view("<f4")
        elif dtype in ("F32", "F64"):
            values = raw.view("<f4" if dtype == "F32" else "<f8")
        else:
            continue
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        if np.isinf(half).any():
            raise CheckpointError(f"{path} has a weight above 65504 in {name!r}, or Inf: fp16 can't hold it")
        tensors[name], changed = half.reshape(shape), True
    if not changed:
        return
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
        kept = {name: file.get_tensor(name) for name in file.keys() if name not in tensors}  # noqa: SIM118
    safetensors.numpy.save_file(kept | tensors, path, metadata=metadata)
    path.chmod(0o644)  # safetensors leaves 0600, which other users of a container can't read


def _say_float32(config: dict) -> bool:
    """Put the dtype into a transformers config and the configs in it; whether there was one."""
    found = False
    if "model_type" in config:
        config.pop("torch_dtype", None)
        config["dtype"] = "float32"
        found = True
    for value in list(config.values()):
        if isinstance(value, dict):
            found |= _say_float32(value)
    return found
