"""The Swin in a model of transformers, and the same in timm's form: what a new model may begin as.

    swin = swin_of(folder)                    # the image tower of a CLIP or a captioner
    args, weights = as_timm(swin)
    model = timm.create_model(NAME, num_classes=12, **args)
    model.load_state_dict(weights, strict=False)          # all but the class layer

Liu et al. 2021. Both compute the same; queries, keys and values are one matrix in timm, and a stage begins with what
transformers ends the stage before with.

Letters: C width of a block.
"""

from pathlib import Path

import torch
import transformers
from transformers import AutoModel, SwinModel

from hub_models import pretrained

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


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    if ".downsample." in name:
        stage = int(name.split(".")[1])
        name = name.replace(f"layers.{stage}.", f"layers.{stage + 1}.", 1)
    return name.replace("layernorm.", "norm.") if name.startswith("layernorm.") else name
