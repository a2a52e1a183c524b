"""A vision tower on a trained backbone of timm: a stock `DPTModel`, its backbone's last map, then ViT layers.

    tower = hybrid_tower(folder, 224, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, …)
    maps = EarlyStages(backbone_of(tower))(pixels)     # (B, C, h, w): made once, see training.data.views
    tower_from_maps(tower, maps).last_hidden_state     # what tower(pixels) gives

Ranftl et al. 2021 (DPT-Hybrid). The one class of transformers with a backbone of timm that has hidden states and a
pooler, so `VisionEncoderDecoderModel` and `VisionTextDualEncoderModel` take it. Its norms of batches keep the
statistics they come with: those of a few thousand photographs in small batches are worse.

Letters: B pictures, R side in pixels, C channels, h × w places of a map, S = 1 + h · w states, D width of the tower.
"""

import json
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import nn
from transformers import DPTConfig, DPTModel, TimmBackboneConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hub_models import classifier, store
from training import publish

Tower = Any  # a hybrid DPTModel, or what a model has for an encoder where that is one
Backbone = Any  # its model of timm, built like an EfficientNet

STRIDE = 32  # of the map that the ViT layers see
LATE_STRIDE = 16  # up to the last map of this stride nothing of the backbone learns, where maps are made beforehand
POSITIONS = 0.1  # deviation of the positions, to begin with


def hybrid_tower(folder: Path, side_px: int, **args) -> DPTModel:
    """A DPT whose backbone is the timm model of a folder and whose ViT layers are new; args: further of DPTConfig.

    Raises SystemExit where that is no backbone of stages with a map at a 32nd of the picture.
    """
    trained = classifier.load(folder, device="cpu").model
    kind = trained.pretrained_cfg["architecture"]
    info = list(getattr(trained, "feature_info", []))
    strides = [entry["reduction"] for entry in info]
    if STRIDE not in strides or not isinstance(getattr(trained, "blocks", None), nn.Sequential):
        raise SystemExit(f"--tower_name_or_path {folder}: {kind} is no EfficientNet with a map at stride {STRIDE}")
    if side_px % STRIDE:
        raise SystemExit(f"--resolution {side_px} must be a multiple of {STRIDE} for {kind}")
    last = len(strides) - 1 - strides[::-1].index(STRIDE)
    cells = side_px // STRIDE
    config = DPTConfig(
        is_hybrid=True, image_size=side_px, patch_size=STRIDE, layer_norm_eps=1e-6,
        backbone_config=TimmBackboneConfig.from_dict({"backbone": kind, "out_indices": [last - 2, last - 1, last]}),
        backbone_featmap_shape=[1, info[last]["num_chs"], cells, cells], **args,
    )  # fmt: skip
    tower = DPTModel(config)
    backbone = backbone_of(tower)
    missing = backbone.load_state_dict(trained.state_dict(), strict=False).missing_keys
    if missing:
        raise SystemExit(f"--tower_name_or_path {folder}: its weights lack {missing[0]} of {kind}")
    for place in (tower.embeddings.position_embeddings, tower.embeddings.cls_token):  # zeros, by the library
        nn.init.trunc_normal_(place, std=POSITIONS)
    return tower


def statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels that a timm backbone was trained on, as its folder says."""
    config = resolve_model_data_config(classifier.load(folder, device="cpu").model)
    return tuple(config["mean"]), tuple(config["std"])


def inherited(stem: str, base: str) -> list[str]:
    """Whose work went into the model that a training began from, by its run.json: a bundled variant or a folder."""
    path = store.bundled(stem).get(base, Path(base).expanduser()) / publish.RUN
    return json.loads(path.read_text(encoding="utf-8")).get("attributions", []) if path.is_file() else []


def is_hybrid(tower: nn.Module) -> bool:
    return isinstance(tower, DPTModel) and tower.config.is_hybrid


def backbone_of(tower: Tower) -> Backbone:
    """The model of timm in a hybrid."""
    return tower.embeddings.backbone._backbone


def trained_part(tower: Tower) -> nn.Module:
    """What of a tower comes trained: all of it, of a hybrid the backbone."""
    return tower.embeddings.backbone if is_hybrid(tower) else tower


def keep_statistics(module: nn.Module) -> None:
    """Put the norms of batches in eval mode, whatever the rest does."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def fix(tower: Tower, *, late: bool) -> None:
    """Take from training what comes before the maps, and with `late` the rest of the backbone, too."""
    backbone = backbone_of(tower)
    backbone.requires_grad_(not late)
    EarlyStages(backbone).requires_grad_(False)


def _late(backbone: Backbone) -> int:
    """How many stages come before those that may learn."""
    return max(entry["stage"] for entry in backbone.feature_info.info if entry["reduction"] == LATE_STRIDE)


def early_state(backbone: Backbone) -> dict[str, torch.Tensor]:
    """The weights and statistics of what `EarlyStages` runs through, by name."""
    late = tuple(f"blocks.{stage}." for stage in range(_late(backbone), len(backbone.blocks)))
    return {name: value for name, value in backbone.state_dict().items() if not name.startswith(late)}


class EarlyStages(nn.Module):
    """What the first stages make of pictures (B, 3, R, R): the last map at stride 16, (B, C, R / 16, R / 16)."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.stem, self.norm, self.stages = backbone.conv_stem, backbone.bn1, backbone.blocks[: _late(backbone)]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.stages(self.norm(self.stem(pixels)))


def late_map(backbone: Backbone, maps: torch.Tensor) -> torch.Tensor:
    """The backbone's last map, from `EarlyStages`."""
    for stage in backbone.blocks[_late(backbone) :]:
        maps = stage(maps)
    return maps


def tower_from_maps(tower: Tower, maps: torch.Tensor, *, frozen: bool = False) -> BaseModelOutputWithPooling:
    """What the tower says of pictures, from their `EarlyStages`; frozen: its backbone gets no gradient."""
    embeddings = tower.embeddings
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        last = late_map(backbone_of(tower), maps)
    states = embeddings.projection(last).flatten(2).transpose(1, 2)  # (B, h · w, D)
    states = torch.cat([embeddings.cls_token.expand(len(states), -1, -1), states], 1) + embeddings.position_embeddings
    states = tower.layernorm(tower.encoder(states).last_hidden_state)
    return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=tower.pooler(states))
