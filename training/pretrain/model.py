"""The tower that a pretraining begins with: a new one of timm, or that of a checkpoint."""

from typing import Any, cast

import timm
from timm.models.vision_transformer import VisionTransformer

from hub_models import pretrain as contract
from training.config import require_resolution
from training.pretrain.config import SIZES, PretrainConfig

HALF = (0.5, 0.5, 0.5)
# What a served model has to know of timm's pretrained_cfg; the rest tells where the base came from.
KEPT = {"architecture", "fixed_input_size", "crop_mode", "pool_size", "first_conv", "classifier"}


def create_tower(cfg: PretrainConfig) -> Any:
    """The timm model a config asks for, without a class layer; pictures are shown to it in [-1, 1].

    Raises SystemExit where a checkpoint takes pictures of another size, or arguments don't go together.
    """
    if cfg.pretrained_model_name_or_path:
        base = contract.load(cfg.base, device="cpu")
        require_resolution(cfg, base.resolution_px)
        model = base.model.requires_grad_(True)
        if (base.mean, base.std) != (HALF, HALF):
            print(f"{cfg.base} saw pictures of mean {base.mean}, deviation {base.std}: from now on both are 0.5")
    else:
        name, sizes = SIZES[cfg.backbone]
        args: dict[str, Any] = sizes | cfg.model_args | {"img_size": cfg.resolution}
        try:
            model = cast(Any, timm.create_model(name, num_classes=0, drop_path_rate=0.0, **args))
        except (TypeError, AssertionError, RuntimeError) as error:
            raise SystemExit(f"--model_args {cfg.model_args}: timm makes no {name} of them ({error})") from None
    kept = {key: value for key, value in model.pretrained_cfg.items() if key in KEPT}
    side = {"input_size": (3, cfg.resolution, cfg.resolution), "interpolation": "bicubic", "crop_pct": 1.0}
    model.pretrained_cfg = kept | side | {"mean": HALF, "std": HALF, "num_classes": 0}
    return model


def require_vit(tower: Any, objective: str, does: str) -> None:
    """Raise SystemExit for a tower that is no plain ViT of timm with a class token. does: why it has to be one."""
    if not isinstance(tower, VisionTransformer) or tower.pos_embed is None or tower.num_prefix_tokens != 1:
        raise SystemExit(
            f"--objective {objective} {does}, which a {type(tower).__name__} like this can't: it takes a plain "
            "ViT of timm with a class token; --backbone vit makes one"
        )
