"""The loss of a detector of transformers, as its class has it: answers are matched with things, one with each.

Letters: B batch, M the most things that a picture shows, r side of the masks that are learned, Q queries.
"""

from collections.abc import Callable
from typing import Any

import torch
from torchvision.ops import masks_to_boxes

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


def mask_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss of a MaskFormer for a batch {"pixels", "masks": (B, M, r, r), "labels": (B, M)}, and its last parts.

    Cheng et al. 2021, section 3: cross-entropy of the class, and focal and Dice loss of the mask, in fp32, after each
    layer of the decoder. The stock class offers the last (`use_auxiliary_loss`), but then it also asks the queries as
    they are before the first layer, the same for all pictures, and serves no more unless it is told to show its states.
    """
    there = batch["labels"] != NONE
    labels = [row[real] for row, real in zip(batch["labels"], there, strict=True)]
    masks = [row[real] for row, real in zip(batch["masks"], there, strict=True)]
    out = model(pixel_values=batch["pixels"], output_hidden_states=True)
    bare: Any = getattr(model, "module", model)
    pixels, norm = out.pixel_decoder_last_hidden_state.float(), bare.model.transformer_module.decoder.layernorm
    answers = [(out.masks_queries_logits, out.class_queries_logits)]
    for states in out.transformer_decoder_hidden_states[1:-1]:  # the first are the queries, the last has been answered
        states = norm(states.float())  # (B, Q, width)
        embeddings = bare.mask_embedder(states)
        answers.append((torch.einsum("bqc,bchw->bqhw", embeddings, pixels), bare.class_predictor(states)))
    with torch.autocast(pixels.device.type, enabled=False):
        parts = [bare.get_loss_dict(*whole(answer), whole(masks), labels, None) for answer in answers]
    return sum(sum(part.values()) for part in parts), {name: value.detach() for name, value in parts[0].items()}


def rcnn_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss of a Mask R-CNN for a batch as of `mask_loss`, where r is R, and its parts; boxes are around masks."""
    things = []
    for masks, labels in zip(batch["masks"] > 0.5, batch["labels"], strict=True):
        there = (labels != NONE) & masks.flatten(1).any(1)  # what is thinner than a pixel is in none by half
        boxes = masks_to_boxes(masks[there]) + torch.tensor([0, 0, 1, 1], device=masks.device)
        things.append({"boxes": boxes, "class_labels": labels[there], "masks": masks[there].to(torch.uint8)})
    out = model(pixel_values=batch["pixels"], labels=things)
    return out.loss.float(), {name: value.detach() for name, value in out.loss_dict.items()}


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
