"""The image tower of a dual encoder for pictures of another size, with positions that a caption can be told by.

Vaswani et al. 2017 (waves), Liu et al. 2021 (Swin).

Letters: D width, h × w patches.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, SwinConfig, SwinModel, ViTConfig, ViTModel

TOWERS: dict[str, tuple[Any, Any]] = {"swin": (SwinConfig, SwinModel), "vit": (ViTConfig, ViTModel)}
POSITION_SCALE = 0.3  # deviation of the positions that a Swin tower gets, beside about 1 of its patches


@torch.no_grad()
def tower(trained: PreTrainedModel, side_px: int, deviation: float = POSITION_SCALE) -> PreTrainedModel:
    """The tower of a dual encoder for pictures of side_px, whatever it was trained at.

    A Swin tells places apart within its windows only, and a caption has to say what is on the left: it gets absolute
    positions (`use_absolute_embeddings`), to begin with waves of that deviation. Those of a ViT are resized.
    Where the last stage of a Swin would see less than one window, all its windows get smaller.
    """
    kind = trained.config.model_type
    if kind not in TOWERS:
        raise SystemExit(f"--clip_name_or_path has a {kind} for pictures: a captioner needs one with a Swin or a ViT")
    configs, models = TOWERS[kind]
    fields = trained.config.to_dict() | {"image_size": side_px}
    if isinstance(trained.config, SwinConfig):
        fields |= {"use_absolute_embeddings": True, "window_size": largest_window(trained.config, side_px)}
    made = models(configs.from_dict(fields))
    weights, name = dict(trained.state_dict()), "embeddings.position_embeddings"
    for key in (key for key in weights if key.endswith("relative_position_bias_table")):
        weights[key] = biases_within(weights[key], fields["window_size"])
    fresh = made.state_dict()[name]
    side = math.isqrt(fresh.shape[1])
    if name not in weights:
        weights[name] = scaled(waves(side, fresh.shape[2]), deviation)
    elif weights[name].shape != fresh.shape:
        old = weights[name]
        extra = old.shape[1] - math.isqrt(old.shape[1]) ** 2  # a class token comes first
        before = math.isqrt(old.shape[1] - extra)
        plane = old[:, extra:].reshape(1, before, before, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
        plane = F.interpolate(plane, size=(side, side), mode="bicubic", align_corners=False)
        weights[name] = torch.cat([old[:, :extra], plane.flatten(2).transpose(1, 2)], 1)
    made.load_state_dict(weights)
    return made


def largest_window(config: SwinConfig, side_px: int) -> int:
    """The side of a Swin's windows for pictures of side_px: at most its own, and what the last stage sees."""
    return min(config.window_size, -(-side_px // (config.patch_size * 2 ** (len(config.depths) - 1))))


def biases_within(table: torch.Tensor, window: int) -> torch.Tensor:
    """Of a Swin's biases ((2W - 1)², H) of all offsets in windows of side W those in windows of side `window`."""
    side = math.isqrt(len(table))
    kept = slice(side // 2 - window + 1, side // 2 + window)
    return table.view(side, side, -1)[kept, kept].flatten(0, 1)


def waves(side: int, width: int) -> torch.Tensor:
    """Positions (1, h·w, D) of a square of patches, as sines and cosines of row and column (Vaswani 2017, §3.5)."""
    place = (torch.arange(side) + 0.5) / side * math.pi
    angles = place[:, None] * torch.arange(1, -(-width // 4) + 1)  # (side, D / 4)
    line = torch.cat([angles.sin(), angles.cos()], 1)  # (side, D / 2)
    both = torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], -1)  # (h, w, D)
    return both.reshape(1, side * side, -1)[..., :width]


def scaled(positions: torch.Tensor, deviation: float) -> torch.Tensor:
    """The positions, with that standard deviation.

    What is lost on the way through the tower can't be told by the decoder: with 0.07 a linear layer finds row and
    column in the last states with R² of 0.34 and 0.23, and captions say left or right by chance (docs/LOG.md).
    """
    return positions * (deviation / positions.std())
