"""What one patch of a picture can see after each block of a transformer: Swin's windows, or all patches at once.

The region is that of the architecture, whatever the weights: it follows attention back through the blocks, with Swin's
windows, their shifts and the masks between parts that a shift brings together, and through the merging of patches
(Liu et al. 2021, §3.2 and fig. 4).

Letters: h × w tokens of a block, H × W patches that the picture is cut into.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.layers.attention import Attention
from timm.models.swin_transformer import SwinTransformer, window_reverse
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Block:
    """A block, by which of its tokens attend to each other."""

    stage: int  # from 1
    number: int  # in its stage, from 1
    of: int  # so many blocks in the stage
    window: tuple[int, int]  # tokens down and across; a shift can leave less at the edges
    shift: tuple[int, int]  # (0, 0) where the windows stand unshifted
    groups: np.ndarray  # (h, w) int64: tokens of one number attend to each other and to no others


def attends_to_all(model: Any) -> bool:
    """Whether it is a plain ViT of timm, whose patches all attend to each other in every block."""
    return (
        isinstance(model, VisionTransformer)
        and model.attn_pool is None
        and all(type(getattr(block, "attn", None)) is Attention for block in model.blocks)
    )


def blocks(model: Any) -> list[Block]:
    """The blocks of a plain ViT or of a Swin (either version) of timm, in their order.

    Raises ValueError for models of another kind, which have no such windows.
    """
    if attends_to_all(model):
        grid, depth = model.patch_embed.grid_size, len(model.blocks)
        return [Block(1, number, depth, grid, (0, 0), np.zeros(grid, np.int64)) for number in range(1, depth + 1)]
    if not isinstance(model, SwinTransformer | SwinTransformerV2):
        raise ValueError(f"a {type(model).__name__} has neither Swin's windows nor a plain ViT's patches")
    return [
        Block(stage, number, len(layer.blocks), tuple(block.window_size), tuple(block.shift_size), _groups(block))
        for stage, layer in enumerate(model.layers, 1)
        for number, block in enumerate(layer.blocks, 1)
    ]


def _groups(block: Any) -> np.ndarray:
    """(h, w) int64: for each token of a Swin block the first place of the shifted windows that it attends to."""
    (h, w), (wh, ww) = block.input_resolution, block.window_size
    bottom, right = -h % wh, -w % ww  # the shifted tokens are padded to whole windows
    mask = block.get_attn_mask(torch.zeros(1, h + bottom, w + right, 1))  # (windows, wh·ww, wh·ww): 0 where it attends
    count = (h + bottom) * (w + right) // (wh * ww)
    seen = torch.ones(count, wh * ww, wh * ww, dtype=torch.bool) if mask is None else mask == 0
    first = seen.int().argmax(-1) + torch.arange(count)[:, None] * (wh * ww)  # (windows, wh·ww)
    whole = window_reverse(first.view(-1, wh, ww, 1), (wh, ww), h + bottom, w + right)[0, :h, :w, 0]
    return torch.roll(whole, tuple(block.shift_size), (0, 1)).numpy()


def region(passed: Sequence[Block], patches: tuple[int, int], row: int, column: int) -> np.ndarray:
    """The patches that a patch has seen when it has passed these blocks, the first of a model: (H, W) bool.

    patches: (H, W). row, column: of the patch. Where patches have been merged, its token stands for it and its
    neighbours, and it has seen what that token has. No block passed: itself alone.
    Raises ValueError for a patch outside of the picture.
    """
    if not (0 <= row < patches[0] and 0 <= column < patches[1]):
        raise ValueError(f"no patch in row {row}, column {column} of {patches[0]} × {patches[1]}")
    sizes = [patches, *(block.groups.shape for block in passed)]
    seen = _token(sizes[-1], patches, row, column)
    for block, before in zip(reversed(passed), reversed(sizes[:-1]), strict=True):
        seen = over_patches(np.isin(block.groups, block.groups[seen]), before)
    return seen


def standing_for(tokens: tuple[int, ...], patches: tuple[int, int], row: int, column: int) -> np.ndarray:
    """The patches that have one token, among h × w, with a patch: (H, W) bool, a rectangle."""
    return over_patches(_token(tokens, patches, row, column), patches)


def _token(tokens: tuple[int, ...], patches: tuple[int, int], row: int, column: int) -> np.ndarray:
    """Where, among h × w tokens, the one of a patch is: (h, w) bool."""
    mask, merged = np.zeros(tokens, bool), _merges(patches, tokens)
    mask[row >> merged, column >> merged] = True
    return mask


def over_patches(values: np.ndarray, patches: tuple[int, int]) -> np.ndarray:
    """Values of tokens (h, w) as those of the patches that they were merged from, (H, W)."""
    times = 2 ** _merges(patches, values.shape)
    return values.repeat(times, 0).repeat(times, 1)[: patches[0], : patches[1]]


def _merges(patches: tuple[int, int], tokens: tuple[int, ...]) -> int:
    """How often H × W patches were merged, two by two in each direction, to make h × w tokens."""
    count, side = 0, patches[0]
    while side > tokens[0]:
        count, side = count + 1, -(-side // 2)
    return count
