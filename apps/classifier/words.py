"""What is said of a model's blocks and of its tokens: plain sentences."""

from collections.abc import Sequence

import numpy as np

from hub_models.classifier import Classifier
from hub_models.windows import Block

FAMILIES = {"VisionTransformer": "ViT", "SwinTransformer": "Swin"}  # what people call timm's classes


def family(model: Classifier) -> str:
    kind = type(model.model).__name__
    return FAMILIES.get(kind, kind)


def chips(blocks: Sequence[Block]) -> list[tuple[str, int]]:
    """A name for each number of blocks passed, none among them: "2.1" is the first block of the second stage."""
    staged = any(block.stage > 1 for block in blocks)
    names = [f"{block.stage}.{block.number}" if staged else f"{block.number}" for block in blocks]
    shifted = [" shifted" if any(block.shift) else "" for block in blocks]
    return [("Patches", 0), *((name + more, k) for k, (name, more) in enumerate(zip(names, shifted, strict=True), 1))]


def reach(model: Classifier, passed: Sequence[Block], row: int, column: int, seen: np.ndarray) -> str:
    """What a patch has seen after these blocks."""
    place = f"The patch in row {row + 1}, column {column + 1}"
    if not passed:
        rows, columns = model.patches
        return f"{model.name} cuts the picture into {rows} × {columns} patches. {place} knows itself alone."
    block, (h, w) = passed[-1], passed[-1].groups.shape
    if model.has_attention:
        how = f"Block {block.number} of {block.of}: every patch looks at every other one"
    else:
        how = f"Stage {block.stage}, block {block.number} of {block.of}: {h} × {w} tokens look around in "
        if h <= block.window[0] and w <= block.window[1]:
            how += "one window, which is the whole picture"
        else:
            how += f"windows of {block.window[0]} × {block.window[1]}"
        if any(block.shift):
            how += f", shifted by {block.shift[0]}; what lies at opposite edges of the picture stays apart"
    stands = "" if (h, w) == seen.shape else ", whose token stands for its neighbours too,"
    share = "the whole picture" if seen.all() else f"{seen.sum()} of {seen.size} patches"
    whole = " Every patch sees all after one block." if model.has_attention else ""
    return f"{how}. {place}{stands} has seen {share}.{whole}"


def alike(model: Classifier, layer: int, tokens: np.ndarray, row: int, column: int, low: float) -> str:
    """What both pictures of the tokens (h, w, D) of a layer show; low: the lowest cosine."""
    h, w, width = tokens.shape
    kind = "tokens" if hasattr(model.model, "patch_embed") else "cells, as it has no tokens,"
    return (
        f"{model.name}, layer {layer} of {len(model.layers)}: {h} × {w} {kind} of {width} numbers. The redder, the "
        f"more like the one in row {row + 1}, column {column + 1}: cosines from {low:.2f} to 1."
    )
