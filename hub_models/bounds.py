"""How large the numbers of a config may be, checked before a library reads them. See also `building`."""

import math
import re
from pathlib import Path
from typing import Any

from hub_models.documents import CheckpointError, entries

MAX_NUMBER = 2**20  # of whole numbers: vocabularies have 262,144, positions 1,048,576
MAX_ENTRIES = 2**16  # of a list or an object: ImageNet-22k has 21,843 names
MAX_CONFIG_BYTES = 16 << 20
MAX_SIDE_PX = 8192
# Whole numbers that may be larger: a base of angles, areas, and "as long as you like".
LARGE = re.compile(r"theta|pixels|^model_max_length$|^max_len$")
SIDES = re.compile(
    r"^((image|img|anchor_image|eval|input|sample|crop|test_input|min_input|pretrain_img|pretrained_image)_size"
    r"|size|resolution|height|width"
    r"|shortest_edge|longest_edge|\w+_px)$"
)
# How many layers: libraries make lists of so many rates before the first layer, and one by one.
COUNTS = re.compile(r"(depths?|layers?|blocks?|heads?|stages)$|^n_(layer|head)|layers_per_block")
MAX_COUNT = 256
CHANNELS = dict.fromkeys(("in_channels", "out_channels", "latent_channels"), (1, 2**16))
RANGES = {"num_train_timesteps": (1, 100_000), "model_max_length": (2, None)} | CHANNELS


def check(path: Path, content: Any) -> None:
    """Return if no number, list or object of a config is larger than any model needs. Raises CheckpointError."""
    for keys, value in entries(content):
        names = [key for key in keys if isinstance(key, str)]
        key = names[-1] if names else ""
        if isinstance(value, dict | list) and len(value) > MAX_ENTRIES:
            raise CheckpointError(f"{path}: {key or 'it'} has {len(value):,} entries, at most {MAX_ENTRIES:,} are read")
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"{path}: {key} is a number beyond all bounds; correct it or export again")
        if type(value) is int and abs(value) > MAX_NUMBER and not LARGE.search(key):
            raise CheckpointError(
                f"{path}: {key} is {_short(value)}, beyond {MAX_NUMBER:,}; correct it or export again"
            )
        if COUNTS.search(key) and (
            type(value) is int and value > MAX_COUNT or isinstance(value, list) and len(value) > MAX_COUNT
        ):
            raise CheckpointError(f"{path}: {key} asks for more than {MAX_COUNT} layers; correct it or export again")
        if SIDES.match(key) and not isinstance(value, dict | list | None):
            if isinstance(value, bool | str) or not 1 <= value <= MAX_SIDE_PX:
                raise CheckpointError(
                    f"{path}: {key} is {_short(value)}, not a side from 1 to {MAX_SIDE_PX:,} pixels; correct it"
                )
        if key in RANGES and value is not None and not isinstance(keys[-1], int):
            low, high = RANGES[key]
            if type(value) is not int or value < low or (high is not None and value > high):
                wanted = f"a whole number from {low}" + (f" to {high:,}" if high else "")
                raise CheckpointError(f"{path}: {key} is {_short(value)}, not {wanted}; correct it")


def _short(value: Any) -> str:
    text = (
        f"{value:,}"
        if type(value) is int and abs(value) < 10**18
        else repr(value)
        if type(value) is not int
        else "huge"
    )
    return text[:40]
