"""The loss of a detector of transformers, as its class has it: answers are matched with things, one with each.

Letters: B batch, M the most things that a picture shows.
"""

from collections.abc import Callable
from typing import Any

import torch

from training.detection.samples import NONE

SHOWN = ("loss_mal", "loss_vfl", "loss_ce", "loss_bbox", "loss_giou")  # of its parts, those that the log keeps


def detection_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss of a batch {"pixels", "boxes": (B, M, 4), "labels": (B, M)}, and its parts of the last layer."""
    things = [
        {"class_labels": labels[labels != NONE], "boxes": boxes[labels != NONE]}
        for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
    ]
    out = model(pixel_values=batch["pixels"], labels=things)
    return out.loss, {name: out.loss_dict[name].detach() for name in SHOWN if name in out.loss_dict}


def in_fp32(loss_function: Callable) -> Callable:
    """The same loss, computed in fp32 whatever the model computes in: what matches answers with things can't else."""

    def computed(*args, **kwargs):
        args, kwargs = whole(args), whole(kwargs)
        with torch.autocast(args[0].device.type, enabled=False):
            return loss_function(*args, **kwargs)

    return computed


def whole(value: Any) -> Any:
    """The value with all tensors of floats in it in fp32."""
    if torch.is_tensor(value):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(map(whole, value))
    return {key: whole(one) for key, one in value.items()} if isinstance(value, dict) else value
