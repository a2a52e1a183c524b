"""Towers in the form of transformers and in that of timm; where they come from: training/beginnings.py.

    args, weights = as_timm(swin)
    model = timm.create_model(NAME, num_classes=12, **args)
    model.load_state_dict(weights, strict=False)          # all but the class layer

    swin = in_transformers(model)             # and back: a SwinModel or ViTModel of timm's Swin or ViT

    backbone.model.load_state_dict(as_maskformer(swin), strict=False)      # a MaskFormerSwinBackbone of its sizes

    vit = classifier.load("vit").model        # or, into a DPT
    args, weights = as_transformers(vit, side_px=128)
    model = DPTModel(DPTConfig(**args), add_pooling_layer=False)
    model.load_state_dict(weights)

Liu et al. 2021 (Swin), Dosovitskiy et al. 2021 (ViT). Both forms compute the same; queries, keys and values are one
matrix in timm, and a Swin's stage begins with what transformers ends the stage before with.

Letters: C width of a block, N tokens.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel

NAME, VIT_NAME = "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"  # of timm: their sizes are arguments
RENAMED = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.norm": "patch_embed.norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
    "attention.relative_position_bias.": "attn.",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "encoder.": "",
}
MASKFORMER_RENAMED = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention.relative_position_bias.": "attention.self.",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
VIT_RENAMED_BACK = {
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
}
QUERY, OTHERS = ".attention.q_proj.", (".attention.k_proj.", ".attention.v_proj.")
VIT_RENAMED = {
    "pos_embed": "embeddings.position_embeddings",
    "cls_token": "embeddings.cls_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks.": "encoder.layer.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def as_timm(swin: SwinModel) -> tuple[dict, dict[str, torch.Tensor]]:
    """timm's arguments of this Swin, and its weights under timm's names. Raises SystemExit for absolute positions."""
    config = swin.config
    if config.use_absolute_embeddings:
        raise SystemExit("--tower_name_or_path: timm's Swin has no absolute positions, and this one has")
    args = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "window_size": config.window_size,
        "embed_dim": config.embed_dim,
        "depths": tuple(config.depths),
        "num_heads": tuple(config.num_heads),
        "mlp_ratio": config.mlp_ratio,
    }
    return args, _joined(swin.state_dict(), _renamed)


def as_maskformer(swin: SwinModel) -> dict[str, torch.Tensor]:
    """The weights of this Swin under the names of a MaskFormerSwinModel, but for its absolute positions.

    That class has a place more for these than it has patches, and fails where it adds them (transformers 5.23).
    """
    weights = {}
    for name, value in swin.state_dict().items():
        if name == "embeddings.position_embeddings":
            continue
        for old, new in MASKFORMER_RENAMED.items():
            name = name.replace(old, new)
        weights[name] = value.clone()
    return weights


def vit_as_timm(vit: ViTModel) -> tuple[dict, dict[str, torch.Tensor]]:
    """timm's arguments of this ViT, and its weights under timm's names, without its pooler.

    timm's norms add 1e-6 to a variance, whatever this one's add.
    """
    config = vit.config
    args = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "qkv_bias": config.qkv_bias,
    }
    kept = {name: value for name, value in vit.state_dict().items() if not name.startswith("pooler.")}
    return args, _joined(kept, _vit_renamed_back)


def _joined(ours: dict[str, torch.Tensor], renamed: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """The weights under timm's names, queries, keys and values as one."""
    weights = {}
    for name, value in ours.items():
        if name.endswith("relative_position_index") or any(other in name for other in OTHERS):
            continue
        if QUERY in name:  # (C, C) or (C,) each
            value = torch.cat([value, *(ours[name.replace(QUERY, other)] for other in OTHERS)])
            name = name.replace(QUERY, ".attn.qkv.")
        weights[renamed(name)] = value.clone()
    return weights


def in_transformers(model: Any) -> SwinModel | ViTModel:
    """The same tower in transformers, of a Swin or a plain ViT of timm; the pooler of a ViT is new.

    Raises SystemExit for another model.
    """
    if isinstance(model, SwinTransformer):
        made: Any = SwinModel(_swin_config(model))
        renamed = _renamed
    else:
        check_plain(model, "a ViTModel")
        block = model.blocks[0]
        config = ViTConfig(
            image_size=model.patch_embed.img_size[0], patch_size=model.patch_embed.patch_size[0],
            hidden_size=model.embed_dim, num_hidden_layers=len(model.blocks), num_attention_heads=block.attn.num_heads,
            intermediate_size=block.mlp.fc1.out_features, layer_norm_eps=block.norm1.eps,
            qkv_bias=block.attn.qkv.bias is not None,
        )  # fmt: skip
        made, renamed = ViTModel(config), _vit_renamed_back
    theirs, weights = model.state_dict(), made.state_dict()
    for name in weights:
        if name.startswith("pooler.") or name.endswith("relative_position_index"):
            continue
        for number, part in enumerate((QUERY, *OTHERS)):
            if part in name:  # (3 C, C) or (3 C,)
                weights[name] = theirs[renamed(name.replace(part, ".attn.qkv."))].chunk(3)[number].clone()
                break
        else:
            weights[name] = theirs[renamed(name)].clone()
    made.load_state_dict(weights)
    return made


def _swin_config(swin: Any) -> SwinConfig:
    """The config of a Swin of timm. Raises SystemExit where its windows differ, or aren't square."""
    blocks = [block for stage in swin.layers for block in stage.blocks]
    tables = {len(block.attn.relative_position_bias_table) for block in blocks}
    window = swin.layers[0].blocks[0].window_size[0]
    if tables != {(2 * window - 1) ** 2}:
        raise SystemExit(
            "--tower_name_or_path: the windows of this Swin of timm differ from stage to stage; one of transformers "
            "has windows of one size"
        )
    return SwinConfig(
        image_size=swin.patch_embed.img_size[0], patch_size=swin.patch_embed.patch_size[0], embed_dim=swin.embed_dim,
        depths=[len(stage.blocks) for stage in swin.layers],
        num_heads=[stage.blocks[0].attn.num_heads for stage in swin.layers], window_size=window,
        mlp_ratio=blocks[0].mlp.fc1.out_features / blocks[0].mlp.fc1.in_features, layer_norm_eps=swin.norm.eps,
        drop_path_rate=0.0,
    )  # fmt: skip


def check_plain(model: Any, wanted: str) -> dict[str, torch.Tensor]:
    """The weights of a plain ViT of timm without its class layer. Raises SystemExit for a model that is none."""
    plain = isinstance(model, VisionTransformer) and model.num_prefix_tokens == 1 and model.pos_embed is not None
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(("head.", "fc_norm."))}
    known = ("pos_embed", "cls_token", "patch_embed.proj.", "blocks.", "norm.")
    odd = [name for name in kept if not name.startswith(known) or ".ls" in name or "_norm." in name]
    if plain and not odd and "norm.weight" not in kept:
        odd = ["a norm after its pooling"]
    if not plain or odd:
        said = f", but has {odd[0]}" if plain else f", but a {type(model).__name__}"
        raise SystemExit(f"--tower_name_or_path: {wanted} begins as a plain ViT of timm with a class token{said}")
    return kept


def as_transformers(vit: torch.nn.Module, side_px: int) -> tuple[dict, dict[str, torch.Tensor]]:
    """Arguments of a `DPTConfig` for this ViT of timm on pictures of side_px, and the weights of a `DPTModel`.

    Positions are resampled to the new grid. Raises SystemExit for a model that is no plain ViT with a class token.
    """
    vit = cast(Any, vit)
    kept = check_plain(vit, "a DPT")
    block, patch_px = vit.blocks[0], vit.patch_embed.patch_size[0]
    if side_px % patch_px:
        raise SystemExit(f"--resolution {side_px} is no multiple of {patch_px}, the side of this ViT's patches")
    depth, grid = len(vit.blocks), side_px // patch_px
    args = {
        "image_size": side_px,
        "patch_size": patch_px,
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": depth,
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "layer_norm_eps": block.norm1.eps,
        "backbone_out_indices": [-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)],  # Ranftl 2021, section 3.1
    }
    weights = {}
    for name, value in kept.items():
        if name == "pos_embed":  # (1, 1 + N, C)
            value = resample_abs_pos_embed(value, [grid, grid], num_prefix_tokens=1)
        if ".attn.qkv." in name:  # (3 C, C) or (3 C,)
            for part, one in zip(("query", "key", "value"), value.chunk(3), strict=True):
                weights[_vit_renamed(name).replace("attn.qkv.", f"attention.attention.{part}.")] = one.clone()
        else:
            weights[_vit_renamed(name)] = value.clone()
    return args, weights


def _vit_renamed(name: str) -> str:
    for old, new in VIT_RENAMED.items():
        name = name.replace(old, new)
    return name.replace("norm.", "layernorm.") if name.startswith("norm.") else name


def _vit_renamed_back(name: str) -> str:
    for old, new in VIT_RENAMED_BACK.items():
        name = name.replace(old, new)
    name = f"blocks.{name.removeprefix('layers.')}" if name.startswith("layers.") else name
    return name.replace("layernorm.", "norm.") if name.startswith("layernorm.") else name


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    if ".downsample." in name:
        stage = int(name.split(".")[1])
        name = name.replace(f"layers.{stage}.", f"layers.{stage + 1}.", 1)
    return name.replace("layernorm.", "norm.") if name.startswith("layernorm.") else name
