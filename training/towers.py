"""Towers that a new model may begin as, in the form of transformers and in that of timm.

    swin = swin_of(folder)                    # the image tower of a CLIP or a captioner
    args, weights = as_timm(swin)
    model = timm.create_model(NAME, num_classes=12, **args)
    model.load_state_dict(weights, strict=False)          # all but the class layer

    vit = classifier.load("vit").model        # and the other way, into a DPT
    args, weights = as_transformers(vit, side_px=128)
    model = DPTModel(DPTConfig(**args), add_pooling_layer=False)
    model.load_state_dict(weights)

Liu et al. 2021 (Swin), Dosovitskiy et al. 2021 (ViT). Both forms compute the same; queries, keys and values are one
matrix in timm, and a Swin's stage begins with what transformers ends the stage before with.

Letters: C width of a block, N tokens.
"""

from pathlib import Path
from typing import Any, cast

import torch
import transformers
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from transformers import AutoModel, SwinModel

from hub_models import pretrained, store
from hub_models.documents import read_object

HOMES = ("pretrain", "classifier", "clip", "captioning")  # stems with a tower in their models
NAME = "swin_tiny_patch4_window7_224"  # of timm: its sizes are arguments
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


def tower_folder(name: str) -> Path:
    """Where a tower lies: a bundled model as stem/variant, a bundled variant of HOMES, a folder, or a Hub id.

    Raises store.CheckpointError.
    """
    stem, _, variant = name.partition("/")
    if stem in HOMES and variant in store.bundled(stem):
        return store.resolve(stem, variant)
    home = next((stem for stem in HOMES if name in store.bundled(stem)), HOMES[0])
    return store.resolve(home, name)


def is_timm(folder: Path) -> bool:
    """Whether a folder is of timm: transformers' configs name no architecture of their own."""
    return "architecture" in read_object(folder / "config.json")


def swin_of(folder: Path) -> SwinModel:
    """The first Swin in a model of transformers, in a folder.

    Raises SystemExit where there is none, store.CheckpointError where the folder can't be opened.
    """
    config = pretrained.open_config(folder, "a model of transformers with a Swin in it")
    kind = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    for part in pretrained.open_model(folder, kind, config, "its Swin").modules():
        if isinstance(part, SwinModel):
            return part
    raise SystemExit(f"--tower_name_or_path: there is no Swin in the {config.model_type} of {folder}")


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
    ours, weights = swin.state_dict(), {}
    for name, value in ours.items():
        if name.endswith("relative_position_index") or any(other in name for other in OTHERS):
            continue
        if QUERY in name:  # (C, C) or (C,) each
            value = torch.cat([value, *(ours[name.replace(QUERY, other)] for other in OTHERS)])
            name = name.replace(QUERY, ".attn.qkv.")
        weights[_renamed(name)] = value.clone()
    return args, weights


def as_transformers(vit: torch.nn.Module, side_px: int) -> tuple[dict, dict[str, torch.Tensor]]:
    """Arguments of a `DPTConfig` for this ViT of timm on pictures of side_px, and the weights of a `DPTModel`.

    Positions are resampled to the new grid. Raises SystemExit for a model that is no plain ViT with a class token.
    """
    vit = cast(Any, vit)
    plain = isinstance(vit, VisionTransformer) and vit.num_prefix_tokens == 1 and vit.pos_embed is not None
    kept = {name: value for name, value in vit.state_dict().items() if not name.startswith(("head.", "fc_norm."))}
    known = ("pos_embed", "cls_token", "patch_embed.proj.", "blocks.", "norm.")
    odd = [name for name in kept if not name.startswith(known) or ".ls" in name or "_norm." in name]
    if not plain or odd:
        said = f", but has {odd[0]}" if plain else f", but a {type(vit).__name__}"
        raise SystemExit(f"--tower_name_or_path: a DPT begins as a plain ViT of timm with a class token{said}")
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


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    if ".downsample." in name:
        stage = int(name.split(".")[1])
        name = name.replace(f"layers.{stage}.", f"layers.{stage + 1}.", 1)
    return name.replace("layernorm.", "norm.") if name.startswith("layernorm.") else name
