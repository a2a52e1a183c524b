"""Where one place of a picture looks, head by head: the attention of a block of timm's ViT or Swin.

Pictures are as the model gets them, normalised: (1, 3, R, R). Nothing hooks into the model.

Letters: N tokens of a ViT, of which the last h · w are places; A heads, D numbers a head; W windows of T tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.layers.attention import Attention
from timm.models.swin_transformer import SwinTransformer, WindowAttention, window_partition
from torch.nn import functional as F

from hub_models import explain, windows


@dataclass(frozen=True)
class Looked:
    """Where a place looks in a block."""

    block: windows.Block
    number: int  # of the block among all, from 1
    of: int
    cell: tuple[int, int]  # row and column of the place among the block's h × w
    heads: np.ndarray  # (A, h, w) float32: the share of its attention that each place gets
    reachable: np.ndarray  # (h, w) bool: the places that it can look at at all
    elsewhere: np.ndarray  # (A,) float32: the share that goes to tokens that are no place, as the class token


def probabilities(layer: Attention, x: torch.Tensor) -> torch.Tensor:
    """The attention of a timm layer for its input (B, N, D), which fused kernels never give: (B, A, N, N)."""
    B, N, _ = x.shape
    q, k, _ = layer.qkv(x).reshape(B, N, 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4)  # (B, A, N, D)
    q, k = layer.q_norm(q), layer.k_norm(k)
    return (q * layer.scale @ k.transpose(-2, -1)).softmax(-1)


def in_windows(layer: WindowAttention, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The attention of a Swin's layer in one picture's windows x (W, T, C): (W, A, T, T). mask: (W, T, T) or None."""
    count, T, _ = x.shape
    q, k, _ = layer.qkv(x).reshape(count, T, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)  # (W, A, T, D)
    scores = q * layer.scale @ k.transpose(-2, -1) + layer._get_rel_pos_bias()
    return (scores if mask is None else scores + mask[:, None]).softmax(-1)


def depth(model: Any) -> int:
    """How many blocks `looked` can look into; 0 for a model that is neither a plain ViT nor a Swin."""
    try:
        return len(_blocks(model))
    except ValueError:
        return 0


@torch.no_grad()
def looked(model: Any, x: torch.Tensor, number: int, row: float, column: float) -> Looked:
    """Where the place at these shares of height and width, in [0, 1], looks in block `number` (from 1).

    Raises ValueError for a model without such attention, and for a block that it hasn't.
    """
    blocks = _blocks(model)
    if not 1 <= number <= len(blocks):
        raise ValueError(f"this model has blocks 1 to {len(blocks)}, not {number}")
    block = blocks[number - 1]
    h, w = block.groups.shape
    cell = min(int(row * h), h - 1), min(int(column * w), w - 1)
    of_one = _in_vit if windows.attends_to_all(model) else _in_swin
    heads = of_one(model, x, number, cell).float().cpu().numpy()  # (A, h, w)
    reachable = block.groups == block.groups[cell]
    return Looked(block, number, len(blocks), cell, heads, reachable, (1 - heads.sum((1, 2))).clip(0, 1))


def _blocks(model: Any) -> list[windows.Block]:
    if not (windows.attends_to_all(model) or isinstance(model, SwinTransformer)):
        kind = type(model).__name__
        raise ValueError(f"a {kind} has no attention between places that is shown here: a plain ViT or a Swin has")
    return windows.blocks(model)


def _in_vit(model: Any, x: torch.Tensor, number: int, cell: tuple[int, int]) -> torch.Tensor:
    tokens = explain.embedded(model, x)  # (1, N, C)
    for block in model.blocks[: number - 1]:
        tokens = block(tokens)
    last = model.blocks[number - 1]
    h, w = model.patch_embed.grid_size
    places = probabilities(last.attn, last.norm1(tokens))[0, :, -h * w :, -h * w :]  # (A, h·w, h·w)
    return places[:, cell[0] * w + cell[1]].unflatten(1, (h, w))


def _in_swin(model: Any, x: torch.Tensor, number: int, cell: tuple[int, int]) -> torch.Tensor:
    tokens = model.patch_embed(x)  # (1, h, w, C)
    passed = 0
    for stage in model.layers:
        tokens = stage.downsample(tokens)
        for block in stage.blocks:
            passed += 1
            if passed == number:
                return _in_window(block, tokens, cell)
            tokens = block(tokens)
    raise AssertionError("looked() counts the blocks")


def _in_window(block: Any, tokens: torch.Tensor, cell: tuple[int, int]) -> torch.Tensor:
    """Of tokens (1, h, w, C) that go into a Swin block: where the one at `cell` looks, (A, h, w), 0 outside its window.

    The block shifts its tokens, fills them up to whole windows and masks what a shift brings together; so is done here.
    """
    _, h, w, _ = tokens.shape
    size, back = block.window_size, [-shift for shift in block.shift_size]
    pad = (0, 0, 0, -w % size[1], 0, -h % size[0])
    numbers = torch.arange(h * w, device=tokens.device).view(1, h, w, 1)
    shifted, where = (torch.roll(each, back, (1, 2)) for each in (block.norm1(tokens), numbers))
    area = size[0] * size[1]
    inside = window_partition(F.pad(shifted, pad), size).view(-1, area, tokens.shape[-1])  # (W, T, C)
    where = window_partition(F.pad(where, pad, value=-1), size).view(-1, area)  # (W, T), -1 for what fills up
    mask = block.get_attn_mask(F.pad(shifted, pad)) if block.dynamic_mask else block.attn_mask
    window, place = (where == cell[0] * w + cell[1]).nonzero()[0].tolist()
    mine = slice(window, window + 1)
    looks = in_windows(block.attn, inside[mine], None if mask is None else mask[mine])[0, :, place]  # (A, T)
    real = where[window] >= 0
    found = looks.new_zeros(len(looks), h * w)
    found[:, where[window][real]] = looks[:, real]
    return found.unflatten(1, (h, w))
