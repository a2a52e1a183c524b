"""What a timm classifier decides from: the gradients of a score, Grad-CAM, and the tokens of its layers compared.

Pictures are as the model gets them, normalised: (1, 3, R, R), of token_maps (B, 3, R, R). Nothing hooks into the model,
so that it may answer somebody else meanwhile.

Letters: R pixels a side, h × w cells of a map, D numbers a cell, N tokens of which the last h · w are patches.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from hub_models.windows import attends_to_all


def saliency(model: Any, x: torch.Tensor, index: int, std: torch.Tensor) -> np.ndarray:
    """How fast the score of a class changes with each pixel, (R, R) float32: max over channels of |∂ logit / ∂ x|.

    A pixel's channels are in [0, 1]; std, (3, 1, 1), is what they were divided by to give x. Simonyan et al. 2014, §3.
    """
    with torch.enable_grad():
        x = x.clone().requires_grad_(True)
        [gradient] = torch.autograd.grad(model(x)[0, index], x)  # (1, 3, R, R)
    return (gradient[0] / std.to(x.device)).abs().amax(0).float().cpu().numpy()


def grad_cam(model: Any, x: torch.Tensor, index: int) -> np.ndarray:
    """What in the last layer speaks for a class, and where: (h, w) float32, 0 and more, in units of the logit.

    ReLU(Σ_k α_k A^k), where α_k is the mean over all cells of ∂ logit / ∂ A^k. Selvaraju et al. 2017, eqs 1 and 2. A is
    what the last layers before pooling give; for a ViT that answers from its class token, whose last patches nobody
    reads, the patches that its last block reads.
    Raises ValueError for a model whose last layer is no map, or whose answer doesn't depend on it.
    """
    last, answer = _last_layer(model, x)
    cells = as_map(model, last)[0]  # (h, w, D)
    with torch.enable_grad():
        last = last.detach().requires_grad_(True)
        [gradient] = torch.autograd.grad(answer(last)[0, index], last)
    slopes = as_map(model, gradient)[0]  # (h, w, D)
    if not slopes.any():
        raise ValueError(f"the answer of this {type(model).__name__} doesn't depend on its last map")
    return (cells @ slopes.mean((0, 1))).relu().float().cpu().numpy()


@torch.no_grad()
def _last_layer(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, Callable]:
    """The last layer with places for x, and the function that makes scores of it."""
    if attends_to_all(model) and model.global_pool == "token":
        tokens = embedded(model, x)
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        return tokens, lambda tokens: model.forward_head(model.norm(model.blocks[-1](tokens)))
    return model.forward_features(x), model.forward_head


def embedded(vit: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    """The tokens that go into the first block of a ViT, (B, N, D)."""
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))


def as_map(model: Any, x: Any) -> torch.Tensor:
    """What the layers before the head give, or the like, by place: (B, h, w, D).

    x: (B, D, h, w), (B, h, w, D) or (B, N, D), as the model has it. Raises ValueError where it has no places.
    """
    if isinstance(x, torch.Tensor) and x.ndim == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC" or x.shape[1] != model.num_features
        return x if last else x.permute(0, 2, 3, 1)
    if isinstance(x, torch.Tensor) and x.ndim == 3:
        count = x.shape[1] - getattr(model, "num_prefix_tokens", 0)
        side = math.isqrt(count)  # all pictures are square
        if side > 1 and side * side == count:
            return x[:, -count:].reshape(len(x), side, side, -1)
    raise ValueError(f"the last layer of a {type(model).__name__} is no map of the picture")


@torch.no_grad()
def token_maps(model: Any, x: torch.Tensor) -> list[np.ndarray]:
    """What each layer says of each place of pictures x (B, 3, R, R): (B, h, w, D) float32 for a block or stage.

    Raises ValueError for a model that doesn't give them.
    """
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"a {type(model).__name__} of timm doesn't show what its layers say")
    maps = model.forward_intermediates(x, intermediates_only=True)  # (B, D, h, w) each
    return [each.permute(0, 2, 3, 1).float().cpu().numpy() for each in maps]


def likeness(token: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The cosine of a token (D,) and each of (h, w, D): (h, w) float32 in [-1, 1]; 0 for a token of zeros."""
    lengths = np.linalg.norm(token) * np.linalg.norm(tokens, axis=-1)
    return (tokens @ token / np.maximum(lengths, 1e-12)).clip(-1, 1).astype(np.float32)
