"""How large a model may grow while a library builds it: no larger than its weights call for.

No table knows what each of a thousand architectures makes of its arguments. So the building itself is watched, and
ended at a few times what the safetensors files beside the config hold, before the layers after that are made.
"""

import contextlib
import math
import threading
from collections.abc import Generator
from pathlib import Path

import torch
from torch.nn.modules import module as torch_module

from hub_models.documents import CheckpointError, read_header

SPARE = 4  # a tied matrix is made twice, and every one is set again when it is filled
SPARE_NUMBERS, SPARE_LAYERS = 2**24, 2**13  # and what no weights are for: buffers, activations, lists of layers


@contextlib.contextmanager
def as_large_as_its_weights(folder: Path) -> Generator[None]:
    """For the time of the block, this thread builds no more parameters and layers than the folder's weights call for.

    Raises CheckpointError in the midst of building.
    """
    numbers = tensors = 0
    for path in folder.rglob("*.safetensors"):
        header, _ = read_header(path)
        tensors += len(header)
        numbers += sum(math.prod(entry["shape"]) for entry in header.values())
    room = {"numbers": SPARE * numbers + SPARE_NUMBERS, "layers": SPARE * tensors + SPARE_LAYERS}
    thread = threading.get_ident()

    def take(what: str, amount: int) -> None:
        room[what] -= amount
        if room[what] < 0:
            raise CheckpointError(
                f"{folder}/config.json asks for a model far larger than the {numbers:,} numbers of its weights: "
                "correct the config, or download both again"
            )

    def tensor(_module: torch.nn.Module, _name: str, value: torch.Tensor | None) -> None:
        if value is not None and threading.get_ident() == thread:
            take("numbers", value.numel())
            take("layers", 1)

    def layer(_module: torch.nn.Module, _name: str, value: torch.nn.Module | None) -> None:
        if value is not None and threading.get_ident() == thread:
            take("layers", 1)

    hooks = [
        torch_module.register_module_parameter_registration_hook(tensor),
        torch_module.register_module_buffer_registration_hook(tensor),
        torch_module.register_module_module_registration_hook(layer),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
